//! What a leader does: claims its timelines in the store, and brings its WAL there (`put`).

mod put;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use serde::{Deserialize, Serialize};

use crate::api::chain::chain;
use crate::api::lsn::Lsn;
use crate::api::sync::lock;
use crate::archive::catalog::Latest;
use crate::archive::cipher::Cipher;
use crate::archive::names::{self, Segment, WalFile};
use crate::archive::store::{Error as StoreError, Put, Store};
use crate::archive::survey::{LATEST, claims};
use crate::archive::wal;
use crate::supervisor::archiving::decide::{Conflict, Guard, conflict, ranges};
use crate::supervisor::archiving::{Shared, survey};
use crate::supervisor::clock::{boottime_ms, new_id};
use crate::supervisor::sql::Session;
use crate::supervisor::wire::{ArchiveProblem, Archives};

/// Bytes of WAL that are read, compressed and pushed at the same time; at least one segment.
const AT_ONCE: u64 = 16 << 20;
/// Time between two looks for new segments, when none was offered.
const EACH: Duration = Duration::from_secs(1);
/// Shortest and longest wait before a store that failed is tried again.
const AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(15));
/// Milliseconds between two notes about how far the archive reaches; and if it reaches no further, because nobody writes.
const NOTED_MS: u64 = 10_000;
const QUIET_MS: u64 = 60_000;
/// Seconds between two samples of what was committed when, and most of them.
const SAMPLED: i64 = 1;
const SAMPLES: usize = 20_000;
/// Time-out of the checkpoint with which a new archive begins.
const CHECKPOINT: Duration = Duration::from_secs(300);
/// The reason of a gap: too much WAL waited for the store.
const BACKLOG: &str = "backlogLimit";
/// Most bytes of a file that is no segment.
const SMALL: u64 = 1 << 20;

/// Why nothing is pushed.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A WAL file could not be read.
    #[error("reading WAL file {name}")]
    Read {
        /// Its name.
        name: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// It is not the segment that its name says.
    #[error(transparent)]
    Wrong(#[from] wal::Wrong),
    /// Another leader writes there.
    #[error("{0}")]
    Conflict(String),
    /// The operator has sent what opens another archive, or nothing.
    #[error("what opens the archive has not arrived yet; the operator sends it")]
    Unopened,
    /// It does not lead any more.
    #[error("this instance does not lead any more")]
    NotLeading,
}

impl Error {
    fn problem(&self) -> Option<ArchiveProblem> {
        let reason = match self {
            Self::Store(error) => error.kind.reason(),
            Self::Read { .. } | Self::Wrong(_) => "WalUnreadable",
            Self::Conflict(_) => "ArchiveConflict",
            Self::Unopened => "NotOpened",
            Self::NotLeading => return None,
        };
        Some(ArchiveProblem { reason: reason.to_owned(), message: chain(self) })
    }
}

/// Whose archive it is. The first writer makes it, and every later one compares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Owner {
    system_identifier: String,
    path: String,
}

/// A timeline was begun in this term. Of two claims of one number the one of the later term holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Claim {
    timeline: u32,
    begun: u64,
}

/// Objects of the archive are encrypted for this key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Key {
    age_fingerprint: String,
}

/// WAL that the archive never gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Gap {
    first: String,
    last: String,
    reason: String,
}

/// Pushes for ever, whenever this instance may.
pub async fn run(shared: Arc<Shared>) {
    let (mut guard, mut archives) = (shared.guard.subscribe(), shared.archives.subscribe());
    let mut pause = AGAIN.0;
    loop {
        let granted = guard.borrow_and_update().clone();
        let access = archives.borrow_and_update().clone();
        let Some((granted, access)) = Some(granted).filter(|guard| guard.grant().is_some()).zip(access) else {
            let changed = tokio::select! {
                biased;
                changed = guard.changed() => changed,
                changed = archives.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
            continue;
        };
        let begun = boottime_ms();
        let pushed = async {
            let leader = Leader::open(&shared, granted, access).await?;
            leader.push_all().await
        };
        let Err(error) = pushed.await;
        let problem = error.problem();
        let waits = problem.is_some();
        shared.problem(problem);
        if waits {
            // One that worked for a while begins with the shortest wait.
            pause = if boottime_ms().saturating_sub(begun) > 60_000 { AGAIN.0 } else { (pause * 2).min(AGAIN.1) };
            tokio::select! {
                biased;
                _ = guard.changed() => {}
                _ = archives.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
        } else {
            pause = AGAIN.0;
        }
    }
}

/// A leader with its archive, for as long as nothing of both changes.
struct Leader<'a> {
    shared: &'a Arc<Shared>,
    guard: Guard,
    archives: Arc<Archives>,
    store: Store,
    /// The archive may have objects of the other form: encrypted ones, or others.
    mixed: bool,
}

/// A file of a timeline for the archive.
struct File {
    /// Its key without encryption.
    key: String,
    timeline: u32,
    /// Its content is that of the database.
    content: Bytes,
    is_sealed: bool,
}

/// Nothing: a leader pushes until an error ends it.
enum Never {}

impl<'a> Leader<'a> {
    /// Finds out what the store can, and that this cluster owns the archive; claims the timelines and stores their histories.
    async fn open(shared: &'a Arc<Shared>, guard: Guard, archives: Arc<Archives>) -> Result<Self, Error> {
        let own = archives.own().filter(|own| Some(&own.path) == guard.archive.as_ref());
        let own = own.ok_or(Error::Unopened)?;
        let store = Store::open_archive(own)?;
        let probe = store.probe(&new_id()).await?;
        {
            let mut known = lock(&shared.known);
            known.conditional_put = Some(probe.conditional);
            known.age_fingerprint = store.cipher().map(Cipher::fingerprint).map(str::to_owned);
        }
        let mut leader = Self { shared, store: store.with(probe), guard, archives, mixed: false };
        let new = leader.own().await?;
        leader.mixed = leader.note_key().await?;
        leader.claim().await?;
        if new {
            tracing::info!(archive = leader.guard.archive.as_deref().unwrap_or_default(), "a new archive begins");
            leader.checkpoint();
        }
        Ok(leader)
    }

    /// A base backup of a standby begins at the last checkpoint of its primary. The first one of an archive, or after a gap, must find
    /// one whose WAL is archived from there on. Then what the archive holds is looked at again.
    fn checkpoint(&self) {
        let shared = self.shared.clone();
        // Beside the pushes, which go on meanwhile.
        tokio::spawn(async move {
            let checkpoint = async { Session::open().await?.checkpoint(CHECKPOINT).await };
            if let Err(error) = checkpoint.await {
                tracing::warn!(problem = %chain(&error), "no checkpoint: the next base backup may have to be made again");
            }
            lock(&shared.known).begun += 1;
        });
    }

    /// Invariant: one archive has the WAL of one cluster. Whether it is new.
    async fn own(&self) -> Result<bool, Error> {
        let owner = Owner {
            system_identifier: self.guard.system_identifier.clone(),
            path: self.guard.archive.clone().unwrap_or_default(),
        };
        match self.put_json("evenkeel.json", &owner).await? {
            Put::Written => Ok(true),
            Put::Same => Ok(false),
            Put::Other => Err(Error::Conflict(format!(
                "evenkeel.json in the archive names another cluster than the one with system identifier {}: give this cluster another prefix in spec.backup.store",
                owner.system_identifier
            ))),
        }
    }

    /// Notes for which keys objects are encrypted, before the first one is. Whether there may be objects of the other form.
    async fn note_key(&self) -> Result<bool, Error> {
        match self.store.cipher() {
            Some(cipher) => {
                let fingerprint = cipher.fingerprint();
                let note = Key { age_fingerprint: fingerprint.to_owned() };
                self.put_json(&names::fingerprint_key(fingerprint), &note).await?;
                Ok(true)
            }
            None => Ok(!self.store.list(names::KEYS, None, 1).await?.is_empty()),
        }
    }

    async fn put_json<T: Serialize + for<'de> Deserialize<'de> + PartialEq>(
        &self,
        key: &str,
        value: &T,
    ) -> Result<Put, Error> {
        let bytes = serde_json::to_vec(value).unwrap_or_default();
        let same = |found: &[u8]| serde_json::from_slice::<T>(found).is_ok_and(|found| found == *value);
        Ok(self.store.put_new(key, bytes.into(), &[], same).await?)
    }

    /// I17: nothing of a lineage is replaced by one of a lower term. Each history is stored, too, not only what the server offers:
    /// it may have offered it to a leader that is gone.
    async fn claim(&self) -> Result<(), Error> {
        let Some(lineage) = &self.guard.lineage else { return Err(Error::NotLeading) };
        let claims = claims(&self.store).await?;
        for timeline in lineage.timelines() {
            let began = lineage.began(timeline);
            let known = claims.get(&timeline).map_or(&[][..], Vec::as_slice);
            if let Conflict::Deposed(term) = conflict(began, known) {
                return Err(deposed(timeline, term));
            }
            if let Some(begun) = began.filter(|term| !known.contains(term)) {
                self.granted()?;
                self.put_json(&names::claim_key(timeline, begun), &Claim { timeline, begun }).await?;
            }
            let name = format!("{timeline:08X}.history");
            match self.push_small(&name, &names::history_key(timeline), timeline).await {
                // A timeline of which nobody has the history any more.
                Err(Error::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
                done => done?,
            }
        }
        Ok(())
    }

    async fn push_all(&self) -> Result<Never, Error> {
        let mut noted: (Option<Latest>, u64) = (None, 0);
        // When something was committed, and the end of the WAL after it.
        let mut samples: Vec<(i64, Lsn)> = Vec::new();
        loop {
            // Before the look for what waits: a segment that is completed in between is seen by it.
            let quiet = lock(&self.shared.known).quiet;
            let waiting = survey::scan(self.shared).await;
            self.granted()?;
            self.record_gaps().await?;
            if let Some(pulse) = *self.shared.written.borrow()
                && let Some(at) = pulse.committed_at
                && samples.last().is_none_or(|(last, _)| *last + SAMPLED <= at)
            {
                samples.push((at, pulse.lsn));
                if samples.len() > SAMPLES {
                    // An idle server ends no segment for days.
                    samples.drain(..SAMPLES / 2);
                }
            }
            let reached = self.reached(waiting.first());
            let now = boottime_ms();
            if let Some(reached) = reached
                && now.saturating_sub(noted.1) >= NOTED_MS
            {
                let before = samples.partition_point(|(_, at)| *at <= reached);
                let latest = before.checked_sub(1).and_then(|last| {
                    let (at, lsn) = samples[last];
                    let time = |seconds| jiff::Timestamp::from_second(seconds).ok();
                    let quiet = quiet.filter(|(from, until)| waiting.is_empty() && from <= until);
                    let quiet = quiet.and_then(|(from, until)| time(from).zip(time(until)));
                    Some(Latest { lsn, time: time(at)?, quiet })
                });
                samples.drain(..before.saturating_sub(1));
                let known = |latest: &Latest| (latest.lsn, latest.quiet.is_some());
                let further = latest.as_ref().map(known) != noted.0.as_ref().map(known);
                if let Some(latest) = latest.filter(|_| further || now.saturating_sub(noted.1) >= QUIET_MS) {
                    self.store.put(LATEST, serde_json::to_vec(&latest).unwrap_or_default().into()).await?;
                    noted = (Some(latest), now);
                }
            }
            if waiting.is_empty() {
                // Everything is there, and the store was just asked.
                self.shared.problem(None);
                tokio::select! {
                    biased;
                    () = self.shared.offered.notified() => {}
                    () = tokio::time::sleep(EACH) => {}
                }
                continue;
            }
            let at_once = usize::try_from(AT_ONCE / self.guard.segment_size.max(1)).unwrap_or(1).max(1);
            let mut pushes = futures::stream::iter(waiting).map(|name| self.push(name)).buffered(at_once);
            let mut failed = None;
            // Those that were begun are finished: each that got there is one less.
            while let Some(pushed) = pushes.next().await {
                failed = failed.or(pushed.err());
                if failed.is_some() {
                    break;
                }
            }
            if let Some(error) = failed {
                return Err(error);
            }
            self.shared.problem(None);
        }
    }

    /// Writes down what was given up, so that people and tools find it in the store.
    async fn record_gaps(&self) -> Result<(), Error> {
        let given_up = lock(&self.shared.known).given_up.clone();
        for (first, last) in ranges(&given_up, self.guard.segment_size) {
            let gap = Gap { first: first.to_string(), last: last.to_string(), reason: BACKLOG.to_owned() };
            self.put_json(&names::gap_key(first, last), &gap).await?;
            lock(&self.shared.known).given_up.retain(|segment| !(first..=last).contains(segment));
        }
        if !given_up.is_empty() {
            self.checkpoint();
        }
        Ok(())
    }

    /// The position up to which the archive has everything.
    fn reached(&self, oldest: Option<&String>) -> Option<Lsn> {
        let waits = oldest.and_then(|name| match name.parse() {
            Ok(WalFile::Segment(segment)) => Some(segment),
            _ => None,
        });
        let segment = match (oldest, waits) {
            (Some(_), None) => return None,
            (_, waits) => waits.or_else(|| Some(self.shared.written.borrow().as_ref()?.written.segment))?,
        };
        (self.guard.segment_size > 0).then(|| segment.start(self.guard.segment_size))
    }

    /// I17: asked before and after each push.
    fn granted(&self) -> Result<(), Error> {
        let guard = self.shared.guard.borrow();
        let same = guard.grant() == self.guard.grant() && guard.lineage == self.guard.lineage;
        let access = self.shared.archives.borrow();
        let opens = access.as_ref().is_some_and(|access| access.hash == self.archives.hash);
        if same && opens { Ok(()) } else { Err(Error::NotLeading) }
    }

    async fn push(&self, name: String) -> Result<(), Error> {
        self.granted()?;
        let pushed = match name.parse() {
            Ok(WalFile::Segment(segment)) => self.push_segment(&name, segment).await,
            Ok(WalFile::History(timeline)) => self.push_small(&name, &names::history_key(timeline), timeline).await,
            Ok(WalFile::Label(segment)) => {
                self.push_small(&name, &format!("{}/{name}", segment.folder()), segment.timeline).await
            }
            Ok(WalFile::Partial(_)) | Err(_) => Ok(()),
        };
        match pushed {
            // The server removes what it does not need, and forgets it.
            Err(Error::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            pushed => pushed?,
        }
        self.granted()?;
        self.shared.pushed(&name);
        Ok(())
    }

    async fn push_segment(&self, name: &str, segment: Segment) -> Result<(), Error> {
        let size = self.guard.segment_size;
        let content = Arc::new(self.read(name, size).await?);
        wal::check(segment, &content, size, &self.guard.system_identifier)?;
        let raw = content.clone();
        let compressed = tokio::task::spawn_blocking(move || wal::compress(&raw)).await;
        let failed = |source| Error::Read { name: name.to_owned(), source };
        let compressed = compressed.unwrap_or_else(|panic| Err(std::io::Error::other(panic))).map_err(failed)?;
        let same = |stored: &[u8]| wal::decompress(stored, size).is_ok_and(|stored| stored == *content);
        let (key, timeline) = (segment.key(), segment.timeline);
        self.put(File { key, timeline, content: compressed.into(), is_sealed: true }, same).await
    }

    /// A history, or the label of a base backup. A history is not encrypted: the way over the timelines can be seen without a key, and
    /// it has nothing of the data.
    async fn push_small(&self, name: &str, key: &str, timeline: u32) -> Result<(), Error> {
        let content = Bytes::from(self.read(name, SMALL).await?);
        let same = |stored: &[u8]| stored == content;
        let is_sealed = !matches!(name.parse(), Ok(WalFile::History(_)));
        self.put(File { key: key.to_owned(), timeline, content: content.clone(), is_sealed }, same).await
    }

    async fn read(&self, name: &str, most: u64) -> Result<Vec<u8>, Error> {
        let (place, path) = (self.shared.place.clone(), self.shared.place.pgdata().join("pg_wal").join(name));
        let read = tokio::task::spawn_blocking(move || place.theirs().read_at_most(&path, most)).await;
        let read = read.unwrap_or_else(|panic| Err(std::io::Error::other(panic)));
        read.map_err(|source| Error::Read { name: name.to_owned(), source })
    }
}

fn deposed(timeline: u32, term: u64) -> Error {
    Error::Conflict(format!(
        "timeline {timeline} in the archive was begun again in term {term}: another instance, or another copy of this cluster, writes to this archive; nothing is pushed"
    ))
}

#[cfg(test)]
mod tests;
