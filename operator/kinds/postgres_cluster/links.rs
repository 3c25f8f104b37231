//! Links to supervisors: one stream per running container, its last report, and commands to it. A report with a
//! significant change wakes the cluster; a link carries no decision.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::LinkSeen;
use super::bounds::{self, bounded};
use super::view::SUSPECT_MS;
use crate::api::failure::{Class, Failure};
use crate::api::labels::{self, Owner};
use crate::api::sync::lock;
use crate::engine::hosts::Hosts;
use crate::engine::{ContainerSeen, ContainerState, Engine};
use crate::kinds::containers::DockerSeen;
use crate::runtime::companions::{Companions, Voice, Wake};
use crate::runtime::{Keeper, clock};
use crate::supervisor::wire::{Command, Report, SOCKET, significant};

/// Most commands that wait for a supervisor; more means that it does not read.
const COMMANDS: usize = 64;
/// First and longest wait before a broken link is dialled again.
const REDIAL: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// Wakes of one link: this many at once, then one in each interval. What waits is the last report; none is lost. A failover
/// and the return of the failed member have some 20 each, so a series of them must not come to the interval.
const WAKES: (u32, Duration) = (200, Duration::from_millis(250));

/// The links of all clusters.
pub struct Links {
    began: Instant,
    pub(super) links: Companions<LinkId, Said>,
    pub(super) proofs: Proofs,
}

/// When each member last took a write, as its supervisor reported: kept when the link is gone with its container.
#[derive(Default)]
pub(super) struct Proofs(Mutex<BTreeMap<Owner, BTreeMap<String, Instant>>>);

impl Keeper for Proofs {
    fn forget(&self, owner: &Owner) {
        lock(&self.0).remove(owner);
    }

    fn count(&self) -> usize {
        lock(&self.0).len()
    }
}

/// A link belongs to one container; a recreated container gets a new link.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LinkId {
    host: String,
    container: String,
}

/// What is known through a link.
#[derive(Clone)]
pub(super) struct Said {
    member: String,
    report: Option<Report>,
    connected: bool,
    /// Why its last report was refused.
    refused: Option<String>,
    commands: mpsc::Sender<Command>,
}

impl Links {
    /// No links yet; `wake` is called with every cluster that has news.
    pub fn new(wake: Wake) -> Self {
        Self { began: clock::instant(), links: Companions::new(wake), proofs: Proofs::default() }
    }

    /// Keeps exactly the links to the running containers of a cluster. Where the containers of a host are unknown,
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
                self.links.ensure(owner, id, |voice| Conversation { engine, container, member, voice }.run());
            }
        }
    }

    /// The last reports from the members of a cluster.
    pub fn heard(&self, owner: &Owner) -> BTreeMap<String, LinkSeen> {
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

    /// Milliseconds since each member last proved that a new client can write; `heard` are its last reports.
    pub fn proven(&self, owner: &Owner, heard: &BTreeMap<String, LinkSeen>) -> BTreeMap<String, u64> {
        let (now, mut proofs) = (clock::instant(), lock(&self.proofs.0));
        let known = proofs.entry(owner.clone()).or_default();
        for (member, link) in heard {
            let age = link.report.proof.as_ref().and_then(|proof| proof.proven_ms);
            let at = age.and_then(|age| now.checked_sub(Duration::from_millis(age.saturating_add(link.silent_ms))));
            known.extend(at.map(|at| (member.clone(), at)));
        }
        known.iter().map(|(member, at)| (member.clone(), now.duration_since(*at).as_millis() as u64)).collect()
    }

    /// This operator has just started, and a member of this cluster has sent no report yet.
    pub fn calling(&self, owner: &Owner) -> bool {
        self.began.elapsed() < Duration::from_millis(SUSPECT_MS)
            && self.links.heard(owner).into_values().any(|heard| heard.value.and_then(|said| said.report).is_none())
    }

    /// Sends a command to the supervisor of a member; `Transient` if there is no connection now.
    pub fn send(&self, owner: &Owner, member: &str, command: Command) -> Result<(), Failure> {
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
struct Conversation {
    engine: Arc<dyn Engine>,
    container: String,
    member: String,
    voice: Voice<LinkId, Said>,
}

impl Conversation {
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

    async fn once(
        &self,
        commands: &mpsc::Sender<Command>,
        inbox: &mut mpsc::Receiver<Command>,
        wakes: &mut Wakes,
    ) -> Result<(), End> {
        let address = format!("unix:{SOCKET}");
        let stream = self.engine.dial(&self.container, &address).await?;
        let (reader, mut writer) = tokio::io::split(stream);
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        loop {
            tokio::select! {
                // Commands go first: they are short, and no report can be an older answer to them.
                biased;
                command = inbox.recv() => {
                    let Some(command) = command else { return Ok(()) };
                    let mut text = serde_json::to_vec(&command)?;
                    text.push(b'\n');
                    writer.write_all(&text).await?;
                    writer.flush().await?;
                }
                () = sleep_until(wakes.due()), if wakes.waits => {
                    wakes.take();
                    self.voice.wake();
                }
                // Cancel safe: what was read so far stays in `line`.
                read = timeout(Duration::from_millis(SUSPECT_MS), read_line(&mut reader, &mut line)) => match read {
                    Err(_) => self.voice.wake(),
                    Ok(Err(error)) => return Err(error.into()),
                    Ok(Ok(false)) if line.len() >= bounds::LINE => {
                        return Err(End::Refused(format!("it is longer than {} KiB", bounds::LINE >> 10)));
                    }
                    Ok(Ok(false)) => return Err(End::Broken("closed by the other side".into())),
                    Ok(Ok(true)) => {
                        let report = serde_json::from_slice(&line).map_err(|_| "it is no report".to_owned());
                        self.hear(commands, report.and_then(bounded).map_err(End::Refused)?, wakes);
                        line.clear();
                    }
                },
            }
        }
    }

    fn hear(&self, commands: &mpsc::Sender<Command>, report: Report, wakes: &mut Wakes) {
        self.voice.tell(|said| {
            let before = said.as_ref().filter(|said| said.connected).and_then(|said| said.report.as_ref());
            let news = before.is_none_or(|old| significant(old) != significant(&report));
            let (member, commands) = (self.member.clone(), commands.clone());
            *said = Some(Said { member, report: Some(report), connected: true, refused: None, commands });
            news && wakes.take()
        });
    }
}

/// Reads until a line is complete; `false` if the stream ended or the line is too long. Cancel safe: what was read stays in
/// `line`.
async fn read_line(reader: &mut (impl AsyncBufRead + Unpin), line: &mut Vec<u8>) -> std::io::Result<bool> {
    loop {
        let some = reader.fill_buf().await?;
        let (end, found) = match some.iter().position(|byte| *byte == b'\n') {
            Some(at) => (at + 1, true),
            None => (some.len(), false),
        };
        line.extend_from_slice(&some[..end]);
        reader.consume(end);
        if found || end == 0 || line.len() >= bounds::LINE {
            return Ok(found && line.len() < bounds::LINE);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

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
        assert!(!read_line(&mut reader, &mut line).await.unwrap());
        assert!((bounds::LINE..bounds::LINE + 8192).contains(&line.len()), "{}", line.len());
        let (mut reader, mut line) = (BufReader::new(&b"{}\n{"[..]), Vec::new());
        assert!(read_line(&mut reader, &mut line).await.unwrap() && line == b"{}\n");
        assert!(!read_line(&mut reader, &mut line).await.unwrap());
    }
}
