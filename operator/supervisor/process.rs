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

use super::secrets::REPLICATION_ROLE;
use super::sql::ROLE;
use crate::api::sync::lock;

/// A child process.
#[derive(Debug)]
pub struct Child {
    /// Its id.
    pub pid: Pid,
    /// Resolves when it has ended.
    pub exit: oneshot::Receiver<WaitStatus>,
    /// Its stdout and stderr.
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
        // Registered before it can be reaped: both happen on the runtime's one thread.
        let pid = command.spawn()?.id().cast_signed();
        let (tell, exit) = oneshot::channel();
        lock(&self.0).insert(pid, Waiting { tell, then_kill });
        Ok(Child { pid: Pid::from_raw(pid), exit, output: output.into() })
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

/// The living processes of a user.
fn all_of(uid: Uid) -> Vec<Pid> {
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

/// A child of a postmaster that is still authenticating.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authenticating {
    /// It says that it is a client of users.
    Client,
    /// It says that it is a standby or a supervisor. It has not proved it.
    Member,
}

/// Children of a postmaster that are still authenticating and are in no view of the server yet. Otherwise a session
/// that the old pg_hba.conf admitted could appear after the gate was shut and all sessions were ended.
pub fn authenticating(postmaster: Pid, uid: Uid) -> Vec<(Pid, Authenticating)> {
    let authenticates = |pid: Pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse::<i32>().ok());
        let title = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let who = who_authenticates(&String::from_utf8_lossy(&title))?;
        (parent == Some(postmaster.as_raw())).then_some((pid, who))
    };
    all_of(uid).into_iter().filter_map(authenticates).collect()
}

/// Reads the process title `postgres: CLUSTER_NAME: USER DATABASE HOST authentication`. The title of a standby's
/// connection has the words `walsender USER` in the place of user and database. Any other title is a client's.
fn who_authenticates(title: &str) -> Option<Authenticating> {
    let title = title.trim_end_matches('\0').trim_end();
    let mut words = title.strip_prefix("postgres: ")?.rsplit(' ');
    (words.next() == Some("authentication")).then_some(())?;
    let (_host, database, user) = (words.next(), words.next(), words.next());
    let member = [Some(ROLE), Some(REPLICATION_ROLE)].contains(&user);
    let standby = (user, database) == (Some("walsender"), Some(REPLICATION_ROLE));
    Some(if member || standby { Authenticating::Member } else { Authenticating::Client })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression 39: the title of a standby's connection has another form, so the supervisor took it for a client and ended
    /// it while it authenticated. The standby connected again some 45 ms later, which delayed the first commit.
    #[test]
    fn the_title_of_a_process_says_who_authenticates() {
        let (client, member) = (Some(Authenticating::Client), Some(Authenticating::Member));
        assert_eq!(who_authenticates("postgres: db-1: app shop 172.18.0.9(41620) authentication\0"), client);
        assert_eq!(who_authenticates("postgres: authentication"), client);
        assert_eq!(who_authenticates("postgres: db-1: evenkeel_app shop 172.18.0.9(41620) authentication"), client);
        assert_eq!(
            who_authenticates("postgres: db-1: app evenkeel_replication 172.18.0.9(41620) authentication"),
            client
        );
        assert_eq!(who_authenticates("postgres: evenkeel-db-1: evenkeel postgres [local] authentication"), member);
        assert_eq!(
            who_authenticates("postgres: db-1: walsender evenkeel_replication 172.18.0.3(50112) authentication"),
            member
        );
        assert_eq!(who_authenticates("postgres: db-1: app shop 172.18.0.9(41620) idle"), None);
        assert_eq!(who_authenticates("postgres: db-1: walwriter "), None);
    }
}
