//! `evenkeel rollout` and `evenkeel scale`: asks an object for another template, pace or number of pods, and says how far it is.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use super::client::JSON;
use super::discovery::{self, Resource};
use super::error::Error;
use super::follow::{Event, Follow};
use super::pods;
use super::render;
use super::session::{Session, duration};

const MERGE: &str = "application/merge-patch+json";
const REVISION: &str = "deployment.kubernetes.io/revision";
const CHANGE_CAUSE: &str = "kubernetes.io/change-cause";
const RESTARTED: &str = "kubectl.kubernetes.io/restartedAt";

/// Follows, stops, repeats or takes back changes of a template.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Waits until the newest template is everywhere
    Status {
        #[command(flatten)]
        of: Of,
        /// How long to wait
        #[arg(long, value_parser = duration, default_value = "10m", value_name = "TIME")]
        timeout: Duration,
    },
    /// Shows the revisions that can be gone back to
    History(Of),
    /// Goes back to another revision
    Undo {
        #[command(flatten)]
        of: Of,
        /// To this one [default: the one before]
        #[arg(long, value_name = "REVISION")]
        to_revision: Option<u64>,
    },
    /// Lets nothing more be changed until it is resumed
    Pause(Of),
    /// Ends a pause
    Resume(Of),
    /// Makes all pods anew, as an update does
    Restart(Of),
}

#[derive(Debug, clap::Args)]
struct Of {
    /// KIND NAME or KIND/NAME
    #[arg(required = true, value_name = "KIND NAME")]
    words: Vec<String>,
}

/// Sets the number of replicas.
#[derive(Debug, clap::Args)]
pub struct ScaleArgs {
    #[command(flatten)]
    of: Of,
    /// How many there are to be
    #[arg(long, value_name = "N")]
    replicas: u32,
}

/// An object that was found.
struct Found {
    resource: Resource,
    path: String,
    label: String,
    object: Value,
}

/// Runs `rollout`.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<(), Error> {
    match args.verb {
        Verb::Status { of, timeout } => status(&find(&of, session).await?, timeout, session).await,
        Verb::History(of) => history(&find(&of, session).await?, session).await,
        Verb::Undo { of, to_revision } => undo(&find(&of, session).await?, to_revision, session).await,
        Verb::Pause(of) => {
            let found = find(&of, session).await?;
            if found.object["spec"]["paused"] == true {
                return Err(Error::Failed(format!("{} is paused already", found.label)));
            }
            change(&found, &json!({"spec": {"paused": true}}), "paused", session).await
        }
        Verb::Resume(of) => {
            let found = find(&of, session).await?;
            if found.object["spec"]["paused"] != true {
                return Err(Error::Failed(format!("{} is not paused", found.label)));
            }
            change(&found, &json!({"spec": {"paused": false}}), "resumed", session).await
        }
        Verb::Restart(of) => {
            let found = find(&of, session).await?;
            if found.object["spec"]["paused"] == true {
                return Err(Error::Failed(format!("{} is paused; resume it first", found.label)));
            }
            let now = format!("{:.0}", (session.now)());
            let patch = json!({"spec": {"template": {"metadata": {"annotations": {RESTARTED: now}}}}});
            change(&found, &patch, "restarted", session).await
        }
    }
}

/// Runs `scale`.
pub async fn scale(args: ScaleArgs, session: &mut Session<'_>) -> Result<(), Error> {
    let mut found = find(&args.of, session).await?;
    found.path.push_str("/scale");
    change(&found, &json!({"spec": {"replicas": args.replicas}}), "scaled", session).await
}

async fn find(of: &Of, session: &Session<'_>) -> Result<Found, Error> {
    let catalog = session.client.catalog().await?;
    let mut targets = discovery::targets(&of.words)?;
    let (kind, name) = targets.remove(0);
    let (Some(name), true) = (name, targets.is_empty()) else {
        return Err(Error::Usage("say which object, e.g. `deployment/web`; one at a time".to_owned()));
    };
    let resource = catalog.resolve(&kind)?.clone();
    let path = resource.path(Some(&session.namespace), Some(&name));
    let object = session.client.get(&path, &[], JSON).await?;
    if !object["spec"]["template"].is_object() && !object["spec"]["replicas"].is_u64() {
        return Err(Error::Usage(format!("a {} has no pods of a template", resource.kind)));
    }
    Ok(Found { label: format!("{}/{name}", resource.label()), resource, path, object })
}

async fn change(found: &Found, patch: &Value, done: &str, session: &mut Session<'_>) -> Result<(), Error> {
    let answer = session.client.patch(&found.path, &[("fieldManager", "evenkeel-rollout")], MERGE, patch).await?;
    session.warn(&answer.warnings)?;
    Ok(writeln!(session.out, "{} {done}", found.label)?)
}

async fn status(found: &Found, timeout: Duration, session: &mut Session<'_>) -> Result<(), Error> {
    let client = session.client.clone();
    let name = render::cell(&found.object["metadata"]["name"]);
    let mut follow = Follow::object(&client, &found.resource, &session.namespace, &name);
    let (mut told, mut last) = (String::new(), None);
    let waited = async {
        loop {
            match follow.next().await? {
                Event::Changed(object) => {
                    let (done, words) = progress(&object)?;
                    if words != told {
                        writeln!(session.out, "{}: {words}", found.label)?;
                        session.out.flush()?;
                        told = words;
                    }
                    last = Some(object);
                    if done {
                        return Ok(());
                    }
                }
                Event::Deleted(_) => return Err(Error::NotFound(format!("{} was deleted meanwhile", found.label))),
                Event::Restarted => {}
            }
        }
    };
    match tokio::time::timeout(timeout, waited).await {
        Ok(ended) => ended,
        Err(_) => Err(session.timed_out(format!("the rollout of {}", found.label), timeout, last.as_ref())?),
    }
}

/// Whether the newest template is everywhere, and how far it is in words; an error if it will not get there by itself.
fn progress(object: &Value) -> Result<(bool, String), Error> {
    let status = &object["status"];
    let count = |field: &str| status[field].as_i64().unwrap_or(0);
    if status["observedGeneration"].as_i64() < object["metadata"]["generation"].as_i64() {
        return Ok((false, "waiting for the change to be seen".to_owned()));
    }
    let late = status["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == "Progressing" && condition["reason"] == "ProgressDeadlineExceeded");
    if let Some(late) = late {
        return Err(Error::Failed(format!("the deadline has passed: {}", render::cell(&late["message"]))));
    }
    let wanted = object["spec"]["replicas"].as_i64().unwrap_or(1);
    let (all, updated, available) = (count("replicas"), count("updatedReplicas"), count("availableReplicas"));
    Ok(if updated < wanted {
        (false, format!("{updated} of {wanted} pods are of the newest template"))
    } else if all > updated {
        (false, format!("{} older pods are still there", all - updated))
    } else if available < updated {
        (false, format!("{available} of {updated} pods are available"))
    } else {
        (true, format!("all {updated} pods are of the newest template and available"))
    })
}

/// The revisions of an object, oldest first.
async fn revisions(found: &Found, session: &Session<'_>) -> Result<Vec<(u64, Value)>, Error> {
    let catalog = session.client.catalog().await?;
    let uids = BTreeSet::from([render::cell(&found.object["metadata"]["uid"])]);
    let sets = pods::owned("replicasets.apps", &uids, &catalog, session).await?;
    let number = |set: &Value| set["metadata"]["annotations"][REVISION].as_str()?.parse().ok();
    let mut revisions: Vec<(u64, Value)> = sets.into_iter().filter_map(|set| Some((number(&set)?, set))).collect();
    revisions.sort_by_key(|(number, _)| *number);
    Ok(revisions)
}

async fn history(found: &Found, session: &mut Session<'_>) -> Result<(), Error> {
    let now = (session.now)();
    let row = |(number, set): &(u64, Value)| {
        let containers = set["spec"]["template"]["spec"]["containers"].as_array();
        let images: Vec<String> = containers.into_iter().flatten().map(|c| render::cell(&c["image"])).collect();
        vec![
            number.to_string(),
            render::cell(&set["status"]["replicas"]),
            render::age(set["metadata"]["creationTimestamp"].as_str().unwrap_or_default(), now),
            images.join(","),
            render::cell(&set["metadata"]["annotations"][CHANGE_CAUSE]),
        ]
    };
    let rows: Vec<Vec<String>> = revisions(found, session).await?.iter().map(row).collect();
    let heading = ["REVISION", "PODS", "AGE", "IMAGES", "CHANGE-CAUSE"];
    Ok(write!(session.out, "{}", render::table("", &heading, &rows))?)
}

async fn undo(found: &Found, to: Option<u64>, session: &mut Session<'_>) -> Result<(), Error> {
    if found.object["spec"]["paused"] == true {
        return Err(Error::Failed(format!("{} is paused; resume it first", found.label)));
    }
    let revisions = revisions(found, session).await?;
    let (number, set) = match to {
        Some(number) => revisions.iter().find(|(found, _)| *found == number),
        None => revisions.iter().rev().nth(1),
    }
    .ok_or_else(|| Error::NotFound(format!("{} has no such revision; see `evenkeel rollout history`", found.label)))?;
    let mut template = set["spec"]["template"].clone();
    if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
        labels.remove("pod-template-hash");
    }
    let patch = json!([{"op": "replace", "path": "/spec/template", "value": template}]);
    let query = [("fieldManager", "evenkeel-rollout")];
    session.client.patch(&found.path, &query, "application/json-patch+json", &patch).await?;
    Ok(writeln!(session.out, "{} goes back to revision {number}", found.label)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_rollout_is_told_step_by_step_and_its_end_is_not_missed() {
        let at = |seen: i64, replicas: i64, updated: i64, available: i64| {
            let (done, words) = progress(&json!({
                "metadata": {"generation": 2}, "spec": {"replicas": 3},
                "status": {"observedGeneration": seen, "replicas": replicas, "updatedReplicas": updated,
                    "availableReplicas": available},
            }))
            .unwrap();
            format!("{done} {words}")
        };
        assert_eq!(at(1, 3, 3, 3), "false waiting for the change to be seen");
        assert_eq!(at(2, 4, 1, 3), "false 1 of 3 pods are of the newest template");
        assert_eq!(at(2, 4, 3, 3), "false 1 older pods are still there");
        assert_eq!(at(2, 3, 3, 2), "false 2 of 3 pods are available");
        assert_eq!(at(2, 3, 3, 3), "true all 3 pods are of the newest template and available");
    }

    #[test]
    fn a_rollout_that_is_too_late_has_failed() {
        let object = json!({"metadata": {}, "spec": {}, "status": {"conditions": [
            {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "no image"}]}});
        assert_eq!(progress(&object).unwrap_err().to_string(), "the deadline has passed: no image");
    }
}
