//! Plans the restore test of a Backup that has ended: whose turn it is, the throw-away cluster that restores it, and what that
//! means. Pure.
//!
//! The throw-away is a PostgresCluster of one instance with `bootstrap.recovery`: a restore test is the restore that people would
//! make themselves.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::source::Cluster;
use super::{BackupKind, Observed, Step};
use crate::api::backup::{
    Backup, BackupMethod, BaseBackupPhase, BaseBackupStatus, Verification, VerificationPhase, VerificationResult,
    Verified,
};
use crate::api::conditions::{self, no, yes};
use crate::api::duration::Span;
use crate::api::hash::short_hash;
use crate::api::object::Object as _;
use crate::api::postgres_backup::BackupSpec;
use crate::api::postgres_cluster::{ClusterPhase, PostgresCluster};
use crate::api::postgres_recovery::{RecoveryPhase, RecoveryStatus};
use crate::kinds::attempts;
use crate::kinds::waits::waited;
use crate::runtime::{Plan, Planned, Want};

/// The condition of a Backup that a restore test was asked for of.
pub const VERIFIED: &str = "Verified";
/// The label of a throw-away cluster, with the name of its Backup.
pub const TEST_OF: &str = "evenkeel.dev/restore-test-of";
/// The end of the name of a throw-away cluster.
const SUFFIX: &str = "-verify";
/// Longest name of a PostgresCluster.
const LONGEST_NAME: usize = 60;
/// A test that does not go on for this long has failed.
const PATIENCE: Duration = Duration::from_secs(1800);
/// Poll intervals: while something goes on, and while it is waited for another test.
const POLLS: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(10));
/// Settings of the source that a recovery cannot do without: libraries that replay WAL of their own. Others, such as the size of
/// buffers, are of a server that has a whole host.
const NEEDED: [&str; 1] = ["shared_preload_libraries"];

/// The name of the throw-away cluster. The name of a Backup may be longer than that of a cluster.
pub fn cluster_name(backup: &str) -> String {
    if backup.len() + SUFFIX.len() <= LONGEST_NAME && !backup.contains('.') {
        return format!("{backup}{SUFFIX}");
    }
    let hash = short_hash(backup, 8);
    let room = LONGEST_NAME.saturating_sub(SUFFIX.len() + 1 + hash.len());
    let kept: String = backup.replace('.', "-").chars().take(room).collect();
    format!("{kept}-{hash}{SUFFIX}")
}

/// Pure: what to record about the test of a Backup that has ended, and what to do.
pub fn plan(object: &Backup, observed: &Observed, want: Want, now: Timestamp) -> Planned<BackupKind> {
    let status = object.status.clone().unwrap_or_default();
    let nothing = |status| Plan { status, steps: Vec::new(), requeue: None, finished: false };
    if want == Want::Paused || !object.test_is_open(&status) {
        return nothing(status);
    }
    let last = status.verification.clone();
    let test = match (last, object.test_request(&status)) {
        (Some(test), _) if test.phase != VerificationPhase::Ended => test,
        (_, Some(request)) => Verification { request: request.to_owned(), ..Verification::default() },
        (_, None) => return nothing(status),
    };
    let mut planner = Planner { object, observed, now, status, test, steps: Vec::new(), requeue: POLLS.0 };
    match planner.test.phase {
        VerificationPhase::Pending => planner.begin(),
        VerificationPhase::Testing => planner.follow(),
        VerificationPhase::Removing => planner.remove(),
        VerificationPhase::Ended => {}
    }
    planner.finish()
}

struct Planner<'a> {
    object: &'a Backup,
    observed: &'a Observed,
    now: Timestamp,
    status: BaseBackupStatus,
    test: Verification,
    steps: Vec<Step>,
    requeue: Duration,
}

impl Planner<'_> {
    fn finish(mut self) -> Planned<BackupKind> {
        let message = self.test.message.clone();
        let verdict = match (self.test.result, self.test.phase) {
            (VerificationResult::Passed, _) => yes("Passed", message),
            (VerificationResult::Failed, _) => no("RestoreFailed", message),
            (VerificationResult::Open, VerificationPhase::Pending) => no("Waiting", message),
            (VerificationResult::Open, _) => no("Testing", message),
        };
        let status = &mut self.status;
        conditions::set(&mut status.conditions, VERIFIED, verdict, status.observed_generation, self.now);
        let requeue = (self.test.phase != VerificationPhase::Ended).then_some(self.requeue);
        status.verification = Some(self.test);
        Plan { status: self.status, steps: self.steps, requeue, finished: false }
    }

    fn say(&mut self, message: impl Into<String>) {
        self.test.message = message.into();
    }

    /// The cluster that was backed up.
    fn cluster(&self) -> Option<&PostgresCluster> {
        self.observed.cluster.as_ref().and_then(Cluster::postgres)
    }

    /// The throw-away cluster, if it is that of this Backup.
    fn ours(&self) -> Option<&PostgresCluster> {
        self.observed.test.as_ref().filter(|test| is_of(test, self.object))
    }

    /// Decides to test, or says what it waits for.
    fn begin(&mut self) {
        self.requeue = POLLS.1;
        let name = cluster_name(self.object.name());
        match self.object.method() {
            BackupMethod::Base => {}
            BackupMethod::Dump => return self.fail("it is a dump: a DatabaseRestore shows what is in it"),
            BackupMethod::Rdb => {
                return self.fail("it is a snapshot of Redis: a new RedisSentinel shows what is in it");
            }
        }
        if self.status.phase != BaseBackupPhase::Completed {
            return self.fail("the base backup failed, so there is nothing to restore");
        }
        if let Some(test) = self.ours() {
            // What a test before has left.
            let uid = test.metadata.uid.clone();
            self.say(format!("PostgresCluster {name} of the test before is being removed"));
            self.requeue = POLLS.0;
            return self.steps.push(Step::RemoveTest { name, uid });
        }
        if self.observed.test.is_some() {
            return self.fail(format!("PostgresCluster {name} exists and is not of this Backup: remove it"));
        }
        if let Err(why) = throw_away(self.object, self.cluster()) {
            return self.fail(why);
        }
        let created = self.object.metadata.creation_timestamp.as_ref().map(|time| time.0);
        if let Some(other) = attempts::blocker(created, self.object.name(), &self.observed.tests) {
            let what = if other.runs { "runs" } else { "comes first" };
            return self.say(format!("the restore test of Backup {} of this cluster {what}", other.name));
        }
        self.test.phase = VerificationPhase::Testing;
        self.test.cluster = Some(name);
        (self.test.started_at, self.test.progressed_at) = (Some(self.now), Some(self.now));
        self.requeue = POLLS.0;
        self.create();
    }

    /// Creates the throw-away cluster. It is repeated until that is seen; a second time it does nothing.
    fn create(&mut self) {
        match throw_away(self.object, self.cluster()) {
            Err(why) => self.fail(why),
            Ok(cluster) => {
                let name = cluster_name(self.object.name());
                self.say(format!("PostgresCluster {name} is created, to restore it"));
                self.steps.push(Step::CreateTest { name, cluster: Box::new(cluster) });
            }
        }
    }

    /// Follows the throw-away cluster.
    fn follow(&mut self) {
        let name = cluster_name(self.object.name());
        let Some(test) = &self.observed.test else {
            return match (&self.test.uid, self.still() >= PATIENCE) {
                (Some(_), _) => self.fail(format!("PostgresCluster {name} was deleted meanwhile")),
                (None, true) => self.fail(format!("PostgresCluster {name} could not be created")),
                (None, false) => self.create(),
            };
        };
        if !is_of(test, self.object) {
            return self.fail(format!("PostgresCluster {name} exists and is not of this Backup: remove it"));
        }
        if test.metadata.deletion_timestamp.is_some() {
            return self.fail(format!("PostgresCluster {name} was deleted meanwhile"));
        }
        self.test.uid.clone_from(&test.metadata.uid);
        let status = test.status.clone().unwrap_or_default();
        let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
        let waits = ready.map_or_else(|| "it is being created".to_owned(), |ready| ready.message.clone());
        let Some(recovery) = status.recovery else {
            if status.phase == ClusterPhase::Healthy {
                return self.fail(format!(
                    "the volume of PostgresCluster {name} had data of somebody else: remove it, and ask again"
                ));
            }
            return self.wait(None, &waits);
        };
        match recovery.phase {
            RecoveryPhase::Completed => self.judge(&recovery),
            _ if recovery.failures > 0 => {
                let why = recovery.last_failure.as_deref().unwrap_or("the instance gives no reason");
                self.fail(why);
            }
            _ => self.wait(recovery.progressed_at, &recovery.message),
        }
    }

    /// Time since the test was last seen to go on, as this operator knows it.
    fn still(&self) -> Duration {
        self.test.progressed_at.map(|since| waited(&self.observed.waited, since)).unwrap_or_default()
    }

    /// `at`: when it last went on, as its own status says.
    fn wait(&mut self, at: Option<Timestamp>, message: &str) {
        if at.is_some_and(|at| self.test.progressed_at != Some(at)) {
            self.test.progressed_at = at;
        } else if self.still() >= PATIENCE {
            return self.fail(format!("nothing went on for 30 min; the last was: {message}"));
        }
        let name = cluster_name(self.object.name());
        self.say(format!("PostgresCluster {name}: {message}"));
    }

    fn judge(&mut self, recovery: &RecoveryStatus) {
        let Some(reached) = &recovery.reached else { return self.fail("it is not known where the replay ended") };
        if !recovery.unchecked.is_empty() {
            let missing = recovery.unchecked.join("; ");
            return self.fail(format!("it was restored to {}, but not everything was checked: {missing}", reached.lsn));
        }
        let seconds = self.test.started_at.map_or(0, |started| self.now.duration_since(started).as_secs());
        let took = Span::seconds(u64::try_from(seconds).unwrap_or_default());
        let commit = reached.last_commit.map(|at| format!(", last commit at {at}")).unwrap_or_default();
        let checks: Vec<_> = recovery.checks.iter().map(|check| in_words(check)).collect();
        let lsn = reached.lsn;
        self.status.verified = Some(Verified { at: self.now, lsn, last_commit: reached.last_commit, took });
        let message = format!("restored to LSN {lsn}{commit}, in {took}; passed: {}", checks.join(", "));
        self.end(VerificationResult::Passed, message);
    }

    fn fail(&mut self, why: impl Into<String>) {
        self.end(VerificationResult::Failed, why.into());
    }

    fn end(&mut self, result: VerificationResult, message: String) {
        self.say(message.clone());
        self.test.result = result;
        // One that never began says nothing about the backup.
        self.test.ended_at = self.test.started_at.map(|_| self.now);
        self.test.phase = VerificationPhase::Removing;
        self.steps.push(Step::Tested { passed: result == VerificationResult::Passed, message });
        self.remove();
    }

    /// Removes the throw-away cluster, and waits until it is gone.
    fn remove(&mut self) {
        let Some(test) = self.ours().map(|test| test.metadata.clone()) else {
            self.test.phase = VerificationPhase::Ended;
            return;
        };
        self.requeue = POLLS.0;
        if test.deletion_timestamp.is_none() {
            let uid = test.uid;
            self.steps.push(Step::RemoveTest { name: cluster_name(self.object.name()), uid });
        }
    }
}

/// A check in words for people.
fn in_words(check: &str) -> &str {
    match check {
        "checksums" => "page checksums",
        other => other,
    }
}

/// Whether the throw-away cluster was created for this Backup.
fn is_of(test: &PostgresCluster, object: &Backup) -> bool {
    let owners = test.metadata.owner_references.iter().flatten();
    owners.map(|owner| Some(&owner.uid)).any(|uid| uid == object.metadata.uid.as_ref())
}

/// The archive of a cluster as the source of another one.
fn source_of(backup: &BackupSpec, path: &str) -> Value {
    let mut source = json!({"store": backup.store, "path": path});
    if let Some(encryption) = &backup.encryption {
        source["encryption"] = json!(encryption);
    }
    source
}

/// The throw-away cluster; or why there can be none.
fn throw_away(object: &Backup, cluster: Option<&PostgresCluster>) -> Result<Value, String> {
    let name = &object.cluster().name;
    let there = cluster.filter(|cluster| cluster.metadata.deletion_timestamp.is_none());
    let Some(cluster) = there else { return Err(format!("PostgresCluster {name} does not exist in this namespace")) };
    let decisions = cluster.status.as_ref().and_then(|status| status.decisions.as_ref());
    let archive = decisions.and_then(|decisions| decisions.archive.as_ref());
    let Some((backup, path)) = cluster.spec.backup.as_ref().zip(archive) else {
        return Err(format!(
            "PostgresCluster {name} has no archive: it has no spec.backup, or has archived nothing yet"
        ));
    };
    let source = &cluster.spec;
    let needed = |(setting, _): &(&String, &String)| NEEDED.contains(&setting.as_str());
    let parameters: BTreeMap<_, _> = source.parameters.iter().filter(needed).collect();
    let mut spec = json!({
        "image": source.image,
        "instances": 1,
        "parameters": parameters,
        "storage": {"reclaimPolicy": "Delete"},
        "bootstrap": {"recovery": {
            "source": source_of(backup, path),
            "target": {"backupID": object.status.as_ref().and_then(|status| status.backup_id.as_ref())},
            "database": source.bootstrap.database(),
            "owner": source.bootstrap.owner(),
            "verify": true,
        }},
    });
    let declared = serde_json::to_value(source).unwrap_or_default();
    for part in ["resources", "shmSize", "ulimits", "placement"] {
        if let Some(value) = declared.get(part) {
            spec[part] = value.clone();
        }
    }
    let label = object.name().chars().take(63).collect::<String>();
    Ok(json!({
        "apiVersion": "evenkeel.dev/v1alpha1",
        "kind": PostgresCluster::KIND,
        "metadata": {
            "labels": {(TEST_OF): label.trim_end_matches(['-', '.'])},
            "ownerReferences": [{
                "apiVersion": "evenkeel.dev/v1alpha1", "kind": Backup::KIND, "name": object.name(),
                "uid": object.metadata.uid, "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "spec": spec,
    }))
}
