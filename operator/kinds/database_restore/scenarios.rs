//! What happens to a DatabaseRestore, plan by plan, against supervisors that say what a test tells them to say.

use std::time::Duration;

use expect_test::expect;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use super::plan::plan;
use super::{LinkSeen, Observed, Other, observe};
use crate::api::backup::Backup;
use crate::api::database_restore::DatabaseRestore;
use crate::api::postgres_cluster::PostgresCluster;
use crate::kinds::attempts::Told;
use crate::kinds::waits::by_the_clock;
use crate::runtime::Want;
use crate::supervisor::wire::{BackupPhase, BackupState};

/// A cluster of two, db-1 the primary, with a dump, and a restore of it.
struct World {
    object: DatabaseRestore,
    observed: Observed,
    now: Timestamp,
    want: Want,
    finished: bool,
    told: String,
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + second).unwrap()
}

fn cluster(name: &str, store: &serde_json::Value) -> PostgresCluster {
    let member = |ordinal: u32| json!({"name": format!("{name}-{ordinal}"), "ordinal": ordinal, "host": "local"});
    let decisions = json!({
        "term": 7, "stage": "Steady", "members": [member(1), member(2)], "archive": format!("default.{name}/74-5f0c01aa"),
        "leader": {"member": format!("{name}-1"), "incarnation": "a"}, "election": {"voters": [], "w": 0},
        "commit": {"voters": [], "w": 0}, "since": "2026-01-01T00:00:00Z",
    });
    let value = json!({
        "apiVersion": "evenkeel.dev/v1alpha1", "kind": "PostgresCluster", "metadata": {"name": name},
        "spec": {"image": "postgres:15", "instances": 2, "backup": {"store": store}}, "status": {"decisions": decisions},
    });
    serde_json::from_value(value).unwrap()
}

fn backup(method: &str, phase: &str) -> Backup {
    let database = (method == "dump").then_some("app");
    let value = json!({
        "apiVersion": "evenkeel.dev/v1alpha1", "kind": "Backup", "metadata": {"name": "nightly"},
        "spec": {"cluster": {"name": "db"}, "method": method, "database": database},
        "status": {"phase": phase, "backupID": "20260921T023000", "archive": "default.db/74-earlier"},
    });
    serde_json::from_value(value).unwrap()
}

impl World {
    fn new(from: &str) -> Self {
        let spec = format!("{{cluster: {{name: db}}, from: {from}, database: app_old}}");
        let mut object = DatabaseRestore::new("back", serde_saphyr::from_str(&spec).unwrap());
        object.metadata.creation_timestamp = Some(Time(at(0)));
        object.metadata.uid = Some("5f0c01aa".into());
        let db = cluster("db", &json!({"directory": {"path": "/srv/backups"}}));
        let observed = Observed {
            source: Some(db.clone()),
            cluster: Some(db),
            backup: Some(backup("dump", "Completed")),
            ..Observed::default()
        };
        let mut world =
            Self { object, observed, now: at(0), want: Want::Present, finished: false, told: String::new() };
        for member in ["db-1", "db-2"] {
            world.answer(member);
        }
        world
    }

    /// The supervisor of this member answers, and restores nothing.
    fn answer(&mut self, member: &str) {
        let report = Told { boot: format!("boot of {member}"), archives: true, gate_open: true, ..Told::default() };
        self.observed.links.insert(member.to_owned(), LinkSeen { report, connected: true, silent_ms: 0 });
    }

    fn lead(&mut self, member: &str) {
        let decisions = self.observed.cluster.as_mut().unwrap().status.as_mut().unwrap().decisions.as_mut().unwrap();
        decisions.leader.as_mut().unwrap().member = member.to_owned();
    }

    /// One plan, after some seconds. Notes the phase and the steps.
    fn look(&mut self, after: u64) -> &mut Self {
        self.now += Duration::from_secs(after);
        self.observed.waited = by_the_clock(self.now, observe::moments(&self.object, self.object.status.as_ref()));
        let plan = plan(&self.object, &self.observed, self.want, self.now);
        let (status, passed) = (&plan.status, self.now.duration_since(at(0)).as_secs());
        self.told += &format!("{passed} {} {}: {}\n", status.phase, status.reason, status.message);
        for step in plan.steps.iter().filter(|step| step.to_string() != status.message) {
            self.told += &format!("  -> {step}\n");
        }
        (self.object.status, self.finished) = (Some(plan.status), plan.finished);
        self
    }

    /// The member reports the current attempt in this phase.
    fn report(&mut self, member: &str, phase: BackupPhase, bytes: u64) -> &mut Self {
        let status = self.object.status.clone().unwrap();
        let now = self.now.as_second();
        self.observed.links.get_mut(member).unwrap().report.restore = Some(BackupState {
            id: "5f0c01aa".into(),
            attempt: status.attempt,
            phase,
            error: (phase == BackupPhase::Failed).then(|| "the store answers 503".into()),
            bytes,
            total: 400 << 20,
            started_at: status.started_at.map_or(now, Timestamp::as_second),
            stopped_at: (phase != BackupPhase::Running).then_some(now),
            ..BackupState::default()
        });
        self
    }
}

#[test]
fn the_primary_restores_the_dump_of_the_backup_from_the_archive_that_it_was_taken_into() {
    let mut world = World::new("{backup: nightly}");
    world.look(0).report("db-1", BackupPhase::Running, 0).look(0);
    world.report("db-1", BackupPhase::Running, 248 << 20).look(4);
    world.report("db-1", BackupPhase::Completed, 400 << 20).look(1).look(10);
    expect![[r#"
        0 Pending Starting: db-1 is told to restore dump 20260921T023000 into database app_old
          -> restore dump 20260921T023000 on db-1, attempt 1
        0 Running Running: restoring database app_old on db-1: 0% of 400Mi
        4 Running Running: restoring database app_old on db-1: 62% of 400Mi, 62Mi/s
        5 Completed Completed: database app_old is restored from dump 20260921T023000: 400Mi in 4 s
        15 Completed Completed: database app_old is restored from dump 20260921T023000: 400Mi in 4 s
    "#]]
    .assert_eq(&world.told);
    let status = world.object.status.unwrap();
    assert_eq!(
        (status.dump_id.as_deref(), status.archive.as_deref()),
        (Some("20260921T023000"), Some("default.db/74-earlier"))
    );
    assert_eq!((status.progress.as_deref(), status.conditions[0].status.as_str()), (Some("100%"), "True"));
}

#[test]
fn what_a_restore_waits_for_is_always_said() {
    let mut told = String::new();
    let mut say = |from: &str, change: fn(&mut World)| {
        let mut world = World::new(from);
        change(&mut world);
        world.look(0);
        told += &world.told;
    };
    let named = "{backup: nightly}";
    say(named, |world| world.observed.cluster = None);
    say(named, |world| world.observed.backup = None);
    say(named, |world| world.observed.backup = Some(backup("base", "Completed")));
    say(named, |world| world.observed.backup = Some(backup("dump", "Running")));
    say(named, |world| world.observed.closed = Some(("SecretNotFound", "Secret s3 does not exist".into())));
    say(named, |world| world.observed.source = Some(cluster("other", &json!({"directory": {"path": "/srv/other"}}))));
    say(named, |world| {
        let other = |name: &str, runs| Other {
            name: name.into(),
            created: Some(at(-1)),
            ended: false,
            runs,
            paused: false,
            backup_id: None,
        };
        world.observed.others = vec![other("first", false), other("second", true)];
    });
    say(named, |world| drop(world.observed.links.remove("db-1")));
    say(named, |world| world.observed.links.get_mut("db-1").unwrap().report.gate_open = false);
    say(named, |world| world.want = Want::Paused);
    say("{dumpID: 20260921T030000}", |world| world.observed.source = None);
    // By its ID: from the archive that the cluster has now.
    say("{dumpID: 20260921T030000}", |_| ());
    expect![[r#"
        0 Pending ClusterNotFound: PostgresCluster db does not exist in this namespace
        0 Pending BackupNotFound: Backup nightly does not exist in this namespace
        0 Pending NotADump: Backup nightly is a base backup: recover it into a new cluster instead
        0 Pending BackupNotCompleted: Backup nightly is not complete, but Running
        0 Pending SecretNotFound: Secret s3 does not exist
        0 Pending ArchiveNotMounted: the archive of other is in a directory of the hosts, which the containers of db do not have: give both the same spec.backup.store.directory
        0 Pending AnotherRestoreRuns: DatabaseRestore second into this cluster runs
        0 Pending NoPrimary: the supervisor of db-1 does not answer
        0 Pending NoPrimary: the primary db-1 takes no clients now
        0 Pending Paused: reconciliation is paused by annotation; a restore that runs goes on
        0 Pending SourceNotFound: the PostgresCluster whose archive has the dump does not exist in this namespace
        0 Pending Starting: db-1 is told to restore dump 20260921T030000 into database app_old
          -> restore dump 20260921T030000 on db-1, attempt 1
    "#]].assert_eq(&told);
}

#[test]
fn a_restore_goes_on_at_the_next_primary_and_ends_at_once_when_every_attempt_would_fail() {
    let mut world = World::new("{backup: nightly}");
    world.look(0).report("db-1", BackupPhase::Running, 1 << 20).look(1);
    world.lead("db-2");
    world.look(1).look(5).look(6);
    world.report("db-2", BackupPhase::Failed, 0);
    world.observed.links.get_mut("db-2").unwrap().report.restore.as_mut().unwrap().lasting = true;
    world.look(1).look(100);
    expect![[r#"
        0 Pending Starting: db-1 is told to restore dump 20260921T023000 into database app_old
          -> restore dump 20260921T023000 on db-1, attempt 1
        1 Running Running: restoring database app_old on db-1: 0% of 400Mi, 1Mi/s
        2 Pending Retrying: attempt 1 of 3 on db-1 failed: it is not the primary any more
          -> cut off the restore on db-1
        7 Pending Retrying: attempt 1 of 3 on db-1 failed: it is not the primary any more
        13 Pending Starting: db-2 is told to restore dump 20260921T023000 into database app_old
          -> restore dump 20260921T023000 on db-2, attempt 2
        14 Failed AttemptsFailed: it failed on db-2, and would again: the store answers 503
        114 Failed AttemptsFailed: it failed on db-2, and would again: the store answers 503
    "#]]
    .assert_eq(&world.told);
}

#[test]
fn a_restore_that_is_deleted_is_cut_off() {
    let mut world = World::new("{backup: nightly}");
    world.look(0).report("db-1", BackupPhase::Running, 1 << 20).look(1);
    world.want = Want::Absent;
    world.object.metadata.deletion_timestamp = Some(Time(world.now));
    world.look(1);
    assert!(!world.finished);
    world.report("db-1", BackupPhase::Failed, 1 << 20).look(1);
    assert!(world.finished);
    expect![[r#"
        0 Pending Starting: db-1 is told to restore dump 20260921T023000 into database app_old
          -> restore dump 20260921T023000 on db-1, attempt 1
        1 Running Running: restoring database app_old on db-1: 0% of 400Mi, 1Mi/s
        2 Running Running: restoring database app_old on db-1: 0% of 400Mi, 1Mi/s
          -> cut off the restore on db-1
        3 Running Running: restoring database app_old on db-1: 0% of 400Mi, 1Mi/s
    "#]]
    .assert_eq(&world.told);
}
