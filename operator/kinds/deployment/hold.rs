//! Decides whether a Backup or a VolumeRestore lets a Deployment have no pods now. Pure.
//!
//! A Backup over several objects stops the pods; it holds the Deployment until it says otherwise, is deleted, or its time is over. A
//! VolumeRestore stops none: it keeps new pods away from a volume that is not whole.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use super::claims;
use crate::api::backup::Backup;
use crate::api::deployment::{Decisions, Deployment, HeldBy};
use crate::api::object::Object;
use crate::api::volume_restore::VolumeRestore;

/// An object that may hold the Deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Which one.
    pub by: HeldBy,
    /// The end of its hold; `None`: when it says so.
    pub until: Option<Timestamp>,
    /// Running pods are stopped for it.
    pub stops: bool,
}

/// What a Backup has to say about a Deployment of this name.
pub fn of_backup(backup: &Backup, deployment: &str) -> Option<Holder> {
    let together = backup.spec.together.as_ref()?;
    let status = backup.status.as_ref()?;
    let holds = status.together.as_ref().filter(|together| together.holds && !status.phase.is_terminal())?;
    let named = together.deployments.iter().any(|one| one.name == deployment);
    let lives = backup.metadata.deletion_timestamp.is_none();
    (named && lives).then(|| Holder { by: by(backup), until: holds.until, stops: true })
}

/// What a VolumeRestore has to say about a Deployment with these claims.
pub fn of_restore(restore: &VolumeRestore, claims: &BTreeSet<String>) -> Option<Holder> {
    let status = restore.status.clone().unwrap_or_default();
    // Until there is no part of the data any more, also while it is being deleted.
    let open = !status.phase.is_terminal() && restore.metadata.deletion_timestamp.is_none();
    let keeps = claims.contains(&restore.spec.claim) && (open || status.partial);
    keeps.then(|| Holder { by: by(restore), until: None, stops: false })
}

fn by<O: Object>(object: &O) -> HeldBy {
    HeldBy {
        kind: O::KIND.to_owned(),
        name: object.name().to_owned(),
        uid: object.metadata().uid.clone().unwrap_or_default(),
    }
}

/// The claims of the template.
pub fn claims_of(object: &Deployment) -> BTreeSet<String> {
    object.spec.template.spec.iter().flat_map(claims::of).map(str::to_owned).collect()
}

/// The one that holds the Deployment now.
pub fn now<'a>(holders: &'a [Holder], d: &Decisions, now: Timestamp) -> Option<&'a Holder> {
    let runs = d.pods.iter().any(|pod| pod.stop.is_none());
    let holds = |one: &&Holder| one.until.is_none_or(|until| now < until) && (one.stops || !runs);
    holders.iter().find(holds)
}

/// The time until a hold ends by itself.
pub fn left(holder: &Holder, now: Timestamp) -> Option<Duration> {
    Some(holder.until?.duration_since(now).unsigned_abs())
}

/// For people.
pub fn message(holder: &Holder) -> String {
    let HeldBy { kind, name, .. } = &holder.by;
    match holder.until.and_then(|until| Timestamp::from_second(until.as_second()).ok()) {
        Some(until) => {
            format!("{kind} {name} has stopped its pods; they come back when it is done, at {until} at the latest")
        }
        None => {
            format!("{kind} {name} has not filled a volume that its pods claim; they are created when it is complete")
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::deployment::{Pod, Stop};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn backup(status: serde_json::Value, deleted: bool) -> Backup {
        let store = json!({"s3": {"bucket": "backups", "credentials": {"secretName": "s3"}}});
        let mut backup: Backup = serde_json::from_value(json!({
            "metadata": {"name": "nightly", "namespace": "team", "uid": "u"},
            "spec": {"together": {"store": store, "deployments": [{"name": "web", "claims": ["files"]}]}},
            "status": status,
        }))
        .unwrap();
        if deleted {
            backup.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(1)));
        }
        backup
    }

    #[test]
    fn a_backup_holds_what_it_names_until_it_says_otherwise_ends_or_is_deleted() {
        let together = json!({"holds": true, "until": at(100)});
        let holds = |phase: &str, together: &serde_json::Value, deleted: bool, name: &str| {
            of_backup(&backup(json!({"phase": phase, "together": together}), deleted), name).is_some()
        };
        assert!(holds("Copying", &together, false, "web"));
        assert!(!holds("Copying", &together, false, "other"));
        assert!(!holds("Copying", &together, true, "web"));
        assert!(!holds("Failed", &together, false, "web"));
        assert!(!holds("Releasing", &json!({"holds": false}), false, "web"));
    }

    #[test]
    fn a_hold_ends_by_itself_and_a_restore_stops_no_pod() {
        let backup = backup(json!({"phase": "Copying", "together": {"holds": true, "until": at(100)}}), false);
        let holders = [of_backup(&backup, "web").unwrap()];
        let pod = |stop: Option<Stop>| Decisions { pods: vec![Pod { stop, ..Pod::default() }], ..Decisions::default() };
        let running = pod(None);
        assert!(now(&holders, &running, at(99)).is_some() && now(&holders, &running, at(100)).is_none());
        let restore = |status: serde_json::Value| -> VolumeRestore {
            serde_json::from_value(json!({
                "metadata": {"name": "back", "namespace": "team"}, "spec": {"from": {"backup": "nightly"}, "claim": "files"},
                "status": status,
            }))
            .unwrap()
        };
        let claims = BTreeSet::from(["files".to_owned()]);
        let of = |status| of_restore(&restore(status), &claims);
        let holders = [of(json!({"phase": "Pending"})).unwrap()];
        assert!(now(&holders, &running, at(0)).is_none());
        assert!(now(&holders, &pod(Some(Stop::default())), at(0)).is_some());
        assert!(of(json!({"phase": "Completed"})).is_none() && of(json!({"phase": "Failed"})).is_none());
        assert!(of(json!({"phase": "Failed", "partial": true})).is_some());
    }
}
