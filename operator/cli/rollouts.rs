//! `evenkeel rollout`: status, history, undo, pause, resume and restart of the revisions of a pod template.

use std::time::Duration;

use serde_json::{Value, json};

use super::discovery::{Catalog, Resource};
use super::error::Error;
use super::follow::{Event, Follow};
use super::session::{Session, duration};
use super::{discovery, render, targets};

/// The number of a revision.
const REVISION: &str = "deployment.kubernetes.io/revision";
/// Why a revision was made.
const CHANGE_CAUSE: &str = "kubernetes.io/change-cause";
/// Annotation with the time of a restart; kubectl's own.
const RESTARTED_AT: &str = "kubectl.kubernetes.io/restartedAt";
/// Label with the hash of a pod's revision.
const TEMPLATE_HASH: &str = "pod-template-hash";

const MERGE: &str = "application/merge-patch+json";
const PATCH: &str = "application/json-patch+json";

/// Shows and controls rollouts.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

/// The object of the rollout.
#[derive(Debug, clap::Args)]
struct Target {
    /// KIND NAME or KIND/NAME, e.g. `deployment/web`
    #[arg(required = true, value_name = "KIND NAME")]
    words: Vec<String>,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Follows the rollout until it is done or has failed
    Status {
        #[command(flatten)]
        target: Target,
        /// Print the current state and do not wait
        #[arg(long)]
        no_wait: bool,
        /// How long to wait
        #[arg(long, value_parser = duration, default_value = "10m", value_name = "TIME")]
        timeout: Duration,
    },
    /// Lists the revisions, or shows the template of one
    History {
        #[command(flatten)]
        target: Target,
        /// Show the complete template of this revision
        #[arg(long, value_name = "NUMBER")]
        revision: Option<u64>,
    },
    /// Rolls back to an earlier revision
    Undo {
        #[command(flatten)]
        target: Target,
        /// Target revision [default: the previous one]
        #[arg(long, value_name = "NUMBER")]
        to_revision: Option<u64>,
    },
    /// Pauses: changes of the template are not rolled out
    Pause(Target),
    /// Resumes a paused rollout
    Resume(Target),
    /// Replaces all pods by a rollout
    Restart(Target),
}

/// An object that has rollouts.
struct Rolled {
    catalog: Catalog,
    resource: Resource,
    object: Value,
}

impl Rolled {
    async fn find(target: &Target, session: &Session<'_>) -> Result<Self, Error> {
        let catalog = session.client.catalog().await?;
        let mut targets = discovery::targets(&target.words)?;
        let (kind, Some(name)) = targets.remove(0) else {
            return Err(Error::Usage("say which one, by name, e.g. `deployment/web`".to_owned()));
        };
        if !targets.is_empty() {
            return Err(Error::Usage("one at a time".to_owned()));
        }
        let resource = catalog.resolve(&kind)?.clone();
        let found = session.client.object(&resource, &session.namespace, &name).await?;
        let object = found.ok_or_else(|| Error::NotFound(format!("{} {name:?} not found", resource.label())))?;
        if !object["spec"]["template"].is_object() {
            return Err(Error::Failed(format!("{} has no pod template that could be rolled out", resource.label())));
        }
        Ok(Self { catalog, resource, object })
    }

    fn label(&self) -> String {
        format!("{}/{}", self.resource.label(), targets::name(&self.object))
    }

    async fn patch(&self, kind: &str, patch: &Value, session: &Session<'_>) -> Result<(), Error> {
        let path = self.resource.path(Some(&session.namespace), Some(targets::name(&self.object)));
        session.client.patch(&path, &[("fieldManager", "evenkeel-rollout")], kind, patch).await.map(drop)
    }

    /// Sends a merge patch and prints a confirmation.
    async fn change(&self, patch: &Value, done: &str, session: &mut Session<'_>) -> Result<(), Error> {
        self.patch(MERGE, patch, session).await?;
        Ok(writeln!(session.out, "{} {done}", self.label())?)
    }

    /// The revisions, oldest first.
    async fn revisions(&self, session: &Session<'_>) -> Result<Vec<(u64, Value)>, Error> {
        let sets = targets::owned(&self.catalog, &self.object, session).await?;
        let numbered = |set: Value| Some((set["metadata"]["annotations"][REVISION].as_str()?.parse().ok()?, set));
        let mut revisions: Vec<(u64, Value)> = sets.into_iter().filter_map(numbered).collect();
        revisions.sort_by_key(|(number, _)| *number);
        Ok(revisions)
    }
}

/// Runs the verb.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<(), Error> {
    match args.verb {
        Verb::Status { target, no_wait, timeout } => status(&target, no_wait, timeout, session).await,
        Verb::History { target, revision } => history(&target, revision, session).await,
        Verb::Undo { target, to_revision } => undo(&target, to_revision, session).await,
        Verb::Pause(target) => {
            let rolled = Rolled::find(&target, session).await?;
            rolled.change(&json!({"spec": {"paused": true}}), "paused", session).await
        }
        Verb::Resume(target) => {
            let rolled = Rolled::find(&target, session).await?;
            rolled.change(&json!({"spec": {"paused": null}}), "resumed", session).await
        }
        Verb::Restart(target) => restart(&target, session).await,
    }
}

/// Starts a new rollout of the same template; refuses if the rollout is paused, because it would not start.
async fn restart(target: &Target, session: &mut Session<'_>) -> Result<(), Error> {
    let rolled = Rolled::find(target, session).await?;
    if rolled.object["spec"]["paused"] == true {
        return Err(Error::Failed(format!("{} is paused; resume it first", rolled.label())));
    }
    let now = format!("{:.0}", (session.now)());
    let patch = json!({"spec": {"template": {"metadata": {"annotations": {RESTARTED_AT: now}}}}});
    rolled.change(&patch, "restarted", session).await
}

/// The progress of a rollout.
#[derive(Debug, Clone, PartialEq)]
enum Progress {
    UnderWay(String),
    Done,
    Failed(String),
}

/// Uses the same rules as kubectl.
fn progress(object: &Value) -> Progress {
    let number = |value: &Value| value.as_i64().unwrap_or_default();
    let (metadata, spec, status) = (&object["metadata"], &object["spec"], &object["status"]);
    if number(&metadata["generation"]) > number(&status["observedGeneration"]) {
        return Progress::UnderWay("waiting for the operator to see the change".to_owned());
    }
    let conditions = status["conditions"].as_array();
    let progressing = conditions.into_iter().flatten().find(|condition| condition["type"] == "Progressing");
    if progressing.is_some_and(|condition| condition["reason"] == "ProgressDeadlineExceeded") {
        let message = progressing.and_then(|condition| condition["message"].as_str()).unwrap_or_default();
        return Progress::Failed(format!("it made no progress before its deadline: {message}"));
    }
    if spec["paused"] == true {
        return Progress::UnderWay("it is paused".to_owned());
    }
    let wanted = spec["replicas"].as_i64().unwrap_or(1);
    let of = |name: &str| number(&status[name]);
    let (all, updated, available) = (of("replicas"), of("updatedReplicas"), of("availableReplicas"));
    if updated < wanted {
        Progress::UnderWay(format!("{updated} of {wanted} new pods are created"))
    } else if all > updated {
        Progress::UnderWay(format!("{} old pods are terminating", all - updated))
    } else if available < updated {
        Progress::UnderWay(format!("{available} of {updated} new pods are available"))
    } else {
        Progress::Done
    }
}

async fn status(target: &Target, no_wait: bool, timeout: Duration, session: &mut Session<'_>) -> Result<(), Error> {
    let rolled = Rolled::find(target, session).await?;
    let mut last = Some(rolled.object.clone());
    if no_wait {
        let how = match progress(&rolled.object) {
            Progress::UnderWay(how) | Progress::Failed(how) => how,
            Progress::Done => "rolled out".to_owned(),
        };
        return Ok(writeln!(session.out, "{}: {how}", rolled.label())?);
    }
    match tokio::time::timeout(timeout, follow(&rolled, &mut last, session)).await {
        Ok(ended) => ended,
        Err(_) => Err(session.timed_out(format!("the rollout of {}", rolled.label()), timeout, last.as_ref())?),
    }
}

async fn follow(rolled: &Rolled, last: &mut Option<Value>, session: &mut Session<'_>) -> Result<(), Error> {
    let client = session.client.clone();
    let mut follow = Follow::object(&client, &rolled.resource, &session.namespace, targets::name(&rolled.object));
    let mut said = String::new();
    loop {
        match follow.next().await? {
            Event::Changed(object) => {
                let progress = progress(&object);
                *last = Some(object);
                match progress {
                    Progress::Done => return Ok(writeln!(session.out, "{} rolled out", rolled.label())?),
                    Progress::Failed(why) => return Err(Error::Failed(format!("{}: {why}", rolled.label()))),
                    Progress::UnderWay(how) if how != said => {
                        writeln!(session.out, "{}: {how}", rolled.label())?;
                        said = how;
                    }
                    Progress::UnderWay(_) => {}
                }
            }
            Event::Deleted(_) => return Err(Error::NotFound(format!("{} was deleted meanwhile", rolled.label()))),
            Event::Restarted => {}
        }
    }
}

async fn history(target: &Target, revision: Option<u64>, session: &mut Session<'_>) -> Result<(), Error> {
    let rolled = Rolled::find(target, session).await?;
    let revisions = rolled.revisions(session).await?;
    if let Some(wanted) = revision {
        let (_, set) = revision_of(&revisions, wanted)?;
        return Ok(write!(session.out, "{}", render::yaml(&set["spec"]["template"])?)?);
    }
    let rows = revisions.iter().map(|(number, set)| {
        let containers = set["spec"]["template"]["spec"]["containers"].as_array();
        let images = containers.into_iter().flatten().filter_map(|container| container["image"].as_str());
        let age = render::age(set["metadata"]["creationTimestamp"].as_str().unwrap_or_default(), (session.now)());
        let ready = format!("{}/{}", set["status"]["readyReplicas"], set["spec"]["replicas"]);
        let cause = set["metadata"]["annotations"][CHANGE_CAUSE].as_str().unwrap_or("-").to_owned();
        vec![number.to_string(), ready, age, images.collect::<Vec<_>>().join(","), cause]
    });
    let rows: Vec<Vec<String>> = rows.collect();
    let heading = ["REVISION", "READY", "AGE", "IMAGES", "CHANGE-CAUSE"];
    Ok(write!(session.out, "{}", render::table("", &heading, &rows))?)
}

fn revision_of(revisions: &[(u64, Value)], wanted: u64) -> Result<&(u64, Value), Error> {
    let found = revisions.iter().find(|(number, _)| *number == wanted);
    found.ok_or_else(|| {
        let known: Vec<String> = revisions.iter().map(|(number, _)| number.to_string()).collect();
        Error::NotFound(format!("there is no revision {wanted}; there are {}", known.join(", ")))
    })
}

async fn undo(target: &Target, wanted: Option<u64>, session: &mut Session<'_>) -> Result<(), Error> {
    let rolled = Rolled::find(target, session).await?;
    if rolled.object["spec"]["paused"] == true {
        return Err(Error::Failed(format!("{} is paused; resume it first", rolled.label())));
    }
    let revisions = rolled.revisions(session).await?;
    let current = &rolled.object["spec"]["template"];
    let (number, set) = match wanted {
        Some(wanted) => revision_of(&revisions, wanted)?,
        None => {
            let before = revisions.iter().rev().find(|(_, set)| template(set) != *current);
            before.ok_or_else(|| Error::NotFound(format!("{} has no earlier revision", rolled.label())))?
        }
    };
    let template = template(set);
    if template == *current {
        return Ok(writeln!(session.out, "{} is already at revision {number}", rolled.label())?);
    }
    rolled
        .patch(PATCH, &back_to(&rolled.object, template, &set["metadata"]["annotations"][CHANGE_CAUSE]), session)
        .await?;
    Ok(writeln!(session.out, "{} rolled back to revision {number}", rolled.label())?)
}

/// The template of a revision without the labels that the operator adds.
fn template(set: &Value) -> Value {
    let mut template = set["spec"]["template"].clone();
    if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
        labels.remove(TEMPLATE_HASH);
    }
    template
}

/// The patch that replaces the current template by an earlier one, together with its change cause.
fn back_to(object: &Value, template: Value, cause: &Value) -> Value {
    let mut patch = vec![
        json!({"op": "test", "path": "/metadata/resourceVersion", "value": object["metadata"]["resourceVersion"]}),
        json!({"op": "replace", "path": "/spec/template", "value": template}),
    ];
    let annotations = &object["metadata"]["annotations"];
    let path = format!("/metadata/annotations/{}", CHANGE_CAUSE.replace('/', "~1"));
    if cause.is_string() && annotations.is_object() {
        patch.push(json!({"op": "add", "path": path, "value": cause}));
    } else if cause.is_string() {
        patch.push(json!({"op": "add", "path": "/metadata/annotations", "value": {CHANGE_CAUSE: cause}}));
    } else if annotations[CHANGE_CAUSE].is_string() {
        patch.push(json!({"op": "remove", "path": path}));
    }
    patch.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(status: Value, expected: Progress) {
        let object = json!({"metadata": {"generation": 2}, "spec": {"replicas": 3}, "status": status});
        assert_eq!(progress(&object), expected, "{object}");
    }

    #[test]
    fn a_rollout_is_judged_as_kubectl_judges_it() {
        let under_way = |how: &str| Progress::UnderWay(how.to_owned());
        check(json!({"observedGeneration": 1}), under_way("waiting for the operator to see the change"));
        check(
            json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 1}),
            under_way("1 of 3 new pods are created"),
        );
        check(
            json!({"observedGeneration": 2, "replicas": 4, "updatedReplicas": 3}),
            under_way("1 old pods are terminating"),
        );
        let status = json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 3, "availableReplicas": 2});
        check(status, under_way("2 of 3 new pods are available"));
        check(
            json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 3, "availableReplicas": 3}),
            Progress::Done,
        );
        let late = json!([{"type": "Progressing", "reason": "ProgressDeadlineExceeded", "message": "late"}]);
        let failed = Progress::Failed("it made no progress before its deadline: late".to_owned());
        check(json!({"observedGeneration": 2, "conditions": late}), failed);
    }

    #[test]
    fn an_undo_brings_template_and_cause_back() {
        let annotated = json!({"metadata": {"resourceVersion": "7", "annotations": {CHANGE_CAUSE: "new"}}});
        let patch = back_to(&annotated, json!({}), &json!("old"));
        assert_eq!(
            patch[2],
            json!({"op": "add", "path": "/metadata/annotations/kubernetes.io~1change-cause", "value": "old"})
        );
        assert_eq!(back_to(&annotated, json!({}), &Value::Null)[2]["op"], "remove");
        let set = json!({"spec": {"template": {"metadata": {"labels": {"app": "web", "pod-template-hash": "aa"}}}}});
        assert_eq!(template(&set), json!({"metadata": {"labels": {"app": "web"}}}));
    }
}
