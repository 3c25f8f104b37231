//! What happens to a Backup, plan by plan, against supervisors that say what a test tells them to say.

use std::time::Duration;

use expect_test::expect;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use super::plan::plan;
use super::source::Cluster;
use super::{LinkSeen, Observed, Other, Step, observe};
use crate::api::backup::{Backup, BaseBackupPhase};
use crate::api::lsn::Lsn;
use crate::api::postgres_cluster::PostgresCluster;
use crate::kinds::attempts::Told;
use crate::kinds::waits::by_the_clock;
use crate::runtime::Want;
use crate::supervisor::wire::{BackupPhase, BackupSpan, BackupState, Snapshot};

mod redis;

/// A cluster of three, db-1 the primary, and a Backup of it.
struct World {
    object: Backup,
    observed: Observed,
    now: Timestamp,
    want: Want,
    finished: bool,
    told: String,
}

pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + second).unwrap()
}

impl World {
    fn new(spec: &str) -> Self {
        let mut object =
            Backup::new("today", serde_saphyr::from_str(&format!("cluster: {{name: db}}\n{spec}")).unwrap());
        object.metadata.creation_timestamp = Some(Time(at(0)));
        let observed = Observed { cluster: Some(Cluster::Postgres(Box::new(cluster()))), ..Observed::default() };
        let mut world =
            Self { object, observed, now: at(0), want: Want::Present, finished: false, told: String::new() };
        for member in ["db-1", "db-2", "db-3"] {
            world.answer(member);
        }
        world
    }

    /// The supervisor of this member answers, and takes no base backup.
    fn answer(&mut self, member: &str) {
        let report = Told {
            boot: format!("boot of {member}"),
            archives: true,
            archives_held: Some("h".into()),
            ..Told::default()
        };
        self.observed.links.insert(member.to_owned(), LinkSeen { report, connected: true, silent_ms: 0 });
    }

    fn link(&mut self, member: &str) -> &mut LinkSeen {
        self.observed.links.get_mut(member).unwrap()
    }

    fn postgres(&mut self) -> &mut PostgresCluster {
        match self.observed.cluster.as_mut() {
            Some(Cluster::Postgres(cluster)) => cluster,
            _ => panic!("it is of a PostgresCluster"),
        }
    }

    fn lead(&mut self, member: &str, term: u64) {
        let decisions = self.postgres().status.as_mut().unwrap().decisions.as_mut().unwrap();
        decisions.leader.as_mut().unwrap().member = member.to_owned();
        decisions.term = term;
    }

    /// One plan, after some seconds. Notes the phase and the steps.
    fn look(&mut self, after: u64) -> &mut Self {
        self.now += Duration::from_secs(after);
        self.observed.waited = by_the_clock(self.now, observe::moments(&self.object, self.object.status.as_ref()));
        let plan = plan(&self.object, &self.observed, self.want, self.now);
        let status = &plan.status;
        let passed = self.now.duration_since(at(0)).as_secs();
        self.told += &format!("{passed} {} {}: {}\n", status.phase, status.reason, status.message);
        for step in &plan.steps {
            if step.to_string() != status.message {
                self.told += &format!("  -> {step}\n");
            }
        }
        (self.object.status, self.finished) = (Some(plan.status), plan.finished);
        self
    }

    /// The member reports the current attempt in this phase.
    fn report(&mut self, member: &str, phase: BackupPhase, bytes: u64) -> &mut Self {
        let status = self.object.status.clone().unwrap();
        let ended = !matches!(phase, BackupPhase::Running | BackupPhase::WaitingForWal);
        let span = (phase != BackupPhase::Running && phase != BackupPhase::Failed).then(|| BackupSpan {
            timeline: 3,
            begin: Lsn(0x200_0028),
            end: Lsn(0x200_0100),
            begin_wal: "000000030000000000000002".into(),
            end_wal: "000000030000000000000002".into(),
        });
        let now = self.now.as_second();
        self.link(member).report.backup = Some(BackupState {
            id: status.backup_id.unwrap_or_default(),
            attempt: status.attempt,
            phase,
            error: (phase == BackupPhase::Failed).then(|| "the store answers 503".into()),
            bytes,
            total: 400 << 20,
            stored: bytes / 4,
            started_at: status.started_at.map_or(now, Timestamp::as_second),
            stopped_at: ended.then_some(now),
            span,
            ..BackupState::default()
        });
        self
    }

    fn other(&mut self, name: &str, created: i64, runs: bool) {
        let created = Some(at(created));
        let backup_id = runs.then(|| "20260921T150640".to_owned());
        self.observed.others.push(Other { name: name.into(), created, ended: false, runs, paused: false, backup_id });
    }
}

pub(super) fn cluster() -> PostgresCluster {
    let member = |ordinal: u32| json!({"name": format!("db-{ordinal}"), "ordinal": ordinal, "host": "local"});
    let instance = |ordinal: u32, role: &str, state: &str, lag: u64| json!({"name": format!("db-{ordinal}"), "host": "local", "role": role, "state": state, "lag": lag});
    let decisions = json!({
        "term": 7, "stage": "Steady", "members": [member(1), member(2), member(3)], "archive": "default.db/74-5f0c01aa",
        "leader": {"member": "db-1", "incarnation": "a"}, "election": {"voters": [], "w": 0},
        "commit": {"voters": [], "w": 0}, "since": "2026-01-01T00:00:00Z",
    });
    let instances = [
        instance(1, "primary", "running", 0),
        instance(2, "standby", "streaming", 3),
        instance(3, "standby", "streaming", 1),
    ];
    let store = json!({"directory": {"path": "/srv/backups"}});
    let spec = json!({"image": "postgres:15", "instances": 3, "backup": {"store": store, "maxRate": "50Mi"}});
    let value = json!({
        "apiVersion": "evenkeel.dev/v1alpha1", "kind": "PostgresCluster", "metadata": {"name": "db"},
        "spec": spec, "status": {"instances": instances, "decisions": decisions},
    });
    serde_json::from_value(value).unwrap()
}

#[test]
fn the_standby_with_the_least_lag_is_read_and_the_primary_ends_the_segment() {
    let mut world = World::new("");
    world.look(0).report("db-3", BackupPhase::Running, 0).look(0);
    world.report("db-3", BackupPhase::Running, 248 << 20).look(2);
    world.report("db-3", BackupPhase::WaitingForWal, 400 << 20).look(1).look(2);
    world.report("db-3", BackupPhase::Completed, 400 << 20).look(1).look(10);
    expect![[r#"
        0 Pending Starting: db-3 is told to take a base backup
          -> take backup 20260921T141320 of db-3, attempt 1
        0 Running Running: reading db-3: 0% of 400Mi
        2 Running Running: reading db-3: 62% of 400Mi, 124Mi/s
        3 WaitingForWal WaitingForWal: the data of db-3 is stored; the WAL that it needs is not yet
          -> switch the WAL of db-1 past 0/2000100
        5 WaitingForWal WaitingForWal: the data of db-3 is stored; the WAL that it needs is not yet
          -> switch the WAL of db-1 past 0/2000100
        6 Completed Completed: base backup 20260921T141320 of db-3 is complete: 400Mi, stored as 100Mi in 5 s
        16 Completed Completed: base backup 20260921T141320 of db-3 is complete: 400Mi, stored as 100Mi in 5 s
    "#]]
    .assert_eq(&world.told);
    let status = world.object.status.unwrap();
    expect![[r#"
        {
          "observedGeneration": 0,
          "phase": "Completed",
          "reason": "Completed",
          "message": "base backup 20260921T141320 of db-3 is complete: 400Mi, stored as 100Mi in 5 s",
          "backupID": "20260921T141320",
          "member": "db-3",
          "attempt": 1,
          "term": 7,
          "boot": "boot of db-3",
          "progressedAt": "2026-09-21T14:13:23Z",
          "startedAt": "2026-09-21T14:13:20Z",
          "stoppedAt": "2026-09-21T14:13:25Z",
          "archive": "default.db/74-5f0c01aa",
          "store": {
            "directory": {
              "path": "/srv/backups"
            }
          },
          "beginWal": "000000030000000000000002",
          "endWal": "000000030000000000000002",
          "beginLSN": "0/2000028",
          "endLSN": "0/2000100",
          "timeline": 3,
          "bytes": 419430400,
          "storedBytes": 104857600,
          "progress": "100%",
          "rate": "80Mi/s",
          "conditions": [
            {
              "lastTransitionTime": "2026-09-21T14:13:26Z",
              "message": "base backup 20260921T141320 of db-3 is complete: 400Mi, stored as 100Mi in 5 s",
              "observedGeneration": 0,
              "reason": "Completed",
              "status": "True",
              "type": "Completed"
            }
          ]
        }
    "#]]
    .assert_eq(&(serde_json::to_string_pretty(&status).unwrap() + "\n"));
}

#[test]
fn the_order_has_the_rate_of_the_backup_or_else_of_the_cluster() {
    let rate = |spec: &str| {
        let world = World::new(spec);
        let plan = plan(&world.object, &world.observed, Want::Present, world.now);
        let [Step::Start { member, order }] = plan.steps.as_slice() else { panic!("{:?}", plan.steps) };
        (member.clone(), order.max_rate)
    };
    assert_eq!(rate(""), ("db-3".into(), Some(50 << 20)));
    assert_eq!(rate("maxRate: 1Mi\ntarget: primary"), ("db-1".into(), Some(1 << 20)));
}

#[test]
fn what_a_backup_waits_for_is_always_said() {
    let mut told = String::new();
    let mut say = |change: fn(&mut World)| {
        let mut world = World::new("");
        change(&mut world);
        world.look(0);
        told += &world.told;
    };
    say(|world| world.observed.cluster = None);
    say(|world| world.postgres().metadata.deletion_timestamp = Some(Time(at(0))));
    say(|world| world.postgres().spec.backup = None);
    say(|world| world.postgres().status = None);
    say(|world| world.other("yesterday", -1, false));
    say(|world| world.other("later", 1, true));
    say(|world| drop(world.observed.links.remove("db-3")));
    say(|world| world.want = Want::Paused);
    say(|world| {
        world.link("db-1").silent_ms = 4_000;
        world.link("db-2").report.archives = false;
        world.link("db-3").report.archives_held = None;
    });
    // One that is newer, paused or ended is not waited for.
    say(|world| {
        world.other("later", 1, false);
        world.other("paused", -1, false);
        world.other("ended", -1, false);
        world.observed.others[1].paused = true;
        world.observed.others[2].ended = true;
    });
    expect![[r#"
        0 Pending ClusterNotFound: PostgresCluster db does not exist in this namespace
        0 Pending ClusterNotFound: PostgresCluster db does not exist in this namespace
        0 Pending NoBackupStore: PostgresCluster db has no spec.backup: say where backups go
        0 Pending ArchiveNotReady: PostgresCluster db has no archive in its store yet
        0 Pending AnotherBackupRuns: Backup yesterday of this cluster comes first
        0 Pending AnotherBackupRuns: Backup later of this cluster runs
        0 Pending CallingMembers: the supervisors of the cluster have not all answered yet
        0 Pending Paused: reconciliation is paused by annotation; a backup that runs goes on
        0 Pending NoMember: no instance can be read: db-3 does not know the store yet; the supervisor of db-2 is of a version without backups; the supervisor of db-1 does not answer
        0 Pending Starting: db-3 is told to take a base backup
          -> take backup 20260921T141320 of db-3, attempt 1
    "#]]
    .assert_eq(&told);
}

#[test]
fn a_standby_that_does_not_answer_is_waited_for_only_a_while() {
    let mut world = World::new("");
    world.observed.links.remove("db-2");
    world.observed.links.remove("db-3");
    world.look(0).look(4).look(1);
    expect![[r#"
        0 Pending CallingMembers: the supervisors of the cluster have not all answered yet
        4 Pending CallingMembers: the supervisors of the cluster have not all answered yet
        5 Pending Starting: db-1 is told to take a base backup
          -> take backup 20260921T141325 of db-1, attempt 1
    "#]]
    .assert_eq(&world.told);
}

/// Regression 370: a Backup whose member failed over, restarted or fell silent stayed `Running` for ever in other operators, and
/// its schedule with it.
#[test]
fn an_attempt_that_is_lost_moves_to_another_member_three_times_at_most() {
    let mut world = World::new("");
    world.look(0).report("db-3", BackupPhase::Running, 1 << 20).look(1);
    // Its supervisor is started again.
    world.answer("db-3");
    world.link("db-3").report.boot = "another".into();
    world.look(1).look(5).look(6);
    world.report("db-2", BackupPhase::Running, 1 << 20).look(1);
    // It is promoted.
    world.lead("db-2", 8);
    world.look(1).look(299).look(1);
    world.report("db-3", BackupPhase::Failed, 0).look(1).look(100);
    expect![[r#"
        0 Pending Starting: db-3 is told to take a base backup
          -> take backup 20260921T141320 of db-3, attempt 1
        1 Running Running: reading db-3: 0% of 400Mi, 1Mi/s
        2 Pending Retrying: attempt 1 of 3 on db-3 failed: its supervisor was started again
        7 Pending Retrying: attempt 1 of 3 on db-3 failed: its supervisor was started again
        13 Pending Starting: db-2 is told to take a base backup
          -> take backup 20260921T141333 of db-2, attempt 2
        14 Running Running: reading db-2: 0% of 400Mi, 1Mi/s
        15 Pending Retrying: attempt 2 of 3 on db-2 failed: it became the primary
          -> cut off backup 20260921T141333 of db-2
        314 Pending Retrying: attempt 2 of 3 on db-2 failed: it became the primary
        315 Pending Starting: db-3 is told to take a base backup
          -> take backup 20260921T141835 of db-3, attempt 3
        316 Failed AttemptsFailed: 3 attempts failed, the last one on db-3: the store answers 503
        416 Failed AttemptsFailed: 3 attempts failed, the last one on db-3: the store answers 503
    "#]]
    .assert_eq(&world.told);
    let status = world.object.status.unwrap();
    assert_eq!((status.attempt, status.phase), (3, BaseBackupPhase::Failed));
    assert_eq!(status.conditions[0].reason, "AttemptsFailed");
}

#[test]
fn a_member_that_is_gone_or_silent_is_given_up_after_half_a_minute() {
    let mut world = World::new("");
    world.look(0).report("db-3", BackupPhase::Running, 1 << 20).look(1);
    world.link("db-3").silent_ms = 5_000;
    world.look(5);
    world.link("db-3").silent_ms = 30_000;
    world.look(25).look(10);
    world.report("db-2", BackupPhase::Running, 1 << 20).look(1);
    world.observed.links.remove("db-2");
    world.look(10).look(20);
    expect![[r#"
        0 Pending Starting: db-3 is told to take a base backup
          -> take backup 20260921T141320 of db-3, attempt 1
        1 Running Running: reading db-3: 0% of 400Mi, 1Mi/s
        6 Running MemberSilent: the supervisor of db-3 does not answer
        31 Pending Retrying: attempt 1 of 3 on db-3 failed: its supervisor has not answered for 30 s
        41 Pending Starting: db-2 is told to take a base backup
          -> take backup 20260921T141401 of db-2, attempt 2
        42 Running Running: reading db-2: 0% of 400Mi, 1Mi/s
        52 Running MemberSilent: the supervisor of db-2 has not answered yet
        72 Pending Retrying: attempt 2 of 3 on db-2 failed: its container is gone
    "#]]
    .assert_eq(&world.told);
}

#[test]
fn an_attempt_without_progress_is_cut_off() {
    let mut world = World::new("target: primary");
    world.look(0).report("db-1", BackupPhase::Running, 1 << 20).look(1).look(629).look(1);
    world.look(10).report("db-1", BackupPhase::WaitingForWal, 400 << 20).look(1).look(630);
    expect![[r#"
        0 Pending Starting: db-1 is told to take a base backup
          -> take backup 20260921T141320 of db-1, attempt 1
        1 Running Running: reading db-1: 0% of 400Mi, 1Mi/s
        630 Running Running: reading db-1: 0% of 400Mi, 1.6Ki/s
        631 Pending Retrying: attempt 1 of 3 on db-1 failed: nothing more was read or stored for 10 min
          -> cut off backup 20260921T141320 of db-1
        641 Pending Starting: db-1 is told to take a base backup
          -> take backup 20260921T142401 of db-1, attempt 2
        642 WaitingForWal WaitingForWal: the data of db-1 is stored; the WAL that it needs is not yet
          -> switch the WAL of db-1 past 0/2000100
        1272 Pending Retrying: attempt 2 of 3 on db-1 failed: the WAL that it needs did not come into the archive within 10 min
          -> cut off backup 20260921T142401 of db-1
    "#]]
    .assert_eq(&world.told);
}

#[test]
fn each_attempt_has_an_id_of_its_own() {
    let mut world = World::new("");
    world.other("later", 1, false);
    world.observed.others[0].backup_id = Some("20260921T141320".into());
    world.look(0);
    let first = world.object.status.clone().unwrap().backup_id.unwrap();
    world.report("db-3", BackupPhase::Failed, 0).look(0);
    // A clock that was set back.
    world.look(10);
    let second = world.object.status.clone().unwrap().backup_id.unwrap();
    assert_eq!((first.as_str(), second.as_str()), ("20260921T141321", "20260921T141330"));
}

#[test]
fn deleting_a_backup_cuts_it_off_and_leaves_a_complete_one() {
    let mut world = World::new("");
    world.look(0).report("db-3", BackupPhase::Running, 1 << 20).look(1);
    world.want = Want::Absent;
    world.object.metadata.deletion_timestamp = Some(Time(world.now));
    world.told.clear();
    world.look(0);
    assert!(!world.finished);
    world.report("db-3", BackupPhase::Failed, 1 << 20).look(1);
    assert!(world.finished);
    expect![[r#"
        1 Running Running: reading db-3: 0% of 400Mi, 1Mi/s
          -> cut off backup 20260921T141320 of db-3
        2 Running Running: reading db-3: 0% of 400Mi, 1Mi/s
    "#]]
    .assert_eq(&world.told);
    // One that cannot be told is not waited for for ever.
    world.link("db-3").silent_ms = 60_000;
    world.look(1);
    assert!(!world.finished);
    world.look(30);
    assert!(world.finished);
    // Nothing was begun, or everything is done.
    for phase in [BaseBackupPhase::Pending, BaseBackupPhase::Completed] {
        let status = world.object.status.as_mut().unwrap();
        (status.phase, status.member) = (phase, (phase == BaseBackupPhase::Completed).then(|| "db-3".into()));
        world.look(0);
        assert!(world.finished);
    }
}

#[test]
fn a_paused_backup_decides_nothing_and_goes_on_later() {
    let mut world = World::new("");
    world.look(0).report("db-3", BackupPhase::Running, 1 << 20).look(1);
    world.want = Want::Paused;
    world.report("db-3", BackupPhase::Completed, 400 << 20).look(1);
    world.want = Want::Present;
    world.look(1);
    expect![[r#"
        0 Pending Starting: db-3 is told to take a base backup
          -> take backup 20260921T141320 of db-3, attempt 1
        1 Running Running: reading db-3: 0% of 400Mi, 1Mi/s
        2 Running Paused: reconciliation is paused by annotation; a backup that runs goes on
        3 Completed Completed: base backup 20260921T141320 of db-3 is complete: 400Mi, stored as 100Mi in 1 s
    "#]]
    .assert_eq(&world.told);
}

#[test]
fn a_dump_is_told_as_one_and_waits_for_no_wal() {
    let mut world = World::new("method: dump\ndatabase: app");
    world.look(0).report("db-3", BackupPhase::Running, 0).look(0);
    world.report("db-3", BackupPhase::Running, 100 << 20).look(2);
    world.report("db-3", BackupPhase::Completed, 300 << 20);
    let state = world.link("db-3").report.backup.as_mut().unwrap();
    (state.span, state.snapshot) = (None, Some(Snapshot { lsn: Lsn(0x200_0100), time: at(0).as_second() }));
    world.look(1);
    expect![[r#"
        0 Pending Starting: db-3 is told to dump app
          -> dump database app of db-3 as 20260921T141320, attempt 1
        0 Running Running: dumping app of db-3: 0 so far of a database of 400Mi
        2 Running Running: dumping app of db-3: 100Mi so far of a database of 400Mi, 50Mi/s
        3 Completed Completed: dump 20260921T141320 of app of db-3 is complete: 300Mi, stored as 75Mi in 2 s
    "#]]
    .assert_eq(&world.told);
    let status = world.object.status.unwrap();
    assert_eq!((status.snapshot_lsn, status.snapshot_time, status.end_lsn), (Some(Lsn(0x200_0100)), Some(at(0)), None));
    assert_eq!(status.archive.as_deref(), Some("default.db/74-5f0c01aa"));
}

/// The replay of WAL cancels a long query of a standby; on the primary nothing does.
#[test]
fn a_dump_that_failed_on_a_standby_is_taken_of_the_primary_next() {
    let mut world = World::new("method: dump\ndatabase: app");
    world.look(0).report("db-3", BackupPhase::Failed, 0).look(1).look(10);
    world.report("db-1", BackupPhase::Failed, 0);
    world.link("db-1").report.backup.as_mut().unwrap().lasting = true;
    world.look(1);
    expect![[r#"
        0 Pending Starting: db-3 is told to dump app
          -> dump database app of db-3 as 20260921T141320, attempt 1
        1 Pending Retrying: attempt 1 of 3 on db-3 failed: the store answers 503
        11 Pending Starting: db-1 is told to dump app
          -> dump database app of db-1 as 20260921T141331, attempt 2
        12 Failed AttemptsFailed: it failed on db-1, and would again: the store answers 503
    "#]]
    .assert_eq(&world.told);
}
