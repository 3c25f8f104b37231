//! Runs one seed: creates a cluster, applies faults, undoes them all; the cluster must become healthy and then rest.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::chance::Chance;
use super::faults::{Fault, calm, draw};
use super::gate::Gate;
use super::operator::Operator;
use super::pace::moment;
use super::sim::Sim;
use super::store::SimStore;
use crate::kinds::postgres_cluster::RESOURCE;
use crate::kinds::postgres_cluster::world::{Ablation, World};
use crate::runtime::clock;
use crate::store::objects::Part;
use crate::store::{Clock as _, Error, Key, MemoryStore, Objects};

/// Time within which a cluster must be healthy after all faults were undone.
const HEAL: Duration = Duration::from_secs(180);
/// Time during which nothing may be done to a healthy cluster.
const REST: Duration = Duration::from_secs(25);

/// The outcome of a seed.
pub struct Outcome {
    pub trace: Vec<String>,
    /// The problem, if any.
    pub wrong: Option<String>,
}

/// One run.
pub struct Run {
    pub sim: Arc<Sim>,
    store: Arc<MemoryStore>,
    user: Objects,
    chance: Chance,
    operator: Option<Operator>,
    operators: u32,
    /// Start time of the next operator, while none runs.
    comes: Instant,
    turned: Instant,
    writes: bool,
    /// Factor by which turns are longer than usual.
    hurry: u64,
    /// All faults were undone.
    calm: bool,
    /// Longest time between two reconciles; `None`: the operator's default.
    resync: Option<Duration>,
}

/// The cluster of a seed.
fn spec(chance: &mut Chance) -> &'static str {
    match chance.between(0, 15) {
        0 => "{image: 'postgres:15'}",
        1..=2 => "{image: 'postgres:15', instances: 2}",
        3 => "{image: 'postgres:15', instances: 4, durability: {synchronousReplicas: 2}}",
        4 => "{image: 'postgres:15', instances: 5, durability: {synchronousReplicas: 2}}",
        5 => "{image: 'postgres:15', instances: 3, durability: {mode: preferred}}",
        6 => "{image: 'postgres:15', instances: 3, durability: {mode: async}}",
        _ => "{image: 'postgres:15', instances: 3}",
    }
}

fn key() -> Key {
    Key { resource: RESOURCE.into(), namespace: "default".into(), name: "db".into() }
}

/// Runs a seed in simulated time.
pub fn run(seed: u64) -> Outcome {
    run_without(seed, None)
}

/// The same without a part of the protocol.
pub fn run_without(seed: u64, ablation: Option<Ablation>) -> Outcome {
    run_with(seed, ablation, None)
}

/// The same without resync: an operator reconciles a settled object only when something wakes it.
pub fn run_without_resync(seed: u64) -> Outcome {
    run_with(seed, None, Some(Duration::from_secs(365 * 24 * 3600)))
}

fn run_with(seed: u64, ablation: Option<Ablation>, resync: Option<Duration>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.unwrap_or_else(|error| panic!("no runtime: {error}"));
    runtime.block_on(async {
        let mut run = Run::new(seed);
        run.resync = resync;
        run.sim.change_quietly(|state| state.world.ablation = ablation);
        let wrong = run.whole().await.err();
        let trace = run.sim.change(|state| std::mem::take(&mut state.trace));
        Outcome { trace, wrong }
    })
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut chance = Chance::new(seed, 2);
        let spec = spec(&mut chance);
        Self::of(seed, spec, chance)
    }

    fn of(seed: u64, spec: &str, chance: Chance) -> Self {
        let mut world = World::new(spec);
        world.short_copies = seed % 2 == 1;
        let sim = Arc::new(Sim::new(seed, world));
        let store = Arc::new(MemoryStore::new());
        let gate = Arc::new(Gate::new(0));
        let behind = SimStore { inner: store.clone(), sim: sim.clone(), gate };
        let user = Objects::new(Arc::new(behind), sim.clock.clone());
        let now = clock::instant();
        let operator = None;
        Self {
            sim,
            store,
            user,
            chance,
            operator,
            operators: 0,
            comes: now,
            turned: now,
            writes: true,
            hurry: 1,
            calm: false,
            resync: None,
        }
    }

    /// A healthy cluster with this spec.
    pub async fn healthy(spec: &str) -> Result<Self, String> {
        let mut run = Self::of(0, spec, Chance::new(0, 2));
        run.create().await?;
        run.heal("come up").await?;
        Ok(run)
    }

    async fn create(&self) -> Result<(), String> {
        let object = self.sim.look(|state| json!(state.world.object));
        self.user.create(&key(), object).await.map(drop).map_err(|error| error.to_string())
    }

    async fn whole(&mut self) -> Result<(), String> {
        self.create().await?;
        let spec = self.sim.look(|state| state.world.object.spec.clone());
        // Some clusters meet faults before they are up.
        if !self.chance.one_in(5) {
            self.heal("come up").await?;
        }
        for _ in 0..self.chance.between(1, 9) {
            let primary = self.sim.look(|state| state.world.primary());
            let fault = draw(&mut self.chance, &spec, &primary);
            let passes = fault.passes();
            self.strike(fault).await?;
            if passes && self.chance.one_in(2) {
                let while_elected = self.chance.between(2_800, 5_500);
                self.pass(Duration::from_millis(while_elected)).await?;
                self.strike(Fault::Join).await?;
            }
            let pause = match self.chance.between(0, 5) {
                0..=1 => self.chance.between(0, 300),
                2..=3 => self.chance.between(0, 2_000),
                4 => self.chance.between(0, 6_000),
                _ => self.chance.between(0, 20_000),
            };
            self.pass(Duration::from_millis(pause)).await?;
        }
        self.sim.note("everything is undone");
        self.calm = true;
        match &self.operator {
            Some(operator) if operator.gate.alive() => operator.gate.put_out(),
            _ => self.comes = clock::instant(),
        }
        self.sim.change(calm);
        self.heal("heal").await?;
        self.rest().await
    }

    pub async fn pass(&mut self, time: Duration) -> Result<(), String> {
        let until = clock::instant() + time;
        while clock::instant() < until {
            self.turn().await?;
        }
        Ok(())
    }

    /// Time passes by one turn, in which everything except the operator acts.
    async fn turn(&mut self) -> Result<(), String> {
        let ms = self.chance.between(50, 100) * self.hurry;
        sleep(Duration::from_millis(ms)).await;
        self.mind_operator().await;
        let elapsed = u32::try_from(self.turned.elapsed().as_millis()).unwrap_or(u32::MAX);
        self.turned = clock::instant();
        let writes = self.writes && self.chance.one_in(3);
        self.sim.change(|state| {
            state.world.pass(elapsed);
            moment(&mut state.world, state.pace, &mut state.chance, writes);
            state.check();
            state.wrong.first().map_or(Ok(()), |wrong| Err(wrong.clone()))
        })
    }

    /// Removes a dead operator, and starts another one after a while.
    async fn mind_operator(&mut self) {
        if let Some(operator) = self.operator.take_if(|operator| !operator.gate.alive()) {
            let panics = operator.crash().await;
            self.count_panics(panics);
            let pause = if self.chance.one_in(2) { 0 } else { self.chance.between(0, 30_000) };
            self.comes = clock::instant() + Duration::from_millis(if self.calm { 0 } else { pause });
        }
        if self.operator.is_none() && self.comes <= clock::instant() {
            self.operators += 1;
            self.operator = Some(Operator::start(&self.sim, &self.store, self.operators, self.resync));
        }
    }

    fn count_panics(&self, panics: u64) {
        if panics > 0 {
            self.sim.change_quietly(|state| state.wrong.push("a reconcile panicked".into()));
        }
    }

    pub async fn strike(&mut self, fault: Fault) -> Result<(), String> {
        self.sim.note(format!("fault {fault:?}"));
        if self.sim.change(|state| fault.strike(state)) {
            return Ok(());
        }
        match fault {
            Fault::Crash(fuse) => {
                if let Some(operator) = &self.operator {
                    operator.gate.light(fuse);
                }
            }
            Fault::Restart => {
                if let Some(operator) = self.operator.take() {
                    let panics = operator.stop().await;
                    self.count_panics(panics);
                    self.comes = clock::instant();
                }
            }
            Fault::Switchover(to) => {
                let request = match to.as_str() {
                    "" => self.sim.clock.now().to_string(),
                    to => format!("{}/{to}", self.sim.clock.now()),
                };
                self.edit(|object| object["metadata"]["annotations"]["evenkeel.dev/switchover"] = json!(request))
                    .await?;
            }
            Fault::Scale(instances) => self.edit(|object| object["spec"]["instances"] = json!(instances)).await?,
            Fault::Image(image) => self.edit(|object| object["spec"]["image"] = json!(image)).await?,
            Fault::Setting(value) => {
                self.edit(|object| object["spec"]["parameters"]["work_mem"] = json!(format!("{value}MB"))).await?;
            }
            _ => {}
        }
        Ok(())
    }

    async fn edit(&self, edit: impl Fn(&mut Value)) -> Result<(), String> {
        let edited = |mut object: Value| {
            edit(&mut object);
            Ok::<_, Error>(object)
        };
        match self.user.modify(&key(), Part::Main, edited).await {
            // A user would see the error and try again.
            Ok(_) | Err(Error::Backend { .. } | Error::Conflict { .. }) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    pub async fn heal(&mut self, what: &str) -> Result<(), String> {
        let until = clock::instant() + HEAL;
        while clock::instant() < until {
            self.turn().await?;
            if self.well() {
                return Ok(());
            }
        }
        Err(format!("did not {what} within {HEAL:?}: {}", self.sim.look(|state| state.world.summary())))
    }

    /// Whether the cluster is healthy, as reported by a running operator that has seen the newest spec.
    fn well(&self) -> bool {
        self.operator.as_ref().is_some_and(|operator| operator.gate.alive())
            && self.sim.look(|state| {
                let object = &state.world.object;
                let status = state.world.status();
                status.phase == "Healthy"
                    && Some(status.observed_generation) == object.metadata.generation
                    && status.instances.len() == object.spec.instances as usize
                    && state.world.boxes.values().all(|one| one.runs() && one.process.up())
            })
    }

    /// Asserts that no acknowledged commit is missing and that nothing is done any more.
    async fn rest(&mut self) -> Result<(), String> {
        self.pass(Duration::from_secs(5)).await?;
        (self.writes, self.hurry) = (false, 5);
        // Work that started while something hung may still end.
        self.pass(Duration::from_secs(12)).await?;
        self.heal("stay well").await?;
        self.pass(Duration::from_secs(2)).await?;
        let primary = self.sim.look(|state| state.world.container(&state.world.primary()));
        let lost = self.sim.look(|state| if state.lossless { state.lost(&primary, u64::MAX) } else { Vec::new() });
        if !lost.is_empty() {
            return Err(format!("{primary} leads in the end without the acknowledged commits {lost:?}"));
        }
        let before = self.sim.look(|state| state.effects);
        self.sim.note("nothing is to be done from now on");
        self.pass(REST).await?;
        let effects = self.sim.look(|state| state.effects) - before;
        if effects > 0 {
            return Err(format!("{effects} things were done to a cluster that is well"));
        }
        self.count_panics(self.operator.as_ref().map_or(0, Operator::panics));
        self.sim.look(|state| state.wrong.first().map_or(Ok(()), |wrong| Err(wrong.clone())))
    }
}
