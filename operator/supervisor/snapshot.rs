//! Computes the [`Seen`] that `next` decides on from the shell's memory. Checks a few file names and the free
//! disk space, queries no server.

use super::beside::Beside;
use super::leftovers;
use super::place::Place;
use super::shell::{Postmaster, Run, Shell};
use super::sql::{Poll, Slot, Walsender};
use super::state::{Config, Gate, Seen, Server};
use super::wire::{CONFIRMATION_MS, Data, Job, Notice, Postgres, Proof, Receiver, Replica, Task};

/// Wait event: the startup process sleeps between two attempts to get WAL. All existing WAL is replayed, no WAL
/// receiver exists, and next it will read a changed configuration. (WaitForWALToBecomeAvailable stops a receiver before
/// it sleeps, and handles a pending reload after it, before it could start another.)
const IDLE_WITHOUT_SOURCE: &str = "RecoveryRetrieveRetryInterval";
/// Wait event: replay is paused, by a user or because a setting is lower than the leader's.
const PAUSED: &str = "RecoveryPause";
/// Wait event: it waits for the receiver. All received WAL is replayed.
const IDLE_WITH_SOURCE: &str = "RecoveryWalStream";

/// Lost logical slots are told for this long, in milliseconds: a day.
const SLOTS_TOLD_MS: u64 = 86_400_000;

/// The current snapshot.
pub fn snapshot(shell: &Shell, now: u64) -> Seen {
    let run = &shell.server.run;
    let postgres = postgres(shell.server.postmaster.as_ref(), run);
    let known = |text: &String| (!text.is_empty()).then(|| text.clone());
    let judged = shell.server.judged.as_ref();
    let refused = judged.map_or(&[][..], |judged| &judged.errors);
    let asked = shell.durable.order.as_ref().map(|order| &order.settings);
    let changed = shell.server.trial.again || judged.map(|judged| &judged.asked) != asked;
    let answers = run.poll.is_some() && matches!(postgres, Postgres::Standby | Postgres::Primary);
    Seen {
        data: data(&shell.place, shell.durable.unfinished.is_some()),
        own_gone: shell.place.own_gone(),
        durable: shell.durable.clone(),
        clean: shell.server.down.clean.filter(|_| shell.server.postmaster.is_none()),
        postgres,
        run: run.id.clone(),
        stopped_ms: now.saturating_sub(shell.server.down.since),
        tablespace_gone: shell.server.postmaster.is_none()
            && leftovers::tablespaces(&shell.place, &shell.place.pgdata())
                .iter()
                .any(|directory| shell.place.theirs().is_gone(directory)),
        fresh: shell.server.fresh,
        start_held: now < shell.server.start_held_until,
        restart_asked: run.restart_asked,
        ordered_since_stop: shell.server.ordered_since_stop,
        server: run.poll.as_ref().filter(|_| shell.server.postmaster.is_some()).map(|poll| server(shell, poll, now)),
        started: run.started.clone(),
        applied: run.applied.clone(),
        sessions_ended: run.sessions_ended,
        wal_missing: run.wal_missing,
        barrier_lsn: run.barrier_lsn,
        barrier_ms: run.barrier_lsn.map_or(0, |_| now.saturating_sub(run.barrier_at)),
        barrier_passed_once: run.barrier_passed_once,
        app_ensured: run.app_ensured,
        app_busy: run.app_task.is_some() || now < run.app_due,
        checkpoint_started: run.checkpoint_started,
        checkpointed_for_stop: shell.server.checkpointed_for_stop,
        job: shell.job.as_ref().map(|work| Job {
            kind: work.kind,
            error: work.error.clone(),
            failures: work.failures,
            running: work.running,
        }),
        job_due: shell.job.as_ref().is_none_or(|work| !work.running && now >= work.due),
        credentials: shell.secrets.as_ref().map(|secrets| secrets.credentials.hash.clone()),
        tls: tls_held(shell).filter(|_| answers || postgres == Postgres::Stopped),
        tls_problem: shell.problems.tls.clone(),
        port_taken: shell.problems.port_taken,
        tls_due: shell.tls_wanted().is_some_and(|wanted| Some(&wanted.hash) != tls_held(shell).as_ref())
            && (postgres == Postgres::Stopped || answers && run.applied.is_some() && shell.problems.poll.is_none())
            && now >= shell.clocks.tls_at,
        operator_ms: shell.operator.heard_at.map(|at| now.saturating_sub(at)),
        confirmed_ms: run.confirmed_at.map(|at| now.saturating_sub(at)),
        renewed_ms: renewed_ms(shell, now),
        terminating: shell.terminating,
        boot: shell.boot.clone(),
        clock_ms: now,
        system_identifier: known(&shell.server.details.system_identifier),
        server_version: known(&shell.server.details.version),
        receiver: receiver(shell, now),
        pending_restart: shell.server.details.pending_restart.clone(),
        setting_errors: [refused, &shell.server.details.setting_errors].concat(),
        settings: judged.map(|judged| judged.accepted.clone()),
        settings_due: changed && answers && !shell.server.trial.running && now >= shell.server.trial.due,
        settings_pending: changed
            || !run.details_read
            || judged.zip(run.applied.as_ref()).is_some_and(|(judged, applied)| judged.accepted != applied.settings),
        notices: notices(shell, now),
        disk_free: shell.place.disk_free(),
        proof: proof(run, now),
        collations: run.counting.known(shell.server.libraries.as_ref()),
        archives_held: shell.archives.as_ref().map(|archives| archives.hash.clone()),
        has_source: shell.archives.as_ref().is_some_and(|archives| archives.source.is_some()),
        archive: shell.archiver.as_ref().and_then(|archiver| archiver.state(now)),
        recovery: shell.recovery.as_ref().map(|state| state.borrow().clone()),
        backup: shell.backup.as_ref().map(Beside::state),
        restore: shell.restore.as_ref().map(Beside::state),
        point: shell.point.as_ref().map(Beside::state),
        problem: shell.problems.in_words(postgres),
    }
}

/// Hash of the certificates that the running server has loaded, or, if none runs, whose files are written.
fn tls_held(shell: &Shell) -> Option<String> {
    let server = &shell.server;
    if server.postmaster.is_some() { server.run.tls.clone() } else { server.tls_written.clone() }
}

/// What people should know.
fn notices(shell: &Shell, now: u64) -> Vec<Notice> {
    let missing = shell.server.run.app_missing.as_ref();
    let missing = missing.map(|message| Notice::new(Notice::DATABASE_MISSING, message));
    let (lost, at) = &shell.server.lost_slots;
    let lost = (!lost.is_empty() && now.saturating_sub(*at) < SLOTS_TOLD_MS).then(|| {
        let message = format!(
            "it lost the logical replication slots {} when it ceased to be the primary, and the new primary does not have them: make them there, and let their subscribers begin anew",
            lost.join(", ")
        );
        Notice::new(Notice::SLOTS_LOST, message)
    });
    let outside = &shell.server.details.tablespaces;
    let outside = (shell.server.postmaster.is_some() && !outside.is_empty()).then(|| {
        let message = format!(
            "tablespaces outside the data volume: {}; what is in them is lost when the last container with them is removed: move it (ALTER TABLE ... SET TABLESPACE pg_default) and drop them",
            outside.join(", ")
        );
        Notice::new(Notice::TABLESPACES, message)
    });
    [missing, lost, outside].into_iter().flatten().collect()
}

/// A standby's WAL receiver.
fn receiver(shell: &Shell, now: u64) -> Option<Receiver> {
    let poll = shell.server.run.poll.as_ref().filter(|_| shell.server.postmaster.is_some())?;
    let stream = poll.stream.as_ref()?;
    Some(Receiver {
        streaming: stream.status == "streaming",
        from: stream.host.clone().unwrap_or_default(),
        quiet_ms: now.saturating_sub(shell.server.run.moved.1),
    })
}

/// Absent before clients were let in; kept after the server has ended, so that it is known when it last took a write.
fn proof(run: &Run, now: u64) -> Option<Proof> {
    let open = run.poll.is_some() && run.applied.as_ref().is_some_and(|applied| applied.gate == Gate::Open);
    let proof = run.proving.proof(now);
    (open || proof.proven_ms.is_some()).then_some(proof)
}

/// Only a renewal of the grant's own term counts.
fn renewed_ms(shell: &Shell, now: u64) -> Option<u64> {
    let order = shell.durable.order.as_ref()?;
    let (term, at) = shell.operator.renewed?;
    (term == order.term && matches!(order.task, Task::Lead(_))).then(|| now.saturating_sub(at))
}

/// The state of the data directory, by the names in it.
pub fn data(place: &Place, unfinished: bool) -> Data {
    let (theirs, pgdata) = (place.theirs(), place.pgdata());
    if unfinished {
        Data::Broken
    } else if theirs.is_gone(&pgdata.join("global/pg_control")) {
        Data::None
    } else if theirs.exists(&pgdata.join("standby.signal")) {
        Data::Standby
    } else {
        Data::Primary
    }
}

fn postgres(postmaster: Option<&Postmaster>, run: &Run) -> Postgres {
    match (postmaster, &run.poll) {
        (None, _) => Postgres::Stopped,
        (Some(postmaster), _) if postmaster.stopping.is_some() => Postgres::Stopping,
        (Some(_), None) => Postgres::Starting,
        (Some(_), Some(poll)) if poll.recovery => Postgres::Standby,
        (Some(_), Some(_)) => Postgres::Primary,
    }
}

fn server(shell: &Shell, poll: &Poll, now: u64) -> Server {
    let run = &shell.server.run;
    let has_upstream = run.applied.as_ref().is_none_or(|applied: &Config| applied.upstream.is_some());
    let waits_for = poll.startup.as_deref();
    let replayed = waits_for == Some(IDLE_WITHOUT_SOURCE) || has_upstream && waits_for == Some(IDLE_WITH_SOURCE);
    // Lost slots are recreated. An unwanted slot that is still active cannot be dropped yet and does not count.
    let wanted = |name: &String| match shell.durable.order.as_ref().map(|order| &order.task) {
        Some(Task::Lead(lead)) => lead.slots.contains(name),
        Some(Task::Follow(follow)) => follow.slots.contains(name),
        _ => false,
    };
    // Also recreated: a follower's slot that retains WAL, and a leader's slot that does not, once clients are served.
    // Until then both are fine.
    let wrong = |slot: &Slot| match shell.durable.order.as_ref().map(|order| &order.task) {
        Some(Task::Follow(_)) => slot.reserved,
        Some(Task::Lead(_)) => run.settled(now) && !poll.recovery && !slot.reserved,
        _ => false,
    };
    let fine = |slot: &&Slot| !slot.lost && (slot.active || !wrong(slot));
    let slots = poll.slots.iter().filter(fine).filter(|slot| !slot.active || wanted(&slot.name));
    Server {
        primary: !poll.recovery,
        timeline: timeline(run, poll),
        lsn: poll.lsn,
        receiver: poll.receivers > 0 || poll.stream.is_some(),
        streaming: poll.stream.as_ref().is_some_and(|stream| stream.status == "streaming"),
        replayed,
        stuck: poll.recovery && run.stuck,
        paused: poll.recovery && waits_for == Some(PAUSED),
        sessions: poll.sessions,
        replicas: replicas(run, poll, now),
        slots: slots.map(|slot| slot.name.clone()).collect(),
        history: if poll.recovery { Vec::new() } else { run.history.1.clone() },
        checkpointed: !poll.recovery && poll.control_timeline == timeline(run, poll),
        without_app: poll.app_made != Some(true),
    }
}

/// The current timeline of a primary; for a standby the one it received or replayed last.
fn timeline(run: &Run, poll: &Poll) -> u32 {
    if let Some(live) = poll.segment.as_deref().and_then(live_timeline) {
        return live;
    }
    let streamed = poll.stream.as_ref().map_or(0, |stream| stream.timeline);
    run.identified.map_or(0, |(_, timeline)| timeline).max(streamed)
}

/// The first 8 hexadecimal digits of a WAL segment's name.
pub fn live_timeline(segment: &str) -> Option<u32> {
    u32::from_str_radix(segment.get(..8)?, 16).ok()
}

/// Only a single row with a name counts (two of them could make a quorum of one), and only with a reply that is fresh
/// by our clock.
fn replicas(run: &Run, poll: &Poll, now: u64) -> Vec<Replica> {
    let silent_ms = |walsender: &Walsender| {
        let seen = run.replies.get(&walsender.pid).and_then(|reply| reply.seen);
        seen.map_or(u64::MAX, |at| now.saturating_sub(at))
    };
    let alone = |name: &str| poll.replicas.iter().filter(|other| other.name == name).count() == 1;
    let replica = |walsender: &Walsender| {
        let lsn = walsender.flushed.unwrap_or_default();
        Replica {
            incarnation: walsender.name.clone(),
            streaming: walsender.streaming
                && walsender.flushed.is_some()
                && silent_ms(walsender) < CONFIRMATION_MS
                && alone(&walsender.name),
            silent_ms: silent_ms(walsender),
            lsn,
            lag_bytes: poll.lsn.0.saturating_sub(lsn.0),
        }
    };
    poll.replicas.iter().map(replica).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::api::lsn::Lsn;
    use crate::supervisor::shell::Reply;

    fn walsender(pid: i32, name: &str) -> Walsender {
        Walsender { pid, name: name.into(), streaming: true, flushed: Some(Lsn(90)), reply: Some("12:00:00".into()) }
    }

    fn poll(replicas: Vec<Walsender>) -> Poll {
        Poll {
            recovery: false,
            app_made: Some(true),
            lsn: Lsn(100),
            segment: Some("0000000A0000000000000003".into()),
            control_timeline: 9,
            generation: None,
            names: String::new(),
            conninfo: String::new(),
            receivers: 0,
            startup: None,
            barrier: false,
            next_xid: 0,
            sessions: 0,
            proof_waits: false,
            stream: None,
            replicas,
            slots: Vec::new(),
        }
    }

    fn streaming(rows: Vec<Walsender>, seen: &[(i32, Option<u64>)], now: u64) -> Vec<bool> {
        let replies = seen.iter().map(|(pid, seen)| (*pid, Reply { reply: None, seen: *seen })).collect();
        let run = Run { replies, ..Run::default() };
        replicas(&run, &poll(rows), now).iter().map(|replica| replica.streaming).collect()
    }

    #[test]
    fn a_reply_counts_for_ten_seconds_of_our_clock() {
        assert_eq!(streaming(vec![walsender(7, "a")], &[(7, Some(1_000))], 10_999), [true]);
        assert_eq!(streaming(vec![walsender(7, "a")], &[(7, Some(1_000))], 11_000), [false]);
        assert_eq!(streaming(vec![walsender(7, "a")], &[(7, None)], 1_000), [false]);
    }

    #[test]
    fn two_rows_of_one_name_count_as_none() {
        let rows = vec![walsender(7, "a"), walsender(8, "a"), walsender(9, "b")];
        assert_eq!(streaming(rows, &[(7, Some(5)), (8, Some(5)), (9, Some(5))], 10), [false, false, true]);
    }

    #[test]
    fn the_live_timeline_is_read_from_the_segment_not_from_the_control_file() {
        assert_eq!(timeline(&Run::default(), &poll(Vec::new())), 10);
    }

    #[test]
    fn a_directory_is_known_by_its_names() {
        let folder = tempfile::tempdir().unwrap();
        let (place, pgdata) = (Place::at(folder.path()), folder.path().join("pgdata"));
        assert_eq!(data(&place, false), Data::None);
        std::fs::create_dir_all(pgdata.join("global")).unwrap();
        std::fs::write(pgdata.join("global/pg_control"), "").unwrap();
        assert_eq!(data(&place, false), Data::Primary);
        std::fs::write(pgdata.join("standby.signal"), "").unwrap();
        assert_eq!(data(&place, false), Data::Standby);
        assert_eq!(data(&place, true), Data::Broken);
    }
}
