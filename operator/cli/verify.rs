//! `evenkeel verify`: asks for a restore test of a Backup, and follows it until it has ended.

use serde::Deserialize as _;
use serde_json::{Value, json};

use super::error::Error;
use super::once::{self, Progress, Wait};
use super::session::Session;
use crate::api::backup::{BaseBackupStatus, VERIFY_ANNOTATION, VerificationPhase, VerificationResult};

/// Restores a Backup in a throw-away cluster, replays all WAL of its archive, and checks the data.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The Backup
    backup: String,
    #[command(flatten)]
    wait: Wait,
}

/// How far the restore test of this request is.
pub fn progress(object: &Value, request: &str) -> Progress {
    let status = BaseBackupStatus::deserialize(&object["status"]).unwrap_or_default();
    let Some(test) = status.verification.filter(|test| test.request == request) else {
        return match status.phase.is_terminal() {
            true => Progress::UnderWay("Pending".into()),
            false => Progress::UnderWay(format!("Pending: the base backup is not complete: {}", status.message)),
        };
    };
    match (test.phase, test.result) {
        (VerificationPhase::Ended, VerificationResult::Passed) => Progress::Completed(test.message),
        (VerificationPhase::Ended, _) => Progress::Failed(test.message),
        (phase, _) => Progress::UnderWay(format!("{phase}: {}", test.message)),
    }
}

/// Runs the verb.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<(), Error> {
    let catalog = session.client.catalog().await?;
    let backups = catalog.resolve("backups.evenkeel.dev")?.clone();
    let name = &args.backup;
    if session.client.object(&backups, &session.namespace, name).await?.is_none() {
        return Err(Error::NotFound(format!("no Backup {name:?} in namespace {}", session.namespace)));
    }
    let request = format!("{:.3}", (session.now)());
    let patch = json!({"metadata": {"annotations": {VERIFY_ANNOTATION: request}}});
    let path = backups.path(Some(&session.namespace), Some(name));
    let query = [("fieldManager", "evenkeel-verify")];
    session.client.patch(&path, &query, "application/merge-patch+json", &patch).await?;
    writeln!(session.out, "backup/{name}: a restore test is asked for")?;
    let test = |object: &Value| progress(object, &request);
    once::follow(&backups, &format!("backup/{name}"), test, args.wait, session).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restore_test_has_ended_when_that_of_this_request_has() {
        let of = |phase: &str, request: &str, test: &str, result: &str| {
            let test = json!({"request": request, "phase": test, "result": result, "message": "so"});
            progress(&json!({"status": {"phase": phase, "message": "reading", "verification": test}}), "2")
        };
        let waits = "Pending: the base backup is not complete: reading";
        assert_eq!(of("Running", "1", "Ended", "Passed"), Progress::UnderWay(waits.into()));
        assert_eq!(of("Completed", "1", "Ended", "Passed"), Progress::UnderWay("Pending".into()));
        assert_eq!(of("Completed", "2", "Removing", "Passed"), Progress::UnderWay("Removing: so".into()));
        assert_eq!(of("Completed", "2", "Ended", "Passed"), Progress::Completed("so".into()));
        assert_eq!(of("Completed", "2", "Ended", "Failed"), Progress::Failed("so".into()));
    }
}
