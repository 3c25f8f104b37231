//! Links to supervisors: one stream per running container, its last report, and commands to it. A report with a
//! significant change wakes the cluster; a link carries no decision.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::LinkSeen;
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
/// Longest report, in bytes; a stream that sends more without a line end is not a supervisor's.
const LINE_BYTES: usize = 1 << 20;

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
        let mut pause = REDIAL.0;
        loop {
            let began = clock::instant();
            if let Err(problem) = self.once(&commands, &mut inbox).await {
                tracing::debug!(container = self.container, problem, "the conversation with the supervisor ended");
            }
            let mut spoke = false;
            self.voice.amend(|said| spoke = said.as_mut().is_some_and(|said| std::mem::take(&mut said.connected)));
            if spoke {
                self.voice.wake();
            }
            // Commands for the old stream are outdated; the next plan sends them again.
            while inbox.try_recv().is_ok() {}
            pause = if spoke || began.elapsed() > REDIAL.1 { REDIAL.0 } else { (pause * 2).min(REDIAL.1) };
            sleep(pause).await;
        }
    }

    async fn once(&self, commands: &mpsc::Sender<Command>, inbox: &mut mpsc::Receiver<Command>) -> Result<(), String> {
        let address = format!("unix:{SOCKET}");
        let stream = self.engine.dial(&self.container, &address).await.map_err(|error| error.to_string())?;
        let (reader, mut writer) = tokio::io::split(stream);
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        loop {
            tokio::select! {
                // Commands go first: they are short, and no report can be an older answer to them.
                biased;
                command = inbox.recv() => {
                    let Some(command) = command else { return Ok(()) };
                    let mut text = serde_json::to_vec(&command).map_err(|error| error.to_string())?;
                    text.push(b'\n');
                    writer.write_all(&text).await.map_err(|error| error.to_string())?;
                    writer.flush().await.map_err(|error| error.to_string())?;
                }
                // Cancel safe: what was read so far stays in `line`.
                read = timeout(Duration::from_millis(SUSPECT_MS), reader.read_until(b'\n', &mut line)) => match read {
                    Err(_) => self.voice.wake(),
                    Ok(Err(error)) => return Err(error.to_string()),
                    Ok(Ok(0)) => return Err("closed by the other side".into()),
                    Ok(Ok(_)) => {
                        self.hear(commands, serde_json::from_slice(&line).map_err(|error| error.to_string())?);
                        line.clear();
                    }
                },
            }
            if line.len() > LINE_BYTES {
                return Err("a line without end".into());
            }
        }
    }

    fn hear(&self, commands: &mpsc::Sender<Command>, report: Report) {
        self.voice.tell(|said| {
            let before = said.as_ref().filter(|said| said.connected).and_then(|said| said.report.as_ref());
            let news = before.is_none_or(|old| significant(old) != significant(&report));
            let (member, commands) = (self.member.clone(), commands.clone());
            *said = Some(Said { member, report: Some(report), connected: true, commands });
            news
        });
    }
}
