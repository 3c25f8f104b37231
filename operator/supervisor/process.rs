//! Processes of the container: as PID 1 the supervisor starts them, reaps them all and leaves none behind.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, Uid};
use tokio::sync::oneshot;

use crate::api::sync::lock;

/// A child process.
#[derive(Debug)]
pub struct Child {
    /// Its id.
    pub pid: Pid,
    /// Resolves when it has ended.
    pub exit: oneshot::Receiver<WaitStatus>,
    /// Its stdout and stderr; of one with data, its stderr.
    pub output: OwnedFd,
}

#[derive(Debug)]
struct Waiting {
    tell: oneshot::Sender<WaitStatus>,
    then_kill: Option<Uid>,
}

/// Reaps every process that ends and notifies its waiter.
#[derive(Debug, Clone, Default)]
pub struct Reaper(Arc<Mutex<BTreeMap<i32, Waiting>>>);

impl Reaper {
    /// Starts a child with stdout and stderr in one pipe. With `then_kill`, all processes of that user are
    /// killed at the moment the child has ended: orphans of a postmaster were observed to acknowledge commits
    /// for 40 ms more.
    pub fn spawn(&self, mut command: Command, then_kill: Option<Uid>) -> io::Result<Child> {
        let (output, stdout) = io::pipe()?;
        let stderr = stdout.try_clone()?;
        command.stdout(Stdio::from(stdout)).stderr(Stdio::from(stderr));
        self.start(command, output.into(), then_kill)
    }

    /// Starts a child whose stdout is data: a pipe of its own, beside the output with stderr alone.
    pub fn spawn_for_data(&self, mut command: Command) -> io::Result<(Child, OwnedFd)> {
        let (output, stderr) = io::pipe()?;
        let (data, stdout) = io::pipe()?;
        command.stdout(Stdio::from(stdout)).stderr(Stdio::from(stderr));
        Ok((self.start(command, output.into(), None)?, data.into()))
    }

    fn start(&self, mut command: Command, output: OwnedFd, then_kill: Option<Uid>) -> io::Result<Child> {
        // Registered before it can be reaped: both happen on the runtime's one thread.
        let pid = command.spawn()?.id().cast_signed();
        let (tell, exit) = oneshot::channel();
        lock(&self.0).insert(pid, Waiting { tell, then_kill });
        Ok(Child { pid: Pid::from_raw(pid), exit, output })
    }

    /// Reaps all processes that have ended.
    pub fn reap(&self) {
        loop {
            let status = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(status) => status,
                Err(Errno::EINTR) => continue,
                Err(_) => return,
            };
            let Some(pid) = status.pid() else { return };
            if let Some(waiting) = lock(&self.0).remove(&pid.as_raw()) {
                if let Some(uid) = waiting.then_kill {
                    kill_all_of(uid);
                }
                // An error means that there is no waiter.
                let _ = waiting.tell.send(status);
            }
        }
    }

    /// Reaps for ever.
    pub async fn run(self) -> io::Result<()> {
        let mut ended = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::child())?;
        loop {
            self.reap();
            ended.recv().await;
        }
    }
}

/// An exit status as text.
pub fn describe(status: WaitStatus) -> String {
    match status {
        WaitStatus::Exited(_, code) => format!("exit code {code}"),
        WaitStatus::Signaled(_, signal, _) => format!("signal {signal}"),
        other => format!("{other:?}"),
    }
}

/// Sends SIGKILL to every process of a user; returns their number.
pub fn kill_all_of(uid: Uid) -> usize {
    let pids = all_of(uid);
    for pid in &pids {
        // It may have ended meanwhile.
        let _ = kill(*pid, Signal::SIGKILL);
    }
    pids.len()
}

/// Whether a signal has stopped a process (SIGSTOP): it does not run before another one lets it.
pub fn is_stopped(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T')))
}

/// Kills a server with all processes that it started: its children have process groups of their own.
pub fn kill_with_children(server: Pid) {
    // Stopped, it starts no more of them. Any of them may have ended meanwhile.
    let _ = kill(server, Signal::SIGSTOP);
    let parent = |pid: &str| -> Option<(i32, i32)> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some((pid.parse().ok()?, stat.rsplit(") ").next()?.split(' ').nth(1)?.parse().ok()?))
    };
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let parents: Vec<_> = entries.filter_map(|entry| parent(entry.file_name().to_str()?)).collect();
    let mut tree = vec![server.as_raw()];
    let mut next = 0;
    while let Some(pid) = tree.get(next).copied() {
        tree.extend(parents.iter().filter(|(_, parent)| *parent == pid).map(|(child, _)| *child));
        next += 1;
    }
    for pid in tree.into_iter().rev() {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// Kills every process of a user and waits until none is left.
pub async fn none_left_of(uid: Uid, reaper: &Reaper) -> bool {
    for _ in 0..2_500 {
        reaper.reap();
        if kill_all_of(uid) == 0 {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    false
}

/// Processor time of the processes of a user, in ticks: unlike lines, every program that works has it.
pub fn worked(uid: Uid) -> u64 {
    let ticks = |pid: Pid| -> Option<u64> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = stat.rsplit(") ").next()?.split(' ').skip(11);
        Some(fields.next()?.parse::<u64>().ok()?.saturating_add(fields.next()?.parse().ok()?))
    };
    all_of(uid).into_iter().filter_map(ticks).fold(0, u64::saturating_add)
}

/// The living processes of a user.
pub fn all_of(uid: Uid) -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| is_of(*pid, uid)).map(Pid::from_raw).collect()
}

fn is_of(pid: i32, uid: Uid) -> bool {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { return false };
    let field = |name| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let dead = field("State:").is_none_or(|state| state.starts_with(['Z', 'X']));
    let owner = field("Uid:").and_then(|ids| ids.split_whitespace().next()?.parse::<u32>().ok());
    !dead && owner == Some(uid.as_raw())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_a_signal_has_stopped_is_told_from_one_that_sleeps() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        assert!(!is_stopped(pid));
        kill(pid, Signal::SIGSTOP).unwrap();
        waitpid(pid, Some(WaitPidFlag::WUNTRACED)).unwrap();
        assert!(is_stopped(pid));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
