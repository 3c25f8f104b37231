//! Objects that stand for work which is done once: created, and followed until they are `Completed` or `Failed`.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;

use super::discovery::Resource;
use super::error::Error;
use super::follow::{Event, Follow};
use super::progress::{Display, Standing};
use super::render;
use super::session::{Session, duration};

/// Whether and how long to wait for the end.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Wait {
    /// Wait until it has ended, and show how far it is
    #[arg(long)]
    wait: bool,
    /// How long to wait
    #[arg(long, value_parser = duration, default_value = "24h", value_name = "TIME", requires = "wait")]
    timeout: Duration,
}

/// How far such an object is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// It has not ended; what it does or waits for.
    UnderWay(String),
    /// It is complete; the sentence describes it.
    Completed(String),
    /// It failed; why.
    Failed(String),
}

/// How far the object is, from its status.
pub fn progress(object: &Value) -> Progress {
    let (phase, message) = (render::cell(&object["status"]["phase"]), render::cell(&object["status"]["message"]));
    match (phase.as_str(), message.as_str()) {
        ("Completed", _) => Progress::Completed(message),
        ("Failed", _) => Progress::Failed(message),
        ("", _) => Progress::UnderWay("Pending".to_owned()),
        (_, "") => Progress::UnderWay(phase),
        _ => Progress::UnderWay(format!("{phase}: {message}")),
    }
}

/// A name for an object that has none.
pub fn default_name(about: &str, now: Timestamp) -> String {
    format!("{about}-{}", now.to_zoned(TimeZone::UTC).strftime("%Y%m%d%H%M%S"))
}

/// Creates the object, and follows it to its end if that is wanted. `word`: the kind in lower case, as `get` prints it.
///
/// # Errors
/// It exists already, it failed, it was deleted meanwhile, or it has not ended in time.
pub async fn create(
    (resource, word): (&Resource, &str),
    object: &Value,
    manager: &str,
    wait: Wait,
    session: &mut Session<'_>,
) -> Result<(), Error> {
    let name = format!("{word}/{}", render::cell(&object["metadata"]["name"]));
    session.client.post(&resource.path(Some(&session.namespace), None), &[("fieldManager", manager)], object).await?;
    writeln!(session.out, "{name} created")?;
    follow(resource, &name, progress, wait, session).await
}

/// Shows the progress of the object `WORD/NAME`, as `progress` reads it, until it has ended; if that is wanted.
///
/// # Errors
/// As [`create`].
pub async fn follow(
    resource: &Resource,
    name: &str,
    progress: impl Fn(&Value) -> Progress,
    wait: Wait,
    session: &mut Session<'_>,
) -> Result<(), Error> {
    if !wait.wait {
        return Ok(());
    }
    let mut last = None;
    match tokio::time::timeout(wait.timeout, until_its_end(resource, name, progress, &mut last, session)).await {
        Ok(done) => done,
        Err(_) => {
            let what = format!("{name}, which goes on");
            Err(session.timed_out(what, wait.timeout, last.as_ref())?)
        }
    }
}

async fn until_its_end(
    resource: &Resource,
    name: &str,
    progress: impl Fn(&Value) -> Progress,
    last: &mut Option<Value>,
    session: &mut Session<'_>,
) -> Result<(), Error> {
    let (client, namespace) = (session.client.clone(), session.namespace.clone());
    let bare = name.rsplit('/').next().unwrap_or(name);
    let mut follow = Follow::object(&client, resource, &namespace, bare);
    let mut display = Display::new();
    display.begin(&[name.to_owned()]);
    loop {
        let object = match follow.next().await? {
            Event::Changed(object) => object,
            Event::Deleted(_) => return Err(Error::NotFound(format!("{name} was deleted meanwhile"))),
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
            Progress::Completed(how) => return Ok(writeln!(session.out, "{name}: {how}")?),
            Progress::Failed(why) => return Err(Error::Failed(format!("{name} failed: {why}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

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
