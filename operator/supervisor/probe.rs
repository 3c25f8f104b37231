//! The parent of an exec probe in its container: runs the command and leaves none of its processes behind, also if it
//! hangs or if the operator goes away.

use std::collections::BTreeSet;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

/// Exit code of a probe that did not end in time, as of `timeout`.
const TIMED_OUT: u8 = 124;
/// Exit code when the command cannot be run, as of a shell.
const NOT_RUN: u8 = 127;
/// Added to a signal's number, as in a shell.
const SIGNALLED: i32 = 128;
/// Wait for processes that were killed. One that belongs to another user cannot be killed and is left.
const PATIENCE: Duration = Duration::from_secs(1);

/// Runs the command, and kills its processes when it ends or after `limit`. Returns its exit code.
pub fn run(limit: Duration, command: &[&str]) -> ExitCode {
    static CODE: AtomicU8 = AtomicU8::new(TIMED_OUT);
    static LATE: AtomicBool = AtomicBool::new(false);
    let [program, arguments @ ..] = command else { return ExitCode::from(NOT_RUN) };
    // A process whose parent ended becomes a child of this one.
    if let Err(error) = nix::sys::prctl::set_child_subreaper(true) {
        eprintln!("the processes of the probe cannot be watched: {error}");
    }
    let child = match Command::new(program).args(arguments).spawn() {
        Ok(child) => child.id(),
        Err(error) => {
            eprintln!("{program}: {error}");
            return ExitCode::from(NOT_RUN);
        }
    };
    // Nobody sends anything: the thread only waits.
    let (_silent, clock) = mpsc::channel::<()>();
    thread::spawn(move || {
        let _ = clock.recv_timeout(limit);
        LATE.store(true, Ordering::SeqCst);
        kill_all();
        let _ = clock.recv_timeout(PATIENCE);
        std::process::exit(CODE.load(Ordering::SeqCst).into());
    });
    let mut ended = false;
    // No child is left when waiting fails.
    while let Ok(status) = waitpid(None::<Pid>, None) {
        let code = match status {
            WaitStatus::Exited(_, code) => code,
            WaitStatus::Signaled(_, signal, _) => SIGNALLED + signal as i32,
            _ => continue,
        };
        if status.pid().is_some_and(|pid| pid.as_raw().cast_unsigned() == child) {
            ended = true;
            if !LATE.load(Ordering::SeqCst) {
                CODE.store(u8::try_from(code).unwrap_or(u8::MAX), Ordering::SeqCst);
            }
        }
        if ended {
            // Again after each process: a killed parent may have started another one before.
            kill_all();
        }
    }
    ExitCode::from(CODE.load(Ordering::SeqCst))
}

/// Kills every descendant of this process.
fn kill_all() {
    let parents: Vec<(i32, i32)> = std::fs::read_dir("/proc").into_iter().flatten().filter_map(parent).collect();
    let mut family = BTreeSet::from([std::process::id().cast_signed()]);
    loop {
        let more: Vec<i32> = parents
            .iter()
            .filter(|(pid, parent)| family.contains(parent) && !family.contains(pid))
            .map(|(pid, _)| *pid)
            .collect();
        if more.is_empty() {
            return;
        }
        for pid in more {
            family.insert(pid);
            // It may have ended already.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// A process and its parent, from an entry of `/proc`.
fn parent(entry: std::io::Result<std::fs::DirEntry>) -> Option<(i32, i32)> {
    let entry = entry.ok()?;
    let pid = entry.file_name().to_str()?.parse().ok()?;
    let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?;
    Some((pid, parent.parse().ok()?))
}
