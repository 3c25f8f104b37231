//! What is known of the attempts to prove that a new client can write now, and the evidence of a server that hangs.
//! Decides nothing.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::unistd::Pid;
use tokio_util::task::AbortOnDropHandle;

use super::clock::wall_seconds;
use super::wire::Proof;
use crate::api::lsn::Lsn;

/// Time between the end of one attempt and the next, in milliseconds.
const INTERVAL_MS: u64 = 500;
/// An attempt without a result for this long counts as failing, in milliseconds.
const SLOW_MS: u64 = 700;
/// A proof is fresh for this long, in milliseconds: the server has just answered.
const JUST_PROVEN_MS: u64 = 60;
/// A server without a sign of life for this long, while an attempt waits, hangs; in milliseconds.
const HUNG_MS: u64 = 2_500;
/// A check of the storage without a result for this long, while the device completes nothing, in milliseconds.
const STORAGE_MS: u64 = 1_500;
/// A server whose WAL reaches the disk no more for this long hangs, whatever its device does; in milliseconds.
const UNFLUSHED_MS: u64 = 30_000;
/// An attempt is given up after this time and made again, in milliseconds: its own session may be what hangs.
const ATTEMPT_MS: u64 = 10_000;

/// The memory of one run of the postmaster.
#[derive(Debug, Default)]
pub struct Proving {
    /// Time of the last proof, by our clock.
    proven_at: Option<u64>,
    /// The server's answer, if it refused the last attempt.
    refused: Option<String>,
    attempt: Option<Attempt>,
    next_at: u64,
    /// Attempts that committed.
    committed: u64,
    /// Seconds since 1970 when the last of them began.
    committed_at: Option<i64>,
}

/// The supervisor's own transactions in a run: each proof is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Own {
    /// Those that committed.
    pub committed: u64,
    /// Seconds since 1970 when the last of them began.
    pub committed_at: Option<i64>,
    /// One more may have begun.
    pub under_way: bool,
}

/// Attempts in a row without an answer.
#[derive(Debug)]
struct Attempt {
    /// Time when the first of them began.
    since: u64,
    /// Time when the current one began.
    begun: u64,
    /// The same in seconds since 1970.
    begun_at: i64,
    /// The current one has a session.
    connected: Arc<AtomicBool>,
    /// Times that the postmaster had run when the current one began.
    postmaster: Option<u64>,
    /// It has not run since.
    postmaster_still: bool,
    /// Flushed position and time when it last moved; `None` while the server answers no poll, or only standbys are waited
    /// for.
    flushed: Option<(Lsn, u64)>,
    storage: Option<Storage>,
    _task: AbortOnDropHandle<()>,
}

/// A write to the data volume beside the server, to tell a stuck disk from a stuck server.
#[derive(Debug)]
struct Storage {
    begun: u64,
    /// Its thread runs, and is about to write.
    writes: Arc<AtomicBool>,
    /// The write succeeded or failed: the storage answers.
    done: Arc<AtomicBool>,
    /// Requests that the device has completed, and the time when their number last changed; `None`: not known.
    device: Option<(u64, u64)>,
}

impl Proving {
    /// No client is let in: nothing is tried.
    pub fn rest(&mut self) {
        self.attempt = None;
        self.refused = None;
    }

    /// Whether the next attempt is due.
    pub fn due(&self, now: u64) -> bool {
        match &self.attempt {
            Some(attempt) => now.saturating_sub(attempt.begun) >= ATTEMPT_MS,
            None => now >= self.next_at,
        }
    }

    /// An attempt begins, in place of one that was given up. `connected` is set when it has a session.
    pub fn begin(&mut self, pid: Pid, connected: Arc<AtomicBool>, task: AbortOnDropHandle<()>, now: u64) {
        let last = self.attempt.take();
        self.attempt = Some(Attempt {
            since: last.as_ref().map_or(now, |last| last.since),
            begun: now,
            begun_at: wall_seconds(),
            connected,
            postmaster: switches(pid),
            postmaster_still: false,
            flushed: last.as_ref().and_then(|last| last.flushed),
            storage: last.and_then(|last| last.storage),
            _task: task,
        });
    }

    /// Reads the evidence while an attempt waits. `lsn` is the flushed position, if the server answers polls and the commit
    /// does not wait for standbys; `own` is a folder on the data volume.
    pub fn watch(&mut self, pid: Pid, lsn: Option<Lsn>, own: &Path, now: u64) {
        let Some(attempt) = &mut self.attempt else { return };
        attempt.flushed = match (attempt.flushed, lsn) {
            (Some((then, at)), Some(lsn)) if then == lsn => Some((then, at)),
            (_, lsn) => lsn.map(|lsn| (lsn, now)),
        };
        if now.saturating_sub(attempt.since) < SLOW_MS {
            return;
        }
        attempt.postmaster_still = attempt.postmaster.is_some() && switches(pid) == attempt.postmaster;
        let storage = attempt.storage.get_or_insert_with(|| Storage::check(own, now));
        if !storage.writes.load(Ordering::Relaxed) {
            storage.begun = now;
        }
        let completed = completed(own);
        storage.device = match (storage.device, completed) {
            (Some((then, at)), Some(count)) if then == count => Some((then, at)),
            (_, completed) => completed.map(|count| (count, now)),
        };
    }

    /// The attempt ended: a proof, or the words of a refusal.
    pub fn end(&mut self, result: Result<(), String>, now: u64) {
        let ended = self.attempt.take();
        if result.is_ok() {
            self.committed += 1;
            self.committed_at = ended.map(|attempt| attempt.begun_at).or(self.committed_at);
        }
        self.next_at = now + INTERVAL_MS;
        match result {
            Ok(()) => (self.proven_at, self.refused) = (Some(now), None),
            Err(words) => self.refused = Some(words),
        }
    }

    /// The supervisor's own transactions up to now.
    pub fn own(&self) -> Own {
        Own { committed: self.committed, committed_at: self.committed_at, under_way: self.attempt.is_some() }
    }

    /// Whether the loop may wait for an answer of the server: just after a proof, or when an answer has been missing for so
    /// long that all was told.
    pub fn may_wait(&self, now: u64) -> bool {
        let proven_ms = self.proven_at.map_or(u64::MAX, |at| now.saturating_sub(at));
        let waits_ms = self.attempt.as_ref().map_or(u64::MAX, |attempt| now.saturating_sub(attempt.since));
        proven_ms < JUST_PROVEN_MS || proven_ms.min(waits_ms) >= HUNG_MS + SLOW_MS
    }

    /// The container stood still: what waits began in another time.
    pub fn interrupted(&mut self) {
        self.attempt = None;
    }

    /// The proof as of now.
    pub fn proof(&self, now: u64) -> Proof {
        let waits = self.attempt.as_ref().filter(|attempt| now.saturating_sub(attempt.since) >= SLOW_MS);
        let hung = waits.and_then(|attempt| attempt.hung(now));
        Proof {
            proven_ms: self.proven_at.map(|at| now.saturating_sub(at)),
            hung: hung.is_some(),
            failing: waits
                .map(|attempt| hung.unwrap_or_else(|| attempt.waits_for()).to_owned())
                .or(self.refused.clone()),
        }
    }
}

impl Attempt {
    fn waits_for(&self) -> &'static str {
        match self.connected.load(Ordering::Relaxed) {
            false => "a new session gets no answer",
            true => "a new session's write is not committed",
        }
    }

    /// The evidence that the server hangs, and is not only slow.
    fn hung(&self, now: u64) -> Option<&'static str> {
        let for_ms = |since: u64| now.saturating_sub(since);
        let connected = self.connected.load(Ordering::Relaxed);
        let written = self.storage.as_ref().is_some_and(|storage| storage.done.load(Ordering::Relaxed));
        let stuck = |storage: &Storage| {
            !storage.done.load(Ordering::Relaxed)
                && for_ms(storage.begun) >= STORAGE_MS
                && storage.device.is_some_and(|(_, at)| for_ms(at) >= STORAGE_MS)
        };
        let unflushed_ms = self.flushed.map_or(0, |(_, at)| for_ms(at.max(self.since)));
        if for_ms(self.begun) >= HUNG_MS && !connected && self.postmaster_still {
            Some("the postmaster does not run: it takes no new session")
        } else if self.storage.as_ref().is_some_and(stuck) {
            Some("the storage of the data volume does not answer")
        } else if connected && written && unflushed_ms >= HUNG_MS {
            Some("no WAL gets to the disk, although the disk answers")
        } else if unflushed_ms >= UNFLUSHED_MS {
            Some("no WAL gets to the disk")
        } else {
            None
        }
    }
}

/// Times that a process ran on a processor: its context switches.
fn switches(pid: Pid) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let counts =
        text.lines().filter_map(|line| line.split_once("ctxt_switches:")).map(|(_, n)| n.trim().parse::<u64>());
    counts.sum::<Result<u64, _>>().ok()
}

/// Requests that the block device below this path has completed; `None` if it has none that the kernel lists.
fn completed(path: &Path) -> Option<u64> {
    let device = std::fs::metadata(path).ok()?.dev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    completed_by(&std::fs::read_to_string("/proc/diskstats").ok()?, major, minor)
}

/// Reads, writes, discards and flushes completed, of this device in `/proc/diskstats`.
fn completed_by(diskstats: &str, major: u64, minor: u64) -> Option<u64> {
    let line = diskstats.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).find(|words| {
        words.first().is_some_and(|word| *word == major.to_string())
            && words.get(1).is_some_and(|word| *word == minor.to_string())
    })?;
    let count = |at: usize| line.get(at).and_then(|word| word.parse::<u64>().ok()).unwrap_or_default();
    Some([3, 7, 14, 18].map(count).iter().sum())
}

impl Storage {
    /// A thread of its own: a write to a stuck disk never ends, and would hold up whatever waits for it.
    fn check(own: &Path, now: u64) -> Self {
        let (writes, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (tell, path) = ((writes.clone(), done.clone()), own.join("storage-check"));
        std::thread::spawn(move || {
            tell.0.store(true, Ordering::Relaxed);
            // A full disk answers, too.
            let _ = write(path);
            tell.1.store(true, Ordering::Relaxed);
        });
        Self { begun: now, writes, done, device: None }
    }
}

fn write(path: PathBuf) -> std::io::Result<()> {
    use std::io::Write as _;
    let mut file = std::fs::File::create(path)?;
    file.write_all(b"Written to see whether the storage answers.\n")?;
    file.sync_all()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// An attempt that began at 0, with a session or not.
    async fn waiting(connected: bool) -> Attempt {
        Attempt {
            since: 0,
            begun: 0,
            begun_at: 0,
            connected: Arc::new(AtomicBool::new(connected)),
            postmaster: Some(5),
            postmaster_still: false,
            flushed: Some((Lsn(1), 0)),
            storage: None,
            _task: AbortOnDropHandle::new(tokio::spawn(async {})),
        }
    }

    fn storage(done: bool, device: Option<(u64, u64)>) -> Option<Storage> {
        let flag = |on| Arc::new(AtomicBool::new(on));
        Some(Storage { begun: 800, writes: flag(true), done: flag(done), device })
    }

    fn said(attempt: Attempt, now: u64) -> (bool, Option<String>) {
        let proof = Proving { attempt: Some(attempt), ..Proving::default() }.proof(now);
        (proof.hung, proof.failing)
    }

    #[tokio::test]
    async fn a_new_session_that_waits_is_told_within_a_second_and_is_no_evidence_by_itself() {
        assert_eq!(said(waiting(false).await, 699), (false, None));
        assert_eq!(said(waiting(false).await, 700), (false, Some("a new session gets no answer".into())));
        let slow = Attempt { flushed: Some((Lsn(9), 60_000)), storage: storage(true, None), ..waiting(true).await };
        assert_eq!(said(slow, 60_000), (false, Some("a new session's write is not committed".into())));
    }

    #[tokio::test]
    async fn a_postmaster_that_did_not_run_while_a_session_waited_hangs() {
        let still = |begun| async move { Attempt { postmaster_still: true, begun, ..waiting(false).await } };
        assert!(!said(still(0).await, 2_499).0);
        assert!(said(still(0).await, 2_500).0);
        assert!(!said(still(2_000).await, 2_500).0, "this attempt is young");
        let taken = Attempt { postmaster_still: true, ..waiting(true).await };
        assert!(!said(taken, 20_000).0, "it had taken the session, and has nothing to do");
    }

    #[tokio::test]
    async fn a_disk_that_completes_something_is_slow_and_one_that_completes_nothing_hangs() {
        let on =
            |device| async move { said(Attempt { storage: storage(false, device), ..waiting(true).await }, 20_000).0 };
        assert!(on(Some((7, 18_500))).await);
        assert!(!on(Some((7, 18_501))).await);
        assert!(!on(None).await, "nothing is known of the device");
    }

    #[tokio::test]
    async fn wal_that_gets_to_no_disk_while_the_disk_answers_is_a_server_that_hangs() {
        let at = |flushed, now| async move {
            said(Attempt { storage: storage(true, None), flushed, ..waiting(true).await }, now).0
        };
        assert!(at(Some((Lsn(1), 0)), 2_500).await);
        assert!(!at(Some((Lsn(1), 100)), 2_500).await);
        assert!(!at(None, 60_000).await, "the server answers no poll: it may be slow");
    }

    /// Regression 31: with all its processes stopped, a server was told three seconds late, because the loop itself waited
    /// for its answer to a poll.
    #[tokio::test]
    async fn the_loop_waits_for_no_answer_while_it_may_have_to_tell_that_none_comes() {
        let proven = |proven_at, attempt| Proving { proven_at, attempt, ..Proving::default() };
        assert!(proven(None, None).may_wait(9), "no client was let in");
        assert!(proven(Some(1_000), None).may_wait(1_059) && !proven(Some(1_000), None).may_wait(1_060));
        assert!(!proven(None, Some(waiting(false).await)).may_wait(3_199));
        assert!(proven(None, Some(waiting(false).await)).may_wait(3_200));
    }

    #[test]
    fn what_a_device_completed_is_read_from_its_own_line() {
        let text = " 7 1 loop1 308 0 1 2 539 1 4 2 0 1 4 9 0 0 0 11 1\n 7 11 loop11 1 0 0 0 1\n";
        assert_eq!(completed_by(text, 7, 1), Some(308 + 539 + 9 + 11));
        assert_eq!(completed_by(text, 7, 11), Some(2));
        assert_eq!(completed_by(text, 8, 1), None);
    }

    #[test]
    fn a_process_that_sleeps_has_run() {
        assert!(switches(Pid::this()).unwrap() > 0);
    }
}
