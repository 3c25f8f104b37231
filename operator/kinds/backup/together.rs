//! Plans a Backup over several objects: it tries everything while the pods run, lets the Deployments have no pods, has the volumes
//! copied and the restore points made, and lets the pods come back. Pure.
//!
//! Invariants: the pods are let go by every way out of `Quiescing` and `Copying`, and by the Deployments themselves when this object
//! is gone or its time is over. Nothing counts as copied unless no pod was there until after the last copy was complete. There is
//! one attempt: another one would stop the pods again, and a person or a schedule decides that.

use std::time::Duration;

use jiff::Timestamp;

use super::{BackupKind, Observed, Step, TogetherSeen, plan};
use crate::api::backup::{Backup, BaseBackupPhase, BaseBackupStatus};
use crate::api::backup_id::backup_id;
use crate::api::conditions::{self, no, yes};
use crate::api::deployment::Deployment;
use crate::api::hash::short_hash;
use crate::api::object::Object as _;
use crate::api::postgres_cluster::{Decisions, PostgresCluster, Stage};
use crate::api::quantity::shown;
use crate::api::together::{ClusterPoint, PartPhase, Together, TogetherStatus, VolumeCopy};
use crate::api::volume_claims::copy_folder;
use crate::kinds::attempts::{self, Attempt, Other, PATIENCE, POLLS, Standing, rate};
use crate::kinds::porters::{self, Porter};
use crate::kinds::waits::waited;
use crate::runtime::{Plan, Planned, Want};
use crate::supervisor::porter::wire::Way;
use crate::supervisor::wire::{BackupPhase, PointOrder};

/// Most bytes of the name of a restore point.
const POINT: usize = 63;
/// After its decision the next one may be due already.
const AT_ONCE: Duration = Duration::from_millis(50);
/// While the pods are stopped, nothing is waited for longer than this without progress.
const STALLED: Duration = Duration::from_secs(120);
/// The Deployments have noticed after this time that they are held no more.
const NOTICED: Duration = Duration::from_secs(30);
/// The one attempt.
const FIRST: u32 = 1;

/// Why it cannot go on: the reason and the message.
type Wait = (&'static str, String);

/// Whether a Backup may run now, as far as the others over its objects are concerned.
pub fn may_run(object: &Backup, others: &[Other]) -> bool {
    blocker(object, others).is_none()
}

fn blocker<'a>(object: &Backup, others: &'a [Other]) -> Option<&'a Other> {
    if object.status.as_ref().is_some_and(|status| status.backup_id.is_some()) {
        return None;
    }
    let created = object.metadata.creation_timestamp.as_ref().map(|time| time.0);
    attempts::blocker(created, object.name(), others)
}

/// Pure: what to record, and what to tell porters and supervisors.
pub fn plan(
    (object, together): (&Backup, &Together),
    observed: &Observed,
    want: Want,
    now: Timestamp,
) -> Planned<BackupKind> {
    let nothing = TogetherSeen::default();
    let seen = observed.together.as_deref().unwrap_or(&nothing);
    let before = object.status.clone().unwrap_or_default();
    let parts = before.together.clone().unwrap_or_default();
    let status = BaseBackupStatus { observed_generation: object.metadata.generation.unwrap_or_default(), ..before };
    let mut planner =
        Planner { object, together, observed, seen, now, status, parts, steps: Vec::new(), requeue: POLLS.2 };
    let ended = planner.status.phase.is_terminal();
    match (want, planner.status.phase) {
        (Want::Absent, _) => {
            planner.parts.holds = false;
            let finished = planner.clear();
            return Plan { requeue: (!finished).then_some(POLLS.1), finished, ..planner.finish() };
        }
        (_, _) if ended => {
            if !planner.parts.cleared {
                planner.parts.cleared = planner.clear();
            }
            let cleared = planner.parts.cleared;
            let status = BaseBackupStatus { together: Some(planner.parts), ..planner.status };
            return Plan { status, steps: planner.steps, requeue: (!cleared).then_some(POLLS.1), finished: false };
        }
        (Want::Paused, _) => {
            planner.say("Paused", "reconciliation is paused by annotation; pods that are stopped come back in time")
        }
        (_, BaseBackupPhase::Preparing) => planner.prepare(),
        (_, BaseBackupPhase::Quiescing) => planner.quiesce(),
        (_, BaseBackupPhase::Copying) => planner.copy(),
        (_, BaseBackupPhase::Releasing | BaseBackupPhase::WaitingForWal) => planner.release(),
        _ => planner.begin(),
    }
    planner.finish()
}

struct Planner<'a> {
    object: &'a Backup,
    together: &'a Together,
    observed: &'a Observed,
    seen: &'a TogetherSeen,
    now: Timestamp,
    status: BaseBackupStatus,
    parts: TogetherStatus,
    steps: Vec<Step>,
    requeue: Duration,
}

impl Planner<'_> {
    fn say(&mut self, reason: &str, message: impl Into<String>) {
        (self.status.reason, self.status.message) = (reason.to_owned(), message.into());
    }

    fn finish(mut self) -> Planned<BackupKind> {
        let (reason, message) = (self.status.reason.clone(), self.status.message.clone());
        let verdict = match self.status.phase {
            BaseBackupPhase::Completed => yes(&reason, message),
            _ => no(&reason, message),
        };
        let generation = self.status.observed_generation;
        conditions::set(&mut self.status.conditions, plan::COMPLETED, verdict, generation, self.now);
        self.status.together = Some(self.parts);
        Plan { status: self.status, steps: self.steps, requeue: Some(self.requeue), finished: false }
    }

    /// Time since it last went on, as this operator knows it.
    fn still(&self) -> Duration {
        self.status.progressed_at.map(|since| waited(&self.observed.waited, since)).unwrap_or_default()
    }

    fn enter(&mut self, phase: BaseBackupPhase) {
        (self.status.phase, self.status.progressed_at, self.requeue) = (phase, Some(self.now), AT_ONCE);
    }

    /// Decides to begin, or says what it waits for.
    fn begin(&mut self) {
        if let Some(other) = blocker(self.object, &self.seen.others) {
            let what = if other.runs { "runs" } else { "comes first" };
            return self.say("AnotherBackupRuns", format!("Backup {} over some of these objects {what}", other.name));
        }
        match self.volumes() {
            Err((reason, message)) => self.say(reason, message),
            Ok(volumes) => {
                let id = backup_id(self.now);
                let name = format!("{}-{id}", self.object.name());
                let point = if name.len() <= POINT { name } else { format!("{}-{id}", short_hash(&name, 16)) };
                let folder = |claim: &str| copy_folder(self.object.namespace(), claim, &id);
                let volumes = volumes.into_iter().map(|copy| VolumeCopy { path: folder(&copy.claim), ..copy });
                let clusters = self
                    .together
                    .clusters
                    .iter()
                    .map(|one| ClusterPoint { name: one.name.clone(), ..Default::default() });
                self.parts = TogetherStatus {
                    point: (!self.together.clusters.is_empty()).then_some(point),
                    volumes: volumes.collect(),
                    clusters: clusters.collect(),
                    ..TogetherStatus::default()
                };
                (self.status.backup_id, self.status.attempt) = (Some(id), FIRST);
                (self.status.store, self.status.started_at) = (Some(self.together.store.clone()), Some(self.now));
                self.status.encryption.clone_from(&self.together.encryption);
                self.enter(BaseBackupPhase::Preparing);
                self.say("Preparing", "it is tried whether everything can be copied; the pods run");
            }
        }
    }

    /// The volumes to copy; or why nothing can begin now.
    fn volumes(&self) -> Result<Vec<VolumeCopy>, Wait> {
        for one in &self.together.deployments {
            let name = &one.name;
            let found = self.seen.deployments.get(name).filter(|found| found.metadata.deletion_timestamp.is_none());
            let Some(found) = found else {
                return Err(("DeploymentNotFound", format!("Deployment {name} does not exist in this namespace")));
            };
            if found.want() == Want::Paused {
                return Err((
                    "DeploymentPaused",
                    format!("Deployment {name} is paused by annotation, so its pods cannot be stopped"),
                ));
            }
        }
        let named = |name: &str| self.together.deployments.iter().any(|one| one.name == name);
        let mut volumes = Vec::new();
        for (claim, deployment) in self.together.claims() {
            if let Some(other) = self.seen.deployments.values().find(|one| !named(one.name()) && writes(one, claim)) {
                let message = format!(
                    "Deployment {} may write the volume of claim {claim} too: name it in spec.together.deployments",
                    other.name()
                );
                return Err(("AnotherWriter", message));
            }
            let Some(volume) = self.seen.volumes.iter().find(|one| one.claim == claim) else {
                let message = format!(
                    "claim {claim} of Deployment {deployment} has no volume that can be seen now: the template needs a \
                     persistentVolumeClaim of that claimName which is not readOnly, the Deployment must have had a pod, and the host \
                     must answer"
                );
                return Err(("VolumeNotFound", message));
            };
            volumes.push(VolumeCopy {
                claim: claim.to_owned(),
                deployment: deployment.to_owned(),
                host: volume.host.clone(),
                volume: volume.volume.clone(),
                porter: format!("{}.porter-{}", self.object.name(), volumes.len() + 1),
                ..VolumeCopy::default()
            });
        }
        if let Some((reason, message)) = &self.seen.closed {
            return Err((reason, message.clone()));
        }
        for one in &self.together.clusters {
            self.leader(&one.name)?;
        }
        Ok(volumes)
    }

    /// The primary of a cluster and the folder of its archive; or why there can be no restore point now.
    fn leader(&self, name: &str) -> Result<(String, String), Wait> {
        let cluster = self.seen.clusters.get(name).filter(|cluster| cluster.metadata.deletion_timestamp.is_none());
        let Some(cluster) = cluster else {
            return Err(("ClusterNotFound", format!("PostgresCluster {name} does not exist in this namespace")));
        };
        if cluster.spec.backup.is_none() {
            return Err(("NoBackupStore", format!("PostgresCluster {name} has no spec.backup")));
        }
        let decisions = decisions(cluster);
        let Some(archive) = decisions.and_then(|decisions| decisions.archive.clone()) else {
            return Err(("ArchiveNotReady", format!("PostgresCluster {name} has no archive in its store yet")));
        };
        let steady = decisions.filter(|decisions| decisions.stage == Stage::Steady);
        let Some(leader) = steady.and_then(Decisions::leader_name) else {
            return Err(("NoPrimary", format!("PostgresCluster {name} has no primary now")));
        };
        if let Some(why) = attempts::unfit(&self.seen.links, leader) {
            return Err(("NoPrimary", why));
        }
        match self.seen.links.get(leader).is_some_and(|link| link.report.gate_open) {
            true => Ok((leader.to_owned(), archive)),
            false => Err(("NoPrimary", format!("the primary {leader} takes no clients now"))),
        }
    }

    /// The porters run, and no others.
    fn keep_porters(&mut self) {
        let porters: Vec<_> = self.parts.volumes.iter().map(porter).collect();
        let steps = porters::converge(&self.object.owner(), &porters, &self.seen.docker, &self.seen.work);
        self.steps.extend(steps.into_iter().map(Step::Docker));
    }

    /// Removes what runs; whether nothing is left.
    fn clear(&mut self) -> bool {
        let steps = porters::converge(&self.object.owner(), &[], &self.seen.docker, &self.seen.work);
        self.steps.extend(steps.into_iter().map(Step::Docker));
        porters::gone(&self.seen.docker)
    }

    /// Tries everything while the pods run; then lets the Deployments have none.
    fn prepare(&mut self) {
        self.requeue = POLLS.1;
        self.keep_porters();
        let mut waits = Vec::new();
        for at in 0..self.parts.volumes.len() {
            let copy = self.parts.volumes[at].clone();
            let link = self.seen.porters.get(&copy.porter).filter(|link| link.live());
            let tried = link.and_then(|link| link.report.tried.as_ref()).filter(|tried| {
                Some(&tried.id) == self.status.backup_id.as_ref() && tried.attempt == self.status.attempt
            });
            self.parts.volumes[at].phase = PartPhase::Pending;
            match tried.map(|tried| (&tried.problem, tried.lasting)) {
                Some((None, _)) => self.parts.volumes[at].phase = PartPhase::Ready,
                Some((Some(problem), true)) => {
                    return self.fail(&format!("the volume of claim {} cannot be copied: {problem}", copy.claim));
                }
                Some((Some(problem), false)) => waits.push(format!("claim {}: {problem}", copy.claim)),
                None => waits.push(format!("{} has not answered yet", copy.porter)),
            }
            if link.is_some() && self.parts.volumes[at].phase == PartPhase::Pending {
                self.steps.push(order(&copy, false));
            }
        }
        let waits = match self.volumes() {
            Err((_, message)) => Some(message),
            Ok(_) => waits.into_iter().next(),
        };
        if let Some(waits) = waits {
            if self.still() >= PATIENCE {
                return self.fail(&format!("it was not possible within 10 min; the pods ran on: {waits}"));
            }
            return self.say("Preparing", format!("the pods run; waiting: {waits}"));
        }
        let until = self.now.saturating_add(self.together.timeout.get()).unwrap_or(self.now);
        (self.parts.holds, self.parts.until) = (true, Some(until));
        self.enter(BaseBackupPhase::Quiescing);
        let message = format!("the pods of {} are stopped", self.names());
        self.say("Quiescing", message.clone());
        self.steps.push(Step::Pods { reason: "PodsStopped", message });
    }

    /// The Deployments, for people.
    fn names(&self) -> String {
        self.together.deployments.iter().map(|one| one.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// A Deployment that is not held by this Backup, or has pods; `None`: no pod is there.
    fn busy(&self) -> Option<String> {
        let uid = self.object.metadata.uid.clone().unwrap_or_default();
        self.together.deployments.iter().find_map(|one| {
            let Some(found) = self.seen.deployments.get(&one.name) else {
                return Some(format!("Deployment {} does not exist any more", one.name));
            };
            let status = found.status.clone().unwrap_or_default();
            let pods = status.decisions.as_ref().map_or(0, |decided| decided.pods.len()).max(status.pods.len());
            match status.held_by {
                _ if pods > 0 => Some(format!("Deployment {} still has pods: {pods}", one.name)),
                Some(by) if by.uid == uid => None,
                _ => Some(format!("Deployment {} may have pods", one.name)),
            }
        })
    }

    fn is_over(&self) -> bool {
        self.parts.until.is_none_or(|until| self.now >= until)
    }

    /// Waits until no pod is there.
    fn quiesce(&mut self) {
        self.requeue = POLLS.1;
        self.keep_porters();
        if let Some(busy) = self.busy() {
            if self.is_over() {
                return self.fail(&format!("the pods did not stop within {}: {busy}", self.together.timeout));
            }
            return self.say("Quiescing", format!("waiting until no pod is there: {busy}"));
        }
        self.parts.quiet_at = Some(self.now);
        self.enter(BaseBackupPhase::Copying);
        self.say("Copying", "no pod is there; the volumes are copied");
    }

    /// Follows the copies and the restore points; lets the pods come back when all are made.
    fn copy(&mut self) {
        self.requeue = POLLS.1;
        self.keep_porters();
        if let Some(busy) = self.busy() {
            return self.fail(&format!("the volumes are not copied, and {busy}: what was read is of no one moment"));
        }
        if self.is_over() {
            return self
                .fail(&format!("it was not complete within {}: {}", self.together.timeout, self.status.message));
        }
        let mut waits = Vec::new();
        for at in 0..self.parts.volumes.len() {
            match self.follow_copy(at) {
                Ok(wait) => waits.extend(wait),
                Err(why) => return self.fail(&why),
            }
        }
        for at in 0..self.parts.clusters.len() {
            match self.follow_point(at) {
                Ok(wait) => waits.extend(wait),
                Err(why) => return self.fail(&why),
            }
        }
        let made = |phase: PartPhase| matches!(phase, PartPhase::WaitingForWal | PartPhase::Completed);
        let all = self.parts.volumes.iter().all(|one| one.phase == PartPhase::Completed)
            && self.parts.clusters.iter().all(|one| made(one.phase));
        if !all {
            if self.still() >= STALLED {
                return self.fail(&format!("nothing more was read or stored for 2 min: {}", waits.join("; ")));
            }
            return self.say("Copying", waits.join("; "));
        }
        (self.parts.holds, self.parts.released_at) = (false, Some(self.now));
        self.enter(BaseBackupPhase::Releasing);
        let message = format!("the pods of {} come back after {}", self.names(), self.pause());
        self.say("Releasing", message.clone());
        self.steps.push(Step::Pods { reason: "PodsReleased", message });
    }

    /// How long no pod was there, for people.
    fn pause(&self) -> String {
        let quiet = self.parts.quiet_at.zip(self.parts.released_at);
        quiet.map_or_else(String::new, |(from, to)| format!("{:.1} s", to.duration_since(from).as_secs_f64()))
    }

    /// How far the copy of a volume is, for people; or why it failed.
    fn follow_copy(&mut self, at: usize) -> Result<Option<String>, String> {
        let (copy, still) = (self.parts.volumes[at].clone(), self.still());
        if copy.phase == PartPhase::Completed {
            return Ok(None);
        }
        let told = porters::told(&self.seen.porters);
        let attempt = Attempt {
            member: &copy.porter,
            id: self.status.backup_id.as_deref().unwrap_or_default(),
            number: self.status.attempt,
            boot: copy.boot.as_deref(),
            still,
            moved: None,
            of: |report| report.backup.as_ref(),
        };
        let failed = |why: &str| format!("the copy of claim {} failed: {why}", copy.claim);
        let standing = attempt.standing(&told);
        let part = &mut self.parts.volumes[at];
        let state = match standing {
            Standing::Silent(why) => return Ok(Some(why)),
            Standing::Lost(why) => return Err(failed(&why)),
            Standing::Failed(state) => {
                return Err(failed(state.error.as_deref().unwrap_or("its porter gives no reason")));
            }
            Standing::Due => {
                self.steps.push(order(&copy, true));
                return Ok(Some(format!("{} is told to copy claim {}", copy.porter, copy.claim)));
            }
            Standing::Completed(state) => {
                part.phase = PartPhase::Completed;
                state
            }
            Standing::Runs(state) => {
                part.phase = PartPhase::Running;
                state
            }
        };
        let link = self.seen.porters.get(&copy.porter);
        part.boot = link.map(|link| link.report.boot.clone());
        if let Some(tally) = link.and_then(|link| link.report.tally).filter(|_| part.phase == PartPhase::Completed) {
            (part.entries, part.left_out) = (Some(tally.entries), Some(tally.left_out));
        }
        if part.bytes != Some(state.bytes) || part.phase != copy.phase {
            self.status.progressed_at = Some(self.now);
        }
        (part.bytes, part.stored_bytes) = (Some(state.bytes), Some(state.stored));
        let of = if state.total > 0 { format!(" of about {}", shown(state.total)) } else { String::new() };
        self.sum();
        Ok(Some(format!("claim {}: {}{of} read", copy.claim, shown(state.bytes))))
    }

    /// Bytes of all volumes.
    fn sum(&mut self) {
        let sum =
            |of: fn(&VolumeCopy) -> Option<u64>| self.parts.volumes.iter().filter_map(of).fold(0, u64::saturating_add);
        (self.status.bytes, self.status.stored_bytes) = (Some(sum(|one| one.bytes)), Some(sum(|one| one.stored_bytes)));
        let passed = self.parts.quiet_at.map(|since| self.now.duration_since(since).as_secs());
        self.status.rate = rate(self.status.bytes.unwrap_or_default(), passed);
    }

    /// How far a restore point is, for people; or why it failed.
    fn follow_point(&mut self, at: usize) -> Result<Option<String>, String> {
        let (point, still) = (self.parts.clusters[at].clone(), self.still());
        if point.phase == PartPhase::Completed {
            return Ok(None);
        }
        let name = &point.name;
        let failed = |why: &str| format!("the restore point of PostgresCluster {name} failed: {why}");
        let Some(member) = point.member.clone() else {
            return match self.leader(name) {
                Err((_, message)) => Ok(Some(message)),
                Ok((leader, archive)) => {
                    let part = &mut self.parts.clusters[at];
                    (part.member, part.archive) = (Some(leader.clone()), Some(archive));
                    // It gets its own time to begin, however long there was no primary.
                    self.status.progressed_at = Some(self.now);
                    self.make_point(&leader);
                    Ok(Some(format!("{leader} is told to make the restore point")))
                }
            };
        };
        let leads = self.seen.clusters.get(name).and_then(decisions).is_none_or(|decided| decided.is_leader(&member));
        let attempt = Attempt {
            member: &member,
            id: self.status.backup_id.as_deref().unwrap_or_default(),
            number: self.status.attempt,
            boot: point.boot.as_deref(),
            still,
            moved: (!leads).then_some("it is not the primary any more"),
            of: |report| report.point.as_ref(),
        };
        let state = match attempt.standing(&self.seen.links) {
            Standing::Silent(why) => return Ok(Some(why)),
            Standing::Lost(why) => return Err(failed(&why)),
            Standing::Failed(state) => {
                return Err(failed(state.error.as_deref().unwrap_or("its supervisor gives no reason")));
            }
            Standing::Due => {
                self.make_point(&member);
                return Ok(Some(format!("{member} is told to make the restore point")));
            }
            Standing::Completed(state) | Standing::Runs(state) => state,
        };
        let part = &mut self.parts.clusters[at];
        part.boot = self.seen.links.get(&member).map(|link| link.report.boot.clone());
        part.phase = match state.phase {
            BackupPhase::Completed => PartPhase::Completed,
            BackupPhase::WaitingForWal => PartPhase::WaitingForWal,
            _ => PartPhase::Running,
        };
        if let Some(span) = &state.span {
            (part.lsn, part.wal) = (Some(span.end), Some(span.end_wal.clone()));
        }
        if part.phase != point.phase {
            self.status.progressed_at = Some(self.now);
        }
        let wal = self.parts.clusters[at].wal.clone().unwrap_or_default();
        let waits = format!("PostgresCluster {name}: {wal} is not in the archive yet");
        Ok((self.parts.clusters[at].phase != PartPhase::Completed).then_some(waits))
    }

    /// It is told until it reports that; a second time it does nothing.
    fn make_point(&mut self, member: &str) {
        let order = PointOrder {
            id: self.status.backup_id.clone().unwrap_or_default(),
            attempt: self.status.attempt,
            name: self.parts.point.clone().unwrap_or_default(),
        };
        self.steps.push(Step::Point { member: member.to_owned(), order });
    }

    /// The pods come back; the archives get the restore points.
    fn release(&mut self) {
        self.requeue = POLLS.1;
        self.clear();
        let mut waits = Vec::new();
        for at in 0..self.parts.clusters.len() {
            match self.follow_point(at) {
                Ok(wait) => waits.extend(wait),
                Err(why) => return self.fail(&format!("{why}; the pods are back")),
            }
        }
        if !waits.is_empty() && self.still() >= PATIENCE {
            return self
                .fail(&format!("the restore point did not come into the archive within 10 min: {}", waits.join("; ")));
        }
        let held = self.held().filter(|_| self.released() < NOTICED);
        match (held, waits.is_empty()) {
            (Some(name), _) => {
                self.say("Releasing", format!("Deployment {name} has not noticed yet that its pods may come back"))
            }
            (None, false) => {
                self.status.phase = BaseBackupPhase::WaitingForWal;
                self.say(
                    "WaitingForWal",
                    format!("everything is copied, and the pods may be back: {}", waits.join("; ")),
                );
            }
            (None, true) => self.complete(),
        }
    }

    fn released(&self) -> Duration {
        self.parts.released_at.map(|since| waited(&self.observed.waited, since)).unwrap_or_default()
    }

    /// A Deployment that still says that this Backup holds it.
    fn held(&self) -> Option<String> {
        let uid = self.object.metadata.uid.clone().unwrap_or_default();
        let holds = |found: &Deployment| {
            found.status.as_ref().and_then(|status| status.held_by.as_ref()).is_some_and(|by| by.uid == uid)
        };
        let mut all = self.together.deployments.iter().filter_map(|one| self.seen.deployments.get(&one.name));
        all.find(|found| holds(found)).map(|found| found.name().to_owned())
    }

    fn complete(&mut self) {
        self.sum();
        self.status.phase = BaseBackupPhase::Completed;
        (self.status.stopped_at, self.status.progress) = (Some(self.now), Some("100%".into()));
        let (volumes, bytes) = (self.parts.volumes.len(), self.status.bytes.unwrap_or_default());
        let stored = shown(self.status.stored_bytes.unwrap_or_default());
        let point = self.parts.point.iter().map(|name| format!(", restore point {name}")).collect::<String>();
        let many = if volumes == 1 { "volume" } else { "volumes" };
        let message = format!(
            "{volumes} {many}, {}, stored as {stored}{point}; no pod was there for {}",
            shown(bytes),
            self.pause()
        );
        self.say("Completed", message.clone());
        self.steps.push(Step::Tell { completed: true, message });
    }

    /// It failed for good; the pods come back.
    fn fail(&mut self, why: &str) {
        if std::mem::take(&mut self.parts.holds) {
            self.parts.released_at = Some(self.now);
        }
        // What was to be done is not done any more.
        self.steps.retain(|step| matches!(step, Step::Docker(_)));
        (self.status.phase, self.status.stopped_at) = (BaseBackupPhase::Failed, Some(self.now));
        self.requeue = AT_ONCE;
        self.say("Failed", why);
        self.steps.push(Step::Tell { completed: false, message: why.to_owned() });
    }
}

fn decisions(cluster: &PostgresCluster) -> Option<&Decisions> {
    cluster.status.as_ref()?.decisions.as_ref()
}

fn porter(copy: &VolumeCopy) -> Porter<'_> {
    Porter { name: &copy.porter, host: &copy.host, claim: &copy.claim, volume: &copy.volume, way: Way::Store }
}

fn order(copy: &VolumeCopy, begin: bool) -> Step {
    Step::Copy { porter: copy.porter.clone(), claim: copy.claim.clone(), path: copy.path.clone(), begin }
}

/// Whether the pods of a Deployment may write the volume of this claim.
fn writes(deployment: &Deployment, claim: &str) -> bool {
    let volumes = deployment.spec.template.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let mut claims = volumes.filter_map(|volume| volume.persistent_volume_claim.as_ref());
    claims.any(|one| one.claim_name == claim && one.read_only != Some(true))
}
