//! Shared by all parts of a simulation: the world, its trace, its random numbers, and the notification of changes.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep};

use super::chance::Chance;
use super::gate::{Fate, Gate};
use super::pace::Pace;
use crate::api::object::Object as _;
use crate::api::postgres_cluster::{DurabilityMode, PostgresCluster, Quorum};
use crate::api::sync::lock;
use crate::engine::{ContainerState, EventHint};
use crate::kinds::postgres_cluster::world::World;
use crate::runtime::clock::{self, TestClock};
use crate::supervisor::wire::Report;

/// How the Docker host fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Away {
    /// It refuses, and its streams end.
    Refuses,
    /// It answers nothing, and its streams carry nothing.
    Hangs,
}

/// Random failures of calls: once in this many, 0 for never.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Trouble {
    pub engine: u64,
    pub store: u64,
    /// Another writer changes the object just before the operator writes it.
    pub meddler: u64,
}

/// What a supervisor that was taken over does to its reports.
pub type Forge = fn(&mut Report);

/// Everything behind the lock.
pub struct State {
    pub world: World,
    pub trace: Vec<String>,
    pub chance: Chance,
    pub away: Option<Away>,
    /// Docker's lists fail; everything else works.
    pub blind: bool,
    /// No event of Docker arrives anywhere.
    pub deaf: bool,
    pub trouble: Trouble,
    pub pace: Pace,
    pub images: BTreeSet<String>,
    /// The registry accepts connections and never answers.
    pub registry_hangs: bool,
    /// Containers (name, id) that Docker never starts again.
    pub stuck: BTreeSet<(String, u32)>,
    /// Hash of the credentials that a boot of a container received.
    pub credentials: BTreeMap<(String, (u32, u32)), String>,
    /// Reports of this container are changed: it was taken over.
    pub forged: Option<(String, Forge)>,
    /// Problems of the product or of the simulation; they end the run.
    pub wrong: Vec<String>,
    /// A standby was promoted by hand.
    pub by_hand: bool,
    /// The spec allows no loss of acknowledged commits.
    pub lossless: bool,
    /// Number of effects that a settled cluster must not have.
    pub effects: u64,
    listeners: Vec<mpsc::UnboundedSender<EventHint>>,
    states: BTreeMap<String, (u32, u32, ContainerState)>,
    newest: u32,
    told: String,
    began: Instant,
}

/// One simulation.
pub struct Sim {
    pub clock: Arc<TestClock>,
    /// Not a watch channel, because that wakes its receivers in random order.
    pub changed: Notify,
    state: Mutex<State>,
}

impl Sim {
    pub fn new(seed: u64, world: World) -> Self {
        let start = jiff::Timestamp::from_second(1_800_000_000).unwrap_or_default();
        let spec = &world.object.spec;
        let lossless = spec.synchronous_replicas() > 0 && spec.durability.mode == DurabilityMode::Required;
        let state = State {
            world,
            trace: Vec::new(),
            chance: Chance::new(seed, 1),
            away: None,
            blind: false,
            deaf: false,
            trouble: Trouble::default(),
            pace: Pace::FAIR,
            images: BTreeSet::from(["postgres:15".to_owned()]),
            registry_hangs: false,
            stuck: BTreeSet::new(),
            credentials: BTreeMap::new(),
            forged: None,
            wrong: Vec::new(),
            by_hand: false,
            lossless,
            effects: 0,
            listeners: Vec::new(),
            states: BTreeMap::new(),
            newest: 0,
            told: String::new(),
            began: clock::instant(),
        };
        Self {
            clock: Arc::new(TestClock::following_tokio(start).seeded(seed)),
            changed: Notify::new(),
            state: Mutex::new(state),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Reads the state; nothing that others could notice changes.
    pub fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.lock())
    }

    /// Changes the state and notifies the waiting tasks.
    pub fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let result = change(&mut state);
        state.settle();
        drop(state);
        self.changed.notify_waiters();
        result
    }

    /// Changes the state without a notification.
    pub fn change_quietly<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.lock())
    }

    pub fn note(&self, line: impl Into<String>) {
        self.lock().note(line);
    }

    /// Waits for a random time; zero is the most likely.
    pub async fn latency(&self, longest_ms: u64) {
        let ms = {
            let chance = &mut self.lock().chance;
            if chance.one_in(2) { 0 } else { chance.between(0, longest_ms) }
        };
        if ms > 0 {
            sleep(Duration::from_millis(ms)).await;
        }
    }

    /// Asks the gate for an effect. Never returns if the operator dies before it; `true`: the operator dies right after
    /// it.
    pub async fn begin(&self, gate: &Gate, what: &str, idle: bool) -> bool {
        match self.count(gate, what, idle) {
            Fate::Done => false,
            Fate::LastDone => true,
            Fate::NotDone | Fate::Dead => pending().await,
        }
    }

    /// The same for an effect without an answer; `false`: it must not happen.
    pub fn send(&self, gate: &Gate, what: &str, idle: bool) -> bool {
        match self.count(gate, what, idle) {
            Fate::Done => true,
            Fate::LastDone => {
                self.note(format!("operator {} dies after that", gate.number));
                true
            }
            Fate::NotDone | Fate::Dead => false,
        }
    }

    fn count(&self, gate: &Gate, what: &str, idle: bool) -> Fate {
        let fate = gate.effect();
        let number = gate.number;
        let mut state = self.lock();
        match fate {
            Fate::Dead => {}
            Fate::NotDone => state.note(format!("operator {number} dies before: {what}")),
            Fate::Done | Fate::LastDone => {
                state.effects += u64::from(!idle);
                state.note(format!("operator {number}: {what}"));
                if number > 0 && number < state.newest {
                    let newest = state.newest;
                    state.wrong.push(format!("operator {number} acts after operator {newest}"));
                }
                state.newest = number.max(state.newest);
            }
        }
        fate
    }

    /// Returns the answer of an effect; never, if the operator is dead by now.
    pub async fn end(&self, gate: &Gate, last: bool) {
        if last {
            self.note(format!("operator {} dies after that", gate.number));
        }
        gate.open().await;
    }

    pub fn listen(&self) -> mpsc::UnboundedReceiver<EventHint> {
        let (listener, receiver) = mpsc::unbounded_channel();
        self.lock().listeners.push(listener);
        receiver
    }
}

impl State {
    pub fn note(&mut self, line: impl Into<String>) {
        self.drain();
        let ms = self.began.elapsed().as_millis();
        self.trace.push(format!("{ms:>7} {}", line.into()));
    }

    /// Moves the world's own log into the trace.
    fn drain(&mut self) {
        let ms = self.began.elapsed().as_millis();
        let lines = self.world.log.as_mut().map(std::mem::take).unwrap_or_default();
        // The world's own time is that of its last turn.
        self.trace.extend(lines.iter().map(|line| format!("{ms:>7}{}", line.get(6..).unwrap_or(line))));
    }

    fn settle(&mut self) {
        self.drain();
        let now: BTreeMap<_, _> =
            self.world.boxes.iter().map(|(name, one)| (name.clone(), (one.id, one.boot, one.state))).collect();
        if now != self.states {
            self.states = now;
            let hint = Some(self.world.object.owner());
            self.tell(&hint);
        }
    }

    /// Notifies the listeners of the engine's events.
    pub fn tell(&mut self, hint: &EventHint) {
        if !self.deaf && self.away.is_none() {
            self.listeners.retain(|listener| listener.send(hint.clone()).is_ok());
        }
    }

    /// Copies the object in the store into the world.
    pub fn mirror(&mut self, object: PostgresCluster) {
        self.world.object = object;
        let status = self.world.status();
        let decisions = status.decisions.as_ref().map(|d| {
            let show = |quorum: &Quorum| {
                let names: Vec<_> = quorum.voters.iter().map(|voter| voter.incarnation.as_str()).collect();
                format!("{}/{}", quorum.w, names.join("+"))
            };
            let next = d.next.as_ref().map(show).unwrap_or_default();
            format!("{:?} E {} G {} next {next}", d.stage, show(&d.election), show(&d.commit))
        });
        let not_ready = status.conditions.iter().find(|one| one.type_ == "Ready" && one.status != "True");
        let why = not_ready.map(|one| format!("[{}: {}]", one.reason, one.message)).unwrap_or_default();
        let told = format!("{} {} {why}", self.world.summary(), decisions.unwrap_or_default());
        if told != self.told {
            self.note(format!("status {told}"));
            self.told = told;
        }
    }
}
