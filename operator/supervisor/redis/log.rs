//! The log of a server of Redis: forwarded to the container's log, at a bounded rate.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;

use crate::supervisor::clock::boottime_ms;

/// Bytes of a line that are forwarded at once; a longer line is split.
const LONGEST_LINE: u64 = 4 << 10;
/// Lines that are forwarded in each second; the rest is counted. Whoever reaches the port can make the server log.
const LINES: u64 = 200;

/// Forwards the log to stderr, and lets `hear` know each line. In a thread of its own: a full pipe of `docker logs` must not
/// block the supervisor.
pub fn pass_on(output: OwnedFd, mut hear: impl FnMut(&str) + Send + 'static) {
    let pass = move || {
        let mut lines = BufReader::new(std::fs::File::from(output));
        let (mut line, mut second) = (Vec::new(), Second::default());
        // An error means that the log has no reader: the server must not stop for that.
        let put = |text: &[u8]| drop(std::io::stderr().write_all(text));
        loop {
            line.clear();
            if !lines.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                return;
            }
            hear(String::from_utf8_lossy(&line).trim_end());
            let (told, forward) = second.admit(boottime_ms());
            if let Some(left_out) = told {
                put(format!("{left_out} more lines are left out: at most {LINES} a second are shown\n").as_bytes());
            }
            if forward {
                put(&line);
            }
        }
    };
    let spawned = std::thread::Builder::new().name("server log".into()).stack_size(128 << 10).spawn(pass);
    if let Err(error) = spawned {
        tracing::error!(%error, "the server's log is not read");
    }
}

/// The lines of the current second.
#[derive(Default)]
struct Second {
    since: u64,
    seen: u64,
}

impl Second {
    /// How many lines of the last second were left out, if it is over; and whether to forward this line.
    fn admit(&mut self, now: u64) -> (Option<u64>, bool) {
        let mut told = None;
        if now.saturating_sub(self.since) >= 1_000 {
            told = Some(self.seen.saturating_sub(LINES)).filter(|left_out| *left_out > 0);
            (self.since, self.seen) = (now, 0);
        }
        self.seen += 1;
        (told, self.seen <= LINES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_hundred_lines_a_second_are_forwarded_and_the_rest_is_counted() {
        let mut second = Second::default();
        let forwarded = (0..1_000).filter(|number| second.admit(5_000 + number / 2).1).count();
        assert_eq!(forwarded, 200);
        assert_eq!(second.admit(6_000), (Some(800), true));
    }
}
