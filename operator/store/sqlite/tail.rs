//! One watch of the SQLite store: pages from the file until it has caught up, then live.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::stream;
use sqlx::Row;
use sqlx::sqlite::{SqlitePool, SqliteRow};
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::{key, names, reading, side, signed, unsigned};
use crate::store::state::concerns;
use crate::store::{Change, Error, Seal, Watch};

/// Number of changes read from the file at once.
const PAGE: usize = 128;

pub(super) struct Tail {
    readers: SqlitePool,
    seal: Seal,
    live: Receiver<Arc<Change>>,
    resources: Vec<String>,
    namespace: Option<String>,
    /// Every change up to this revision was returned or is in `page`.
    at: u64,
    page: VecDeque<Change>,
    caught_up: bool,
}

impl Tail {
    /// Reads the first page, so that a revision outside the window is refused here.
    pub(super) async fn start(
        readers: SqlitePool,
        seal: Seal,
        live: Receiver<Arc<Change>>,
        resources: &[&str],
        namespace: Option<&str>,
        since: u64,
    ) -> Result<Self, Error> {
        let mut tail = Self {
            readers,
            seal,
            live,
            resources: resources.iter().map(|&resource| resource.to_owned()).collect(),
            namespace: namespace.map(str::to_owned),
            at: since,
            page: VecDeque::new(),
            caught_up: false,
        };
        tail.read_page().await?;
        Ok(tail)
    }

    pub(super) fn stream(self) -> Watch {
        Box::pin(stream::unfold(Some(self), |tail| async {
            let mut tail = tail?;
            match tail.next().await? {
                Ok(change) => Some((Ok(change), Some(tail))),
                Err(error) => Some((Err(error), None)),
            }
        }))
    }

    /// The next change; `None` when the store is closed.
    async fn next(&mut self) -> Option<Result<Change, Error>> {
        loop {
            if let Some(change) = self.page.pop_front() {
                return Some(Ok(change));
            }
            if !self.caught_up {
                match self.read_page().await {
                    Ok(()) => continue,
                    Err(error) => return Some(Err(error)),
                }
            }
            match self.live.recv().await {
                Ok(change) if change.revision <= self.at => {}
                Ok(change) => {
                    self.at = change.revision;
                    if concerns(&change.key, &self.resources, self.namespace.as_deref()) {
                        return Some(Ok(Change::clone(&change)));
                    }
                }
                // The changes that the channel dropped are still in the file.
                Err(RecvError::Lagged(_)) => self.caught_up = false,
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// Reads the changes after `at`. The channel was subscribed before, so no change is missed.
    async fn read_page(&mut self) -> Result<(), Error> {
        self.live = self.live.resubscribe();
        let rows = sqlx::query(
            "SELECT counters.revision AS newest, counters.compacted AS oldest, page.* FROM counters
             LEFT JOIN (SELECT * FROM changes
                        WHERE revision > ?1 AND resource IN (SELECT value FROM json_each(?2)) AND (?3 IS NULL OR namespace = ?3)
                        ORDER BY revision LIMIT ?4) AS page
             ORDER BY page.revision",
        )
        .bind(signed(self.at))
        .bind(names(&self.resources))
        .bind(&self.namespace)
        .bind(PAGE as i64)
        .fetch_all(&self.readers)
        .await
        .map_err(reading("reading the changes to watch"))?;
        let (oldest, newest) = rows.first().map_or((0, 0), |row| (unsigned(row, "oldest"), unsigned(row, "newest")));
        if self.at < oldest {
            return Err(Error::Compacted { since: self.at, oldest });
        }
        if self.at > newest {
            return Err(Error::Future { since: self.at, newest });
        }
        let found = rows.iter().filter_map(|row| change(&self.seal, row)).collect::<Result<VecDeque<_>, _>>()?;
        self.caught_up = found.len() < PAGE;
        self.at = match found.back() {
            Some(last) if !self.caught_up => last.revision,
            _ => newest,
        };
        self.page = found;
        Ok(())
    }
}

/// The change in a row; `None` in the row of an empty page.
fn change(seal: &Seal, row: &SqliteRow) -> Option<Result<Change, Error>> {
    let revision = row.get::<Option<i64>, _>("revision")?.unsigned_abs();
    let both = || Ok(Change { key: key(row), revision, old: side(seal, row, "old")?, new: side(seal, row, "new")? });
    Some(both())
}
