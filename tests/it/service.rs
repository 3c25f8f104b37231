//! The systemd units in `deploy/systemd`.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

/// Regression 164: a port that was taken for six seconds made systemd give up on the operator for ever (five starts in ten
/// seconds), and the unit had an exposure of 8.9. Starts are not counted any more, and the exposure is at most 2.5.
#[test]
fn the_service_is_started_for_ever_and_confined() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd/evenkeel.service");
    let unit = std::fs::read_to_string(&file).unwrap();
    for line in [
        "StartLimitIntervalSec=0",
        "Restart=always",
        "MemoryMax=1G",
        "CapabilityBoundingSet=",
        "SystemCallFilter=@system-service",
    ] {
        assert!(unit.lines().any(|found| found == line), "{line} is missing");
    }
    // Where there is no systemd, the lines above have to do.
    let judged =
        Command::new("systemd-analyze").args(["security", "--offline=true", "--threshold=25"]).arg(&file).output();
    if let Ok(judged) = judged {
        let said = String::from_utf8_lossy(&judged.stdout).into_owned();
        assert!(judged.status.success(), "{}", said.lines().last().unwrap_or_default());
    }
}
