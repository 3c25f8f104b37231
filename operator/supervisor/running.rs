//! A program that runs beside the loop: its lines are read, and it is killed when nobody waits for it any more.

use std::io;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::WaitStatus;
use nix::unistd::{Pid, Uid};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;

use super::process::{self, Child, Reaper};

/// Time-out of a server's stop after a recovery: it writes a checkpoint.
const STOP: Duration = Duration::from_secs(600);
/// How often it is looked whether the processes still work.
const PULSE: Duration = Duration::from_secs(5);
/// Lines kept for a message.
const KEPT: usize = 40;
/// Bytes of a line at most.
const LINE: usize = 4096;

/// How a program ended is not known.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// Its output or its exit status.
    #[error("the output of a program was lost")]
    Output(#[from] io::Error),
    /// It was told to stop.
    #[error("PostgreSQL did not stop within {STOP:?}")]
    Running,
}

/// A child whose lines are read. It is killed when this is dropped before its end.
pub struct Running {
    pid: Pid,
    child: Option<Child>,
    /// It was told to stop.
    pub stopped: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.child.is_some() {
            process::kill_with_children(self.pid);
        }
    }
}

impl Running {
    /// Starts it; its lines are those of stdout and stderr.
    pub fn start(reaper: &Reaper, command: Command) -> io::Result<Self> {
        Ok(Self::of(reaper.spawn(command, None)?))
    }

    /// Starts it; its lines are those of stderr, and its stdout is the data.
    pub fn start_for_data(reaper: &Reaper, command: Command) -> io::Result<(Self, pipe::Receiver)> {
        let (child, data) = reaper.spawn_for_data(command)?;
        Ok((Self::of(child), pipe::Receiver::from_owned_fd(data)?))
    }

    fn of(child: Child) -> Self {
        Self { pid: child.pid, child: Some(child), stopped: false }
    }

    /// [`Running::end`]. `works` is told again and again while processes of this user do something.
    pub async fn end_watched(
        &mut self,
        uid: Uid,
        mut works: impl FnMut(),
        enough: impl FnMut(&str) -> bool,
    ) -> Result<(WaitStatus, Vec<String>), Lost> {
        let mut before = process::worked(uid);
        let mut end = std::pin::pin!(self.end(enough));
        loop {
            tokio::select! {
                biased;
                ended = &mut end => return ended,
                () = tokio::time::sleep(PULSE) => {
                    let now = process::worked(uid);
                    if now != std::mem::replace(&mut before, now) {
                        works();
                    }
                }
            }
        }
    }

    /// Reads its lines until it ends; its exit status and the last lines. When `enough` says so of a line, it is told to stop.
    pub async fn end(&mut self, enough: impl FnMut(&str) -> bool) -> Result<(WaitStatus, Vec<String>), Lost> {
        let Some(child) = &mut self.child else { return Err(Lost::Output(io::ErrorKind::NotFound.into())) };
        let mut reader = BufReader::new(pipe::Receiver::from_owned_fd(child.output.try_clone()?)?);
        let mut lines = Vec::new();
        if read_until(&mut reader, &mut lines, enough).await? {
            self.stopped = true;
            // Without a session it stops at once. If it has ended already, that is seen below.
            let _ = kill(self.pid, Signal::SIGINT);
            let stop = tokio::time::timeout(STOP, read_until(&mut reader, &mut lines, |_| false)).await;
            stop.map_err(|_| Lost::Running)??;
        }
        let status = (&mut child.exit).await.map_err(|_| Lost::Output(io::ErrorKind::BrokenPipe.into()))?;
        self.child = None;
        Ok((status, lines))
    }
}

/// Reads lines up to one that is enough; false if there was none. Keeps the last ones.
async fn read_until(
    reader: &mut BufReader<pipe::Receiver>,
    lines: &mut Vec<String>,
    mut enough: impl FnMut(&str) -> bool,
) -> io::Result<bool> {
    let mut line = Vec::new();
    while read_line(reader, &mut line).await? {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        line.clear();
        let last = enough(&text);
        if lines.len() == KEPT {
            lines.remove(0);
        }
        lines.push(text);
        if last {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Reads one line, or its beginning if it is long; false at the end.
async fn read_line(reader: &mut BufReader<pipe::Receiver>, line: &mut Vec<u8>) -> io::Result<bool> {
    loop {
        let bytes = reader.fill_buf().await?;
        if bytes.is_empty() {
            return Ok(!line.is_empty());
        }
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let length = end.map_or(bytes.len(), |end| end + 1);
        let room = LINE.saturating_sub(line.len()).min(length);
        line.extend_from_slice(&bytes[..room]);
        reader.consume(length);
        if end.is_some() {
            return Ok(true);
        }
    }
}

/// The lines that say why: those of errors, else the last ones.
pub fn last(lines: &[String]) -> String {
    let why = |line: &&String| ["FATAL:", "PANIC:", "ERROR:", " error: "].iter().any(|word| line.contains(word));
    let mut kept: Vec<&str> = lines.iter().filter(why).map(String::as_str).collect();
    if kept.is_empty() {
        kept = lines.iter().rev().take(3).rev().map(String::as_str).collect();
    }
    kept[kept.len().saturating_sub(3)..].join("; ")
}
