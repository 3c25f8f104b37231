//! The server's log: forwarded to the container's log, and scanned for messages that the supervisor must know at once.

use std::io::{BufRead, BufReader, Read, Write};

use super::shell::Note;

/// Bytes of the server's log that are forwarded at once; a longer line is split.
const LONGEST_LINE: u64 = 16 << 10;

/// Forwards the server's log to stderr and scans it. In a thread of its own: a full pipe of
/// `docker logs` must not block the loop, nor a busy loop the log.
pub fn pass_on(output: std::os::fd::OwnedFd, notes: tokio::sync::mpsc::Sender<Note>, run: String) {
    let pass = move || {
        let mut lines = BufReader::new(std::fs::File::from(output));
        let mut line = Vec::new();
        while lines.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            if let Some(note) = note(&String::from_utf8_lossy(&line), &run) {
                // If the queue is full, it already has the same note.
                let _ = notes.try_send(note);
            }
            // An error means that the log has no reader: the server must not stop for that.
            let _ = std::io::stderr().write_all(&line);
            line.clear();
        }
    };
    let spawned = std::thread::Builder::new().name("server log".into()).stack_size(128 << 10).spawn(pass);
    if let Err(error) = spawned {
        tracing::error!(%error, "the server's log is not read");
    }
}

fn note(line: &str, run: &str) -> Option<Note> {
    // A leader has the history of its own timeline, but if it is a copy itself it may lack those of earlier timelines.
    let removed = line.contains("requested WAL segment") && line.contains("has already been removed");
    let unknown =
        line.contains("could not receive timeline history file") && line.contains("No such file or directory");
    // With FATAL our own receiver reports it; a walsender here would report it about its standby.
    if line.contains("FATAL:") && (removed || unknown) {
        return Some(Note::WalMissing(run.to_owned()));
    }
    // A warning, or, if warnings are not logged, the text that is logged with the pause.
    if line.contains("hot standby is not possible because of insufficient parameter settings")
        || line.contains("If recovery is unpaused, the server will shut down")
    {
        return Some(Note::Stuck(run.to_owned()));
    }
    if line.contains("LOG:  terminating any other active server processes") {
        return Some(Note::Crashed(run.to_owned()));
    }
    if line.contains("could not receive data from WAL stream") {
        return Some(Note::ReceiverEnded(run.to_owned()));
    }
    let (_, said) = line.split_once("FATAL:").or_else(|| line.split_once("PANIC:"))?;
    // Routine messages to clients; no sign of a problem.
    let routine = [
        "terminating connection",
        "pg_hba.conf rejects",
        "password authentication failed",
        "is starting up",
        "is shutting down",
        "the database system is not",
    ];
    let said = said.trim();
    (!routine.iter().any(|phrase| said.contains(phrase))).then(|| Note::Fatal(run.to_owned(), said.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression 20: with `log_min_messages = log` it went unnoticed that the replay of both standbys was paused
    /// because of a setting, and an election waited for their promises for ever. Now the pause message is recognised,
    /// too, and the state is polled where it matters.
    #[test]
    fn a_replay_that_pauses_for_a_setting_is_heard_with_warnings_and_without() {
        let warning = "2026 [678] WARNING:  hot standby is not possible because of insufficient parameter settings\n";
        let without = "2026 [678] DETAIL:  If recovery is unpaused, the server will shut down.\n";
        for line in [warning, without] {
            assert!(matches!(note(line, "r"), Some(Note::Stuck(run)) if run == "r"), "{line}");
        }
        assert!(note("2026 [678] LOG:  recovery has paused\n", "r").is_none());
    }

    #[test]
    fn wal_that_the_leader_lacks_is_heard_in_the_log() {
        let line = "2026 [33] FATAL:  could not receive data from WAL stream: ERROR:  requested WAL segment 000000010000000000000003 has already been removed\n";
        assert!(matches!(note(line, "r"), Some(Note::WalMissing(run)) if run == "r"));
        let walsender =
            "2026 [33] x@[unknown] ERROR:  requested WAL segment 000000010000000000000003 has already been removed\n";
        assert!(note(walsender, "r").is_none());
    }

    /// Regression 10: a standby on timeline 12 came back to a leader that is a clone made on timeline 39: the leader
    /// lacks the histories in between, and the receiver requested the first of them for ever. Now that counts as
    /// missing WAL.
    #[test]
    fn a_timeline_history_that_the_leader_lacks_is_heard_in_the_log() {
        let said =
            |why| format!("2026 [9] FATAL:  could not receive timeline history file from the primary server: {why}");
        let missing = said("ERROR:  could not open file \"pg_wal/0000000D.history\": No such file or directory\n");
        assert!(matches!(note(&missing, "r"), Some(Note::WalMissing(run)) if run == "r"));
        let gone = said("server closed the connection unexpectedly\n");
        assert!(matches!(note(&gone, "r"), Some(Note::Fatal(..))));
    }

    /// Regression 120: after the crash of a backend, PostgreSQL waited for its other processes before it ended, and clients
    /// with it: 2 to 3 s. Now the supervisor kills them as soon as the log tells of the crash.
    #[test]
    fn the_crash_of_a_backend_is_heard_in_the_log() {
        let line = "2026 [1] LOG:  terminating any other active server processes\n";
        assert!(matches!(note(line, "r"), Some(Note::Crashed(run)) if run == "r"));
    }

    #[test]
    fn routine_refusals_are_no_trouble() {
        assert!(note("2026 [33] FATAL:  password authentication failed for user \"x\"", "r").is_none());
        assert!(matches!(note("2026 [1] FATAL:  could not map anonymous shared memory", "r"), Some(Note::Fatal(..))));
    }
}
