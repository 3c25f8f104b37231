//! What may be archived, what the server's archiver is answered, and when the leader switches to a new segment. Pure.
//!
//! Invariant **I16**: a segment is answered as archived only when it is in the store (or on no lineage, so that nobody ever needs
//! it). Invariant **I17**: nothing is pushed but by a leader whose order is open, whose barrier was passed in this run, and who is
//! confirmed; it is asked again after each push.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::lsn::{Fork, Lsn};
use crate::archive::names::{Segment, WalFile};
use crate::supervisor::next;
use crate::supervisor::state::{Remembered, Seen};
use crate::supervisor::wire::{Archives, Postgres, Task};

/// What the archiver must know of the instance, from one snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Guard {
    /// The server is being stopped, or is down.
    pub stopping: bool,
    /// The server starts: nobody can ask it yet what its processes wait for.
    pub starting: bool,
    /// A process of the server waits for all others, also for the archiver, which notices nothing while its command runs.
    pub barrier: bool,
    /// There is an order, so it is known whether there is an archive.
    pub ordered: bool,
    /// The folder of the archive; `None`: nothing is archived.
    pub archive: Option<String>,
    /// This instance may push.
    pub leads: bool,
    /// The term of the order.
    pub term: u64,
    /// The data directory's UUID.
    pub incarnation: String,
    /// PostgreSQL's system identifier.
    pub system_identifier: String,
    /// Bytes of a WAL segment; 0 while it is not known.
    pub segment_size: u64,
    /// The lineage of the leader, once it is known.
    pub lineage: Option<Lineage>,
}

/// A timeline with its ancestors.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lineage {
    /// The current timeline.
    pub timeline: u32,
    /// The earlier ones, and where each ended, oldest first.
    pub history: Vec<Fork>,
    /// The term in which each began, as far as known.
    pub terms: BTreeMap<u32, u64>,
}

/// The guard of a snapshot. `remembered`: what the decision of this turn added; `barrier`: [`Guard::barrier`].
pub fn guard(seen: &Seen, remembered: Remembered, segment_size: u64, barrier: bool) -> Guard {
    let order = seen.durable.order.as_ref();
    let running = matches!(seen.postgres, Postgres::Primary | Postgres::Standby);
    let terms = seen.durable.timeline_terms.clone();
    let (mut leads, mut lineage) = (false, None);
    match (order.map(|order| &order.task), &seen.server) {
        (Some(Task::Lead(lead)), Some(server)) if server.primary => {
            // I17. What a failed promotion left behind is never pushed: its barrier was not passed.
            leads = lead.open && remembered.barrier_passed_once && next::confirmed(&with(seen, remembered), lead);
            lineage = Some(Lineage { timeline: server.timeline, history: server.history.clone(), terms });
        }
        (Some(Task::Follow(follow)), _) => {
            lineage = follow.lineage.as_ref().map(|leader| Lineage {
                timeline: leader.timeline,
                history: leader.history.clone(),
                terms: follow.timeline_terms.clone(),
            });
        }
        _ => {}
    }
    Guard {
        stopping: seen.terminating || !running && seen.postgres != Postgres::Starting,
        starting: seen.postgres == Postgres::Starting,
        barrier,
        ordered: order.is_some(),
        archive: order.and_then(|order| order.archive.clone()),
        leads: leads && !seen.terminating,
        term: order.map_or(0, |order| order.term),
        incarnation: seen.durable.incarnation.clone().unwrap_or_default(),
        system_identifier: seen.system_identifier.clone().unwrap_or_default(),
        segment_size,
        lineage,
    }
}

fn with(seen: &Seen, remembered: Remembered) -> Seen {
    Seen { confirmed_ms: remembered.confirmed_ms, ..seen.clone() }
}

/// What the archiver of the server is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It may forget the file.
    Done,
    /// Not now, and the server must not wait: it is being stopped, or waits for the archiver itself.
    Stopping,
    /// It waits.
    Wait,
    /// It waits, and is sent away soon: the server may be waiting for it.
    Briefly,
}

/// The answer about a file; `stored`: it is in the store.
pub fn answer(guard: &Guard, file: WalFile, stored: bool) -> Answer {
    if stored {
        return Answer::Done;
    }
    if guard.stopping || guard.barrier {
        // A dead store never lengthens a stop, nor the replay on a standby: the file stays, and is offered again.
        return Answer::Stopping;
    }
    match guard.archive {
        None if guard.ordered => Answer::Done,
        Some(_) if guard.needs(file) == Some(false) => Answer::Done,
        // A server that replays DROP DATABASE before it lets anybody in cannot show its barrier.
        _ if guard.starting => Answer::Briefly,
        _ => Answer::Wait,
    }
}

impl Guard {
    /// Whether a restore could need the file; `None` while the lineage is not known.
    pub fn needs(&self, file: WalFile) -> Option<bool> {
        let lineage = self.lineage.as_ref()?;
        match file {
            // The next timeline begins with a copy of what is in it.
            WalFile::Partial(_) => Some(false),
            WalFile::History(timeline) | WalFile::Label(Segment { timeline, .. }) => Some(lineage.has(timeline)),
            WalFile::Segment(segment) if segment.timeline == lineage.timeline => Some(true),
            WalFile::Segment(_) if self.segment_size == 0 => None,
            WalFile::Segment(segment) => {
                // A standby offers the segment of a fork under its old name as well, with whatever it had of it.
                let fork = lineage.history.iter().find(|fork| fork.timeline == segment.timeline);
                Some(fork.is_some_and(|fork| segment.end(self.segment_size) <= fork.ended_at))
            }
        }
    }

    /// What a push must be the same for from its beginning to its end.
    pub fn grant(&self) -> Option<(&str, u64)> {
        self.archive.as_deref().filter(|_| self.leads && !self.stopping).map(|archive| (archive, self.term))
    }
}

impl Lineage {
    /// Whether it has this timeline.
    pub fn has(&self, timeline: u32) -> bool {
        self.timelines().any(|one| one == timeline)
    }

    /// Its timelines, oldest first.
    pub fn timelines(&self) -> impl Iterator<Item = u32> + '_ {
        self.history.iter().map(|fork| fork.timeline).chain([self.timeline])
    }

    /// The term in which this timeline began; `None` if nobody wrote it down: it is older than such records.
    pub fn began(&self, timeline: u32) -> Option<u64> {
        self.terms.get(&timeline).copied()
    }
}

/// What to do about an object of this name with other content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conflict {
    /// It is of a lineage that was given up: it is kept elsewhere, and ours takes its place. The term that it began in.
    Orphan(u64),
    /// A later leader began this timeline again: this instance is not the leader any more.
    Deposed(u64),
    /// It is of this very lineage: one of them is damaged.
    Damaged,
}

/// Decides by the claims in the store: the terms in which this timeline was begun. `began`: the term of our own, if it is known.
pub fn conflict(began: Option<u64>, claims: &[u64]) -> Conflict {
    let Some(began) = began else { return Conflict::Damaged };
    match claims.iter().copied().filter(|term| *term != began).max() {
        Some(other) if other > began => Conflict::Deposed(other),
        Some(other) => Conflict::Orphan(other),
        None => Conflict::Damaged,
    }
}

/// The volume of the data directory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Volume {
    /// All of it.
    pub size: u64,
    /// What the server's user may still write.
    pub free: u64,
    /// All WAL segments on it, also those that wait for nothing.
    pub wal: u64,
}

/// Segments that may wait however full the volume is: a store that answers takes them soon.
const LEAST: u64 = 16;

/// Bytes of WAL that may wait for the store; `None`: any number. Without a declared limit it is a quarter of the volume. Some of
/// the volume stays free: a server that cannot write WAL stops.
pub fn backlog_limit(archives: &Archives, volume: Volume, segment_size: u64) -> Option<u64> {
    let spared = (1 << 30).min(volume.size / 10);
    // WAL that was given up is there until the next checkpoint. It counts, so that another look gives up no more.
    let room = (volume.free + volume.wal).saturating_sub(spared).max(LEAST * segment_size);
    let declared = archives.backlog_limit.unwrap_or(volume.size / 4);
    (!archives.keep_wal).then(|| declared.min(room))
}

/// Neighbouring segments of one timeline, as ranges.
pub fn ranges(segments: &BTreeSet<Segment>, size: u64) -> Vec<(Segment, Segment)> {
    let mut ranges: Vec<(Segment, Segment)> = Vec::new();
    for segment in segments {
        match ranges.last_mut() {
            Some((_, last)) if last.next(size) == *segment => *last = *segment,
            _ => ranges.push((*segment, *segment)),
        }
    }
    ranges
}

/// Segments that a leader pushes together, at most: those beyond them are pushed later.
const TOGETHER: u64 = 64;

/// Whether the archive has gone past a segment that it does not have. Leaders push in the order of the names, but for a few that they
/// push together.
pub fn is_passed(segment: Segment, there: &BTreeSet<Segment>, size: u64) -> bool {
    let far = |other: &Segment| {
        other.timeline > segment.timeline || other.number(size) > segment.number(size).saturating_add(TOGETHER)
    };
    size > 0 && there.range(segment..).any(far)
}

/// What a leader has written, at one poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The next transaction ID.
    pub next_xid: u64,
    /// Transactions of the supervisor's own proofs that committed so far.
    pub own: u64,
    /// A proof is under way and may have taken one more.
    pub proving: bool,
    /// The segment being written.
    pub segment: Segment,
}

/// Whether the segment being written has transactions of others than the supervisor, and since when. An idle server never
/// switches, although the supervisor writes each half second.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unarchived {
    /// At the last poll that showed another segment.
    base: Option<Written>,
    last: Option<Written>,
    since: Option<u64>,
}

impl Unarchived {
    /// Takes what a poll shows at this time (milliseconds).
    pub fn note(&mut self, now: u64, written: Written) {
        if self.last.is_none_or(|last| last.segment != written.segment) {
            // What came between the two polls counts to the new segment: once too often rather than never. A new leader has the
            // last transactions of the one before in its first segment.
            self.since = self.last.is_none().then_some(now);
            self.base = self.last.or(Some(written));
        }
        self.last = Some(written);
        let Some(base) = self.base else { return };
        let all = written.next_xid.saturating_sub(base.next_xid);
        // A proof that was under way then may have had its transaction already.
        let own = written.own.saturating_sub(base.own + u64::from(base.proving)) + u64::from(written.proving);
        if all > own {
            self.since.get_or_insert(now);
        }
    }

    /// Since when it has some.
    pub fn since(&self) -> Option<u64> {
        self.since
    }

    /// Whether the leader should switch now.
    pub fn is_due(&self, now: u64, max_age_ms: u64) -> bool {
        max_age_ms > 0 && self.since.is_some_and(|since| now.saturating_sub(since) >= max_age_ms)
    }
}

/// Whether the segment being written must end, so that all WAL before `past` gets into the archive.
pub fn must_end(segment: Segment, size: u64, past: Lsn) -> bool {
    size > 0 && segment.start(size) < past
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::supervisor::state::{Config, Durable, Gate, Server};
    use crate::supervisor::wire::{Lead, Order, Rule};

    const MIB: u64 = 1 << 20;

    fn file(name: &str) -> WalFile {
        name.parse().unwrap()
    }

    #[test]
    fn the_backlog_is_a_quarter_of_the_volume_and_leaves_some_of_it_free() {
        const GIB: u64 = 1 << 30;
        let mib = |archives: &Archives, size, free, wal| {
            backlog_limit(archives, Volume { size, free, wal }, 16 * MIB).map(|bytes| bytes / MIB)
        };
        let default = Archives::default();
        assert_eq!(mib(&default, 100 * GIB, 50 * GIB, GIB), Some(25 * 1024));
        // A server that has 5 GiB of WAL and 2 GiB left: all but 1 GiB of these 7.
        assert_eq!(mib(&default, 100 * GIB, 2 * GIB, 5 * GIB), Some(6 * 1024));
        // What was given up is still there; nothing more is given up for that.
        assert_eq!(mib(&default, 100 * GIB, GIB / 2, 6 * GIB), Some(5 * 1024 + 512));
        assert_eq!(mib(&default, 100 * GIB, 0, 64 * MIB), Some(256), "a few segments may always wait");
        assert_eq!(mib(&default, 4 * GIB, 2 * GIB, 0), Some(1024));
        let declared = Archives { backlog_limit: Some(3 * GIB), ..default.clone() };
        assert_eq!(mib(&declared, 100 * GIB, 50 * GIB, GIB), Some(3 * 1024));
        assert_eq!(mib(&declared, 100 * GIB, GIB, GIB), Some(1024), "a full volume is worse than a gap");
        assert_eq!(mib(&Archives { keep_wal: true, ..default }, 100 * GIB, 0, 0), None);
    }

    #[test]
    fn neighbours_are_one_range_and_timelines_are_not_mixed() {
        let names = [
            "0000000100000000000000FE",
            "0000000100000000000000FF",
            "000000010000000100000000",
            "000000020000000100000001",
        ];
        let found = ranges(&names.map(segment).into(), 16 * MIB);
        let shown: Vec<_> = found.iter().map(|(first, last)| format!("{first}-{last}")).collect();
        assert_eq!(
            shown,
            ["0000000100000000000000FE-000000010000000100000000", "000000020000000100000001-000000020000000100000001"]
        );
    }

    fn segment(name: &str) -> Segment {
        match file(name) {
            WalFile::Segment(segment) => segment,
            other => panic!("{other:?}"),
        }
    }

    fn leader(open: bool) -> Seen {
        let lead = Lead {
            init: None,
            recovery: None,
            commit: Rule::default(),
            confirm: Rule::default(),
            slots: Vec::new(),
            database: "app".into(),
            owner: "app".into(),
            open,
        };
        let order = Order {
            term: 4,
            revision: 1,
            task: Task::Lead(lead),
            settings: Default::default(),
            access: None,
            archive: Some("default.db/7-5f".into()),
        };
        let history = vec![Fork { timeline: 1, ended_at: Lsn(6 * MIB) }];
        Seen {
            durable: Durable { promised: 4, order: Some(order), ..Durable::default() },
            postgres: Postgres::Primary,
            applied: Some(Config { gate: Gate::Open, ..Config::default() }),
            server: Some(Server { primary: true, timeline: 2, history, ..Server::default() }),
            ..Seen::default()
        }
    }

    /// I17: after a failed promotion the archive has nothing of its timeline.
    #[test]
    fn only_a_confirmed_leader_whose_barrier_was_passed_pushes() {
        let passed = Remembered { barrier_passed_once: true, confirmed_ms: Some(0) };
        let grant = |seen: &Seen, remembered| guard(seen, remembered, 4 * MIB, false).grant().map(|(_, term)| term);
        assert_eq!(grant(&leader(true), passed), Some(4));
        assert_eq!(grant(&leader(true), Remembered { barrier_passed_once: false, ..passed }), None);
        assert_eq!(grant(&leader(false), passed), None);
        let mut unconfirmed = leader(true);
        if let Some(Order { task: Task::Lead(lead), .. }) = &mut unconfirmed.durable.order {
            lead.confirm = Rule { names: vec!["s".into()], count: 1 };
        }
        assert_eq!(grant(&unconfirmed, Remembered { confirmed_ms: None, ..passed }), None);
        assert_eq!(grant(&Seen { terminating: true, ..leader(true) }, passed), None);
        assert_eq!(grant(&Seen { postgres: Postgres::Stopping, ..leader(true) }, passed), None);
    }

    #[test]
    fn the_servers_archiver_waits_until_the_segment_is_stored_but_never_while_the_server_stops() {
        let passed = Remembered { barrier_passed_once: true, confirmed_ms: Some(0) };
        let leads = guard(&leader(true), passed, 4 * MIB, false);
        let now = file("000000020000000000000001");
        assert_eq!(answer(&leads, now, false), Answer::Wait);
        assert_eq!(answer(&leads, now, true), Answer::Done);
        assert_eq!(answer(&Guard { stopping: true, ..leads.clone() }, now, false), Answer::Stopping);
        assert_eq!(answer(&Guard { archive: None, ..leads.clone() }, now, false), Answer::Done);
        // Before the first order nobody knows whether there is an archive.
        assert_eq!(answer(&Guard { archive: None, ordered: false, ..leads }, now, false), Answer::Wait);
    }

    /// Regression 413: a standby that replayed DROP DATABASE waited for its archiver to notice it, the archiver for its command, and the
    /// command for a primary to push. When the primary died then, no standby could promise, and the cluster had no failover.
    #[test]
    fn the_servers_archiver_is_sent_away_when_the_server_waits_for_it_and_pushes_go_on() {
        let passed = Remembered { barrier_passed_once: true, confirmed_ms: Some(0) };
        let leads = guard(&leader(true), passed, 4 * MIB, true);
        let now = file("000000020000000000000001");
        assert_eq!((answer(&leads, now, false), answer(&leads, now, true)), (Answer::Stopping, Answer::Done));
        assert_eq!(leads.grant().map(|(_, term)| term), Some(4));
    }

    /// Regression 414: a standby that started, and had to replay DROP DATABASE before it let anybody in, waited for its archiver as in
    /// 413, and no poll could show that. It stayed "starting" for as long as the store was away.
    #[test]
    fn the_archiver_of_a_server_that_starts_does_not_wait_for_long() {
        let passed = Remembered { barrier_passed_once: true, confirmed_ms: Some(0) };
        let starts = guard(&Seen { postgres: Postgres::Starting, ..leader(true) }, passed, 4 * MIB, false);
        let now = file("000000020000000000000001");
        assert_eq!((answer(&starts, now, false), answer(&starts, now, true)), (Answer::Briefly, Answer::Done));
        let unordered = Guard { archive: None, ordered: false, ..starts };
        assert_eq!(answer(&unordered, now, false), Answer::Briefly);
    }

    /// A standby marks the segment in which its leader changed as complete under its old name. No lineage has that segment.
    #[test]
    fn what_is_on_no_lineage_is_not_waited_for() {
        let passed = Remembered { barrier_passed_once: true, confirmed_ms: Some(0) };
        let leads = guard(&leader(true), passed, 4 * MIB, false);
        let needs = |name: &str| leads.needs(file(name));
        assert_eq!(needs("000000010000000000000000"), Some(true));
        assert_eq!(needs("000000010000000000000001"), Some(false), "the fork is within it");
        assert_eq!(needs("000000010000000000000001.partial"), Some(false));
        assert_eq!(needs("000000010000000000000002"), Some(false));
        assert_eq!(needs("000000020000000000000001"), Some(true));
        assert_eq!(needs("000000030000000000000001"), Some(false));
        assert_eq!((needs("00000002.history"), needs("00000003.history")), (Some(true), Some(false)));
        assert_eq!(Guard { lineage: None, ..leads }.needs(file("00000002.history")), None);
    }

    #[test]
    fn an_object_of_an_older_lineage_gives_way_and_one_of_a_later_leader_does_not() {
        assert_eq!(conflict(Some(7), &[7, 3, 5]), Conflict::Orphan(5));
        assert_eq!(conflict(Some(7), &[7, 9]), Conflict::Deposed(9));
        assert_eq!(conflict(Some(7), &[7]), Conflict::Damaged);
        // Nobody knows which is older.
        assert_eq!(conflict(None, &[7, 9]), Conflict::Damaged);
    }

    /// A standby completed a segment before there was an archive, and asked about it when there was one. Its leader had forgotten
    /// that segment, so the standby would have kept it and all WAL after it for ever.
    #[test]
    fn a_segment_that_the_archive_has_gone_past_is_not_waited_for_for_ever() {
        let passed = |there: &[&str]| {
            let there = there.iter().map(|name| segment(name)).collect();
            is_passed(segment("000000020000000000000005"), &there, 4 * MIB)
        };
        assert!(!passed(&[]));
        assert!(!passed(&["000000010000000000000009", "000000020000000000000006"]), "pushed together with it");
        assert!(passed(&["000000020000000000000046"]));
        assert!(passed(&["000000030000000000000006"]), "a later leader pushes what is left of timeline 2 first");
    }

    #[test]
    fn an_idle_server_never_switches_and_a_write_waits_no_longer_than_the_age() {
        let mut unarchived = Unarchived::default();
        let mut now = 0;
        let mut poll = |next_xid, own, name| {
            now += 500;
            unarchived.note(now, Written { next_xid, own, proving: false, segment: segment(name) });
            (unarchived.since(), unarchived.is_due(now, 1_000))
        };
        let one = "000000010000000000000001";
        assert_eq!(poll(10, 0, one), (Some(500), false), "what the leader before wrote");
        let two = "000000010000000000000002";
        assert_eq!(poll(11, 1, two), (None, false), "its own proof");
        assert_eq!(poll(13, 2, two), (Some(1_500), false), "somebody else wrote");
        assert_eq!(poll(14, 3, two), (Some(1_500), false));
        assert_eq!(poll(15, 4, two), (Some(1_500), true));
        let three = "000000010000000000000003";
        assert_eq!(poll(16, 5, three), (None, false), "the segment has ended");
        assert_eq!(poll(17, 6, three), (None, false));
        // A write between the polls around the end of a segment counts to the new one.
        assert_eq!(poll(19, 7, "000000010000000000000004"), (Some(4_000), false));
    }
}
