//! Links to supervisors: one stream per running container, its last report, and commands to it. A report with a
//! significant change wakes the object; a link carries no decision.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use crate::api::failure::{Class, Failure};
use crate::api::labels::{self, Owner};
use crate::engine::hosts::Hosts;
use crate::engine::{ContainerSeen, ContainerState, Engine};
use crate::kinds::containers::DockerSeen;
use crate::runtime::companions::{Companions, Voice, Wake};
use crate::runtime::{Keeper, clock};
use crate::store::{Objects, Tenure};
use crate::supervisor::fence::Hello;

/// A member that sent no report for this many milliseconds is suspected dead.
pub const SUSPECT_MS: u64 = 3_000;
/// Most commands that wait for a supervisor; more means that it does not read.
const COMMANDS: usize = 64;
/// First and longest wait before a broken link is dialled again.
const REDIAL: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// Wakes of one link: this many at once, then one in each interval. What waits is the last report; none is lost. A failover
/// and the return of the failed member have some 20 each, so a series of them must not come to the interval.
const WAKES: (u32, Duration) = (200, Duration::from_millis(250));

/// Interval of [`Speech::KEEPALIVE`].
const BEAT: Duration = Duration::from_secs(1);

/// What the operator and the supervisors of a kind say to each other.
pub trait Speech: 'static {
    /// From the operator.
    type Command: Serialize + Send + Sync + 'static;
    /// From a supervisor: its complete state.
    type Report: DeserializeOwned + Clone + PartialEq + Send + 'static;
    /// The supervisor's socket inside its container.
    const SOCKET: &'static str;
    /// Most bytes of a report.
    const LINE: usize;
    /// Sent each second to a supervisor that must know when it is alone.
    const KEEPALIVE: Option<fn() -> Self::Command> = None;

    /// The report with its texts for people cut to their bounds; or why it is refused.
    fn bounded(report: Self::Report) -> Result<Self::Report, String>;

    /// The report without the fields that change all the time.
    fn significant(report: &Self::Report) -> Self::Report;
}

/// The state of a link to a supervisor.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkSeen<R> {
    /// The last report of this container.
    pub report: R,
    /// The stream is open.
    pub connected: bool,
    /// Milliseconds since the supervisor last sent anything.
    pub silent_ms: u64,
}

impl<R> LinkSeen<R> {
    /// Whether the supervisor can be reached now.
    pub fn live(&self) -> bool {
        self.connected && self.silent_ms < SUSPECT_MS
    }
}

/// The links of all objects of a kind.
pub struct Links<S: Speech> {
    began: Instant,
    links: Companions<LinkId, Said<S>>,
    tenure: Option<Tenure>,
}

impl<S: Speech> Keeper for Links<S> {
    fn forget(&self, owner: &Owner) {
        self.links.forget(owner);
    }

    fn count(&self) -> usize {
        self.links.count()
    }
}

/// A link belongs to one container; a recreated container gets a new link.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct LinkId {
    host: String,
    container: String,
}

/// What is known through a link.
struct Said<S: Speech> {
    member: String,
    report: Option<S::Report>,
    connected: bool,
    /// Why its last report was refused.
    refused: Option<String>,
    commands: mpsc::Sender<S::Command>,
}

// A derived one would want the speech itself to be `Clone`.
impl<S: Speech> Clone for Said<S> {
    fn clone(&self) -> Self {
        Self {
            member: self.member.clone(),
            report: self.report.clone(),
            connected: self.connected,
            refused: self.refused.clone(),
            commands: self.commands.clone(),
        }
    }
}

impl<S: Speech> Links<S> {
    /// No links yet; `wake` is called with every object that has news.
    /// Commands are sent as long as the operator leads whose objects these are.
    pub fn new(wake: Wake, objects: &Objects) -> Self {
        Self { began: clock::instant(), links: Companions::new(wake), tenure: objects.tenure().cloned() }
    }

    /// Keeps exactly the links to the running containers of an object. Where the containers of a host are unknown,
    /// links stay: an open link says more than a failed list.
    pub fn keep(&self, engines: &Hosts, owner: &Owner, hosts: &BTreeMap<String, DockerSeen>) {
        let running = |host: &str| hosts.get(host)?.containers.known();
        self.links.retain(owner, |id| match hosts.contains_key(&id.host).then(|| running(&id.host)) {
            None => false,
            Some(None) => true,
            Some(Some(all)) => all.values().any(|one| one.id == id.container && talks(one)),
        });
        for (host, seen) in hosts {
            let Ok(engine) = engines.get(host) else { continue };
            for one in seen.containers.known().into_iter().flat_map(BTreeMap::values).filter(|one| talks(one)) {
                let Some(member) = one.labels.get(labels::MEMBER).cloned() else { continue };
                let (engine, container) = (engine.clone(), one.name.clone());
                let id = LinkId { host: host.clone(), container: one.id.clone() };
                let tenure = self.tenure.clone();
                self.links.ensure(owner, id, |voice| Conversation { engine, container, member, tenure, voice }.run());
            }
        }
    }

    /// The last reports from the members of an object, by member name.
    pub fn heard(&self, owner: &Owner) -> BTreeMap<String, LinkSeen<S::Report>> {
        let seen = self.links.heard(owner).into_values().filter_map(|heard| {
            let said = heard.value?;
            let seen = LinkSeen { report: said.report?, connected: said.connected, silent_ms: heard.silent_ms };
            Some((said.member, seen))
        });
        seen.collect()
    }

    /// Why the last report of a member was refused, by member name.
    pub fn refused(&self, owner: &Owner) -> BTreeMap<String, String> {
        let said = self.links.heard(owner).into_values().filter_map(|heard| heard.value);
        said.filter_map(|said| Some((said.member, said.refused?))).collect()
    }

    /// This operator has just started.
    pub fn young(&self) -> bool {
        self.began.elapsed() < Duration::from_millis(SUSPECT_MS)
    }

    /// This operator has just started, and a member of this object has sent no report yet.
    pub fn calling(&self, owner: &Owner) -> bool {
        self.young()
            && self.links.heard(owner).into_values().any(|heard| heard.value.and_then(|said| said.report).is_none())
    }

    /// Sends a command to the supervisor of a member; `Transient` if there is no connection now.
    pub fn send(&self, owner: &Owner, member: &str, command: S::Command) -> Result<(), Failure> {
        let said = self.links.heard(owner).into_values().filter_map(|heard| heard.value);
        let said = said.into_iter().find(|said| said.member == member && said.connected);
        let said = said.ok_or_else(|| Failure::new(Class::Transient, "its supervisor cannot be reached"))?;
        said.commands.try_send(command).map_err(|_| Failure::new(Class::Transient, "its supervisor does not listen"))
    }
}

fn talks(container: &ContainerSeen) -> bool {
    matches!(container.state, ContainerState::Running | ContainerState::Paused)
}

/// How a conversation ended.
enum End {
    /// The stream is closed or failed.
    Broken(String),
    /// A report breaks a bound.
    Refused(String),
}

impl<E: std::fmt::Display> From<E> for End {
    fn from(error: E) -> Self {
        Self::Broken(error.to_string())
    }
}

/// The wakes that a link has left.
struct Wakes {
    left: u32,
    since: Instant,
    /// A wake waits for the next interval.
    waits: bool,
}

impl Wakes {
    fn new() -> Self {
        Self { left: WAKES.0, since: clock::instant(), waits: false }
    }

    /// Whether to wake now; otherwise it waits until [`Wakes::due`].
    fn take(&mut self) -> bool {
        while self.left < WAKES.0 && self.due() <= clock::instant() {
            (self.left, self.since) = (self.left + 1, self.due());
        }
        if self.left == WAKES.0 {
            self.since = clock::instant();
        }
        self.waits = self.left == 0;
        self.left = self.left.saturating_sub(1);
        !self.waits
    }

    fn due(&self) -> Instant {
        self.since + WAKES.1
    }
}

/// One link, dialled again while the container runs.
struct Conversation<S: Speech> {
    engine: Arc<dyn Engine>,
    container: String,
    member: String,
    tenure: Option<Tenure>,
    voice: Voice<LinkId, Said<S>>,
}

impl<S: Speech> Conversation<S> {
    async fn run(self) {
        let (commands, mut inbox) = mpsc::channel(COMMANDS);
        let (mut pause, mut wakes) = (REDIAL.0, Wakes::new());
        loop {
            let began = clock::instant();
            let refused = match self.once(&commands, &mut inbox, &mut wakes).await {
                Ok(()) => None,
                Err(End::Broken(problem)) => {
                    tracing::debug!(container = self.container, problem, "the conversation with the supervisor ended");
                    None
                }
                Err(End::Refused(why)) => {
                    tracing::debug!(container = self.container, why, "a report is refused");
                    Some(why)
                }
            };
            let mut spoke = false;
            self.voice.amend(|said| {
                spoke = said.as_mut().is_some_and(|said| std::mem::take(&mut said.connected));
                if refused.is_some() {
                    let (member, commands) = (self.member.clone(), commands.clone());
                    let report = said.take().and_then(|said| said.report);
                    *said = Some(Said { member, report, connected: false, refused: refused.clone(), commands });
                }
            });
            // Commands for the old stream are outdated; the next plan sends them again.
            while inbox.try_recv().is_ok() {}
            // One that says what it should not, or has too much news, is left alone for a while.
            pause = match spoke || began.elapsed() > REDIAL.1 {
                _ if refused.is_some() => REDIAL.1,
                true if wakes.take() => REDIAL.0,
                _ => (pause * 2).min(REDIAL.1),
            };
            sleep(pause).await;
        }
    }

    /// Invariant: no command leaves an operator that does not lead any more. So a confirmation of the primary was sent before
    /// the lease ended, and is over before a later operator may have given that primary up.
    fn leads(&self) -> Result<(), End> {
        let over = self.tenure.as_ref().is_some_and(|tenure| !tenure.leads());
        if over { Err(End::Broken("this operator does not lead any more".to_owned())) } else { Ok(()) }
    }

    async fn once(
        &self,
        commands: &mpsc::Sender<S::Command>,
        inbox: &mut mpsc::Receiver<S::Command>,
        wakes: &mut Wakes,
    ) -> Result<(), End> {
        let address = format!("unix:{}", S::SOCKET);
        let stream = self.engine.dial(&self.container, &address).await?;
        let (reader, mut writer) = tokio::io::split(stream);
        // A supervisor that has heard of a later leadership ends this conversation.
        if let Some(epoch) = self.tenure.as_ref().map(Tenure::epoch).filter(|epoch| *epoch > 0) {
            send(&mut writer, &Hello { epoch }).await?;
        }
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        let silence = Duration::from_millis(SUSPECT_MS);
        let (mut heard, mut beat) = (clock::instant(), clock::instant() + BEAT);
        loop {
            tokio::select! {
                // Commands go first: they are short, and no report can be an older answer to them.
                biased;
                command = inbox.recv() => {
                    let Some(command) = command else { return Ok(()) };
                    self.leads()?;
                    send(&mut writer, &command).await?;
                }
                () = sleep_until(beat), if S::KEEPALIVE.is_some() => {
                    beat = clock::instant() + BEAT;
                    if let Some(keepalive) = S::KEEPALIVE {
                        self.leads()?;
                        send(&mut writer, &keepalive()).await?;
                    }
                }
                () = sleep_until(wakes.due()), if wakes.waits => {
                    wakes.take();
                    self.voice.wake();
                }
                () = sleep_until(heard + silence) => {
                    heard = clock::instant();
                    self.voice.wake();
                }
                // Cancel safe: what was read so far stays in `line`.
                read = read_line(&mut reader, &mut line, S::LINE) => match read {
                    Err(error) => return Err(error.into()),
                    Ok(false) if line.len() >= S::LINE => {
                        return Err(End::Refused(format!("it is longer than {} KiB", S::LINE >> 10)));
                    }
                    Ok(false) => return Err(End::Broken("closed by the other side".into())),
                    Ok(true) => {
                        heard = clock::instant();
                        let report = serde_json::from_slice(&line).map_err(|_| "it is no report".to_owned());
                        self.hear(commands, report.and_then(S::bounded).map_err(End::Refused)?, wakes);
                        line.clear();
                    }
                },
            }
        }
    }

    fn hear(&self, commands: &mpsc::Sender<S::Command>, report: S::Report, wakes: &mut Wakes) {
        self.voice.tell(|said| {
            let before = said.as_ref().filter(|said| said.connected).and_then(|said| said.report.as_ref());
            let news = before.is_none_or(|old| S::significant(old) != S::significant(&report));
            let (member, commands) = (self.member.clone(), commands.clone());
            *said = Some(Said { member, report: Some(report), connected: true, refused: None, commands });
            news && wakes.take()
        });
    }
}

/// Writes a command as a line.
async fn send(writer: &mut (impl AsyncWrite + Unpin), command: &impl Serialize) -> Result<(), End> {
    let mut text = serde_json::to_vec(command)?;
    text.push(b'\n');
    writer.write_all(&text).await?;
    Ok(writer.flush().await?)
}

/// Reads until a line is complete; `false` if the stream ended or the line has `most` bytes. Cancel safe: what was read stays
/// in `line`.
async fn read_line(reader: &mut (impl AsyncBufRead + Unpin), line: &mut Vec<u8>, most: usize) -> std::io::Result<bool> {
    loop {
        let some = reader.fill_buf().await?;
        let (end, found) = match some.iter().position(|byte| *byte == b'\n') {
            Some(at) => (at + 1, true),
            None => (some.len(), false),
        };
        line.extend_from_slice(&some[..end]);
        reader.consume(end);
        if found || end == 0 || line.len() >= most {
            return Ok(found && line.len() < most);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::engine::fake::FakeEngine;
    use crate::engine::{ContainerSpec, NetworkSpec};
    use crate::runtime::SystemClock;
    use crate::store::MemoryStore;

    const LINE: usize = 256 << 10;

    /// Regression 153: each report of a hostile container woke its cluster, as fast as it could write. The first news after
    /// quiet are as fast as before.
    #[tokio::test(start_paused = true)]
    async fn news_wake_at_once_and_a_flood_of_them_four_times_a_second() {
        let mut wakes = Wakes::new();
        assert!((0..WAKES.0).all(|_| wakes.take()));
        assert!(!wakes.take() && wakes.waits);
        let mut woken = 0;
        for _ in 0..600 {
            sleep(Duration::from_millis(100)).await;
            woken += u32::from(wakes.take());
        }
        assert!((230..=250).contains(&woken), "{woken} in a minute");
        sleep(Duration::from_secs(60)).await;
        assert!((0..100).all(|_| wakes.take()));
    }

    /// Regression 200: 20 news came at once, the next two a second. The third failover within some seconds took 0.4 s longer,
    /// because the news of a member waited twice for the next interval.
    #[tokio::test(start_paused = true)]
    async fn the_news_of_a_series_of_failovers_wait_for_no_interval() {
        let mut wakes = Wakes::new();
        assert!((0..5 * 20).all(|_| wakes.take()));
    }

    /// Regression 152: a line had 1 MiB, and nothing in it a bound.
    #[tokio::test]
    async fn a_line_without_end_is_read_to_its_bound_and_no_further() {
        let mut reader = BufReader::new(tokio::io::repeat(b'x'));
        let mut line = Vec::new();
        assert!(!read_line(&mut reader, &mut line, LINE).await.unwrap());
        assert!((LINE..LINE + 8192).contains(&line.len()), "{}", line.len());
        let (mut reader, mut line) = (BufReader::new(&b"{}\n{"[..]), Vec::new());
        assert!(read_line(&mut reader, &mut line, LINE).await.unwrap() && line == b"{}\n");
        assert!(!read_line(&mut reader, &mut line, LINE).await.unwrap());
    }

    /// A speech of texts.
    enum Texts {}

    impl Speech for Texts {
        type Command = String;
        type Report = String;
        const SOCKET: &'static str = "/s";
        const LINE: usize = LINE;
        const KEEPALIVE: Option<fn() -> String> = Some(|| "here".into());

        fn bounded(report: String) -> Result<String, String> {
            Ok(report)
        }

        fn significant(report: &String) -> String {
            report.clone()
        }
    }

    /// Regression 320: each command began the wait for the next report anew. A member that was told something every second was
    /// never noticed to be silent.
    #[tokio::test(start_paused = true)]
    async fn a_member_hears_of_the_operator_every_second_and_its_silence_is_noticed() {
        let (said, mut heard) = mpsc::unbounded_channel();
        let engine = FakeEngine::new("local");
        let owner = Owner { kind: "K".into(), namespace: "here".into(), name: "a".into() };
        let network = NetworkSpec { name: "net".into(), labels: owner.labels(), internal: false };
        engine.pull_image("image", None).await.unwrap();
        engine.ensure_network(&network).await.unwrap();
        let (image, network) = ("image".into(), "net".into());
        let spec = ContainerSpec { name: "a".into(), image, network, ..ContainerSpec::default() };
        engine.create_container(&spec).await.unwrap();
        engine.start_container("a").await.unwrap();
        engine.on_dial("a", "unix:/s", move |stream| {
            let said = said.clone();
            drop(tokio::spawn(async move {
                let mut lines = BufReader::new(stream).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    said.send(line).unwrap();
                }
            }));
        });
        let woken = Arc::new(AtomicU32::new(0));
        let count = woken.clone();
        let objects = Objects::new(Arc::new(MemoryStore::new()), Arc::new(SystemClock));
        let wake = Wake::new(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
        });
        let links = Links::<Texts>::new(wake, &objects);
        let id = LinkId { host: "local".into(), container: "1".into() };
        let (engine, container, member) = (Arc::new(engine), "a".to_owned(), "a".to_owned());
        links.links.ensure(&owner, id, |voice| Conversation { engine, container, member, tenure: None, voice }.run());
        let began = clock::instant();
        for _ in 0..8 {
            assert_eq!(heard.recv().await.unwrap(), "\"here\"");
        }
        assert_eq!((began.elapsed().as_secs(), woken.load(Ordering::SeqCst)), (8, 2));
    }
}
