//! The standing conversations with supervisors: one stream a running container, the last report of each, and commands to it.
//! A report that says something new wakes the cluster's reconcile; it carries no decision.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

use super::LinkSeen;
use super::scene::SUSPECT_MS;
use crate::api::failure::{Class, Failure};
use crate::api::postgres_cluster::PostgresCluster;
use crate::engine::Engine;
use crate::runtime::{ObjectRef, Wake, clock};
use crate::supervisor::wire::{Command, Report, SOCKET};

/// Commands that wait for a supervisor; more than a few means that it does not read.
const COMMANDS: usize = 64;
/// First and longest pause before a broken conversation is begun again.
const REDIAL: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// A report is never longer; a stream that says more without a line end is not a supervisor's.
const LINE_BYTES: usize = 1 << 20;

/// All conversations of all clusters, by container id.
pub struct Links {
    began: Instant,
    links: Mutex<BTreeMap<String, Link>>,
    wake: Wake,
}

struct Link {
    cluster: (String, String),
    container: String,
    commands: mpsc::Sender<Command>,
    heard: Arc<Mutex<Heard>>,
    task: AbortHandle,
}

#[derive(Default)]
struct Heard {
    report: Option<Report>,
    at: Option<Instant>,
    connected: bool,
}

impl Link {
    fn seen(&self) -> Option<LinkSeen> {
        let heard = lock(&self.heard);
        let silent_ms = heard.at?.elapsed().as_millis() as u64;
        Some(LinkSeen { report: heard.report.clone()?, connected: heard.connected, silent_ms })
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Links {
    /// No conversations yet; `wake` is told of every cluster that has news.
    pub fn new(wake: Wake) -> Self {
        Self { began: clock::instant(), links: Mutex::default(), wake }
    }

    fn links(&self) -> MutexGuard<'_, BTreeMap<String, Link>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps exactly the conversations with these containers (id -> name) of a cluster.
    pub fn keep(&self, engine: &Arc<dyn Engine>, cluster: &(String, String), running: &BTreeMap<String, String>) {
        let mut links = self.links();
        links.retain(|id, link| link.cluster != *cluster || running.contains_key(id));
        for (id, name) in running {
            links.entry(id.clone()).or_insert_with(|| self.begin(engine.clone(), cluster.clone(), name.clone()));
        }
    }

    fn begin(&self, engine: Arc<dyn Engine>, cluster: (String, String), container: String) -> Link {
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let heard = Arc::new(Mutex::new(Heard::default()));
        let conversation = Conversation {
            engine,
            container: container.clone(),
            cluster: cluster.clone(),
            heard: heard.clone(),
            wake: self.wake.clone(),
        };
        let task = tokio::spawn(conversation.run(inbox)).abort_handle();
        Link { cluster, container, commands, heard, task }
    }

    /// What was heard last from the containers of a cluster, by their names.
    pub fn heard(&self, cluster: &(String, String)) -> BTreeMap<String, LinkSeen> {
        let links = self.links();
        let of = links.values().filter(|link| link.cluster == *cluster);
        of.filter_map(|link| Some((link.container.clone(), link.seen()?))).collect()
    }

    /// We have just begun, and somebody in this cluster has not said a word yet.
    pub fn calling(&self, cluster: &(String, String)) -> bool {
        let silent = |link: &Link| link.cluster == *cluster && lock(&link.heard).at.is_none();
        self.began.elapsed() < Duration::from_millis(SUSPECT_MS) && self.links().values().any(silent)
    }

    /// Says something to the supervisor in the container of this name; `Transient` if it cannot be spoken to now.
    pub fn send(&self, container: &str, command: Command) -> Result<(), Failure> {
        let links = self.links();
        let link = links.values().find(|link| link.container == container && lock(&link.heard).connected);
        let link = link.ok_or_else(|| Failure::new(Class::Transient, "its supervisor cannot be reached"))?;
        link.commands.try_send(command).map_err(|_| Failure::new(Class::Transient, "its supervisor does not listen"))
    }
}

fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One conversation, begun again for as long as the container runs.
struct Conversation {
    engine: Arc<dyn Engine>,
    container: String,
    cluster: (String, String),
    heard: Arc<Mutex<Heard>>,
    wake: Wake,
}

impl Conversation {
    async fn run(self, mut inbox: mpsc::Receiver<Command>) {
        let mut pause = REDIAL.0;
        loop {
            let began = clock::instant();
            if let Err(problem) = self.once(&mut inbox).await {
                tracing::debug!(container = self.container, problem, "the conversation with the supervisor ended");
            }
            let spoke = std::mem::take(&mut lock(&self.heard).connected);
            if spoke {
                self.wake();
            }
            // What was to be said to the old stream is stale; the next plan says it anew.
            while inbox.try_recv().is_ok() {}
            pause = if spoke || began.elapsed() > REDIAL.1 { REDIAL.0 } else { (pause * 2).min(REDIAL.1) };
            sleep(pause).await;
        }
    }

    async fn once(&self, inbox: &mut mpsc::Receiver<Command>) -> Result<(), String> {
        let address = format!("unix:{SOCKET}");
        let stream = self.engine.dial(&self.container, &address).await.map_err(|error| error.to_string())?;
        let (reader, mut writer) = tokio::io::split(stream);
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        loop {
            tokio::select! {
                // What is to be said goes first: it is little, and nothing it answers is older.
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
                    Err(_) => self.wake(),
                    Ok(Err(error)) => return Err(error.to_string()),
                    Ok(Ok(0)) => return Err("closed by the other side".into()),
                    Ok(Ok(_)) => {
                        self.hear(serde_json::from_slice(&line).map_err(|error| error.to_string())?);
                        line.clear();
                    }
                },
            }
            if line.len() > LINE_BYTES {
                return Err("a line without end".into());
            }
        }
    }

    fn hear(&self, report: Report) {
        let mut heard = lock(&self.heard);
        let news = !heard.connected || heard.report.as_ref().is_none_or(|old| weight(old) != weight(&report));
        *heard = Heard { report: Some(report), at: Some(clock::instant()), connected: true };
        drop(heard);
        if news {
            self.wake();
        }
    }

    fn wake(&self) {
        let (namespace, name) = &self.cluster;
        self.wake.object(&ObjectRef::new::<PostgresCluster>(namespace, name));
    }
}

/// A report without what moves all the time.
fn weight(report: &Report) -> Report {
    let mut weighty = report.clone();
    if weighty.promise.is_none() && !weighty.clean {
        weighty.lsn = None;
    }
    weighty.disk_free >>= 28;
    weighty.clock_ms = 0;
    if let Some(receiver) = &mut weighty.receiver {
        receiver.quiet_ms = u64::from(receiver.quiet_ms >= SUSPECT_MS);
    }
    for replica in weighty.leading.iter_mut().flat_map(|leading| &mut leading.replicas) {
        replica.lsn = Default::default();
        replica.silent_ms = 0;
        replica.lag >>= 24;
    }
    weighty
}
