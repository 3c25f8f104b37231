//! What happens to a Backup over several objects, plan by plan, against Deployments, porters and supervisors that say what a test
//! tells them to say.

use std::time::Duration;

use expect_test::expect;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::scenarios::{self, at};
use super::together::plan;
use super::{LinkSeen, Observed, Other, Step, TogetherSeen, observe};
use crate::api::backup::{Backup, BaseBackupPhase};
use crate::api::deployment::{ClaimedVolume, Deployment};
use crate::api::lsn::Lsn;
use crate::archive::volumes::Tally;
use crate::engine::{ContainerSeen, ContainerState, EMPTY_IMAGE, ImageSeen, NetworkSeen};
use crate::kinds::attempts::Told;
use crate::kinds::containers::{DockerSeen, DockerStep};
use crate::kinds::fact::Fact;
use crate::kinds::links;
use crate::kinds::network_of;
use crate::kinds::waits::by_the_clock;
use crate::runtime::Want;
use crate::supervisor::porter::wire::{Report, Tried};
use crate::supervisor::wire::{BackupPhase, BackupSpan, BackupState};

const PORTER: &str = "nightly.porter-1";

/// A Deployment `web` with a volume, a cluster `db` with the primary `db-1`, and a Backup of both.
struct World {
    object: Backup,
    observed: Observed,
    now: Timestamp,
    want: Want,
    finished: bool,
    told: String,
}

fn deployment(name: &str, status: Value) -> Deployment {
    let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "files"}}]);
    let pod = json!({"containers": [{"name": "web", "image": "web"}], "volumes": volumes});
    let spec = json!({"selector": {}, "template": {"spec": pod}});
    serde_json::from_value(json!({"metadata": {"name": name, "namespace": "team"}, "spec": spec, "status": status}))
        .unwrap()
}

impl World {
    fn new() -> Self {
        let mut object: Backup = serde_json::from_value(json!({
            "metadata": {"name": "nightly", "namespace": "team", "uid": "u"},
            "spec": {"together": {
                "store": {"s3": {"bucket": "backups", "credentials": {"secretName": "s3"}}},
                "deployments": [{"name": "web", "claims": ["files"]}], "clusters": [{"name": "db"}], "timeout": "30m",
            }},
        }))
        .unwrap();
        object.metadata.creation_timestamp = Some(Time(at(0)));
        let cluster = scenarios::cluster();
        let report = Told { boot: "b".into(), archives: true, gate_open: true, ..Told::default() };
        let network = NetworkSeen {
            name: network_of("team"),
            id: "n".into(),
            ours: true,
            subnet: (std::net::Ipv4Addr::new(10, 0, 0, 0), 24),
        };
        let host = DockerSeen {
            networks: Fact::Known([(network_of("team"), network)].into()),
            images: Fact::Known([(EMPTY_IMAGE.to_owned(), ImageSeen::default())].into()),
            binary: Some("bin".into()),
            daemon: Some(crate::engine::Daemon { log_driver: "json-file".into(), memory_bytes: 1 << 30 }),
            ..DockerSeen::nothing()
        };
        let claimed = ClaimedVolume { claim: "files".into(), host: "local".into(), volume: "team.claim.files".into() };
        let seen = TogetherSeen {
            links: [("db-1".to_owned(), LinkSeen { report, connected: true, silent_ms: 0 })].into(),
            clusters: [("db".to_owned(), cluster)].into(),
            docker: [("local".to_owned(), host)].into(),
            volumes: vec![claimed],
            ..TogetherSeen::default()
        };
        let observed = Observed { together: Some(Box::new(seen)), ..Observed::default() };
        let (now, told) = (at(0), String::new());
        let mut world = Self { object, observed, now, want: Want::Present, finished: false, told };
        world.pods(1, None);
        world
    }

    fn seen(&mut self) -> &mut TogetherSeen {
        self.observed.together.as_mut().unwrap()
    }

    /// The Deployment has so many pods, and says that this Backup holds it.
    fn pods(&mut self, count: usize, held: Option<&str>) -> &mut Self {
        let pod = |number| json!({"name": format!("web-{number}"), "hash": "h", "host": "local"});
        let pods: Vec<_> = (0..count).map(pod).collect();
        let held = held.map(|uid| json!({"kind": "Backup", "name": "nightly", "uid": uid}));
        let status = json!({"heldBy": held, "decisions": {"pods": pods}});
        let web = deployment("web", status);
        self.seen().deployments.insert("web".into(), web);
        self
    }

    /// The porter says this.
    fn porter(&mut self, report: Report) -> &mut Self {
        let link = links::LinkSeen { report, connected: true, silent_ms: 0 };
        self.seen().porters.insert(PORTER.into(), link);
        self
    }

    fn id(&self) -> String {
        self.object.status.as_ref().and_then(|status| status.backup_id.clone()).unwrap_or_default()
    }

    /// The porter has tried it.
    fn tried(&mut self, problem: Option<&str>, lasting: bool) -> &mut Self {
        let tried = Tried { id: self.id(), attempt: 1, bytes: 10 << 20, problem: problem.map(str::to_owned), lasting };
        self.porter(Report { boot: "p".into(), tried: Some(tried), ..Report::default() })
    }

    /// The porter copies, or has copied.
    fn copies(&mut self, phase: BackupPhase, bytes: u64) -> &mut Self {
        let work = BackupState {
            id: self.id(),
            attempt: 1,
            phase,
            bytes,
            stored: bytes / 2,
            total: 10 << 20,
            error: (phase == BackupPhase::Failed).then(|| "the volume is gone".to_owned()),
            ..BackupState::default()
        };
        let tally = (phase == BackupPhase::Completed).then_some(Tally { entries: 3, bytes, left_out: 1 });
        self.porter(Report { boot: "p".into(), work: Some(work), tally, ..Report::default() })
    }

    /// The primary has made the restore point.
    fn point(&mut self, phase: BackupPhase) -> &mut Self {
        let wal = "000000010000000000000005".to_owned();
        let span = BackupSpan {
            timeline: 1,
            begin: Lsn(0x500_0100),
            end: Lsn(0x500_0100),
            begin_wal: wal.clone(),
            end_wal: wal,
        };
        let state = BackupState { id: self.id(), attempt: 1, phase, span: Some(span), ..BackupState::default() };
        self.seen().links.get_mut("db-1").unwrap().report.point = Some(state);
        self
    }

    /// One plan, after some seconds. Notes the phase, whether the pods are held, and the steps. What a step makes is there then.
    fn look(&mut self, after: u64) -> &mut Self {
        self.now += Duration::from_secs(after);
        self.observed.waited = by_the_clock(self.now, observe::moments(&self.object, self.object.status.as_ref()));
        let together = self.object.spec.together.clone().unwrap();
        let plan = plan((&self.object, &together), &self.observed, self.want, self.now);
        let status = &plan.status;
        let holds = status.together.as_ref().is_some_and(|together| together.holds);
        let second = self.now.duration_since(at(0)).as_secs();
        let holds = if holds { " holds" } else { "" };
        self.told += &format!("{second} {}{holds}/{}: {}\n", status.phase, status.reason, status.message);
        for step in &plan.steps {
            self.told += &format!("  -> {step}\n");
            if let Step::Docker(step) = step {
                self.perform(step.clone());
            }
        }
        (self.object.status, self.finished) = (Some(plan.status), plan.finished);
        self
    }

    fn perform(&mut self, step: DockerStep) {
        let Fact::Known(containers) = &mut self.seen().docker.get_mut("local").unwrap().containers else { return };
        match step {
            DockerStep::Create { spec, .. } => {
                let container = ContainerSeen {
                    id: "c".into(),
                    name: spec.name.clone(),
                    labels: [(crate::api::labels::SPEC_HASH.to_owned(), spec.hash())].into(),
                    state: ContainerState::Running,
                    image: spec.image.clone(),
                    networks: [(
                        network_of("team"),
                        crate::engine::ConnectionSeen { network: "n".into(), ..Default::default() },
                    )]
                    .into(),
                    exit_code: None,
                };
                containers.insert(spec.name.clone(), container);
            }
            DockerStep::Remove { container, .. } => drop(containers.remove(&container)),
            _ => {}
        }
    }

    /// Until no pod is there and the copy is to begin.
    fn quiet(&mut self) -> &mut Self {
        self.look(0).look(1).tried(None, false).look(1).pods(0, Some("u")).look(2)
    }
}

#[test]
fn everything_is_tried_before_the_pods_are_stopped_and_they_come_back_before_the_archive_has_the_point() {
    let mut world = World::new();
    world.look(0).look(1).tried(None, false).look(1);
    world.pods(1, Some("u")).look(3).pods(0, Some("u")).look(1).look(1);
    world.copies(BackupPhase::Running, 4 << 20).point(BackupPhase::Running).look(1);
    world.copies(BackupPhase::Completed, 11 << 20).look(1).point(BackupPhase::WaitingForWal).look(1);
    world.look(1).pods(1, None).look(1).point(BackupPhase::Completed).look(1).look(1).look(1);
    expect![[r#"
        0 Preparing/Preparing: it is tried whether everything can be copied; the pods run
        1 Preparing/Preparing: the pods run; waiting: nightly.porter-1 has not answered yet
          -> create container team.nightly.porter-1 on local
          -> start container team.nightly.porter-1
        2 Quiescing holds/Quiescing: the pods of web are stopped
          -> the pods of web are stopped
        5 Quiescing holds/Quiescing: waiting until no pod is there: Deployment web still has pods: 1
        6 Copying holds/Copying: no pod is there; the volumes are copied
        7 Copying holds/Copying: nightly.porter-1 is told to copy claim files; db-1 is told to make the restore point
          -> copy the volume of claim files by nightly.porter-1
          -> make restore point nightly-20260921T141320 on db-1
        8 Copying holds/Copying: claim files: 4Mi of about 10Mi read; PostgresCluster db: 000000010000000000000005 is not in the archive yet
        9 Copying holds/Copying: claim files: 11Mi of about 10Mi read; PostgresCluster db: 000000010000000000000005 is not in the archive yet
        10 Releasing/Releasing: the pods of web come back after 4.0 s
          -> the pods of web come back after 4.0 s
        11 Releasing/Releasing: Deployment web has not noticed yet that its pods may come back
          -> remove container team.nightly.porter-1: scaled down
        12 WaitingForWal/WaitingForWal: everything is copied, and the pods may be back: PostgresCluster db: 000000010000000000000005 is not in the archive yet
        13 Completed/Completed: 1 volume, 11Mi, stored as 5.5Mi, restore point nightly-20260921T141320; no pod was there for 4.0 s
          -> 1 volume, 11Mi, stored as 5.5Mi, restore point nightly-20260921T141320; no pod was there for 4.0 s
        14 Completed/Completed: 1 volume, 11Mi, stored as 5.5Mi, restore point nightly-20260921T141320; no pod was there for 4.0 s
        15 Completed/Completed: 1 volume, 11Mi, stored as 5.5Mi, restore point nightly-20260921T141320; no pod was there for 4.0 s
    "#]].assert_eq(&world.told);
    let status = serde_json::to_string_pretty(&world.object.status.unwrap().together).unwrap();
    expect![[r#"
        {
          "holds": false,
          "until": "2026-09-21T14:43:22Z",
          "quietAt": "2026-09-21T14:13:26Z",
          "releasedAt": "2026-09-21T14:13:30Z",
          "point": "nightly-20260921T141320",
          "volumes": [
            {
              "claim": "files",
              "deployment": "web",
              "host": "local",
              "volume": "team.claim.files",
              "porter": "nightly.porter-1",
              "boot": "p",
              "path": "team.claim.files/volumes/20260921T141320",
              "phase": "Completed",
              "bytes": 11534336,
              "storedBytes": 5767168,
              "entries": 3,
              "leftOut": 1
            }
          ],
          "clusters": [
            {
              "name": "db",
              "member": "db-1",
              "boot": "b",
              "archive": "default.db/74-5f0c01aa",
              "phase": "Completed",
              "lsn": "0/5000100",
              "wal": "000000010000000000000005"
            }
          ],
          "cleared": true
        }
    "#]]
    .assert_eq(&(status + "\n"));
}

#[test]
fn a_store_that_cannot_be_written_stops_no_pod() {
    let mut world = World::new();
    world.look(0).look(1).tried(Some("no connection"), false).look(2).look(700);
    let mut denied = World::new();
    denied.look(0).look(1).tried(Some("access denied"), true).look(2).look(1);
    expect![[r#"
        0 Preparing/Preparing: it is tried whether everything can be copied; the pods run
        1 Preparing/Preparing: the pods run; waiting: nightly.porter-1 has not answered yet
          -> create container team.nightly.porter-1 on local
          -> start container team.nightly.porter-1
        3 Preparing/Preparing: the pods run; waiting: claim files: no connection
          -> try whether nightly.porter-1 can copy the volume of claim files
        703 Failed/Failed: it was not possible within 10 min; the pods ran on: claim files: no connection
          -> it was not possible within 10 min; the pods ran on: claim files: no connection
        0 Preparing/Preparing: it is tried whether everything can be copied; the pods run
        1 Preparing/Preparing: the pods run; waiting: nightly.porter-1 has not answered yet
          -> create container team.nightly.porter-1 on local
          -> start container team.nightly.porter-1
        3 Failed/Failed: the volume of claim files cannot be copied: access denied
          -> the volume of claim files cannot be copied: access denied
        4 Failed/Failed: the volume of claim files cannot be copied: access denied
          -> remove container team.nightly.porter-1: scaled down
    "#]]
    .assert_eq(&(world.told + &denied.told));
}

#[test]
fn the_pods_are_let_go_whatever_happens() {
    let mut told = String::new();
    let mut say = |change: &dyn Fn(&mut World)| {
        let mut world = World::new();
        world.quiet().look(1);
        world.told.clear();
        change(&mut world);
        let status = world.object.status.as_ref().unwrap();
        assert!(!status.together.as_ref().unwrap().holds, "{}", world.told);
        assert!(world.finished || status.phase == BaseBackupPhase::Failed, "{}", world.told);
        told += &(std::mem::take(&mut world.told) + "\n");
    };
    say(&|world| {
        world.copies(BackupPhase::Failed, 1).look(1).look(1);
    });
    // Its porter ended.
    say(&|world| {
        world.copies(BackupPhase::Running, 1).look(1);
        let link = world.seen().porters.get_mut(PORTER).unwrap();
        (link.report.boot, link.report.work) = ("other".into(), None);
        world.look(1);
    });
    // The primary is gone.
    say(&|world| {
        world.copies(BackupPhase::Running, 1).point(BackupPhase::Running).look(1).look(1);
        world.seen().links.clear();
        world.copies(BackupPhase::Running, 2).look(1).look(31);
    });
    // Pods are there again.
    say(&|world| {
        world.copies(BackupPhase::Running, 1).look(1).pods(1, Some("u")).look(1);
    });
    say(&|world| {
        world.copies(BackupPhase::Completed, 1).point(BackupPhase::WaitingForWal).pods(0, None).look(1);
    });
    // Its time is over.
    say(&|world| {
        for minute in 0..9 {
            world.copies(BackupPhase::Running, minute << 20).point(BackupPhase::WaitingForWal).look(300);
            if world.object.status.as_ref().unwrap().phase == BaseBackupPhase::Failed {
                break;
            }
        }
    });
    // It is deleted.
    say(&|world| {
        world.want = Want::Absent;
        world.look(1).look(1);
    });
    expect![[r#"
        6 Failed/Failed: the copy of claim files failed: the volume is gone
          -> the copy of claim files failed: the volume is gone
        7 Failed/Failed: the copy of claim files failed: the volume is gone
          -> remove container team.nightly.porter-1: scaled down

        6 Copying holds/Copying: claim files: 1 of about 10Mi read; db-1 is told to make the restore point
          -> make restore point nightly-20260921T141320 on db-1
        7 Failed/Failed: the copy of claim files failed: its supervisor was started again
          -> the copy of claim files failed: its supervisor was started again

        6 Copying holds/Copying: claim files: 1 of about 10Mi read; PostgresCluster db: 000000010000000000000005 is not in the archive yet
        7 Copying holds/Copying: claim files: 1 of about 10Mi read; PostgresCluster db: 000000010000000000000005 is not in the archive yet
        8 Copying holds/Copying: claim files: 2 of about 10Mi read; the supervisor of db-1 has not answered yet
        39 Failed/Failed: the restore point of PostgresCluster db failed: its container is gone
          -> the restore point of PostgresCluster db failed: its container is gone

        6 Copying holds/Copying: claim files: 1 of about 10Mi read; db-1 is told to make the restore point
          -> make restore point nightly-20260921T141320 on db-1
        7 Failed/Failed: the volumes are not copied, and Deployment web still has pods: 1: what was read is of no one moment
          -> the volumes are not copied, and Deployment web still has pods: 1: what was read is of no one moment

        6 Failed/Failed: the volumes are not copied, and Deployment web may have pods: what was read is of no one moment
          -> the volumes are not copied, and Deployment web may have pods: what was read is of no one moment

        305 Copying holds/Copying: claim files: 0 of about 10Mi read; PostgresCluster db: 000000010000000000000005 is not in the archive yet
        605 Copying holds/Copying: claim files: 1Mi of about 10Mi read; PostgresCluster db: 000000010000000000000005 is not in the archive yet
        905 Copying holds/Copying: claim files: 2Mi of about 10Mi read; PostgresCluster db: 000000010000000000000005 is not in the archive yet
        1205 Copying holds/Copying: claim files: 3Mi of about 10Mi read; PostgresCluster db: 000000010000000000000005 is not in the archive yet
        1505 Copying holds/Copying: claim files: 4Mi of about 10Mi read; PostgresCluster db: 000000010000000000000005 is not in the archive yet
        1805 Failed/Failed: it was not complete within 30m: claim files: 4Mi of about 10Mi read; PostgresCluster db: 000000010000000000000005 is not in the archive yet
          -> it was not complete within 30m: claim files: 4Mi of about 10Mi read; PostgresCluster db: 000000010000000000000005 is not in the archive yet

        6 Copying/Copying: nightly.porter-1 is told to copy claim files; db-1 is told to make the restore point
          -> remove container team.nightly.porter-1: scaled down
        7 Copying/Copying: nightly.porter-1 is told to copy claim files; db-1 is told to make the restore point

    "#]].assert_eq(&told);
}

#[test]
fn pods_that_do_not_stop_are_waited_for_no_longer_than_the_timeout() {
    let mut world = World::new();
    world.look(0).look(1).tried(None, false).look(1).pods(1, Some("u")).look(1798).look(2);
    let told = world.told.lines().rev().take(3).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n");
    expect![[r#"
        1800 Quiescing holds/Quiescing: waiting until no pod is there: Deployment web still has pods: 1
        1802 Failed/Failed: the pods did not stop within 30m: Deployment web still has pods: 1
          -> the pods did not stop within 30m: Deployment web still has pods: 1"#]]
    .assert_eq(&told);
}

#[test]
fn an_operator_that_starts_in_the_middle_goes_on() {
    let mut world = World::new();
    world.quiet().copies(BackupPhase::Running, 1).point(BackupPhase::WaitingForWal).look(1);
    world.told.clear();
    // It knows no link yet.
    let (porters, links) = (std::mem::take(&mut world.seen().porters), std::mem::take(&mut world.seen().links));
    world.look(1);
    (world.seen().porters, world.seen().links) = (porters, links);
    world.copies(BackupPhase::Completed, 1).look(1);
    expect![[r#"
        6 Copying holds/Copying: the supervisor of nightly.porter-1 has not answered yet; the supervisor of db-1 has not answered yet
        7 Releasing/Releasing: the pods of web come back after 3.0 s
          -> the pods of web come back after 3.0 s
    "#]].assert_eq(&world.told);
}

#[test]
fn a_restore_point_that_does_not_come_into_the_archive_is_told_after_the_pods_are_back() {
    let mut world = World::new();
    world.quiet().copies(BackupPhase::Completed, 1).point(BackupPhase::WaitingForWal).look(1).look(1).pods(1, None);
    world.told.clear();
    world.look(1).look(700);
    expect![[r#"
        7 WaitingForWal/WaitingForWal: everything is copied, and the pods may be back: PostgresCluster db: 000000010000000000000005 is not in the archive yet
          -> remove container team.nightly.porter-1: scaled down
        707 Failed/Failed: the restore point did not come into the archive within 10 min: PostgresCluster db: 000000010000000000000005 is not in the archive yet
          -> the restore point did not come into the archive within 10 min: PostgresCluster db: 000000010000000000000005 is not in the archive yet
    "#]]
    .assert_eq(&world.told);
}

/// Regression 483: a primary that was chosen late had no time to begin: the copies had made no progress for 30 s when it came back, and
/// its restore point was given up before it was told. Its time counted from the last progress of anything, and not from the choice.
#[test]
fn a_primary_that_comes_back_late_gets_its_own_time_to_begin() {
    let mut world = World::new();
    world.quiet();
    let links = std::mem::take(&mut world.seen().links);
    world.copies(BackupPhase::Completed, 1).look(1).look(60);
    world.told.clear();
    world.seen().links = links;
    world.look(1).look(1).point(BackupPhase::WaitingForWal).look(1);
    expect![[r#"
        66 Copying holds/Copying: db-1 is told to make the restore point
          -> make restore point nightly-20260921T141320 on db-1
        67 Copying holds/Copying: db-1 is told to make the restore point
          -> make restore point nightly-20260921T141320 on db-1
        68 Releasing/Releasing: the pods of web come back after 64.0 s
          -> the pods of web come back after 64.0 s
    "#]]
    .assert_eq(&world.told);
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
    say(&|world| world.seen().deployments.clear());
    say(&|world| {
        let annotations = Some([("evenkeel.dev/reconcile".to_owned(), "paused".to_owned())].into());
        world.seen().deployments.get_mut("web").unwrap().metadata.annotations = annotations;
    });
    say(&|world| drop(world.seen().deployments.insert("worker".into(), deployment("worker", json!({})))));
    say(&|world| world.seen().volumes.clear());
    say(&|world| world.seen().closed = Some(("SecretNotFound", "spec.together.store.s3: no Secret".into())));
    say(&|world| world.seen().clusters.clear());
    say(&|world| world.seen().clusters.get_mut("db").unwrap().spec.backup = None);
    say(&|world| world.seen().clusters.get_mut("db").unwrap().status = None);
    say(&|world| world.seen().links.clear());
    say(&|world| world.seen().links.get_mut("db-1").unwrap().report.gate_open = false);
    say(&|world| {
        let other = Other {
            name: "other".into(),
            created: Some(at(-1)),
            ended: false,
            runs: true,
            paused: false,
            backup_id: None,
        };
        world.seen().others.push(other);
    });
    say(&|world| world.want = Want::Paused);
    expect![[r#"
        0 Pending/DeploymentNotFound: Deployment web does not exist in this namespace
        0 Pending/DeploymentPaused: Deployment web is paused by annotation, so its pods cannot be stopped
        0 Pending/AnotherWriter: Deployment worker may write the volume of claim files too: name it in spec.together.deployments
        0 Pending/VolumeNotFound: claim files of Deployment web has no volume that can be seen now: the template needs a persistentVolumeClaim of that claimName which is not readOnly, the Deployment must have had a pod, and the host must answer
        0 Pending/SecretNotFound: spec.together.store.s3: no Secret
        0 Pending/ClusterNotFound: PostgresCluster db does not exist in this namespace
        0 Pending/NoBackupStore: PostgresCluster db has no spec.backup
        0 Pending/ArchiveNotReady: PostgresCluster db has no archive in its store yet
        0 Pending/NoPrimary: the supervisor of db-1 does not answer
        0 Pending/NoPrimary: the primary db-1 takes no clients now
        0 Pending/AnotherBackupRuns: Backup other over some of these objects runs
        0 Pending/Paused: reconciliation is paused by annotation; pods that are stopped come back in time
    "#]].assert_eq(&told);
}
