//! The audit log: one `audit.k8s.io/v1` line for each write, each read of Secrets, each stream out of a container and each
//! refusal; never a body. A task of its own writes the file, so that a slow disk delays nobody.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::{Method, Request, StatusCode, header};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::authn::user::User;
use super::authz::Verdict;
use super::authz::attributes::Attributes;
use super::peer::Peer;
use super::status::Refusal;
use crate::store::clock::{Clock, uid};

/// Length of the queue to the writer; further lines are lost, and counted.
const WAITING: usize = 4096;
/// Limit of the file, in bytes; then a new one is begun.
const SIZE: u64 = 100 * 1024 * 1024;
/// Number of files that are kept beside the newest.
const KEPT: u32 = 9;
/// Time after which a file that is not written any more is removed.
const AGE: SignedDuration = SignedDuration::from_hours(30 * 24);
/// Limit of texts that clients choose, in characters.
const TEXT: usize = 4096;

/// What the audit log has, and what it may prevent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Rule {
    /// Every request has a line, reads included.
    All,
    /// A write without a line is refused with 503.
    Required,
}

/// The audit log.
pub struct Audit {
    lines: mpsc::Sender<Line>,
    lost: Arc<AtomicU64>,
    rules: Vec<Rule>,
    clock: Arc<dyn Clock>,
}

struct Line {
    event: Value,
    written: Option<oneshot::Sender<bool>>,
}

impl Audit {
    /// The log in this folder, and its writer, which ends when the log is dropped.
    pub fn open(folder: &Path, rules: Vec<Rule>, clock: Arc<dyn Clock>) -> (Self, JoinHandle<()>) {
        let (lines, mut from_here) = mpsc::channel::<Line>(WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        let mut log = Log { path: folder.join("audit.log"), limit: SIZE, file: None };
        let (counted, times) = (lost.clone(), clock.clone());
        let writer = tokio::task::spawn_blocking(move || {
            while let Some(Line { mut event, written }) = from_here.blocking_recv() {
                let missing = counted.load(Ordering::Relaxed);
                if missing > 0 {
                    event["annotations"]["evenkeel.dev/lines-lost-before"] = missing.to_string().into();
                }
                let outcome = log.write(&format!("{event}\n"), times.now());
                match &outcome {
                    Ok(()) => drop(counted.fetch_sub(missing, Ordering::Relaxed)),
                    Err(error) => is_lost(&counted, error),
                }
                if let Some(written) = written {
                    let _ = written.send(outcome.is_ok()); // nobody waits any more
                }
            }
        });
        (Self { lines, lost, rules, clock }, writer)
    }

    /// With [`Rule::Required`], what is no mere look must have its line before it is done.
    pub async fn permits(&self, asked: &Asked) -> Result<(), Refusal> {
        let looks = asked.attributes.as_ref().is_some_and(|one| matches!(one.verb.as_str(), "get" | "list" | "watch"));
        if looks || !self.rules.contains(&Rule::Required) {
            return Ok(());
        }
        let (written, answer) = oneshot::channel();
        self.send(Line { event: asked.event("RequestReceived", self.clock.now()), written: Some(written) });
        match answer.await {
            Ok(true) => Ok(()),
            _ => Err(Refusal::unavailable(
                "the audit log cannot be written, and --audit=required allows no change without it; free its disk",
            )),
        }
    }

    fn keep(&self, asked: &Asked) {
        if self.rules.contains(&Rule::All) || asked.matters() {
            self.send(Line { event: asked.event(asked.stage(), self.clock.now()), written: None });
        }
    }

    fn send(&self, line: Line) {
        if self.lines.try_send(line).is_err() {
            is_lost(&self.lost, &io::Error::other("the disk is too slow"));
        }
    }
}

/// Counts a lost line, and tells it, ever more rarely.
fn is_lost(lost: &AtomicU64, error: &io::Error) {
    let count = lost.fetch_add(1, Ordering::Relaxed) + 1;
    if count.is_power_of_two() {
        tracing::error!(%error, lost = count, "lines of the audit log are lost; requests are served all the same");
    }
}

/// A request, and what the wall finds out about it. When it ends in any way, its line is written.
pub struct Asked {
    /// The other end of the connection.
    pub peer: Peer,
    /// Who sent it.
    pub user: Option<User>,
    /// What it wants.
    pub attributes: Option<Attributes>,
    /// Whether that is allowed.
    pub verdict: Option<Verdict>,
    /// How it was answered; of a stream, its head.
    pub code: Option<StatusCode>,
    /// Its number; the header `Audit-Id` of the answer.
    pub id: String,
    audit: Option<Arc<Audit>>,
    received: Timestamp,
    method: Method,
    uri: String,
    agent: String,
}

impl Drop for Asked {
    fn drop(&mut self) {
        if let Some(audit) = &self.audit {
            audit.keep(self);
        }
    }
}

impl Asked {
    /// A request that has arrived.
    pub fn new<B>(request: &Request<B>, peer: Peer, clock: &dyn Clock, audit: Option<Arc<Audit>>) -> Self {
        let agent = request.headers().get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
        Self {
            peer,
            user: None,
            attributes: None,
            verdict: None,
            code: None,
            id: uid(clock),
            audit,
            received: clock.now(),
            method: request.method().clone(),
            uri: cut(&request.uri().to_string()),
            agent: cut(agent.unwrap_or_default()),
        }
    }

    /// Whether it has a line by default.
    fn matters(&self) -> bool {
        // Who asks too often could fill the log.
        if self.code == Some(StatusCode::TOO_MANY_REQUESTS) {
            return false;
        }
        let refused = matches!(self.code, Some(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN));
        let inner = self.attributes.as_ref().is_some_and(|one| {
            // A copy of the store has all of them.
            matches!(one.resource.as_str(), "secrets" | "storebackups") || enters(one)
        });
        refused || inner || !matches!(self.method, Method::GET | Method::HEAD)
    }

    fn stage(&self) -> &'static str {
        let streams = self.attributes.as_ref().is_some_and(|one| one.verb == "watch" || enters(one));
        let began = self.code.is_some_and(|code| code.is_success() || code.is_informational());
        if streams && began { "ResponseStarted" } else { "ResponseComplete" }
    }

    fn event(&self, stage: &str, now: Timestamp) -> Value {
        let (name, groups) = match &self.user {
            Some(user) => (user.name.as_str(), user.groups.clone()),
            None => ("system:anonymous", vec!["system:unauthenticated".to_owned()]),
        };
        let verb = self.attributes.as_ref().map_or_else(|| self.method.as_str().to_lowercase(), |one| one.verb.clone());
        let mut event = json!({
            "kind": "Event",
            "apiVersion": "audit.k8s.io/v1",
            "level": "Metadata",
            "auditID": self.id,
            "stage": stage,
            "requestURI": self.uri,
            "verb": verb,
            "user": {"username": name, "groups": groups},
            "sourceIPs": [self.peer.to_string()],
            "userAgent": self.agent,
            "requestReceivedTimestamp": self.received.to_string(),
            "stageTimestamp": now.to_string(),
            "annotations": {},
        });
        if let Some(one) = self.attributes.as_ref().filter(|one| !one.resource.is_empty()) {
            let all = [
                ("resource", &one.resource),
                ("subresource", &one.subresource),
                ("namespace", &one.namespace),
                ("name", &one.name),
                ("apiGroup", &one.group),
                ("apiVersion", &one.version),
            ];
            event["objectRef"] = all
                .into_iter()
                .filter(|(_, text)| !text.is_empty())
                .map(|(name, text)| (name, text.as_str()))
                .collect();
        }
        if let Some(code) = self.code {
            event["responseStatus"] = json!({"metadata": {}, "code": code.as_u16()});
        }
        let (decision, reason) = match &self.verdict {
            Some(Verdict::Allow(why)) => ("allow", why.as_str()),
            Some(Verdict::Deny) => ("forbid", ""),
            None => return event,
        };
        event["annotations"] =
            json!({"authorization.k8s.io/decision": decision, "authorization.k8s.io/reason": reason});
        event
    }
}

/// Whether something comes out of a container, or goes into it.
fn enters(one: &Attributes) -> bool {
    matches!(one.subresource.as_str(), "exec" | "attach" | "portforward" | "log")
}

/// As much of a text as a line may have.
fn cut(text: &str) -> String {
    text.chars().take(TEXT).collect()
}

/// The file of the log.
struct Log {
    path: PathBuf,
    limit: u64,
    file: Option<(File, u64)>,
}

impl Log {
    /// Writes a line, completely or not at all.
    fn write(&mut self, line: &str, now: Timestamp) -> io::Result<()> {
        let more = u64::try_from(line.len()).unwrap_or(u64::MAX);
        let full = self.file.as_ref().is_some_and(|(_, size)| size + more > self.limit);
        if full || self.file.is_none() {
            self.open(full, now)?;
        }
        let Some((file, size)) = &mut self.file else { return Err(io::Error::other("no file")) };
        match file.write_all(line.as_bytes()) {
            Ok(()) => *size += more,
            Err(error) => {
                let _ = file.set_len(*size); // half a line would spoil the next one
                return Err(error);
            }
        }
        Ok(())
    }

    fn open(&mut self, full: bool, now: Timestamp) -> io::Result<()> {
        let old = |number: u32| self.path.with_extension(format!("log.{number}"));
        if full {
            // Nothing is pushed out for a file that somebody has taken away.
            for number in (1..KEPT).rev().filter(|_| self.path.exists()) {
                let _ = std::fs::rename(old(number), old(number + 1)); // if there is one
            }
            match std::fs::rename(&self.path, old(1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => self.file = None, // whatever fails now, the next line does not put another file aside
            }
        }
        for path in (1..=KEPT).map(old) {
            let changed = path.metadata().and_then(|file| file.modified()).ok();
            let changed = changed.and_then(|time| Timestamp::try_from(time).ok());
            if changed.is_some_and(|time| now.duration_since(time) > AGE) {
                let _ = std::fs::remove_file(path); // or with the next file
            }
        }
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
        let size = file.metadata()?.len();
        self.file = Some((file, size));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::runtime::SystemClock;

    fn ask(audit: &Arc<Audit>, method: Method, attributes: &Attributes) -> Asked {
        let request = Request::builder().method(method).uri("/x?command=a").body(()).unwrap();
        let mut asked = Asked::new(&request, Peer::Unix { uid: 0 }, &SystemClock, Some(audit.clone()));
        asked.attributes = Some(attributes.clone());
        asked
    }

    fn attributes(verb: &str, resource: &str) -> Attributes {
        Attributes { verb: verb.into(), resource: resource.into(), name: "a".into(), ..Attributes::default() }
    }

    #[tokio::test]
    async fn writes_secrets_and_refusals_have_lines_and_ordinary_reads_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let (audit, writer) = Audit::open(folder.path(), Vec::new(), Arc::new(SystemClock));
        let audit = Arc::new(audit);
        for (method, verb, resource, code) in [
            (Method::GET, "get", "configmaps", Some(200)),
            (Method::GET, "watch", "secrets", Some(200)),
            (Method::GET, "get", "storebackups", Some(200)),
            (Method::POST, "create", "configmaps", Some(201)),
            (Method::GET, "get", "configmaps", Some(403)),
            (Method::POST, "create", "configmaps", Some(429)),
            // Its client has gone before the answer.
            (Method::POST, "create", "configmaps", None),
        ] {
            let mut asked = ask(&audit, method, &attributes(verb, resource));
            asked.code = code.map(|code| StatusCode::from_u16(code).unwrap());
        }
        drop(audit);
        writer.await.unwrap();
        let path = folder.path().join("audit.log");
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let told: Vec<_> = lines
            .iter()
            .map(|line| {
                format!("{} {} {}", line["verb"], line["stage"], line["responseStatus"]["code"]).replace('"', "")
            })
            .collect();
        assert_eq!(
            told,
            [
                "watch ResponseStarted 200",
                "get ResponseComplete 200",
                "create ResponseComplete 201",
                "get ResponseComplete 403",
                "create ResponseComplete null"
            ]
        );
        assert_eq!(lines[0]["objectRef"], json!({"resource": "secrets", "name": "a"}));
        assert_eq!(lines[0]["sourceIPs"], json!(["unix"]));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_full_file_is_put_aside_and_only_so_many_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log { path: folder.path().join("audit.log"), limit: 10, file: None };
        let now = SystemClock.now();
        for number in 0..30 {
            log.write(&format!("line {number:2}\n"), now).unwrap();
        }
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(
            (read("audit.log"), read("audit.log.1"), read("audit.log.9")),
            ("line 29\n".into(), "line 28\n".into(), "line 20\n".into())
        );
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 10);
        log.file = None;
        log.write("line\n", now + SignedDuration::from_hours(31 * 24)).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "old ones are removed");
    }

    /// Regression 147: when the full file could not be put aside, because somebody had moved it away or removed it, every later
    /// line was lost until the operator was restarted, and each try pushed one more of the kept files out.
    #[test]
    fn a_file_that_was_taken_away_is_begun_again_and_the_kept_ones_stay() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log { path: folder.path().join("audit.log"), limit: 10, file: None };
        let now = SystemClock.now();
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap_or_default();
        log.write("line 1\n", now).unwrap();
        log.write("line 2\n", now).unwrap();
        std::fs::remove_file(folder.path().join("audit.log")).unwrap();
        log.write("line 3\n", now).unwrap();
        log.write("line 4\n", now).unwrap();
        let all = ["audit.log", "audit.log.1", "audit.log.2", "audit.log.3"].map(read);
        assert_eq!(all, ["line 4\n", "line 3\n", "line 1\n", ""]);

        // Nor does an old file that cannot be removed end the log.
        std::fs::create_dir(folder.path().join("audit.log.5")).unwrap();
        log.write("line 5\n", now + SignedDuration::from_hours(31 * 24)).unwrap();
    }

    /// Regression 165: an audit log on a full disk (`/dev/full` is one) must not stop the operator, nor pass in silence.
    #[tokio::test]
    async fn on_a_full_disk_lines_are_counted_and_only_who_requires_them_is_refused() {
        for (rules, code) in [(Vec::new(), None), (vec![Rule::Required], Some(503))] {
            let folder = tempfile::tempdir().unwrap();
            std::os::unix::fs::symlink("/dev/full", folder.path().join("audit.log")).unwrap();
            let (audit, writer) = Audit::open(folder.path(), rules, Arc::new(SystemClock));
            let lost = audit.lost.clone();
            let audit = Arc::new(audit);
            let write = ask(&audit, Method::POST, &attributes("create", "configmaps"));
            let refused = audit.permits(&write).await.err().map(|refusal| refusal.code.as_u16());
            assert_eq!(refused, code);
            drop(write);
            let read = ask(&audit, Method::GET, &attributes("get", "configmaps"));
            assert!(audit.permits(&read).await.is_ok());
            drop((read, audit));
            writer.await.unwrap();
            assert_eq!(lost.load(Ordering::Relaxed), 1 + u64::from(code.is_some()));
        }
    }
}
