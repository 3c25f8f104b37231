//! `evenkeel probe`, the parent of an exec probe in its container.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

fn probe(milliseconds: &str, script: &str) -> Output {
    let arguments = ["probe", milliseconds, "--", "sh", "-c", script];
    Command::new(env!("CARGO_BIN_EXE_evenkeel")).args(arguments).output().unwrap()
}

/// Number of processes with this word among their arguments.
fn running(word: &str) -> usize {
    let lines = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let line = std::fs::read_to_string(entry.ok()?.path().join("cmdline")).ok()?;
        line.split('\0').any(|one| one == word).then_some(())
    });
    lines.count()
}

/// Regression 81: an exec probe that hung left its processes in the container, more with each period, because Docker ends
/// no command that it runs. Its own parent ends them now: at the deadline, and when the command ends before its children.
#[test]
fn a_probe_leaves_no_process_behind() {
    let own = std::process::id();
    let (hangs, leaves) = (format!("{own}.1"), format!("{own}.2"));
    let late = probe("300", &format!("sleep {hangs} & (sleep {hangs} &) ; sleep {hangs}"));
    assert_eq!((late.status.code(), running(&hangs)), (Some(124), 0));
    let early = probe("60000", &format!("sleep {leaves} & (setsid sleep {leaves} &) ; echo said; exit 3"));
    let said = String::from_utf8(early.stdout).unwrap();
    assert_eq!((early.status.code(), running(&leaves), said.as_str()), (Some(3), 0, "said\n"));
    let killed = probe("60000", "kill -9 $$");
    assert_eq!((killed.status.code(), probe("60000", "exit 0").status.code()), (Some(137), Some(0)));
}
