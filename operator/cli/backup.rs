//! `evenkeel backup`: creates a Backup of a PostgresCluster, and follows it until it has ended.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::discovery::Resource;
use super::error::Error;
use super::follow::{Event, Follow};
use super::progress::{Display, Standing};
use super::session::{Session, duration};
use crate::api::backup::{BaseBackupPhase, BaseBackupStatus};

/// Takes a base backup of a PostgresCluster: creates a Backup object.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The PostgresCluster
    cluster: String,
    /// The name of the Backup [default: CLUSTER-YYYYMMDDHHMMSS]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Wait until it is complete, and show how far it is
    #[arg(long)]
    wait: bool,
    /// How long to wait
    #[arg(long, value_parser = duration, default_value = "24h", value_name = "TIME", requires = "wait")]
    timeout: Duration,
}

/// How far a Backup is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// It has not ended; what it does or waits for.
    UnderWay(String),
    /// It is complete; the sentence describes it.
    Completed(String),
    /// It failed; why.
    Failed(String),
}

/// How far a Backup is, from its status.
pub fn progress(object: &Value) -> Progress {
    let status = BaseBackupStatus::deserialize(&object["status"]).unwrap_or_default();
    match status.phase {
        BaseBackupPhase::Completed => Progress::Completed(status.message),
        BaseBackupPhase::Failed => Progress::Failed(status.message),
        phase if status.message.is_empty() => Progress::UnderWay(phase.to_string()),
        phase => Progress::UnderWay(format!("{phase}: {}", status.message)),
    }
}

/// The name of a Backup that has none.
fn default_name(cluster: &str, now: Timestamp) -> String {
    format!("{cluster}-{}", now.to_zoned(TimeZone::UTC).strftime("%Y%m%d%H%M%S"))
}

/// Runs the verb.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<(), Error> {
    let catalog = session.client.catalog().await?;
    let (clusters, backups) =
        (catalog.resolve("postgresclusters.evenkeel.dev")?, catalog.resolve("backups.evenkeel.dev")?.clone());
    if session.client.object(clusters, &session.namespace, &args.cluster).await?.is_none() {
        let message = format!("no PostgresCluster {:?} in namespace {}", args.cluster, session.namespace);
        return Err(Error::NotFound(message));
    }
    let name = args.name.unwrap_or_else(|| default_name(&args.cluster, (session.now)()));
    let backup = json!({
        "apiVersion": "evenkeel.dev/v1alpha1", "kind": "Backup", "metadata": {"name": name},
        "spec": {"cluster": {"name": args.cluster}},
    });
    let query = [("fieldManager", "evenkeel-backup")];
    session.client.post(&backups.path(Some(&session.namespace), None), &query, &backup).await?;
    writeln!(session.out, "backup/{name} created")?;
    if !args.wait {
        return Ok(());
    }
    let mut last = None;
    match tokio::time::timeout(args.timeout, follow(&backups, &name, &mut last, session)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error),
        Err(_) => {
            let what = format!("backup/{name}, which goes on");
            Err(session.timed_out(what, args.timeout, last.as_ref())?)
        }
    }
}

/// Shows the progress of the Backup until it has ended.
async fn follow(
    resource: &Resource,
    name: &str,
    last: &mut Option<Value>,
    session: &mut Session<'_>,
) -> Result<(), Error> {
    let (client, namespace) = (session.client.clone(), session.namespace.clone());
    let mut follow = Follow::object(&client, resource, &namespace, name);
    let mut display = Display::new();
    display.begin(&[format!("backup/{name}")]);
    loop {
        let object = match follow.next().await? {
            Event::Changed(object) => object,
            Event::Deleted(_) => return Err(Error::NotFound(format!("backup/{name} was deleted meanwhile"))),
            Event::Restarted => continue,
        };
        let progress = progress(&object);
        *last = Some(object);
        let (ready, line) = match &progress {
            Progress::UnderWay(line) => (false, line.clone()),
            Progress::Completed(line) => (true, format!("Completed: {line}")),
            Progress::Failed(line) => (true, format!("Failed: {line}")),
        };
        display.show(0, &Standing { ready, line }, session.err)?;
        match progress {
            Progress::UnderWay(_) => {}
            Progress::Completed(how) => return Ok(writeln!(session.out, "backup/{name}: {how}")?),
            Progress::Failed(why) => return Err(Error::Failed(format!("backup/{name} failed: {why}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_has_ended_when_it_is_complete_or_failed() {
        let of = |phase: &str, message: &str| progress(&json!({"status": {"phase": phase, "message": message}}));
        assert_eq!(progress(&json!({})), Progress::UnderWay("Pending".into()));
        assert_eq!(of("Running", "reading db-2: 62%"), Progress::UnderWay("Running: reading db-2: 62%".into()));
        assert_eq!(of("Completed", "it is"), Progress::Completed("it is".into()));
        assert_eq!(of("Failed", "no store"), Progress::Failed("no store".into()));
        assert_eq!(default_name("db", Timestamp::UNIX_EPOCH), "db-19700101000000");
    }
}
