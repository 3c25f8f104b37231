//! Chooses the target revision, keeps the history, and gives a failed revision up. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodTemplateSpec;

use super::context::PlanContext;
use super::inputs::Input;
use super::{Observed, blueprint, placement};
use crate::api::deployment::{
    CHANGE_CAUSE_ANNOTATION, Decisions, Deployment, ROLL_ON_CHANGE_ANNOTATION, ROLLBACK_ANNOTATION, Revision,
};
use crate::api::hash::short_hash_of_json;
use crate::api::object::Object as _;
use crate::engine::ImageSeen;
use crate::kinds::containers::{DockerStep, Work};
use crate::runtime::companions::{Standing, due, due_once};

/// Hex digits of a revision's hash.
const HASH_DIGITS: usize = 10;
/// Default of `revisionHistoryLimit`.
const HISTORY: i32 = 10;
/// Default of `progressDeadlineSeconds`: a rollout without progress for this long has failed.
const DEADLINE_SECONDS: i32 = 600;

fn asks_to_roll(template: &PodTemplateSpec) -> bool {
    let annotations = template.metadata.as_ref().and_then(|metadata| metadata.annotations.as_ref());
    annotations.and_then(|all| all.get(ROLL_ON_CHANGE_ANNOTATION)).is_some_and(|value| value == "true")
}

/// The hash of the revision that the object asks for. A revision of the version before keeps its name until its template
/// or an input changes, so that an upgrade replaces no pod.
fn wanted(object: &Deployment, observed: &Observed, d: &Decisions) -> String {
    let template = &object.spec.template;
    let used = blueprint::inputs(&template.spec.clone().unwrap_or_default());
    let hash = |of: fn(Input) -> String| {
        let counted = used.keys().filter(|_| asks_to_roll(template));
        let inputs: BTreeMap<_, _> = counted.map(|input| (input.to_string(), of(observed.inputs.get(input)))).collect();
        short_hash_of_json(&(template, inputs), HASH_DIGITS)
    };
    let before = hash(|input| input.unkeyed);
    if self::of(d, &before).is_some() { before } else { hash(|input| input.hash) }
}

/// Sets the target to the requested revision, unless that was given up; shortens the history.
pub fn choose(object: &Deployment, observed: &Observed, d: &mut Decisions, now: Timestamp) {
    let wanted = wanted(object, observed, d);
    // An input is missing, so the hash would mean nothing.
    let lacking = observed.inputs.missing(&object.spec.template).is_some() && asks_to_roll(&object.spec.template);
    if object.spec.paused == Some(true) && !d.target.is_empty() || lacking && !d.target.is_empty() {
        return;
    }
    if d.given_up.as_ref().is_some_and(|given_up| *given_up != wanted) {
        d.given_up = None;
    }
    let target = match &d.given_up {
        Some(_) => last_good(d, &wanted).unwrap_or_else(|| wanted.clone()),
        None => wanted.clone(),
    };
    let newest = d.revisions.iter().map(|revision| revision.revision).max().unwrap_or_default();
    match d.revisions.iter_mut().find(|revision| revision.hash == target) {
        None => d.revisions.push(Revision {
            revision: newest + 1,
            hash: target.clone(),
            created_at: Some(now),
            template: object.spec.template.clone(),
            ..Default::default()
        }),
        // A rollback: as in Kubernetes the old revision becomes the newest.
        Some(old) if old.revision != newest && target != d.target => old.revision = newest + 1,
        Some(_) => {}
    }
    // The cause may be written after the change too (`kubectl annotate`).
    if let (true, Some(cause)) = (target == wanted, object.annotation(CHANGE_CAUSE_ANNOTATION)) {
        let told = d.revisions.iter_mut().filter(|revision| revision.hash == target);
        told.for_each(|revision| revision.change_cause = Some(cause.to_owned()));
    }
    if d.target != target {
        d.target = target;
        d.progressed_at = Some(now);
        d.best = 0;
    }
    trim(object, d);
}

fn last_good(d: &Decisions, but: &str) -> Option<String> {
    let good = d.revisions.iter().filter(|revision| revision.good && revision.hash != but);
    good.max_by_key(|revision| revision.revision).map(|revision| revision.hash.clone())
}

fn trim(object: &Deployment, d: &mut Decisions) {
    d.revisions.sort_by_key(|revision| revision.revision);
    let limit = usize::try_from(object.spec.revision_history_limit.unwrap_or(HISTORY)).unwrap_or_default();
    let used = |d: &Decisions, hash: &str| {
        hash == d.target || d.given_up.as_deref() == Some(hash) || d.pods.iter().any(|pod| pod.hash == hash)
    };
    let mut spare: Vec<String> =
        d.revisions.iter().filter(|revision| !used(d, &revision.hash)).map(|revision| revision.hash.clone()).collect();
    spare.truncate(spare.len().saturating_sub(limit));
    d.revisions.retain(|revision| !spare.contains(&revision.hash));
}

/// The number of the revision with this hash; 0 if there is none.
pub fn number(d: &Decisions, hash: &str) -> u64 {
    of(d, hash).map(|revision| revision.revision).unwrap_or_default()
}

/// The revision with this hash.
pub fn of<'a>(d: &'a Decisions, hash: &str) -> Option<&'a Revision> {
    d.revisions.iter().find(|revision| revision.hash == hash)
}

/// Fixes the images of the target once, by digest, and returns the steps that get them. With `imagePullPolicy: Always`,
/// the registry is asked once per revision, even if the image exists on the host.
pub fn resolve(observed: &Observed, d: &mut Decisions) -> Vec<DockerStep> {
    let target = d.target.clone();
    let Some(revision) = d.revisions.iter_mut().find(|revision| revision.hash == target) else { return Vec::new() };
    if !revision.images.is_empty() {
        return Vec::new();
    }
    let spec = blueprint::pod_spec(revision);
    let Some(host) = placement::eligible(observed, &spec).first().map(|host| (*host).to_owned()) else {
        return Vec::new();
    };
    let (mut images, mut steps) = (BTreeMap::new(), Vec::new());
    for container in blueprint::containers(&spec) {
        let image = container.image.clone().unwrap_or_default();
        let pull = placement::pull(&observed.work, &host, &image, &target);
        let (asked, wanted) = match container.image_pull_policy.as_deref() {
            Some("Always") => (pull.is_some_and(|pull| pull.state == Standing::Done), due_once(pull)),
            Some("Never") => (true, false),
            _ => (true, due(pull)),
        };
        match placement::image(observed, &host, &image) {
            Some(found) if asked => drop(images.insert(container.name.clone(), exact(&image, found))),
            _ if wanted => {
                let (host, revision, logins) = (host.clone(), target.clone(), placement::logins(&spec));
                steps.push(DockerStep::GetImage { host, image, revision, logins });
            }
            _ => {}
        }
    }
    steps.dedup();
    if images.len() == blueprint::containers(&spec).count() {
        revision.images = images;
    }
    steps
}

/// The reference that always means this exact image: the registry's digest, or else Docker's id.
fn exact(image: &str, found: &ImageSeen) -> String {
    let repository = image.split('@').next().unwrap_or_default();
    let colon = repository.rfind(':').filter(|at| !repository[*at..].contains('/'));
    let repository = colon.map_or(repository, |at| &repository[..at]);
    let by_digest = found.digests.iter().find(|reference| reference.split('@').next() == Some(repository));
    by_digest.unwrap_or(&found.id).clone()
}

/// Why images of the target are not available, if so.
pub fn image_trouble(observed: &Observed, d: &Decisions) -> Option<String> {
    let revision = of(d, &d.target)?;
    let spec = blueprint::pod_spec(revision);
    let first = placement::eligible(observed, &spec).first().copied().filter(|_| revision.images.is_empty());
    // A pull on a host where no pod waits for it is not tried again.
    let waits = |host: &str| {
        let mut pods = d.pods.iter().filter(|pod| pod.stop.is_none() && pod.hash == d.target);
        first == Some(host) || pods.any(|pod| pod.host == host)
    };
    let failed = observed.work.iter().find_map(|(work, heard)| match work {
        Work::Image { host, revision, .. } if *revision == d.target && waits(host) => {
            heard.failure().map(str::to_owned)
        }
        _ => None,
    });
    let never = || {
        let host = first?;
        blueprint::containers(&spec).find_map(|container| {
            let image = container.image.as_deref().unwrap_or_default();
            placement::unobtainable(observed, host, image, image, container.image_pull_policy.as_deref())
        })
    };
    failed.or_else(never)
}

/// The time left until the deadline of a rollout, counted from its last progress; zero when it has passed.
pub fn time_left(context: &PlanContext, d: &Decisions) -> Duration {
    let deadline = context.object.spec.progress_deadline_seconds.unwrap_or(DEADLINE_SECONDS);
    let deadline = Duration::from_secs(u64::try_from(deadline).unwrap_or_default());
    let since = d.progressed_at.map(|at| context.waited(at)).unwrap_or_default();
    deadline.saturating_sub(since)
}

/// Gives the target up and returns to the last good revision, if the object asks for that and there is one.
pub fn give_up(object: &Deployment, d: &mut Decisions) {
    let asked = object.annotation(ROLLBACK_ANNOTATION) == Some("true");
    let good = of(d, &d.target).is_some_and(|revision| revision.good);
    if asked && !good && d.given_up.is_none() && last_good(d, &d.target).is_some() {
        d.given_up = Some(d.target.clone());
    }
}
