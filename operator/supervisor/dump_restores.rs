//! Begins and ends the restore of a dump beside the loop, and drops what one has left.

use tokio_util::task::AbortOnDropHandle;

use super::beside::{Beside, Sweep};
use super::dump_restore::DumpRestore;
use super::shell::Shell;
use super::sql::Session;
use super::wire::{RestoreOrder, Task};
use crate::api::chain::chain;
use crate::archive::store::Store;

impl Shell {
    /// Begins the restore of this order, unless this very attempt has begun; `None`: there is to be none.
    pub fn order_restore(&mut self, order: Option<RestoreOrder>) {
        let Some(order) = order else {
            if let Some(restore) = self.restore.as_mut().filter(|restore| restore.runs()) {
                restore.cut_off("it is not wanted any more");
                self.server.run.sweep = Sweep::default();
            }
            return;
        };
        if self.restore.as_ref().is_some_and(|restore| restore.is(&order.id, order.attempt)) {
            return;
        }
        let (id, attempt) = (order.id.clone(), order.attempt);
        // A sweep would take the new database for one that was left. The restore begins with one itself.
        self.server.run.sweep.task = None;
        let restore = self.restore_of(order).map(|restore| |progress| async move { restore.take(&progress).await });
        self.restore = Some(Beside::begin("restore of a dump", (&id, attempt), restore));
    }

    fn restore_of(&self, order: RestoreOrder) -> Result<DumpRestore, String> {
        let leads = self.durable.order.as_ref().is_some_and(|order| matches!(order.task, Task::Lead(_)));
        if !leads || self.server.run.poll.as_ref().is_none_or(|poll| poll.recovery) {
            return Err("this instance is not the primary".to_owned());
        }
        let store = Store::open_archive(&order.source).map_err(|error| chain(&error))?;
        Ok(DumpRestore { store, site: self.site(), order })
    }

    /// Drops what restores that were cut off have left, once in each run of a primary that has let clients in for a while.
    pub fn sweep_restores(&mut self, now: u64) {
        let stopping = self.server.postmaster.as_ref().is_none_or(|postmaster| postmaster.stopping.is_some());
        let primary = self.server.run.poll.as_ref().is_some_and(|poll| !poll.recovery);
        let restores = self.restore.as_ref().is_some_and(Beside::runs);
        let ready = self.server.run.settled(now) && primary && !restores;
        let sweep = &mut self.server.run.sweep;
        if stopping {
            sweep.task = None;
        } else if ready && !sweep.begun {
            sweep.begun = true;
            sweep.task = Some(AbortOnDropHandle::new(tokio::spawn(async {
                match async { Session::open().await?.drop_unfinished().await }.await {
                    Ok(names) if names.is_empty() => {}
                    Ok(names) => tracing::info!(?names, "databases of unfinished restores were dropped"),
                    Err(problem) => {
                        tracing::warn!(problem = %chain(&problem), "databases of unfinished restores are not dropped");
                    }
                }
            })));
        }
    }
}
