//! What happens to a VolumeRestore, plan by plan, against a porter and Deployments that say what a test tells them to say.

use std::time::Duration;

use expect_test::expect;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::plan::plan;
use super::{Observed, Step, observe};
use crate::api::deployment::Deployment;
use crate::api::volume_restore::VolumeRestore;
use crate::kinds::containers::{DockerSeen, DockerStep};
use crate::kinds::links::LinkSeen;
use crate::kinds::waits::by_the_clock;
use crate::runtime::Want;
use crate::supervisor::porter::wire::{Report, Tried};
use crate::supervisor::wire::{BackupPhase, BackupState};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + second).unwrap()
}

/// A complete Backup, and a restore of its one volume.
struct World {
    object: VolumeRestore,
    observed: Observed,
    now: Timestamp,
    want: Want,
    finished: bool,
    told: String,
}

impl World {
    fn new() -> Self {
        let object = serde_json::from_value(json!({
            "metadata": {"name": "back", "namespace": "team", "uid": "u"},
            "spec": {"from": {"backup": "nightly"}, "claim": "files"},
        }))
        .unwrap();
        let backup = serde_json::from_value(json!({
            "metadata": {"name": "nightly", "namespace": "team"},
            "spec": {"together": {
                "store": {"s3": {"bucket": "backups", "credentials": {"secretName": "s3"}}},
                "deployments": [{"name": "web", "claims": ["files"]}],
            }},
            "status": {"phase": "Completed", "together": {"volumes": [
                {"claim": "files", "host": "h2", "path": "team.claim.files/volumes/20261130T030000"},
            ]}},
        }))
        .unwrap();
        let docker = [("h2".to_owned(), DockerSeen::nothing())].into();
        let observed = Observed { backup: Some(backup), docker, exists: Some(false), ..Observed::default() };
        let (now, told) = (at(0), String::new());
        Self { object, observed, now, want: Want::Present, finished: false, told }
    }

    fn deployment(&mut self, status: Value) -> &mut Self {
        let one = json!({"metadata": {"name": "web", "namespace": "team"}, "spec": {"selector": {}, "template": {}}, "status": status});
        let one: Deployment = serde_json::from_value(one).unwrap();
        self.observed.claimants = vec![one];
        self
    }

    fn attempt(&self) -> u32 {
        self.object.status.as_ref().map_or(0, |status| status.attempt)
    }

    fn porter(&mut self, report: Report) -> &mut Self {
        let link = LinkSeen { report: Report { boot: "p".into(), ..report }, connected: true, silent_ms: 0 };
        self.observed.porters = [("back.porter".to_owned(), link)].into();
        self
    }

    fn tried(&mut self, problem: Option<&str>, lasting: bool) -> &mut Self {
        let problem = problem.map(str::to_owned);
        let tried = Some(Tried { id: "u".into(), attempt: self.attempt(), bytes: 1, problem, lasting });
        self.porter(Report { tried, ..Report::default() })
    }

    fn works(&mut self, phase: BackupPhase, error: Option<(&str, bool)>) -> &mut Self {
        let work = BackupState {
            id: "u".into(),
            attempt: self.attempt(),
            phase,
            bytes: 4 << 20,
            total: 8 << 20,
            error: error.map(|(words, _)| words.to_owned()),
            lasting: error.is_some_and(|(_, lasting)| lasting),
            ..BackupState::default()
        };
        self.porter(Report { work: Some(work), ..Report::default() })
    }

    /// One plan, after some seconds. Notes the phase, whether the volume may have a part, and the steps.
    fn look(&mut self, after: u64) -> &mut Self {
        self.now += Duration::from_secs(after);
        self.observed.waited = by_the_clock(self.now, observe::moments(&self.object, self.object.status.as_ref()));
        let plan = plan(&self.object, &self.observed, self.want, self.now);
        let second = self.now.duration_since(at(0)).as_secs();
        let status = &plan.status;
        let partial = if status.partial { " partial" } else { "" };
        self.told += &format!("{second} {}{partial}/{}: {}\n", status.phase, status.reason, status.message);
        let shown = |step: &&Step| {
            !matches!(step, Step::Docker(DockerStep::EnsureNetwork { .. } | DockerStep::GetImage { .. }))
        };
        plan.steps.iter().filter(shown).for_each(|step| self.told += &format!("  -> {step}\n"));
        (self.object.status, self.finished) = (Some(plan.status), plan.finished);
        self
    }
}

#[test]
fn nothing_is_written_before_no_pod_can_be_there() {
    let mut world = World::new();
    let held = json!({"heldBy": {"kind": "VolumeRestore", "name": "back", "uid": "u"}});
    world.deployment(json!({"decisions": {"pods": [{"name": "web-1"}]}})).look(0).porter(Report::default()).look(1);
    world.tried(None, false).look(1).deployment(json!({})).look(2).deployment(held).look(2).look(1);
    world.works(BackupPhase::Running, None).look(1).works(BackupPhase::Completed, None).look(1).look(1).look(1);
    expect![[r#"
        0 Running/Starting: the container back.porter is made
        1 Running/Starting: it is tried whether team.claim.files/volumes/20261130T030000 can be restored
          -> try whether back.porter can restore team.claim.files/volumes/20261130T030000
        2 Running/VolumeInUse: Deployment web claims the volume and has pods: scale it to 0
        4 Running/VolumeInUse: Deployment web has not said yet that it creates no pods
        6 Running partial/Starting: back.porter is told to restore team.claim.files/volumes/20261130T030000
          -> restore team.claim.files/volumes/20261130T030000 by back.porter, attempt 1
        7 Running partial/Starting: back.porter is told to restore team.claim.files/volumes/20261130T030000
          -> restore team.claim.files/volumes/20261130T030000 by back.porter, attempt 1
        8 Running partial/Running: restoring the volume of claim files: 50% of 8Mi
        9 Completed/Completed: volume team.claim.files is restored from team.claim.files/volumes/20261130T030000: 4Mi
          -> volume team.claim.files is restored from team.claim.files/volumes/20261130T030000: 4Mi
        10 Completed/Completed: volume team.claim.files is restored from team.claim.files/volumes/20261130T030000: 4Mi
        11 Completed/Completed: volume team.claim.files is restored from team.claim.files/volumes/20261130T030000: 4Mi
    "#]]
    .assert_eq(&world.told);
}

#[test]
fn a_volume_with_data_is_left_alone_and_its_pods_too() {
    let mut world = World::new();
    world.look(0).tried(Some("the volume is not empty: it has n"), true).look(1);
    world.want = Want::Absent;
    (world.observed.exists, world.finished) = (Some(true), false);
    world.look(1);
    assert!(world.finished);
    expect![[r#"
        0 Running/Starting: the container back.porter is made
        1 Failed/AttemptsFailed: it failed, and would again: the volume is not empty: it has n
          -> it failed, and would again: the volume is not empty: it has n
        2 Failed/AttemptsFailed: it failed, and would again: the volume is not empty: it has n
    "#]]
    .assert_eq(&world.told);
}

#[test]
fn a_restore_that_fails_is_made_again_and_what_it_left_is_removed_with_it() {
    let mut world = World::new();
    world.look(0).tried(None, false).look(1);
    world.works(BackupPhase::Failed, Some(("no connection", false))).look(1).look(9).look(1);
    world.tried(None, false).look(1).works(BackupPhase::Failed, Some(("frame 3 has another content", true))).look(1);
    world.want = Want::Absent;
    world.observed.exists = Some(true);
    world.look(1);
    assert!(!world.finished);
    world.observed.exists = Some(false);
    world.look(1);
    assert!(world.finished);
    expect![[r#"
        0 Running/Starting: the container back.porter is made
        1 Running partial/Starting: back.porter is told to restore team.claim.files/volumes/20261130T030000
          -> restore team.claim.files/volumes/20261130T030000 by back.porter, attempt 1
        2 Pending partial/Retrying: attempt 1 of 3 failed: no connection
        11 Pending partial/Retrying: attempt 1 of 3 failed: no connection
        12 Running partial/Starting: the container back.porter is made
        13 Running partial/Starting: back.porter is told to restore team.claim.files/volumes/20261130T030000
          -> restore team.claim.files/volumes/20261130T030000 by back.porter, attempt 2
        14 Failed partial/AttemptsFailed: it failed, and would again: frame 3 has another content; the volume may have a part of the data, and no pod that claims it is created until this object is deleted, which removes the volume
          -> it failed, and would again: frame 3 has another content; the volume may have a part of the data, and no pod that claims it is created until this object is deleted, which removes the volume
        15 Failed partial/AttemptsFailed: it failed, and would again: frame 3 has another content; the volume may have a part of the data, and no pod that claims it is created until this object is deleted, which removes the volume
          -> remove volume team.claim.files and its data
        16 Failed partial/AttemptsFailed: it failed, and would again: frame 3 has another content; the volume may have a part of the data, and no pod that claims it is created until this object is deleted, which removes the volume
    "#]].assert_eq(&world.told);
}

#[test]
fn what_it_waits_for_is_always_said() {
    let mut told = String::new();
    let mut say = |change: &dyn Fn(&mut World)| {
        let mut world = World::new();
        change(&mut world);
        world.look(0);
        told += &world.told;
    };
    say(&|world| world.observed.backup = None);
    say(&|world| world.observed.backup.as_mut().unwrap().spec.together = None);
    say(&|world| world.observed.backup.as_mut().unwrap().status = None);
    say(&|world| world.object.spec.from.claim = Some("other".into()));
    say(&|world| world.observed.closed = Some(("SecretNotFound", "no Secret s3".into())));
    say(&|world| world.observed.docker.clear());
    say(&|world| world.want = Want::Paused);
    expect![[r#"
        0 Pending/BackupNotFound: Backup nightly does not exist in this namespace
        0 Pending/NoVolumes: Backup nightly has no volumes: it has no spec.together
        0 Pending/BackupNotCompleted: Backup nightly is not complete, but Pending
        0 Pending/ClaimNotFound: Backup nightly has no claim other: give spec.from.claim
        0 Pending/SecretNotFound: no Secret s3
        0 Pending/HostNotFound: DockerHost h2 does not exist: give spec.host
        0 Pending/Paused: reconciliation is paused by annotation; a restore that runs goes on
    "#]]
    .assert_eq(&told);
}
