//! A restore point: a name in the WAL of the leader, and the segment that has it in the archive.

use tokio::sync::watch;

use super::backup::{self, wal_is_there};
use super::beside::{Beside, Trouble};
use super::shell::Shell;
use super::sql::{self, Session};
use super::wire::{BackupPhase, BackupSpan, BackupState, PointOrder, Task};
use crate::api::chain::chain;
use crate::api::lsn::Lsn;
use crate::archive::names::Segment;
use crate::archive::store::Store;

/// A restore point was not made, or is not in the archive.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// The server refused it.
    #[error("making the restore point")]
    Server(#[from] sql::Error),
    /// Its WAL did not come into the archive.
    #[error("the restore point is made")]
    Archive(#[from] backup::Error),
}

impl Shell {
    /// Makes the restore point of this order, unless this very one was begun; `None`: there is to be none.
    pub fn order_point(&mut self, order: Option<PointOrder>) {
        let Some(order) = order else {
            if let Some(point) = &mut self.point {
                point.cut_off("it is not wanted any more");
            }
            return;
        };
        if self.point.as_ref().is_some_and(|point| point.is(&order.id, order.attempt)) {
            return;
        }
        let leads =
            self.durable.order.as_ref().is_some_and(|order| matches!(&order.task, Task::Lead(lead) if lead.open));
        let store = match leads {
            true => self.own_archive().map(|(store, _)| store),
            false => Err("this instance does not lead".to_owned()),
        };
        let name = order.name.clone();
        let work = store.map(|store| {
            |progress| async move {
                make(&store, &name, &progress).await.map_err(|error| Trouble { words: chain(&error), lasting: false })
            }
        });
        self.point = Some(Beside::begin("restore point", (&order.id, order.attempt), work));
    }
}

/// Makes it, ends its WAL segment, and waits until that is in the archive.
async fn make(store: &Store, name: &str, progress: &watch::Sender<BackupState>) -> Result<(), Error> {
    let mut session = Session::open().await?;
    let point = session.restore_point(name).await?;
    session.switch_wal().await?;
    drop(session);
    // A record that ends with a segment is in that one, and not in the next.
    let (segment, begin) =
        (Segment::before(point.timeline, point.lsn, point.segment_size), Lsn(point.lsn.0.saturating_sub(1)));
    let (begin_wal, end_wal) = (segment.to_string(), segment.to_string());
    let span = BackupSpan { timeline: point.timeline, begin, end: point.lsn, begin_wal, end_wal };
    progress.send_modify(|state| (state.phase, state.span) = (BackupPhase::WaitingForWal, Some(span.clone())));
    Ok(wal_is_there(store, &span, point.segment_size).await?)
}
