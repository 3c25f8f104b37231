//! `evenkeel switchover`: requests a planned change of the primary, or master, by annotation, and follows the status until
//! it is answered.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::discovery::Resource;
use super::error::Error;
use super::follow::{Event, Follow};
use super::session::{Session, duration};
use super::timeline;
use crate::api::postgres_cluster::ClusterPhase;
use crate::api::switchover::SWITCHOVER_ANNOTATION;

/// The kinds with a primary or master. Two objects of one namespace never share a name: see `api/claims.rs`.
const KINDS: [&str; 2] = ["postgresclusters.evenkeel.dev", "redissentinels.evenkeel.dev"];

/// Makes another member of a PostgresCluster or RedisSentinel the primary, or master; no acknowledged write is lost.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The PostgresCluster or RedisSentinel
    name: String,
    /// The new primary or master [default: the member with the newest data]
    #[arg(long, value_name = "MEMBER")]
    to: Option<String>,
    /// How long to wait until it is healthy again
    #[arg(long, value_parser = duration, default_value = "60s", value_name = "TIME")]
    timeout: Duration,
}

/// The progress of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Progress {
    /// Not answered, or the cluster is not healthy again yet.
    UnderWay,
    /// Done; the sentence describes the result.
    Done(String),
    /// Refused; with the operator's reason.
    Refused(String),
}

/// What is read of a status.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    phase: ClusterPhase,
    last_switchover: Option<timeline::Switchover>,
}

/// The progress of the request, from the status of the object.
pub fn progress(object: &Value, request: &str) -> Progress {
    let Ok(status) = Status::deserialize(&object["status"]) else { return Progress::UnderWay };
    let Some(last) = status.last_switchover.filter(|last| last.request == request) else { return Progress::UnderWay };
    match (last.refused, last.result) {
        (Some(why), _) => Progress::Refused(why),
        (None, Some(went)) if status.phase == ClusterPhase::Healthy => {
            let outage = went.outage.map(|outage| format!(", no writes for {}", timeline::seconds(outage)));
            Progress::Done(format!("{} -> {}{}", went.from, went.to, outage.unwrap_or_default()))
        }
        _ => Progress::UnderWay,
    }
}

/// Runs the verb.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<(), Error> {
    let resource = find(&args.name, session).await?;
    let member = args.to.as_ref().map(|member| format!("/{member}")).unwrap_or_default();
    let request = format!("{:.3}{member}", (session.now)());
    let patch = json!({"metadata": {"annotations": {SWITCHOVER_ANNOTATION: request}}});
    let path = resource.path(Some(&session.namespace), Some(&args.name));
    let query = [("fieldManager", "evenkeel-switchover")];
    session.client.patch(&path, &query, "application/merge-patch+json", &patch).await?;
    let mut last = None;
    let answer = follow(&resource, &args.name, &request, &mut last, session);
    match tokio::time::timeout(args.timeout, answer).await {
        Ok(Ok(Progress::Refused(why))) => Err(Error::Failed(format!("{}: not switched over: {why}", args.name))),
        Ok(Ok(Progress::Done(how))) => Ok(writeln!(session.out, "{} switched over: {how}", args.name)?),
        Ok(Ok(Progress::UnderWay)) => Err(Error::NotFound(format!("{} was deleted meanwhile", args.name))),
        Ok(Err(error)) => Err(error),
        Err(_) => {
            let what = format!("the switchover of {}; the request stays until the operator answers it", args.name);
            Err(session.timed_out(what, args.timeout, last.as_ref())?)
        }
    }
}

/// The kind of the object with this name.
async fn find(name: &str, session: &Session<'_>) -> Result<Resource, Error> {
    let catalog = session.client.catalog().await?;
    for kind in KINDS {
        let resource = catalog.resolve(kind)?;
        if session.client.object(resource, &session.namespace, name).await?.is_some() {
            return Ok(resource.clone());
        }
    }
    Err(Error::NotFound(format!("no PostgresCluster or RedisSentinel {name:?} in namespace {}", session.namespace)))
}

/// Follows the object until the request is answered. `UnderWay` means that it was deleted.
async fn follow(
    resource: &Resource,
    name: &str,
    request: &str,
    last: &mut Option<Value>,
    session: &Session<'_>,
) -> Result<Progress, Error> {
    let mut follow = Follow::object(&session.client, resource, &session.namespace, name);
    loop {
        match follow.next().await? {
            Event::Changed(object) => {
                let progress = progress(&object, request);
                *last = Some(object);
                if progress != Progress::UnderWay {
                    return Ok(progress);
                }
            }
            Event::Deleted(_) => return Ok(Progress::UnderWay),
            Event::Restarted => {}
        }
    }
}
