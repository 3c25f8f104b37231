//! Plans a VolumeRestore: whose turn it is, which copy is meant, and what the porter's report means. Pure.
//!
//! Invariants: no porter begins to write unless no Deployment with the claim has pods, and each says that it creates none for this
//! object. `partial` is recorded before the first byte is written and until the last one is on the disk; a volume that has a part is
//! removed when the object is deleted.

use std::time::Duration;

use jiff::Timestamp;

use super::{Observed, Step, VolumeRestoreKind, id};
use crate::api::backup::{AttemptFailure, Backup, BaseBackupPhase};
use crate::api::conditions::{self, no, yes};
use crate::api::deployment::Deployment;
use crate::api::docker_host::LOCAL;
use crate::api::object::Object as _;
use crate::api::quantity::shown;
use crate::api::together::VolumeCopy;
use crate::api::volume_claims;
use crate::api::volume_restore::{VolumeRestore, VolumeRestorePhase, VolumeRestoreStatus};
use crate::kinds::attempts::{self, ATTEMPTS, Attempt, PATIENCE, POLLS, Standing, pause, percent, rate, took};
use crate::kinds::containers::DockerStep;
use crate::kinds::porters::{self, Porter};
use crate::kinds::waits::waited;
use crate::runtime::{Plan, Planned, Want};
use crate::supervisor::porter::wire::{Tried, Way};
use crate::supervisor::wire::BackupState;

/// The condition of a VolumeRestore.
pub const COMPLETED: &str = "Completed";

/// Why it cannot begin: the reason and the message.
type Wait = (&'static str, String);

/// The host of the volume.
pub fn host(object: &VolumeRestore, backup: Option<&Backup>) -> String {
    let read_on = || copy(object, backup?).map(|copy| copy.host.clone());
    object.spec.host.clone().or_else(read_on).unwrap_or_else(|| LOCAL.to_owned())
}

/// The copy in a Backup that is meant.
fn copy<'a>(object: &VolumeRestore, backup: &'a Backup) -> Option<&'a VolumeCopy> {
    let together = backup.status.as_ref()?.together.as_ref()?;
    together.volumes.iter().find(|copy| copy.claim == object.spec.source_claim())
}

/// Pure: what to record about the restore, and what to tell the porter.
pub fn plan(object: &VolumeRestore, observed: &Observed, want: Want, now: Timestamp) -> Planned<VolumeRestoreKind> {
    let before = object.status.clone().unwrap_or_default();
    let status = VolumeRestoreStatus { observed_generation: object.metadata.generation.unwrap_or_default(), ..before };
    let porter = format!("{}.porter", object.name());
    let mut planner = Planner { object, observed, now, porter, status, steps: Vec::new(), requeue: POLLS.2 };
    match want {
        Want::Absent => return planner.tear_down(),
        _ if planner.status.phase.is_terminal() => {
            planner.status.cleared = planner.status.cleared || planner.clear();
            let requeue = (!planner.status.cleared).then_some(POLLS.1);
            return Plan { status: planner.status, steps: planner.steps, requeue, finished: false };
        }
        Want::Paused => planner.say("Paused", "reconciliation is paused by annotation; a restore that runs goes on"),
        Want::Present if planner.status.phase == VolumeRestorePhase::Running => planner.follow(),
        Want::Present => planner.begin(),
    }
    planner.finish()
}

struct Planner<'a> {
    object: &'a VolumeRestore,
    observed: &'a Observed,
    now: Timestamp,
    porter: String,
    status: VolumeRestoreStatus,
    steps: Vec<Step>,
    requeue: Duration,
}

impl Planner<'_> {
    fn say(&mut self, reason: &str, message: impl Into<String>) {
        (self.status.reason, self.status.message) = (reason.to_owned(), message.into());
    }

    fn finish(mut self) -> Planned<VolumeRestoreKind> {
        let (reason, message) = (self.status.reason.clone(), self.status.message.clone());
        let verdict = match self.status.phase {
            VolumeRestorePhase::Completed => yes(&reason, message),
            _ => no(&reason, message),
        };
        let generation = self.status.observed_generation;
        conditions::set(&mut self.status.conditions, COMPLETED, verdict, generation, self.now);
        Plan { status: self.status, steps: self.steps, requeue: Some(self.requeue), finished: false }
    }

    /// Time since the attempt last made progress, as this operator knows it.
    fn still(&self) -> Duration {
        self.status.progressed_at.map(|since| waited(&self.observed.waited, since)).unwrap_or_default()
    }

    /// Removes the porter; whether it is gone.
    fn clear(&mut self) -> bool {
        let steps = porters::converge(&self.object.owner(), &[], &self.observed.docker, &self.observed.work);
        self.steps.extend(steps.into_iter().map(Step::Docker));
        porters::gone(&self.observed.docker)
    }

    /// Removes the porter, and a volume that has a part of the data and not all.
    fn tear_down(mut self) -> Planned<VolumeRestoreKind> {
        let gone = self.clear();
        let left = self.status.partial && self.observed.exists != Some(false) && !self.observed.docker.is_empty();
        if gone
            && left
            && let (Some(host), Some(volume)) = (&self.status.host, &self.status.volume)
        {
            self.steps.push(Step::Docker(DockerStep::remove_volume(host, &self.porter, volume, true)));
        }
        let finished = gone && !left;
        Plan { status: self.status, steps: self.steps, requeue: (!finished).then_some(POLLS.1), finished }
    }

    /// Decides the next attempt, or says what it waits for.
    fn begin(&mut self) {
        let since = *self.status.progressed_at.get_or_insert(self.now);
        let (known, pause) = (waited(&self.observed.waited, since), pause(self.status.attempt));
        if known < pause {
            self.requeue = pause.saturating_sub(known).min(POLLS.2);
            return;
        }
        match self.choose() {
            Err((reason, message)) => self.say(reason, message),
            Ok(path) => {
                let volume = volume_claims::volume(self.object.namespace(), &self.object.spec.claim);
                let host = host(self.object, self.observed.backup.as_ref());
                let status = &mut self.status;
                (status.host, status.volume) = (status.host.take().or(Some(host)), Some(volume));
                (status.path, status.phase) = (Some(path), VolumeRestorePhase::Running);
                status.attempt += 1;
                (status.boot, status.progressed_at) = (None, Some(self.now));
                self.requeue = POLLS.1;
                self.keep_porter();
                self.say("Starting", format!("the container {} is made", self.porter));
            }
        }
    }

    /// The folder of the copy; or why it cannot be restored now.
    fn choose(&self) -> Result<String, Wait> {
        let (from, observed) = (&self.object.spec.from, self.observed);
        let created = self.object.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let blocker = attempts::blocker(created, self.object.name(), &observed.others);
        if let Some(other) = blocker.filter(|_| self.status.attempt == 0) {
            let what = if other.runs { "runs" } else { "comes first" };
            return Err(("AnotherRestoreRuns", format!("VolumeRestore {} into this claim {what}", other.name)));
        }
        let path = match (&from.backup, &observed.backup) {
            (Some(name), None) => {
                return Err(("BackupNotFound", format!("Backup {name} does not exist in this namespace")));
            }
            (Some(name), Some(backup)) => {
                if backup.spec.together.is_none() {
                    return Err(("NoVolumes", format!("Backup {name} has no volumes: it has no spec.together")));
                }
                let phase = backup.status.as_ref().map(|status| status.phase).unwrap_or_default();
                if phase != BaseBackupPhase::Completed {
                    return Err(("BackupNotCompleted", format!("Backup {name} is not complete, but {phase}")));
                }
                let claim = self.object.spec.source_claim();
                let missing = || ("ClaimNotFound", format!("Backup {name} has no claim {claim}: give spec.from.claim"));
                copy(self.object, backup).map(|copy| copy.path.clone()).ok_or_else(missing)?
            }
            (None, _) => from.path.clone().unwrap_or_default(),
        };
        if let Some((reason, message)) = &observed.closed {
            return Err((reason, message.clone()));
        }
        if observed.docker.is_empty() {
            let host = host(self.object, observed.backup.as_ref());
            return Err(("HostNotFound", format!("DockerHost {host} does not exist: give spec.host")));
        }
        Ok(path)
    }

    fn keep_porter(&mut self) {
        let (host, volume) =
            (self.status.host.clone().unwrap_or_default(), self.status.volume.clone().unwrap_or_default());
        let (name, claim) = (self.porter.clone(), self.object.spec.claim.clone());
        let porter = Porter { name: &name, host: &host, claim: &claim, volume: &volume, way: Way::Restore };
        let (owner, observed) = (self.object.owner(), self.observed);
        let steps = porters::converge(&owner, &[porter], &observed.docker, &observed.work);
        self.steps.extend(steps.into_iter().map(Step::Docker));
    }

    /// A Deployment with the claim that has pods, or does not say yet that it creates none.
    fn busy(&self) -> Option<Wait> {
        let uid = id(self.object);
        let volume = self.status.volume.clone().unwrap_or_default();
        self.observed.claimants.iter().find_map(|one: &Deployment| {
            let (name, status) = (one.name(), one.status.clone().unwrap_or_default());
            let decisions = status.decisions.unwrap_or_default();
            let pods = decisions.pods.len().max(status.pods.len());
            let decided = decisions.claims.as_ref().and_then(|claims| claims.get(&self.object.spec.claim));
            match status.held_by {
                _ if pods > 0 => {
                    Some(("VolumeInUse", format!("Deployment {name} claims the volume and has pods: scale it to 0")))
                }
                _ if decided.is_some_and(|decided| *decided != volume) => Some((
                    "AnotherVolume",
                    format!("the claim is another Docker volume in Deployment {name}, made by hand: restore into another claim"),
                )),
                Some(by) if by.uid == uid => None,
                _ => Some(("VolumeInUse", format!("Deployment {name} has not said yet that it creates no pods"))),
            }
        })
    }

    /// Follows the attempt.
    fn follow(&mut self) {
        self.requeue = POLLS.1;
        self.keep_porter();
        let told = porters::told(&self.observed.porters);
        let (id, boot) = (id(self.object), self.status.boot.clone());
        let attempt = Attempt {
            member: &self.porter,
            id: &id,
            number: self.status.attempt,
            boot: boot.as_deref(),
            still: self.still(),
            moved: None,
            of: |report| report.backup.as_ref(),
        };
        match attempt.standing(&told) {
            Standing::Silent(why) => self.say("PorterSilent", why),
            // It may have to wait for the Deployments, or for the store.
            Standing::Lost(_) | Standing::Due if boot.is_none() && self.answers() => self.start(),
            Standing::Lost(why) => self.fail(&why, false),
            Standing::Due => self.start(),
            Standing::Runs(state) => self.progress(state),
            Standing::Completed(state) => self.complete(state),
            Standing::Failed(state) => {
                self.fail(state.error.as_deref().unwrap_or("its porter gives no reason"), state.lasting);
            }
        }
    }

    fn answers(&self) -> bool {
        self.observed.porters.get(&self.porter).is_some_and(|link| link.live())
    }

    /// What the porter has found when it tried this attempt.
    fn tried(&self) -> Option<&Tried> {
        let tried = self.observed.porters.get(&self.porter)?.report.tried.as_ref();
        tried.filter(|tried| tried.id == id(self.object) && tried.attempt == self.status.attempt)
    }

    /// Lets the porter try, and then begin once nobody uses the volume.
    fn start(&mut self) {
        let (path, attempt) = (self.status.path.clone().unwrap_or_default(), self.status.attempt);
        let step = |begin| Step::Restore { porter: self.porter.clone(), path: path.clone(), attempt, begin };
        let problem = self.tried().map(|tried| (tried.problem.clone(), tried.lasting));
        match problem {
            None => {
                self.steps.push(step(false));
                self.say("Starting", format!("it is tried whether {path} can be restored"));
            }
            Some((Some(problem), true)) => self.fail(&problem, true),
            Some((Some(problem), false)) => {
                self.steps.push(step(false));
                self.say("NotPossibleNow", format!("{problem}; it is tried again"));
            }
            Some((None, _)) => match self.busy() {
                Some((reason, message)) => self.say(reason, message),
                None => {
                    self.steps.push(step(true));
                    self.status.partial = true;
                    self.say("Starting", format!("{} is told to restore {path}", self.porter));
                }
            },
        }
    }

    fn progress(&mut self, state: &BackupState) {
        if self.status.bytes != Some(state.bytes) || self.status.boot.is_none() {
            self.status.progressed_at = Some(self.now);
        } else if self.still() >= PATIENCE {
            return self.fail("nothing more was restored for 10 min", false);
        }
        self.note(state);
        self.status.boot = self.observed.porters.get(&self.porter).map(|link| link.report.boot.clone());
        let passed = self.status.started_at.map(|started| self.now.duration_since(started).as_secs());
        let percent = percent(state);
        (self.status.progress, self.status.rate) = (Some(format!("{percent}%")), rate(state.bytes, passed));
        let of = if state.total > 0 { format!(": {percent}% of {}", shown(state.total)) } else { String::new() };
        self.say("Running", format!("restoring the volume of claim {}{of}", self.object.spec.claim));
    }

    fn note(&mut self, state: &BackupState) {
        self.status.started_at = Timestamp::from_second(state.started_at).ok();
        self.status.bytes = Some(state.bytes);
    }

    fn complete(&mut self, state: &BackupState) {
        self.note(state);
        let took = took(state);
        let status = &mut self.status;
        (status.phase, status.partial) = (VolumeRestorePhase::Completed, false);
        status.stopped_at = state.stopped_at.and_then(|at| Timestamp::from_second(at).ok()).or(Some(self.now));
        (status.progress, status.rate) = (Some("100%".into()), rate(state.bytes, took));
        let took = took.filter(|took| *took > 0).map(|took| format!(" in {took} s")).unwrap_or_default();
        let (volume, path) = (status.volume.clone().unwrap_or_default(), status.path.clone().unwrap_or_default());
        let message = format!("volume {volume} is restored from {path}: {}{took}", shown(state.bytes));
        self.say("Completed", message.clone());
        self.steps.push(Step::Tell { completed: true, message });
    }

    /// The attempt failed: the next one follows, unless this was the last one, or the failure is `lasting`.
    fn fail(&mut self, why: &str, lasting: bool) {
        let number = self.status.attempt;
        let status = &mut self.status;
        status.boot = None;
        (status.started_at, status.bytes, status.progress, status.rate) = (None, None, None, None);
        (status.phase, status.progressed_at) = (VolumeRestorePhase::Pending, Some(self.now));
        status.last_failure = Some(AttemptFailure { member: self.porter.clone(), message: why.to_owned() });
        if number < ATTEMPTS && !lasting {
            return self.say("Retrying", format!("attempt {number} of {ATTEMPTS} failed: {why}"));
        }
        (self.status.phase, self.status.stopped_at) = (VolumeRestorePhase::Failed, Some(self.now));
        let part = match self.status.partial {
            true => {
                "; the volume may have a part of the data, and no pod that claims it is created until this object is deleted, \
                     which removes the volume"
            }
            false => "",
        };
        let message = match lasting {
            true => format!("it failed, and would again: {why}{part}"),
            false => format!("{ATTEMPTS} attempts failed, the last one: {why}{part}"),
        };
        self.say("AttemptsFailed", message.clone());
        self.steps.push(Step::Tell { completed: false, message });
    }
}
