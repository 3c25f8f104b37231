//! A base backup that was ordered, while it runs and afterwards.

use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::backup::Backup;
use super::clock::wall_seconds;
use super::wire::{BackupOrder, BackupPhase, BackupState};
use crate::api::chain::chain;

/// The base backup that runs, or ran last in this boot.
#[derive(Debug)]
pub struct BackingUp {
    state: watch::Sender<BackupState>,
    task: Option<AbortOnDropHandle<()>>,
}

impl BackingUp {
    /// Begins it; or says why that cannot be.
    pub fn begin(order: &BackupOrder, backup: Result<Backup, String>) -> Self {
        let begun = BackupState {
            id: order.id.clone(),
            attempt: order.attempt,
            started_at: wall_seconds(),
            ..BackupState::default()
        };
        let state = watch::Sender::new(begun);
        let backup = match backup {
            Ok(backup) => backup,
            Err(why) => {
                fail(&state, &why);
                return Self { state, task: None };
            }
        };
        tracing::info!(id = order.id, attempt = order.attempt, "a base backup begins");
        let progress = state.clone();
        let task = tokio::spawn(async move {
            match backup.take(&progress).await {
                Ok(state) => tracing::info!(id = state.id, stored = state.stored, "the base backup is complete"),
                Err(error) => tracing::warn!(problem = %chain(&error), "the base backup failed"),
            }
        });
        Self { state, task: Some(AbortOnDropHandle::new(task)) }
    }

    /// Its state.
    pub fn state(&self) -> BackupState {
        self.state.borrow().clone()
    }

    /// Whether it is this attempt.
    pub fn is(&self, order: &BackupOrder) -> bool {
        let state = self.state.borrow();
        state.id == order.id && state.attempt == order.attempt
    }

    /// Ends it, if it runs.
    pub fn cut(&mut self, why: &str) {
        let phase = self.state.borrow().phase;
        if self.task.is_some() && matches!(phase, BackupPhase::Running | BackupPhase::WaitingForWal) {
            tracing::warn!(why, "the base backup is cut off");
            self.task = None;
            fail(&self.state, why);
        }
    }
}

fn fail(state: &watch::Sender<BackupState>, why: &str) {
    state.send_modify(|state| {
        state.phase = BackupPhase::Failed;
        state.error = Some(why.to_owned());
        state.stopped_at = Some(wall_seconds());
    });
}
