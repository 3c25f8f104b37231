//! What happens in the restore test of a Backup, plan by plan, against a throw-away cluster that does what a test tells it to do.

use std::time::Duration;

use expect_test::expect;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::plan::plan;
use super::scenarios::{at, cluster};
use super::source::Cluster;
use super::{Observed, Other, Step, observe, verify};
use crate::api::backup::{Backup, BaseBackupPhase, BaseBackupStatus, VERIFY_ANNOTATION};
use crate::api::postgres_cluster::PostgresCluster;
use crate::kinds::waits::by_the_clock;
use crate::runtime::Want;

/// A Backup that is complete, of a cluster with an archive.
struct World {
    object: Backup,
    observed: Observed,
    now: Timestamp,
    want: Want,
    told: String,
}

impl World {
    fn new(spec: &str) -> Self {
        let mut object =
            Backup::new("today", serde_saphyr::from_str(&format!("cluster: {{name: db}}\n{spec}")).unwrap());
        object.metadata.creation_timestamp = Some(Time(at(0)));
        object.metadata.uid = Some("u".into());
        let id = Some("20260921T141320".into());
        let (phase, backup_id) = (BaseBackupPhase::Completed, id);
        object.status = Some(BaseBackupStatus { phase, backup_id, ..BaseBackupStatus::default() });
        let observed = Observed { cluster: Some(Cluster::Postgres(Box::new(cluster()))), ..Observed::default() };
        Self { object, observed, now: at(0), want: Want::Present, told: String::new() }
    }

    fn ask(&mut self, request: &str) -> &mut Self {
        let annotations = self.object.metadata.annotations.get_or_insert_default();
        annotations.insert(VERIFY_ANNOTATION.into(), request.into());
        self
    }

    /// One plan, after some seconds. Its steps are done at once; a removal takes until the next one.
    fn look(&mut self, after: u64) -> &mut Self {
        self.now += Duration::from_secs(after);
        self.observed.waited = by_the_clock(self.now, observe::moments(&self.object, self.object.status.as_ref()));
        let plan = plan(&self.object, &self.observed, self.want, self.now);
        let passed = self.now.duration_since(at(0)).as_secs();
        let told = match (&plan.status.verification, plan.status.conditions.first()) {
            (Some(test), Some(shown)) => format!("{} {}/{}: {}", test.phase, shown.status, shown.reason, test.message),
            _ => "nothing".into(),
        };
        let next = plan.requeue.map_or(String::new(), |next| format!(" (again in {} s)", next.as_secs()));
        self.told += &format!("{passed} {told}{next}\n");
        if self.observed.test.as_ref().is_some_and(|test| test.metadata.deletion_timestamp.is_some()) {
            self.observed.test = None;
        }
        for step in &plan.steps {
            match step {
                Step::CreateTest { cluster, .. } => self.exists((**cluster).clone(), "t"),
                Step::RemoveTest { .. } => {
                    if let Some(test) = &mut self.observed.test {
                        test.metadata.deletion_timestamp = Some(Time(self.now));
                    }
                }
                _ => {}
            }
            self.told += &format!("  -> {step}\n");
        }
        self.object.status = Some(plan.status);
        self
    }

    fn postgres(&mut self) -> &mut PostgresCluster {
        match self.observed.cluster.as_mut() {
            Some(Cluster::Postgres(cluster)) => cluster,
            _ => panic!("it is of a PostgresCluster"),
        }
    }

    fn exists(&mut self, mut cluster: Value, uid: &str) {
        cluster["metadata"]["name"] = json!("today-verify");
        cluster["metadata"]["uid"] = json!(uid);
        self.observed.test = Some(serde_json::from_value(cluster).unwrap());
    }

    /// The throw-away cluster has this status.
    fn says(&mut self, status: Value) -> &mut Self {
        self.observed.test.as_mut().unwrap().status = Some(serde_json::from_value(status).unwrap());
        self
    }

    fn recovers(&mut self, phase: &str, message: &str) -> &mut Self {
        let at = self.now.to_string();
        self.says(json!({"recovery": {"phase": phase, "message": message, "progressedAt": at}}))
    }

    fn other(&mut self, created: i64, runs: bool) {
        let (name, created) = ("other".to_owned(), Some(at(created)));
        self.observed.tests = vec![Other { name, created, ended: false, runs, paused: false, backup_id: None }];
    }
}

fn completed(unchecked: &[&str]) -> Value {
    json!({"recovery": {
        "phase": "Completed", "checks": ["manifest", "checksums", "amcheck"], "unchecked": unchecked,
        "reached": {"lsn": "0/5000028", "timeline": 3, "lastCommit": "2026-09-21T14:13:19Z"},
    }})
}

#[test]
fn a_backup_is_restored_in_a_throw_away_cluster_that_is_gone_afterwards() {
    let mut world = World::new("verify: true");
    world.look(0).look(1);
    world.says(json!({"conditions": [{"type": "Ready", "status": "False", "reason": "Pending", "message": "creating",
        "lastTransitionTime": "2026-09-21T14:13:20Z"}]}));
    world.look(1).recovers("Downloading", "downloading base backup B: 62% of 400Mi").look(2);
    world.recovers("Checking", "amcheck of database app, 2 of 4").look(30);
    world.says(completed(&[])).look(7).look(2).look(1).look(100);
    expect![[r#"
        0 Testing False/Testing: PostgresCluster today-verify is created, to restore it (again in 2 s)
          -> create PostgresCluster today-verify, which restores it
        1 Testing False/Testing: PostgresCluster today-verify: it is being created (again in 2 s)
        2 Testing False/Testing: PostgresCluster today-verify: creating (again in 2 s)
        4 Testing False/Testing: PostgresCluster today-verify: downloading base backup B: 62% of 400Mi (again in 2 s)
        34 Testing False/Testing: PostgresCluster today-verify: amcheck of database app, 2 of 4 (again in 2 s)
        41 Removing True/Passed: restored to LSN 0/5000028, last commit at 2026-09-21T14:13:19Z, in 41s; passed: manifest, page checksums, amcheck (again in 2 s)
          -> restored to LSN 0/5000028, last commit at 2026-09-21T14:13:19Z, in 41s; passed: manifest, page checksums, amcheck
          -> remove PostgresCluster today-verify
        43 Removing True/Passed: restored to LSN 0/5000028, last commit at 2026-09-21T14:13:19Z, in 41s; passed: manifest, page checksums, amcheck (again in 2 s)
        44 Ended True/Passed: restored to LSN 0/5000028, last commit at 2026-09-21T14:13:19Z, in 41s; passed: manifest, page checksums, amcheck
        144 Ended True/Passed: restored to LSN 0/5000028, last commit at 2026-09-21T14:13:19Z, in 41s; passed: manifest, page checksums, amcheck
    "#]].assert_eq(&world.told);
    let status = serde_json::to_string_pretty(&world.object.status.unwrap()).unwrap();
    expect![[r#"
        {
          "observedGeneration": 0,
          "phase": "Completed",
          "backupID": "20260921T141320",
          "attempt": 0,
          "verification": {
            "request": "spec.verify",
            "phase": "Ended",
            "result": "Passed",
            "message": "restored to LSN 0/5000028, last commit at 2026-09-21T14:13:19Z, in 41s; passed: manifest, page checksums, amcheck",
            "cluster": "today-verify",
            "uid": "t",
            "startedAt": "2026-09-21T14:13:20Z",
            "progressedAt": "2026-09-21T14:13:24Z",
            "endedAt": "2026-09-21T14:14:01Z"
          },
          "verified": {
            "at": "2026-09-21T14:14:01Z",
            "lsn": "0/5000028",
            "lastCommit": "2026-09-21T14:13:19Z",
            "took": "41s"
          },
          "conditions": [
            {
              "lastTransitionTime": "2026-09-21T14:14:01Z",
              "message": "restored to LSN 0/5000028, last commit at 2026-09-21T14:13:19Z, in 41s; passed: manifest, page checksums, amcheck",
              "observedGeneration": 0,
              "reason": "Passed",
              "status": "True",
              "type": "Verified"
            }
          ]
        }
    "#]].assert_eq(&(status + "\n"));
}

#[test]
fn the_throw_away_cluster_has_what_a_recovery_needs_and_nothing_that_others_use() {
    let mut world = World::new("verify: true");
    let source = world.postgres();
    source.spec = serde_saphyr::from_str(
        "image: postgres:15\ninstances: 3\nparameters: {shared_buffers: 8GB, shared_preload_libraries: timescaledb}\n\
         resources: {limits: {memory: 16Gi}}\nplacement: {nodeSelector: {disk: fast}}\nexpose: {hostPort: 5432}\n\
         bootstrap: {initdb: {database: awx, owner: awx}}\n\
         backup: {store: {directory: {path: /srv/backups}}, retention: {window: 7d}}",
    )
    .unwrap();
    let plan = plan(&world.object, &world.observed, Want::Present, at(0));
    let [Step::CreateTest { name, cluster }] = plan.steps.as_slice() else { panic!("{:?}", plan.steps) };
    assert_eq!(name, "today-verify");
    expect![[r#"
        {
          "apiVersion": "evenkeel.dev/v1alpha1",
          "kind": "PostgresCluster",
          "metadata": {
            "labels": {
              "evenkeel.dev/restore-test-of": "today"
            },
            "ownerReferences": [
              {
                "apiVersion": "evenkeel.dev/v1alpha1",
                "blockOwnerDeletion": true,
                "controller": true,
                "kind": "Backup",
                "name": "today",
                "uid": "u"
              }
            ]
          },
          "spec": {
            "bootstrap": {
              "recovery": {
                "database": "awx",
                "owner": "awx",
                "source": {
                  "path": "default.db/74-5f0c01aa",
                  "store": {
                    "directory": {
                      "path": "/srv/backups"
                    }
                  }
                },
                "target": {
                  "backupID": "20260921T141320"
                },
                "verify": true
              }
            },
            "image": "postgres:15",
            "instances": 1,
            "parameters": {
              "shared_preload_libraries": "timescaledb"
            },
            "placement": {
              "nodeSelector": {
                "disk": "fast"
              }
            },
            "resources": {
              "limits": {
                "memory": "16Gi"
              }
            },
            "storage": {
              "reclaimPolicy": "Delete"
            }
          }
        }
    "#]]
    .assert_eq(&(serde_json::to_string_pretty(cluster).unwrap() + "\n"));
    let cluster: PostgresCluster = serde_json::from_value((**cluster).clone()).unwrap();
    assert_eq!(cluster.spec.validate(Some(name)), vec![]);
}

#[test]
fn a_test_that_fails_says_why_and_is_made_again_on_request_only() {
    let mut world = World::new("verify: true");
    world
        .look(0)
        .says(json!({"recovery": {"phase": "Failed", "failures": 1, "lastFailure": "amcheck of database app: \
        ERROR:  heap tuple (14,21) from table \"t\" lacks matching index tuple within index \"t_n\""}}));
    world.look(5).look(1).look(1).look(600);
    // The store is away for a while.
    world.ask("2026-09-21T15:00:00Z").look(1).recovers("Retrying", "no connection; it is tried again").look(5);
    world.says(completed(&["amcheck is not in the image"])).look(60).look(1).look(1);
    world.ask("again").look(1).says(completed(&[])).look(9).look(1).look(1).look(1);
    // The same request is not answered twice.
    world.ask("again").look(1);
    expect![[r#"
        0 Testing False/Testing: PostgresCluster today-verify is created, to restore it (again in 2 s)
          -> create PostgresCluster today-verify, which restores it
        5 Removing False/RestoreFailed: amcheck of database app: ERROR:  heap tuple (14,21) from table "t" lacks matching index tuple within index "t_n" (again in 2 s)
          -> amcheck of database app: ERROR:  heap tuple (14,21) from table "t" lacks matching index tuple within index "t_n"
          -> remove PostgresCluster today-verify
        6 Removing False/RestoreFailed: amcheck of database app: ERROR:  heap tuple (14,21) from table "t" lacks matching index tuple within index "t_n" (again in 2 s)
        7 Ended False/RestoreFailed: amcheck of database app: ERROR:  heap tuple (14,21) from table "t" lacks matching index tuple within index "t_n"
        607 Ended False/RestoreFailed: amcheck of database app: ERROR:  heap tuple (14,21) from table "t" lacks matching index tuple within index "t_n"
        608 Testing False/Testing: PostgresCluster today-verify is created, to restore it (again in 2 s)
          -> create PostgresCluster today-verify, which restores it
        613 Testing False/Testing: PostgresCluster today-verify: no connection; it is tried again (again in 2 s)
        673 Removing False/RestoreFailed: it was restored to 0/5000028, but not everything was checked: amcheck is not in the image (again in 2 s)
          -> it was restored to 0/5000028, but not everything was checked: amcheck is not in the image
          -> remove PostgresCluster today-verify
        674 Removing False/RestoreFailed: it was restored to 0/5000028, but not everything was checked: amcheck is not in the image (again in 2 s)
        675 Ended False/RestoreFailed: it was restored to 0/5000028, but not everything was checked: amcheck is not in the image
        676 Testing False/Testing: PostgresCluster today-verify is created, to restore it (again in 2 s)
          -> create PostgresCluster today-verify, which restores it
        685 Removing True/Passed: restored to LSN 0/5000028, last commit at 2026-09-21T14:13:19Z, in 9s; passed: manifest, page checksums, amcheck (again in 2 s)
          -> restored to LSN 0/5000028, last commit at 2026-09-21T14:13:19Z, in 9s; passed: manifest, page checksums, amcheck
          -> remove PostgresCluster today-verify
        686 Removing True/Passed: restored to LSN 0/5000028, last commit at 2026-09-21T14:13:19Z, in 9s; passed: manifest, page checksums, amcheck (again in 2 s)
        687 Ended True/Passed: restored to LSN 0/5000028, last commit at 2026-09-21T14:13:19Z, in 9s; passed: manifest, page checksums, amcheck
        688 Ended True/Passed: restored to LSN 0/5000028, last commit at 2026-09-21T14:13:19Z, in 9s; passed: manifest, page checksums, amcheck
        689 Ended True/Passed: restored to LSN 0/5000028, last commit at 2026-09-21T14:13:19Z, in 9s; passed: manifest, page checksums, amcheck
    "#]].assert_eq(&world.told);
}

#[test]
fn a_test_that_does_not_go_on_or_is_disturbed_has_failed() {
    let mut told = String::new();
    let mut say = |change: &dyn Fn(&mut World)| {
        let mut world = World::new("verify: true");
        world.look(0);
        world.told.clear();
        change(&mut world);
        told += &world.told;
    };
    say(&|world| {
        world.recovers("Checking", "amcheck of database app").look(1).look(1800).look(1);
    });
    // It goes on, if slowly.
    say(&|world| {
        world.recovers("Checking", "one").look(1799).recovers("Checking", "two").look(1).look(1799);
    });
    say(&|world| {
        world.look(1);
        world.observed.test = None;
        world.look(1);
    });
    // It could not be created yet, or was not seen yet.
    say(&|world| {
        world.observed.test = None;
        world.look(1);
    });
    say(&|world| {
        world.says(json!({"phase": "Healthy"})).look(1);
    });
    // Somebody else has a cluster of this name.
    say(&|world| {
        world.exists(serde_json::to_value(cluster()).unwrap(), "other");
        world.look(1).look(1);
    });
    expect![[r#"
        1 Testing False/Testing: PostgresCluster today-verify: amcheck of database app (again in 2 s)
        1801 Removing False/RestoreFailed: nothing went on for 30 min; the last was: amcheck of database app (again in 2 s)
          -> nothing went on for 30 min; the last was: amcheck of database app
          -> remove PostgresCluster today-verify
        1802 Removing False/RestoreFailed: nothing went on for 30 min; the last was: amcheck of database app (again in 2 s)
        1799 Testing False/Testing: PostgresCluster today-verify: one (again in 2 s)
        1800 Testing False/Testing: PostgresCluster today-verify: two (again in 2 s)
        3599 Removing False/RestoreFailed: nothing went on for 30 min; the last was: two (again in 2 s)
          -> nothing went on for 30 min; the last was: two
          -> remove PostgresCluster today-verify
        1 Testing False/Testing: PostgresCluster today-verify: it is being created (again in 2 s)
        2 Ended False/RestoreFailed: PostgresCluster today-verify was deleted meanwhile
          -> PostgresCluster today-verify was deleted meanwhile
        1 Testing False/Testing: PostgresCluster today-verify is created, to restore it (again in 2 s)
          -> create PostgresCluster today-verify, which restores it
        1 Removing False/RestoreFailed: the volume of PostgresCluster today-verify had data of somebody else: remove it, and ask again (again in 2 s)
          -> the volume of PostgresCluster today-verify had data of somebody else: remove it, and ask again
          -> remove PostgresCluster today-verify
        1 Ended False/RestoreFailed: PostgresCluster today-verify exists and is not of this Backup: remove it
          -> PostgresCluster today-verify exists and is not of this Backup: remove it
        2 Ended False/RestoreFailed: PostgresCluster today-verify exists and is not of this Backup: remove it
    "#]].assert_eq(&told);
}

#[test]
fn what_a_test_waits_for_is_always_said() {
    let mut told = String::new();
    let mut say = |change: &dyn Fn(&mut World)| {
        let mut world = World::new("");
        world.ask("now");
        change(&mut world);
        world.look(0);
        told += &world.told;
    };
    say(&|world| world.other(-1, true));
    say(&|world| world.other(1, true));
    say(&|world| world.other(-1, false));
    say(&|world| world.other(1, false));
    say(&|world| world.observed.cluster = None);
    say(&|world| world.postgres().spec.backup = None);
    say(&|world| world.postgres().status = None);
    say(&|world| world.object.status.as_mut().unwrap().phase = BaseBackupPhase::Failed);
    say(&|world| world.want = Want::Paused);
    expect![[r#"
        0 Pending False/Waiting: the restore test of Backup other of this cluster runs (again in 10 s)
        0 Pending False/Waiting: the restore test of Backup other of this cluster runs (again in 10 s)
        0 Pending False/Waiting: the restore test of Backup other of this cluster comes first (again in 10 s)
        0 Testing False/Testing: PostgresCluster today-verify is created, to restore it (again in 2 s)
          -> create PostgresCluster today-verify, which restores it
        0 Ended False/RestoreFailed: PostgresCluster db does not exist in this namespace
          -> PostgresCluster db does not exist in this namespace
        0 Ended False/RestoreFailed: PostgresCluster db has no archive: it has no spec.backup, or has archived nothing yet
          -> PostgresCluster db has no archive: it has no spec.backup, or has archived nothing yet
        0 Ended False/RestoreFailed: PostgresCluster db has no archive: it has no spec.backup, or has archived nothing yet
          -> PostgresCluster db has no archive: it has no spec.backup, or has archived nothing yet
        0 Ended False/RestoreFailed: the base backup failed, so there is nothing to restore
          -> the base backup failed, so there is nothing to restore
        0 nothing
    "#]].assert_eq(&told);
}

#[test]
fn nothing_is_tested_that_nobody_asked_for() {
    let mut world = World::new("");
    world.look(0);
    let mut failed = World::new("verify: true");
    failed.object.status.as_mut().unwrap().phase = BaseBackupPhase::Failed;
    failed.look(0);
    assert_eq!(world.told + &failed.told, "0 nothing\n0 nothing\n");
}

#[test]
fn a_throw_away_cluster_has_a_name_that_a_cluster_may_have() {
    let named = |name: &str| verify::cluster_name(name);
    assert_eq!(named("db-202611280230"), "db-202611280230-verify");
    assert_eq!(named("a.b"), "a-b-2e7336dc-verify");
    let long = named(&"n".repeat(63));
    assert!(long.len() == 60 && long.ends_with("-verify") && long != named(&"n".repeat(62)), "{long}");
}
