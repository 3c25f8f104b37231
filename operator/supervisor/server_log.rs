//! The server's log: forwarded to the container's log, and scanned for messages that the supervisor must know at once.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::clock::boottime_ms;
use super::shell::Note;

/// Bytes of the server's log that are forwarded at once; a longer line is split.
const LONGEST_LINE: u64 = 16 << 10;
/// Lines about refused connections that are forwarded in each second; the rest is counted.
const REFUSALS: u64 = 10;
/// What is said about connections that were refused or given up before they could do anything: whoever reaches the port
/// makes as many of these lines as it likes.
const REFUSED: [&str; 18] = [
    "authentication failed for user",
    "no pg_hba.conf entry for",
    "pg_hba.conf rejects",
    "connection received:",
    "could not accept SSL connection",
    "could not receive data from client",
    "could not initiate GSSAPI",
    "direct SSL connection request",
    "startup packet",
    "unsupported frontend protocol",
    "canceling authentication due to timeout",
    "expected password response",
    "SCRAM",
    "requires a valid client certificate",
    "certificate authentication",
    "connection slots are reserved",
    "sorry, too many clients already",
    "FATAL:  the database system is",
];

/// Forwards the server's log to stderr and scans it. In a thread of its own: a full pipe of
/// `docker logs` must not block the loop, nor a busy loop the log. `own_prefix`: the lines begin with [`LOG_PREFIX`](crate::api::postgres_settings::LOG_PREFIX).
pub fn pass_on(
    output: std::os::fd::OwnedFd,
    notes: tokio::sync::mpsc::Sender<Note>,
    run: String,
    own_prefix: Arc<AtomicBool>,
) {
    let pass = move || {
        let mut lines = BufReader::new(std::fs::File::from(output));
        let (mut line, mut refusals) = (Vec::new(), Refusals::default());
        // An error means that the log has no reader: the server must not stop for that.
        let put = |text: &[u8]| drop(std::io::stderr().write_all(text));
        loop {
            if refusals.left_out > 0 && lines.buffer().is_empty() {
                // A second without a line is the end of the second in which lines were left out.
                let _ =
                    poll(&mut [PollFd::new(lines.get_ref().as_fd(), PollFlags::POLLIN)], PollTimeout::from(1000u16));
            }
            if let Some(told) = refusals.told(boottime_ms()) {
                put(told.as_bytes());
            }
            line.clear();
            if !lines.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                return;
            }
            let text = String::from_utf8_lossy(&line);
            if let Some(note) = note(&text, &run, own_prefix.load(Ordering::Relaxed)) {
                // If the queue is full, it already has the same note.
                let _ = notes.try_send(note);
            }
            if refusals.admit(&text, boottime_ms()) {
                put(&line);
            }
        }
    };
    let spawned = std::thread::Builder::new().name("server log".into()).stack_size(128 << 10).spawn(pass);
    if let Err(error) = spawned {
        tracing::error!(%error, "the server's log is not read");
    }
}

/// The lines about refused connections in the current second.
#[derive(Default)]
struct Refusals {
    /// Its beginning, by our clock.
    since: u64,
    seen: u64,
    left_out: u64,
    /// The last message was left out; so are the lines that belong to it.
    leaving_out: bool,
}

impl Refusals {
    /// Whether to forward this line.
    fn admit(&mut self, line: &str, now: u64) -> bool {
        let severity = line.split_once(":  ").and_then(|(before, _)| before.rsplit(' ').next());
        let belongs = line.starts_with('\t')
            || matches!(severity, Some("DETAIL" | "HINT" | "CONTEXT" | "STATEMENT" | "QUERY" | "LOCATION"));
        if belongs {
            return !self.leaving_out;
        }
        // Only a name with a line break in it ends a line before the message.
        let broken = severity.is_none() && line.split(' ').nth(4).is_some_and(|word| word.starts_with('['));
        self.leaving_out = false;
        if broken || REFUSED.iter().any(|phrase| line.contains(phrase)) {
            if now.saturating_sub(self.since) >= 1000 {
                (self.since, self.seen) = (now, 0);
            }
            self.seen += 1;
            self.leaving_out = self.seen > REFUSALS;
            self.left_out += u64::from(self.leaving_out);
        }
        !self.leaving_out
    }

    /// A line that says how many were left out, when their second is over.
    fn told(&mut self, now: u64) -> Option<String> {
        let over = self.left_out > 0 && now.saturating_sub(self.since) >= 1000;
        let left_out = over.then(|| std::mem::take(&mut self.left_out))?;
        Some(format!(
            "{left_out} more messages about refused connections are left out: at most {REFUSALS} a second are shown\n"
        ))
    }
}

/// The severity and the text of a message. With our own prefix: of the server's own processes only, so that no client can
/// forge it. Its name has at most 63 bytes, which is too short for the beginning of a line and for one of the messages.
fn message(line: &str, own_prefix: bool) -> Option<(&str, &str)> {
    let (before, text) = line.split_once(":  ")?;
    if !own_prefix {
        return Some((before.rsplit(' ').next()?, text.trim_end()));
    }
    let words: Vec<&str> = before.split(' ').collect();
    let &[day, time, _zone, pid, severity] = words.as_slice() else { return None };
    let pid = pid.strip_prefix('[')?.strip_suffix(']')?;
    let stamped = day.len() == 10 && time.len() == 12 && pid.bytes().all(|byte| byte.is_ascii_digit());
    let ours = stamped && severity.bytes().all(|byte| byte.is_ascii_uppercase());
    ours.then_some((severity, text.trim_end()))
}

fn note(line: &str, run: &str, own_prefix: bool) -> Option<Note> {
    let (severity, said) = message(line, own_prefix)?;
    let receiver = said.starts_with("could not receive data from WAL stream");
    // A leader has the history of its own timeline, but if it is a copy itself it may lack those of earlier timelines.
    let removed = said.contains("requested WAL segment") && said.contains("has already been removed");
    let unknown =
        said.starts_with("could not receive timeline history file") && said.contains("No such file or directory");
    let fatal = matches!(severity, "FATAL" | "PANIC");
    // With FATAL our own receiver reports it; a walsender here would report it about its standby.
    if severity == "FATAL" && (removed || unknown) {
        return Some(Note::WalMissing(run.to_owned()));
    }
    // A warning, or, if warnings are not logged, the text that is logged with the pause.
    if said.starts_with("hot standby is not possible because of insufficient parameter settings")
        || said.starts_with("If recovery is unpaused, the server will shut down")
    {
        return Some(Note::Stuck(run.to_owned()));
    }
    if severity == "LOG" && said.starts_with("terminating any other active server processes") {
        return Some(Note::Crashed(run.to_owned()));
    }
    if receiver {
        return Some(Note::ReceiverEnded(run.to_owned()));
    }
    // Routine messages to clients; no sign of a problem.
    let routine = [
        "terminating connection",
        "pg_hba.conf rejects",
        "password authentication failed",
        "is starting up",
        "is shutting down",
        "the database system is not",
    ];
    (fatal && !routine.iter().any(|phrase| said.contains(phrase))).then(|| Note::Fatal(run.to_owned(), said.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression 20: with `log_min_messages = log` it went unnoticed that the replay of both standbys was paused
    /// because of a setting, and an election waited for their promises for ever. Now the pause message is recognised,
    /// too, and the state is polled where it matters.
    #[test]
    fn a_replay_that_pauses_for_a_setting_is_heard_with_warnings_and_without() {
        let warning = "2026-11-28 18:53:17.123 UTC [678] WARNING:  hot standby is not possible because of insufficient parameter settings\n";
        let without =
            "2026-11-28 18:53:17.123 UTC [678] DETAIL:  If recovery is unpaused, the server will shut down.\n";
        for line in [warning, without] {
            assert!(matches!(note(line, "r", true), Some(Note::Stuck(run)) if run == "r"), "{line}");
        }
        assert!(note("2026-11-28 18:53:17.123 UTC [678] LOG:  recovery has paused\n", "r", true).is_none());
    }

    #[test]
    fn wal_that_the_leader_lacks_is_heard_in_the_log() {
        let line = "2026-11-28 18:53:17.123 UTC [33] FATAL:  could not receive data from WAL stream: ERROR:  requested WAL segment 000000010000000000000003 has already been removed\n";
        assert!(matches!(note(line, "r", true), Some(Note::WalMissing(run)) if run == "r"));
        let walsender = "2026-11-28 18:53:17.123 UTC [33] [x@[unknown]] ERROR:  requested WAL segment 000000010000000000000003 has already been removed\n";
        assert!(note(walsender, "r", true).is_none());
    }

    /// Regression 10: a standby on timeline 12 came back to a leader that is a clone made on timeline 39: the leader
    /// lacks the histories in between, and the receiver requested the first of them for ever. Now that counts as
    /// missing WAL.
    #[test]
    fn a_timeline_history_that_the_leader_lacks_is_heard_in_the_log() {
        let said = |why| {
            format!(
                "2026-11-28 18:53:17.123 UTC [9] FATAL:  could not receive timeline history file from the primary server: {why}"
            )
        };
        let missing = said("ERROR:  could not open file \"pg_wal/0000000D.history\": No such file or directory\n");
        assert!(matches!(note(&missing, "r", true), Some(Note::WalMissing(run)) if run == "r"));
        let gone = said("server closed the connection unexpectedly\n");
        assert!(matches!(note(&gone, "r", true), Some(Note::Fatal(..))));
    }

    /// Regression 120: after the crash of a backend, PostgreSQL waited for its other processes before it ended, and clients
    /// with it: 2 to 3 s. Now the supervisor kills them as soon as the log tells of the crash.
    #[test]
    fn the_crash_of_a_backend_is_heard_in_the_log() {
        let line = "2026-11-28 18:53:17.123 UTC [1] LOG:  terminating any other active server processes\n";
        assert!(matches!(note(line, "r", true), Some(Note::Crashed(run)) if run == "r"));
    }

    #[test]
    fn routine_refusals_are_no_trouble() {
        assert!(
            note("2026-11-28 18:53:17.123 UTC [33] FATAL:  password authentication failed for user \"x\"", "r", false)
                .is_none()
        );
        assert!(matches!(
            note("2026-11-28 18:53:17.123 UTC [1] FATAL:  could not map anonymous shared memory", "r", true),
            Some(Note::Fatal(..))
        ));
    }

    /// Regression 100: a client without any password, whose user name was the text of a message, made the supervisor kill
    /// the server, or copy a standby anew: the text was searched in the whole line, where the name is too.
    #[test]
    fn no_client_forges_a_message_of_the_server_by_its_name_or_its_statement() {
        let crash = "LOG:  terminating any other active server processes";
        let missing = "FATAL:  requested WAL segment has already been removed";
        let stamp = "2026-11-28 18:53:17.123 UTC [1] ";
        for said in [crash, missing, "DETAIL:  If recovery is unpaused, the server will shut down."] {
            assert!(note(&format!("{stamp}{said}\n"), "r", true).is_some(), "{said}");
            // A name may have line breaks; each of its lines is judged.
            for name in [said.to_owned(), format!("\n{said}\n"), format!("\n2 2 U [1] {said}\n"), format!("{said}\n")] {
                let log = format!("{stamp}[{name}@x] FATAL:  password authentication failed for user \"{name}\"\n");
                assert!(log.lines().all(|line| note(line, "r", true).is_none()), "{log}");
            }
            let statement = format!("{stamp}[app@app] STATEMENT:  SELECT 1/0; -- {said}\n");
            assert!([true, false].iter().all(|own| note(&statement, "r", *own).is_none()), "{said}");
        }
        // A name has 63 bytes: too few for a stamp and one of these.
        assert!(format!("\n{stamp}{crash}").len() > 63 && format!("\n{stamp}{missing}").len() > 63);
        // With a user's own prefix.
        assert!(matches!(note(&format!("1 db {crash}\n"), "r", false), Some(Note::Crashed(_))));
    }

    /// Regression 101: whoever reached the port filled the log with failed logins, as fast as it could connect, and what
    /// else the server said was rotated away.
    #[test]
    fn refused_logins_are_ten_lines_a_second_and_a_count_and_all_else_is_forwarded() {
        let client = "2026-11-28 18:53:17.123 UTC [33] [x@x] ";
        let refused = format!("{client}FATAL:  password authentication failed for user \"x\"\n");
        let detail = format!("{client}DETAIL:  Role \"x\" does not exist.\n\tmore\n");
        let (error, of_it) =
            (format!("{client}ERROR:  division by zero\n"), format!("{client}STATEMENT:  SELECT 1/0\n"));
        let (mut refusals, mut log) = (Refusals::default(), String::new());
        for number in 0..1000 {
            let now = 5_000 + number;
            for line in refused.split_inclusive('\n').chain(detail.split_inclusive('\n')).chain([&*error, &of_it]) {
                log += if refusals.admit(line, now) { line } else { "" };
            }
            assert_eq!(refusals.told(now), None);
        }
        let count = |phrase: &str| log.matches(phrase).count();
        assert_eq!((count("authentication failed"), count("DETAIL"), count("\tmore")), (10, 10, 10));
        assert_eq!((count("division by zero"), count("STATEMENT")), (1000, 1000));
        let told = "990 more messages about refused connections are left out: at most 10 a second are shown\n";
        assert_eq!(refusals.told(6_000).as_deref(), Some(told));
        assert_eq!(refusals.told(6_001), None);
        assert!(refusals.admit(&refused, 6_001));
        // A name that breaks its line counts too; what libraries and commands print does not.
        assert_eq!((0..20).filter(|_| refusals.admit("2026-11-28 18:53:17.123 UTC [33] [a\n", 9_000)).count(), 10);
        assert!((0..20).all(|_| refusals.admit("tar: removing leading slashes from names\n", 9_000)));
    }
}
