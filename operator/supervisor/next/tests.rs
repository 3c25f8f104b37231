//! The supervisor's decisions, one sentence each; and the regressions found in them.

use super::*;
use crate::api::lsn::{Fork, Lsn};
use crate::supervisor::state::{Server, Source, Upstream};
use crate::supervisor::wire::{Follow, JobKind, Lineage, Replica};

const TERM: u64 = 5;

fn order(task: Task) -> Durable {
    let order = Order { term: TERM, revision: 3, task, settings: Settings::new(), access: None, archive: None };
    Durable { incarnation: Some("me".into()), promised: TERM, order: Some(order), ..Durable::default() }
}

fn leader(open: bool) -> Lead {
    let rule = Rule { count: 1, names: vec!["a".into(), "b".into()] };
    Lead {
        init: None,
        recovery: None,
        commit: rule.clone(),
        confirm: rule,
        slots: vec!["evenkeel_2".into()],
        database: "app".into(),
        owner: "app".into(),
        open,
    }
}

/// Of a leader on timeline 3, which left timeline 2 at position 100.
fn follower() -> Follow {
    let history = vec![Fork { timeline: 2, ended_at: Lsn(100) }];
    Follow {
        leader: "db-1".into(),
        address: "172.30.0.2".into(),
        port: 5432,
        secure: None,
        slot: "evenkeel_1".into(),
        slots: Vec::new(),
        timeline_terms: Default::default(),
        lineage: Some(Lineage { timeline: 3, history }),
        rewindable: true,
    }
}

fn follow_config() -> Config {
    let upstream =
        Upstream { source: Source::Plain { address: "172.30.0.2".into(), port: 5432 }, slot: "evenkeel_1".into() };
    Config { gate: Gate::Open, upstream: Some(upstream), commit: Rule::never(), ..Config::default() }
}

fn stopped(data: Data, task: Task) -> Seen {
    Seen {
        durable: order(task),
        data,
        postgres: Postgres::Stopped,
        job_due: true,
        credentials: Some("h".into()),
        ..Seen::default()
    }
}

fn standby(task: Task, server: Server, applied: Config) -> Seen {
    let postgres = Postgres::Standby;
    Seen { postgres, server: Some(server), applied: Some(applied), ..stopped(Data::Standby, task) }
}

/// A primary with an open gate; `a` streams from it with a fresh reply, or not.
fn open_primary(streaming: bool) -> Seen {
    let replica = Replica { incarnation: "a".into(), streaming, silent_ms: 0, lsn: Lsn(50), lag_bytes: 0 };
    let server = Server {
        primary: true,
        lsn: Lsn(60),
        replicas: vec![replica],
        slots: vec!["evenkeel_2".into()],
        checkpointed: true,
        ..Server::default()
    };
    let applied = Config { commit: leader(true).commit, gate: Gate::Open, ..Config::default() };
    let mut durable = order(Task::Lead(leader(true)));
    durable.timeline_terms = [(0, TERM)].into();
    Seen {
        durable,
        postgres: Postgres::Primary,
        server: Some(server),
        applied: Some(applied),
        barrier_lsn: Some(Lsn(50)),
        barrier_passed_once: true,
        app_ensured: true,
        ..stopped(Data::Primary, Task::Lead(leader(true)))
    }
}

/// The act's first word.
fn check(seen: &Seen, act: &str) {
    let next = format!("{:?}", next(seen).0);
    assert_eq!(next.split(['(', ' ']).next(), Some(act), "{next}");
}

#[test]
fn a_standby_asked_to_promise_lets_go_of_its_leader_first() {
    let streaming = Server { receiver: true, streaming: true, replayed: true, timeline: 2, ..Server::default() };
    let mut seen = standby(Task::Prepare, streaming, follow_config());
    check(&seen, "Apply");
    assert_eq!(promise(&seen), None);
    seen.applied = Some(Config { gate: Gate::Open, commit: Rule::never(), ..Config::default() });
    check(&seen, "Poll");
    assert_eq!(promise(&seen), None);
    seen.server = Some(Server { replayed: true, timeline: 2, lsn: Lsn(90), ..Server::default() });
    check(&seen, "Wait");
    assert_eq!(promise(&seen), Some(Promise { term: TERM, timeline: 2, lsn: Lsn(90) }));
}

#[test]
fn a_primary_asked_to_promise_is_stopped_at_once() {
    let seen = Seen { durable: order(Task::Prepare), ..open_primary(true) };
    check(&seen, "StopImmediate");
}

#[test]
fn an_open_gate_is_kept_while_a_confirmation_lives_and_no_longer() {
    // Regression 2: a primary whose only standby disconnected for a moment stopped itself at once.
    check(&Seen { confirmed_ms: Some(CONFIRMATION_MS - 1), ..open_primary(false) }, "Poll");
    check(&Seen { confirmed_ms: Some(CONFIRMATION_MS), ..open_primary(false) }, "StopImmediate");
    check(&open_primary(true), "Wait");
    check(&open_primary(false), "StopImmediate");
    check(&Seen { renewed_ms: Some(CONFIRMATION_MS - 1), ..open_primary(false) }, "Poll");
    check(&Seen { renewed_ms: Some(CONFIRMATION_MS), ..open_primary(false) }, "StopImmediate");
}

#[test]
fn a_gate_opens_only_behind_a_barrier_of_this_very_run() {
    let applied = Some(Config { commit: leader(true).commit, ..Config::default() });
    let shut = Seen { applied, ..open_primary(true) };
    check(&shut, "Apply");
    let not_passed = Seen { barrier_passed_once: false, barrier_lsn: Some(Lsn(51)), ..shut.clone() };
    check(&not_passed, "Poll");
    check(&Seen { barrier_passed_once: false, barrier_lsn: None, ..shut }, "SetBarrier");
}

#[test]
fn a_candidate_ends_sessions_before_it_is_promoted() {
    let server = Server { replayed: true, slots: vec!["evenkeel_2".into()], ..Server::default() };
    let shut = Config { commit: leader(false).commit, ..Config::default() };
    let mut seen = standby(Task::Lead(leader(false)), server, shut);
    check(&seen, "EndSessions");
    seen.sessions_ended = true;
    assert_eq!(next(&seen).0, Act::RecordTimelineTerms([(1, TERM)].into()));
    seen.durable.timeline_terms = [(1, TERM)].into();
    check(&seen, "Promote");
}

/// Regression 3: two promotions from one timeline got the same number; a primary that came back from the branch that
/// was given up was "rewound" (pg_rewind does nothing then) and streamed from the other. Now the terms are compared.
#[test]
fn a_directory_on_another_branch_of_the_same_number_is_copied_anew() {
    let mut follower = follower();
    follower.lineage = Some(Lineage { timeline: 3, history: Vec::new() });
    follower.timeline_terms = [(1, 1), (3, 5)].into();
    let mut seen = stopped(Data::Primary, Task::Follow(follower.clone()));
    seen.durable.timeline_terms = [(1, 1), (3, 4)].into();
    check(&seen, "Condemn");
    seen.durable.timeline_terms = [(1, 1), (2, 4)].into();
    check(&seen, "Condemn");
    seen.durable.timeline_terms = [(1, 1)].into();
    check(&seen, "Recover");
    let server = Server { replayed: true, timeline: 3, lsn: Lsn(7), ..Server::default() };
    let mut seen = standby(Task::Follow(follower), server, Config { upstream: None, ..follow_config() });
    seen.durable.timeline_terms = [(1, 1), (3, 4)].into();
    check(&seen, "Condemn");
    seen.durable.timeline_terms = [(1, 1), (3, 5)].into();
    check(&seen, "Apply");
}

/// Regression 22: two branches with one number promised the same term; the one that was not chosen followed the other
/// as if it were its own, because the lineage was not known yet (simulation, seeds 1398 and 1858). Now the order
/// carries the terms.
#[test]
fn who_promised_on_another_branch_of_the_number_waits_for_the_lineage() {
    let server = Server { replayed: true, timeline: 2, ..Server::default() };
    let follower = Follow { lineage: None, timeline_terms: [(1, 1), (2, 3)].into(), ..follower() };
    let mut seen = standby(Task::Follow(follower), server, Config { upstream: None, ..follow_config() });
    seen.durable.timeline_terms = [(1, 1), (2, 2)].into();
    check(&seen, "Wait");
    seen.durable.timeline_terms = [(1, 1), (2, 3)].into();
    assert_eq!(next(&seen).0, Act::RecordTimelineTerms([(1, 1), (2, 3), (3, TERM)].into()));
}

/// Regression 21: a standby that already streamed was not compared when its leader's lineage arrived; another leader at
/// the same address, on another branch with the same number, would have been taken for the old one (found by reading).
#[test]
fn a_standby_that_streams_is_compared_as_soon_as_the_lineage_is_known() {
    let mut follower = follower();
    follower.lineage = Some(Lineage { timeline: 3, history: Vec::new() });
    follower.timeline_terms = [(1, 1), (3, TERM)].into();
    let server = Server { receiver: true, streaming: true, replayed: true, timeline: 3, ..Server::default() };
    let mut seen = standby(Task::Follow(follower), server, follow_config());
    for (terms, act) in [
        ([(1, 1), (3, TERM - 1)], "Condemn"),
        ([(1, 1), (2, TERM)], "RecordTimelineTerms"),
        ([(1, 1), (3, TERM)], "EnsureSlots"),
    ] {
        seen.durable.timeline_terms = terms.into();
        if act == "EnsureSlots" {
            seen.server.iter_mut().for_each(|server| server.slots = vec!["other".into()]);
        }
        check(&seen, act);
    }
}

/// Regression 4: a standby that was promoted by hand could promise the end of a branch that no grant began, and
/// acknowledged writes alone. Now such a branch is never promised, and no standby can satisfy a standby's commit rule.
#[test]
fn a_standby_promoted_by_hand_promises_and_acknowledges_nothing() {
    let server = Server { replayed: true, timeline: 2, lsn: Lsn(90), ..Server::default() };
    let config = Config { gate: Gate::Open, commit: Rule::never(), ..Config::default() };
    let mut seen = standby(Task::Prepare, server, config);
    seen.durable.timeline_terms = [(1, 1)].into();
    assert_eq!(promise(&seen), None);
    seen.durable.timeline_terms = [(1, 1), (2, 4)].into();
    assert!(promise(&seen).is_some());
    // Regression 15: after it accepted the order to promise, it received WAL from the new leader before it
    // was compared.
    let lineage = Follow { timeline_terms: [(1, 1), (2, 4)].into(), lineage: None, ..follower() };
    seen.durable.order = order(Task::Follow(lineage)).order;
    check(&seen, "RecordTimelineTerms");
    seen.durable.timeline_terms = [(1, 1)].into();
    check(&seen, "Wait");
    let by_hand = Server { primary: true, timeline: 3, ..Server::default() };
    let mut seen = Seen { server: Some(by_hand), data: Data::Primary, ..seen };
    (seen.postgres, seen.durable.order) = (Postgres::Primary, order(Task::Follow(follower())).order);
    check(&seen, "Condemn");
}

/// Regression 5: an order that arrived late on another stream brought back an older commit rule, after the
/// record had dropped it.
#[test]
fn an_older_revision_of_the_same_term_is_refused() {
    let durable = order(Task::Lead(leader(false)));
    let of = |revision| Order {
        term: TERM,
        revision,
        task: Task::Lead(leader(true)),
        settings: Settings::new(),
        access: None,
        archive: None,
    };
    assert!(matches!(accept(&durable, &of(2), None), Err(Refused::Backwards { .. })));
    assert!(accept(&durable, &of(3), None).is_ok());
}

#[test]
fn a_barrier_once_passed_and_the_youngest_confirmation_are_remembered() {
    let remembered = |seen: &Seen| next(seen).1;
    let passed = Seen { barrier_passed_once: false, ..open_primary(true) };
    assert_eq!(remembered(&passed), Remembered { barrier_passed_once: true, confirmed_ms: Some(0) });
    let alone = Seen { confirmed_ms: Some(7), ..open_primary(false) };
    assert_eq!(remembered(&alone), Remembered { barrier_passed_once: true, confirmed_ms: Some(7) });
    let standby = standby(Task::Prepare, Server::default(), follow_config());
    assert_eq!(remembered(&standby), Remembered::default());
}

/// Regression 6: a voter's last reply counted for ten seconds, and then again as a confirmation: an isolated primary
/// stayed open for twenty, five longer than the operator waits for it. Now a confirmation has the age of the reply.
#[test]
fn a_confirmation_is_as_old_as_the_reply_that_it_rests_on() {
    let mut seen = open_primary(true);
    let age = |seen: &Seen| voters_confirm(seen, &leader(true));
    assert_eq!(age(&seen), Some(0));
    seen.server.iter_mut().flat_map(|server| &mut server.replicas).for_each(|replica| replica.silent_ms = 9_000);
    assert_eq!(age(&seen), Some(9_000));
}

#[test]
fn an_old_primary_follows_as_it_is_only_if_it_ended_before_the_fork() {
    let clean = |end| Seen { clean: end, ..stopped(Data::Primary, Task::Follow(follower())) };
    let remembered = |lsn| {
        let mut seen = clean(Some((2, Lsn(lsn))));
        seen.durable.former_wal_end = Some(Fork { timeline: 2, ended_at: Lsn(lsn) });
        seen
    };
    check(&remembered(100), "Start");
    check(&remembered(101), "Rewind");
    check(&clean(None), "Recover");
}

/// Regression 18: an old primary was recovered and rewound in one step, so the end of its WAL and the
/// loss were never known. Now its end is on disk before anything is overwritten, and stays until it is to
/// lead again.
#[test]
fn an_old_primary_writes_down_where_it_ended_before_it_follows() {
    for end in [100, 101] {
        let mut seen = stopped(Data::Primary, Task::Follow(follower()));
        seen.clean = Some((2, Lsn(end)));
        // From an earlier time as primary.
        seen.durable.former_wal_end = Some(Fork { timeline: 1, ended_at: Lsn(7) });
        assert_eq!(next(&seen).0, Act::RecordWalEnd(Fork { timeline: 2, ended_at: Lsn(end) }));
        let of =
            |task| Order { term: TERM + 1, revision: 0, task, settings: Settings::new(), access: None, archive: None };
        let left = |task| accept(&seen.durable, &of(task), None).map(|durable| durable.former_wal_end.is_some());
        assert_eq!((left(Task::Prepare), left(Task::Lead(leader(false)))), (Ok(true), Ok(false)));
    }
}

#[test]
fn a_rewind_that_was_cut_off_is_not_tried_again() {
    let mut seen = stopped(Data::Broken, Task::Follow(follower()));
    seen.durable.unfinished = Some(JobKind::Rewind);
    check(&seen, "Clone");
}

#[test]
fn a_rewound_directory_starts_with_the_leader_it_was_rewound_onto_and_with_no_other() {
    let mut seen = stopped(Data::Standby, Task::Follow(follower()));
    seen.durable.rewound = Some(3);
    assert_eq!(next(&seen).0, Act::Start { standby: true, config: follow_config() });
    seen.durable.rewound = Some(2);
    check(&seen, "Condemn");
    seen.durable.order = order(Task::Prepare).order;
    check(&seen, "Wait");
}

#[test]
fn a_standby_is_compared_with_its_leaders_history_before_it_takes_anything_from_there() {
    check(&stopped(Data::Standby, Task::Follow(follower())), "Start");
    let alone = Config { upstream: None, ..follow_config() };
    let at = |timeline, lsn| Server { replayed: true, timeline, lsn: Lsn(lsn), ..Server::default() };
    let follow = || Task::Follow(follower());
    check(&standby(follow(), at(2, 100), alone.clone()), "Apply");
    check(&standby(follow(), at(3, 500), alone.clone()), "Apply");
    check(&standby(follow(), at(2, 101), alone.clone()), "Condemn");
    check(&standby(follow(), at(1, 10), alone), "Condemn");
}

/// Regression 11: a rewound directory needs the leader's WAL and histories before it answers queries; if the leader
/// lacks them it stayed `starting` for ever (as in Regression 10, about a standby that answers). Now both are cloned.
#[test]
fn what_its_leader_cannot_serve_any_more_is_copied_anew() {
    let server = Server { replayed: true, timeline: 2, lsn: Lsn(90), ..Server::default() };
    let answers = standby(Task::Follow(follower()), server, follow_config());
    check(&answers, "Wait");
    check(&Seen { wal_missing: true, ..answers }, "Condemn");
    let mut starts = Seen { postgres: Postgres::Starting, ..stopped(Data::Standby, Task::Follow(follower())) };
    (starts.durable.rewound, starts.started) = (Some(3), Some(follow_config()));
    check(&starts, "Wait");
    starts.wal_missing = true;
    check(&starts, "Condemn");
    check(&Seen { data: Data::Broken, ..starts }, "StopImmediate");
}

/// Regression 12: a volume that was emptied under a running instance never healed: the supervisor could not write to
/// its folder, which was gone, and the server kept running. Now the server ends at once, and the folder is restored
/// with the promise.
#[test]
fn an_emptied_volume_ends_the_server_and_keeps_the_promise_but_not_the_identity() {
    let emptied = |seen: Seen| Seen { data: Data::None, own_gone: true, ..seen };
    for task in [Task::Prepare, Task::Follow(follower())] {
        check(&emptied(standby(task, Server::default(), follow_config())), "StopImmediate");
    }
    check(&emptied(open_primary(true)), "StopImmediate");
    let mut seen = emptied(stopped(Data::None, Task::Follow(follower())));
    let remembered = Durable { incarnation: None, ..seen.durable.clone() };
    assert_eq!(next(&seen).0, Act::Restore(Box::new(remembered.clone())));
    (seen.durable, seen.own_gone) = (remembered, false);
    check(&seen, "Clone");
    // Only the supervisor's folder is gone: the directory keeps its incarnation.
    let seen = Seen { own_gone: true, ..open_primary(true) };
    assert_eq!(next(&seen).0, Act::Restore(Box::new(seen.durable.clone())));
}

#[test]
fn a_standby_whose_replay_is_stuck_is_restarted_whatever_its_order() {
    let stuck = || Server { stuck: true, receiver: true, ..Server::default() };
    for task in [Task::Prepare, Task::Follow(follower()), Task::Lead(leader(false))] {
        check(&standby(task, stuck(), follow_config()), "StopFast");
    }
}

/// Regression 123: a replay that people had paused cost a restart of the candidate during a failover. Now it is resumed.
#[test]
fn a_replay_that_somebody_paused_goes_on_where_a_promise_waits_for_it_and_stays_paused_elsewhere() {
    let paused = || Server { paused: true, receiver: true, streaming: true, slots: Vec::new(), ..Server::default() };
    for task in [Task::Prepare, Task::Lead(leader(false))] {
        check(&standby(task, paused(), follow_config()), "ResumeReplay");
    }
    check(&standby(Task::Follow(follower()), paused(), follow_config()), "Wait");
}

#[test]
fn an_order_below_the_promise_or_backwards_is_refused() {
    let durable = order(Task::Lead(leader(false)));
    let of = |term, task| {
        accept(
            &durable,
            &Order { term, revision: 3, task, settings: Settings::new(), access: None, archive: None },
            None,
        )
    };
    assert!(matches!(of(TERM - 1, Task::Prepare), Err(Refused::OldTerm { .. })));
    assert!(matches!(of(TERM, Task::Prepare), Err(Refused::Backwards { .. })));
    assert!(matches!(of(TERM, Task::Follow(follower())), Err(Refused::Backwards { .. })));
    assert_eq!(of(TERM + 1, Task::Prepare).map(|durable| durable.promised), Ok(TERM + 1));
}

/// Regression 38: a leader that was killed before its promotion kept the timeline that it had foreseen, and so did its
/// follower when that one was promoted later; a timeline with that number, promoted by hand, then passed for the
/// leader's. Now a grant records its own term for the timeline that it begins.
#[test]
fn a_timeline_that_was_foreseen_and_never_began_belongs_to_the_grant_that_begins_it() {
    let lead = |term| Order {
        term,
        revision: 1,
        task: Task::Lead(leader(false)),
        settings: Settings::new(),
        access: None,
        archive: None,
    };
    let first = accept(&Durable::default(), &lead(2), Some(1)).expect("a newer term is accepted");
    assert_eq!(first.timeline_terms, [(2, 2)].into());
    let second = accept(&first, &lead(3), Some(1)).expect("a newer term is accepted");
    assert_eq!(second.timeline_terms, [(2, 3)].into());
}

/// Regression 117: settings went into the configuration of all instances at once, and PostgreSQL judged them at the next
/// start: a library that the image lacks ended in the primary. Now a dry start beside the loop judges them first, and
/// until then the server keeps those that it has.
#[test]
fn changed_settings_are_judged_before_the_server_gets_them() {
    let mut seen = open_primary(true);
    let asked = Settings::from([("shared_preload_libraries".to_owned(), "nonsuch".to_owned())]);
    seen.durable.order.as_mut().expect("an order").settings = asked.clone();
    (seen.settings, seen.settings_due) = (Some(Settings::new()), true);
    check(&seen, "DryStart");
    seen.settings_due = false;
    check(&seen, "Wait");
    seen.settings = Some(asked);
    check(&seen, "Apply");
}

/// Regression 119: the database was made inside the loop with the gate open, for up to a minute, and nothing could stop the
/// server meanwhile; and a new cluster opened its gate before it was made. Now it is made beside the loop, and a cluster
/// that never had it serves nobody before.
#[test]
fn a_new_cluster_serves_nobody_before_its_application_can_work() {
    let mut seen = open_primary(true);
    seen.credentials = Some("h".into());
    seen.app_ensured = false;
    seen.applied.as_mut().expect("a configuration").gate = Gate::Shut;
    seen.server.as_mut().expect("a server").without_app = true;
    check(&seen, "EnsureApp");
    seen.app_busy = true;
    check(&seen, "Wait");
    seen.app_ensured = true;
    assert!(matches!(next(&seen).0, Act::Apply(config) if config.gate == Gate::Open));
    // After a failover the database is there, and the gate comes first.
    (seen.app_ensured, seen.app_busy) = (false, false);
    seen.server.as_mut().expect("a server").without_app = false;
    assert!(matches!(next(&seen).0, Act::Apply(config) if config.gate == Gate::Open));
    seen.applied.as_mut().expect("a configuration").gate = Gate::Open;
    check(&seen, "EnsureApp");
}

/// Regression 124: a container that was removed took a tablespace with it, and its instance could not replay any more. Now it
/// is cloned.
#[test]
fn a_follower_without_one_of_its_tablespaces_is_cloned() {
    let mut seen = stopped(Data::Standby, Task::Follow(follower()));
    seen.tablespace_gone = true;
    check(&seen, "Condemn");
}
