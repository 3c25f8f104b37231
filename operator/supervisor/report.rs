//! The report for the operator, rendered from a snapshot. Pure.

use super::next;
use super::state::{Gate, Seen};
use super::wire::{Job, JobKind, Leading, Postgres, Report, Task};
use crate::api::lsn::Lsn;

/// The complete report.
pub fn report(seen: &Seen) -> Report {
    let order = seen.durable.order.as_ref();
    let leads = order.is_some_and(|order| matches!(order.task, Task::Lead(_)));
    let (timeline, lsn) = end_of_wal(seen);
    let running = |kind| seen.job.as_ref().is_some_and(|job: &Job| job.running && job.kind == kind);
    let start_pending = seen.postgres == Postgres::Stopped && leads && next::start_pending(seen);
    Report {
        boot: seen.boot.clone(),
        clock_ms: seen.clock_ms,
        promised: seen.durable.promised,
        order: seen.durable.order.clone(),
        timeline_terms: seen.durable.timeline_terms.clone(),
        incarnation: seen.durable.incarnation.clone(),
        system_identifier: seen.system_identifier.clone(),
        data: seen.data,
        postgres: seen.postgres,
        run: seen.run.clone(),
        server_version: seen.server_version.clone(),
        timeline,
        lsn,
        clean: seen.clean.is_some(),
        promise: next::promise(seen).filter(|_| seen.postgres == Postgres::Standby),
        cannot_promise: next::cannot_promise(seen),
        receiver: seen.receiver.clone(),
        leading: leading(seen),
        gate_open: seen.server.is_some() && seen.applied.as_ref().is_some_and(|applied| applied.gate == Gate::Open),
        job: seen.job.clone(),
        former_wal_end: seen.durable.former_wal_end,
        pending_restart: seen.pending_restart.clone(),
        setting_errors: seen.setting_errors.clone(),
        settings_pending: seen.settings_pending,
        notices: seen.notices.clone(),
        credentials: seen.credentials.clone(),
        tls: seen.tls.clone(),
        secures: true,
        archives: true,
        archives_held: seen.archives_held.clone(),
        archive: seen.archive.clone(),
        backup: seen.backup.clone(),
        restore: seen.restore.clone(),
        point: seen.point.clone(),
        recovery: seen.recovery.clone(),
        tls_problem: seen.tls_problem.clone(),
        port_taken: seen.port_taken,
        disk_free: seen.disk_free,
        proof: seen.proof.clone(),
        collations: Some(seen.collations.clone()),
        problem: seen.problem.clone(),
        start_pending: start_pending || running(JobKind::Init),
        terminating: seen.terminating,
    }
}

fn end_of_wal(seen: &Seen) -> (Option<u32>, Option<Lsn>) {
    let running = seen.server.as_ref().map(|server| (server.timeline, server.lsn));
    let end = running.or(seen.clean);
    (end.map(|end| end.0), end.map(|end| end.1))
}

fn leading(seen: &Seen) -> Option<Leading> {
    let order = seen.durable.order.as_ref()?;
    let Task::Lead(lead) = &order.task else { return None };
    let server = seen.server.as_ref().filter(|server| server.primary && seen.postgres == Postgres::Primary)?;
    Some(Leading {
        term: order.term,
        commit: seen.applied.as_ref().map(|applied| applied.commit.clone()),
        barrier: next::barrier(seen, lead),
        confirmed: next::confirmed(seen, lead),
        history: server.history.clone(),
        checkpointed: server.checkpointed,
        replicas: server.replicas.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::state::{Config, Durable, Server};
    use crate::supervisor::wire::{Data, Lead, Order, Replica, Rule, significant};

    fn seen(task: Task, server: Server) -> Seen {
        let durable = Durable {
            incarnation: Some("5f0c".into()),
            promised: 4,
            order: Some(Order {
                term: 4,
                revision: 1,
                task,
                settings: Default::default(),
                access: None,
                archive: None,
            }),
            ..Durable::default()
        };
        let postgres = if server.primary { Postgres::Primary } else { Postgres::Standby };
        let applied = Some(Config::default());
        Seen { durable, data: Data::Standby, postgres, server: Some(server), applied, ..Seen::default() }
    }

    fn lead(count: u32, names: &[&str]) -> Task {
        let rule = Rule { count, names: names.iter().map(|name| (*name).to_owned()).collect() };
        Task::Lead(Lead {
            init: None,
            recovery: None,
            commit: rule.clone(),
            confirm: rule,
            slots: Vec::new(),
            database: "app".into(),
            owner: "app".into(),
            open: false,
        })
    }

    #[test]
    fn a_promise_is_reported_with_the_end_of_the_wal() {
        let server = Server { timeline: 3, lsn: Lsn(0x500), replayed: true, ..Server::default() };
        let promise = report(&seen(Task::Prepare, server)).promise;
        assert_eq!(promise.map(|promise| (promise.term, promise.timeline, promise.lsn)), Some((4, 3, Lsn(0x500))));
    }

    #[test]
    fn a_promise_does_not_hold_while_a_receiver_is_left() {
        let server = Server { timeline: 3, receiver: true, replayed: true, ..Server::default() };
        assert_eq!(report(&seen(Task::Prepare, server)).promise, None);
    }

    /// Regression 14: an election waited for a voter that was promoted by hand and could not answer, and the last
    /// leader, which was available, did not lead again. Now the voter reports that it cannot promise, and is not
    /// counted.
    #[test]
    fn what_cannot_promise_says_so() {
        let on = |timeline, terms: &[(u32, u64)], rewound| {
            let mut seen = seen(Task::Prepare, Server { timeline, replayed: true, ..Server::default() });
            (seen.durable.timeline_terms, seen.durable.rewound) = (terms.iter().copied().collect(), rewound);
            let report = report(&seen);
            assert_eq!(report.promise.is_none(), report.cannot_promise);
            report.cannot_promise
        };
        assert!(!on(2, &[], None) && !on(2, &[(1, 1), (2, 3)], None));
        assert!(on(3, &[(1, 1), (2, 3)], None) && on(2, &[], Some(2)));
    }

    #[test]
    fn a_standby_that_is_to_lead_is_not_leading_yet() {
        assert_eq!(report(&seen(lead(0, &[]), Server::default())).leading, None);
    }

    #[test]
    fn a_confirmation_that_ends_is_significant_and_a_moving_position_is_not() {
        let replica =
            |lsn, streaming| Replica { incarnation: "a".into(), streaming, silent_ms: 0, lsn: Lsn(lsn), lag_bytes: 9 };
        let of = |lsn, streaming| {
            let server =
                Server { primary: true, lsn: Lsn(lsn), replicas: vec![replica(lsn, streaming)], ..Server::default() };
            significant(&report(&Seen { disk_free: lsn, ..seen(lead(1, &["a"]), server) }))
        };
        assert_eq!(of(100, true), of(200, true));
        assert_ne!(of(100, true), of(100, false));
    }

    #[test]
    fn a_server_that_was_stopped_cleanly_says_where_its_wal_ends() {
        let mut seen = seen(Task::Stop { graceful: true }, Server::default());
        (seen.postgres, seen.server, seen.clean) = (Postgres::Stopped, None, Some((2, Lsn(0x700))));
        let report = report(&seen);
        assert_eq!((report.clean, report.timeline, report.lsn), (true, Some(2), Some(Lsn(0x700))));
    }
}
