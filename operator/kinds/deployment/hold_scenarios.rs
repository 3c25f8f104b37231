//! A Deployment that a Backup or a VolumeRestore lets have no pods, with the production loop: its pods always come back.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use super::world::{World, spec};
use crate::api::backup::Backup;
use crate::api::object::Object as _;
use crate::api::volume_restore::VolumeRestore;
use crate::store::Key;
use crate::store::objects::Preconditions;

/// A Backup that holds the Deployment, until so many seconds from now.
fn holding(world: &World, holds: bool, seconds: i64) -> Value {
    let store = json!({"s3": {"bucket": "backups", "credentials": {"secretName": "s3"}}});
    let until = world.now() + jiff::SignedDuration::from_secs(seconds);
    json!({
        "apiVersion": "evenkeel.dev/v1alpha1", "kind": "Backup",
        "spec": {"together": {"store": store, "deployments": [{"name": "web", "claims": ["files"]}]}},
        "status": {"phase": "Copying", "together": {"holds": holds, "until": until}},
    })
}

/// A Deployment with the claim `files`, of one pod.
fn with_claim() -> Value {
    let mut spec = spec(1, "web:1");
    spec["template"]["spec"]["volumes"] = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "files"}}]);
    spec
}

#[tokio::test(start_paused = true)]
async fn the_pods_of_a_held_deployment_stop_and_come_back_when_the_backup_says_so() {
    let world = World::new(&["local"]).await;
    world.apply(spec(3, "web:1")).await;
    let before = world.settled().await;
    world.put(Backup::RESOURCE, "nightly", holding(&world, true, 3600)).await;
    let held = world.until("held", |status| status.phase == "Held" && status.pods.is_empty()).await;
    let by = held.held_by.unwrap();
    assert_eq!((world.running(), by.kind.as_str(), by.name.as_str()), (0, "Backup", "nightly"));
    assert!(held.conditions.iter().any(|one| one.type_ == "Held" && one.message.contains("at the latest")));
    sleep(Duration::from_secs(600)).await;
    assert_eq!(world.running(), 0);
    world.put(Backup::RESOURCE, "nightly", holding(&world, false, 0)).await;
    let after = world.settled().await;
    let revisions =
        |status: &crate::api::deployment::DeploymentStatus| status.decisions.as_ref().unwrap().revisions.len();
    assert_eq!((world.running(), after.held_by.is_some(), revisions(&after)), (3, false, revisions(&before)));
    assert!(!after.conditions.iter().any(|one| one.type_ == "Held"));
}

#[tokio::test(start_paused = true)]
async fn the_pods_come_back_when_the_backup_is_deleted_or_its_time_is_over_also_after_a_crash() {
    let mut world = World::new(&["local"]).await;
    world.apply(spec(2, "web:1")).await;
    world.settled().await;
    world.put(Backup::RESOURCE, "nightly", holding(&world, true, 3600)).await;
    world.until("held", |status| status.phase == "Held" && status.pods.is_empty()).await;
    let key = Key::new(Backup::RESOURCE, "default", "nightly");
    world.objects.delete(&key, &Preconditions::default()).await.unwrap();
    world.settled().await;
    assert_eq!(world.running(), 2);
    world.put(Backup::RESOURCE, "second", holding(&world, true, 300)).await;
    world.until("held", |status| status.phase == "Held" && status.pods.is_empty()).await;
    // Nobody tells the Deployment anything any more.
    world.crash().await;
    world.start();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(world.running(), 0);
    world.settled().await;
    assert_eq!(world.running(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_volume_restore_keeps_new_pods_away_and_stops_none() {
    let world = World::new(&["local"]).await;
    let restore = |phase: &str| {
        json!({
            "apiVersion": "evenkeel.dev/v1alpha1", "kind": "VolumeRestore",
            "spec": {"from": {"backup": "nightly"}, "claim": "files"}, "status": {"phase": phase},
        })
    };
    world.put(VolumeRestore::RESOURCE, "back", restore("Pending")).await;
    world.apply(with_claim()).await;
    let held = world.until("held", |status| status.phase == "Held").await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!((world.running(), held.held_by.unwrap().kind.as_str()), (0, "VolumeRestore"));
    world.put(VolumeRestore::RESOURCE, "back", restore("Completed")).await;
    let status = world.settled().await;
    assert_eq!((world.running(), status.volumes.len()), (1, 1));
    assert_eq!(status.volumes[0].volume, "default.claim.files");
    world.put(VolumeRestore::RESOURCE, "again", restore("Pending")).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(world.running(), 1, "a restore must not stop a pod");
}
