//! What sorts text here: the libraries of this container, and the number of indexes that depend on them. Both are found
//! out beside the loop, also on a standby, so that they are known when it becomes the primary; decides nothing.

use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

use super::place::Place;
use super::process::Reaper;
use super::sql::Session;
use super::tools;
use super::wire::{Collations, Sorted};
use crate::api::chain::chain;
use crate::api::libraries::{ASK, Libraries};

/// Time between two counts, and after one that failed, in milliseconds.
const INTERVAL_MS: u64 = 60_000;
const AGAIN_MS: u64 = 5_000;
/// Time-out of the programs of the image.
const LIMIT: Duration = Duration::from_secs(10);

/// The libraries, and what depends on them; or why one is not known.
pub type Counted = (Result<Libraries, String>, Result<Sorted, String>);

/// The memory of one run of the postmaster.
#[derive(Debug, Default)]
pub struct Counting {
    sorted: Option<Sorted>,
    problem: Option<String>,
    /// The count that runs.
    pub task: Option<AbortOnDropHandle<()>>,
    due: u64,
}

impl Counting {
    /// What is known, in a container with these libraries.
    pub fn known(&self, libraries: Option<&Libraries>) -> Collations {
        let (libraries, sorted) = (libraries.cloned(), self.sorted.clone());
        let problem = self.problem.clone().filter(|_| libraries.is_none() || sorted.is_none());
        Collations { libraries, sorted, problem }
    }

    /// Whether to begin a count.
    pub fn due(&self, now: u64) -> bool {
        self.task.is_none() && now >= self.due
    }

    /// The end of a count. What was known before stays when it fails.
    pub fn counted(&mut self, sorted: Option<Sorted>, problem: Option<String>, now: u64) {
        if let Some(problem) = &problem {
            tracing::warn!(%problem, "what depends on collations is not counted");
        }
        self.due = now + if problem.is_some() { AGAIN_MS } else { INTERVAL_MS };
        self.sorted = sorted.or(self.sorted.take());
        (self.problem, self.task) = (problem, None);
    }
}

/// Counts; the libraries of the container are asked for only if they are not known.
pub async fn count(place: Place, reaper: Reaper, known: Option<Libraries>) -> Counted {
    let libraries = match known {
        Some(known) => Ok(known),
        None => libraries(&place, &reaper).await,
    };
    (libraries, sorted().await.map_err(|error| chain(&error)))
}

/// Asks the programs of the image, as the server's user: as root they have no business here.
async fn libraries(place: &Place, reaper: &Reaper) -> Result<Libraries, String> {
    let mut command = place.tool("/bin/sh");
    command.args(&ASK[1..]);
    let output = tools::run_within(reaper, command, LIMIT).await.map_err(|error| chain(&error))?;
    Libraries::read(&output).ok_or_else(|| "neither getconf nor ldd says which C library this image has".to_owned())
}

async fn sorted() -> Result<Sorted, super::sql::Error> {
    let mut all = Sorted::default();
    for database in Session::open().await?.databases().await? {
        let (libc, icu) = Session::open_in(&database).await?.sorted().await?;
        (all.libc, all.icu) = (all.libc + libc.unsigned_abs(), all.icu + icu.unsigned_abs());
        if libc + icu > 0 {
            all.databases.push(database);
        }
    }
    Ok(all)
}
