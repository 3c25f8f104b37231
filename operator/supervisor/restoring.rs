//! A recovery that was ordered: how far it is, and what is kept of it on the volume.

use tokio::sync::watch;

use super::clock::wall_seconds;
use super::durable;
use super::jobs::{Failure, Site, chain};
use super::place::Place;
use super::restore::{Restore, Serve};
use super::wire::{RecoveryPart, RecoveryState};

/// Attempts that may be interrupted, such as by a new version of the supervisor. Then it is the restore itself that ends the
/// container: for example by the memory that it takes.
const INTERRUPTIONS: u32 = 3;

/// The state of the recovery that made the data directory, or that was tried last; `None`: there was none.
pub fn load(place: &Place) -> Option<watch::Sender<RecoveryState>> {
    let state: RecoveryState = durable::read(&place.own().join(RecoveryState::FILE))?;
    Some(watch::Sender::new(interrupted(state)))
}

/// What was kept of an attempt, when its container is started again.
fn interrupted(state: RecoveryState) -> RecoveryState {
    if state.stopped_at.is_some() {
        return state;
    }
    let (interruptions, failures) = (state.interruptions + 1, state.failures);
    let failed = interruptions >= INTERRUPTIONS;
    let error = failed
        .then(|| format!("the container ended {interruptions} times in the middle of it, perhaps by want of memory"));
    RecoveryState {
        interruptions,
        failures: failures + u32::from(failed),
        error: error.or(state.error),
        ..RecoveryState::default()
    }
}

/// Begins a new attempt. What is known of those before it stays.
///
/// # Errors
/// Its begin could not be recorded.
pub fn begin(
    place: &Place,
    last: Option<&watch::Sender<RecoveryState>>,
) -> Result<watch::Sender<RecoveryState>, durable::Error> {
    let last = last.map(|state| state.borrow().clone()).filter(|last| last.phase != RecoveryPart::Completed);
    let last = last.unwrap_or_default();
    let state = RecoveryState {
        failures: last.failures,
        interruptions: last.interruptions,
        error: last.error,
        steps: last.steps + 1,
        started_at: wall_seconds(),
        ..RecoveryState::default()
    };
    durable::save_file(&place.own().join(RecoveryState::FILE), &state)?;
    Ok(watch::Sender::new(state))
}

/// Recovers, and keeps how it ended.
///
/// # Errors
/// It failed, or what is to be kept could not be written.
pub async fn run(
    site: Site,
    restore: Restore,
    serve: Serve<'_>,
    progress: &watch::Sender<RecoveryState>,
) -> Result<(), Failure> {
    let path = site.place.own().join(RecoveryState::FILE);
    let ended = site.restore(restore, serve, progress).await;
    progress.send_modify(|state| {
        state.doing.clear();
        state.steps += 1;
        state.stopped_at = Some(wall_seconds());
        (state.phase, state.error) = match &ended {
            Ok(()) => (RecoveryPart::Completed, None),
            Err(failure) if failure.unreached => (RecoveryPart::Retrying, Some(failure.words.clone())),
            Err(failure) => (RecoveryPart::Failed, Some(failure.words.clone())),
        };
        state.failures += u32::from(state.phase == RecoveryPart::Failed);
    });
    let state = progress.borrow().clone();
    let kept = durable::save_file(&path, &state).map_err(|error| Failure::new(chain(&error)));
    ended.and(kept)
}

/// Forgets it: the data directory has another origin now. If that fails, an old record is shown, and nothing follows from it.
pub fn forget(place: &Place, state: &mut Option<watch::Sender<RecoveryState>>) {
    if state.take().is_some() {
        durable::remove(&place.own().join(RecoveryState::FILE));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_that_is_interrupted_again_and_again_has_failed() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::at(folder.path());
        std::fs::create_dir(place.own()).unwrap();
        assert!(load(&place).is_none());
        let mut told = Vec::new();
        for _ in 0..3 {
            begin(&place, load(&place).as_ref()).unwrap();
            let again = load(&place).unwrap().borrow().clone();
            told.push((again.interruptions, again.failures, again.error.is_some(), again.phase));
        }
        let phase = RecoveryPart::Preparing;
        assert_eq!(told, [(1, 0, false, phase), (2, 0, false, phase), (3, 1, true, phase)]);
        // One that has ended is kept as it is, and is forgotten with the data directory that it made.
        let done = RecoveryState { phase: RecoveryPart::Completed, stopped_at: Some(1), ..RecoveryState::default() };
        durable::save_file(&place.own().join(RecoveryState::FILE), &done).unwrap();
        let mut kept = load(&place);
        assert_eq!(*kept.as_ref().unwrap().borrow(), done);
        assert_eq!(begin(&place, kept.as_ref()).unwrap().borrow().interruptions, 0);
        forget(&place, &mut kept);
        assert!(load(&place).is_none());
    }
}
