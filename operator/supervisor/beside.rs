//! Long work beside the loop that was ordered, while it runs and afterwards: a base backup, a dump, a snapshot, a restore. It is
//! no job on the data directory: nothing of the loop, least of all a promotion, waits for it.

use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::clock::wall_seconds;
use super::wire::{BackupPhase, BackupState};

/// Work that runs, or ran last in this boot.
#[derive(Debug)]
pub struct Beside {
    what: &'static str,
    state: watch::Sender<BackupState>,
    task: Option<AbortOnDropHandle<()>>,
}

/// Dropping what restores have left in this run of the server.
#[derive(Debug, Default)]
pub struct Sweep {
    /// It has begun; a failure is repeated by the next run, or the next restore.
    pub begun: bool,
    /// It runs.
    pub task: Option<AbortOnDropHandle<()>>,
}

/// Why work failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What happened.
    pub words: String,
    /// Another attempt would fail as well.
    pub lasting: bool,
}

impl Beside {
    /// Begins this attempt; or says why that cannot be. The work gets its state, and says there how far it is.
    pub fn begin<F: Future<Output = Result<(), Trouble>> + Send + 'static>(
        what: &'static str,
        (id, attempt): (&str, u32),
        work: Result<impl FnOnce(watch::Sender<BackupState>) -> F, String>,
    ) -> Self {
        let state = watch::Sender::new(BackupState {
            id: id.to_owned(),
            attempt,
            started_at: wall_seconds(),
            ..BackupState::default()
        });
        let work = match work {
            Ok(work) => work(state.clone()),
            Err(words) => {
                fail(what, &state, Trouble { words, lasting: false });
                return Self { what, state, task: None };
            }
        };
        tracing::info!(id, attempt, "{what}: begins");
        let end = state.clone();
        let task = tokio::spawn(async move {
            match work.await {
                Ok(()) => {
                    end.send_modify(|state| {
                        (state.phase, state.stopped_at) = (BackupPhase::Completed, Some(wall_seconds()));
                    });
                    let state = end.borrow();
                    tracing::info!(id = state.id, bytes = state.bytes, stored = state.stored, "{what}: complete");
                }
                Err(trouble) => fail(what, &end, trouble),
            }
        });
        Self { what, state, task: Some(AbortOnDropHandle::new(task)) }
    }

    /// Its state.
    pub fn state(&self) -> BackupState {
        self.state.borrow().clone()
    }

    /// Whether it is this attempt.
    pub fn is(&self, id: &str, attempt: u32) -> bool {
        let state = self.state.borrow();
        state.id == id && state.attempt == attempt
    }

    /// Whether it has not ended.
    pub fn runs(&self) -> bool {
        self.task.is_some() && matches!(self.state.borrow().phase, BackupPhase::Running | BackupPhase::WaitingForWal)
    }

    /// Ends it, if it runs.
    pub fn cut_off(&mut self, why: &str) {
        if self.runs() {
            self.task = None;
            fail(self.what, &self.state, Trouble { words: why.to_owned(), lasting: false });
        }
    }
}

fn fail(what: &'static str, state: &watch::Sender<BackupState>, trouble: Trouble) {
    tracing::warn!(problem = trouble.words, "{what}: failed");
    state.send_modify(|state| {
        state.phase = BackupPhase::Failed;
        state.error = Some(trouble.words);
        state.lasting = trouble.lasting;
        state.stopped_at = Some(wall_seconds());
    });
}
