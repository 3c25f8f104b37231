//! Writes the course of the last failover and the last switchover into the status; nothing else writes `lastFailover`
//! and `lastSwitchover`. Pure.

use jiff::{SignedDuration, Timestamp};

use super::decided::{Decided, Told};
use crate::api::postgres_cluster::{
    Decisions, FailoverStatus, PostgresClusterStatus, Quorum, SwitchoverStatus, TimedStep,
};

/// Records what one reconcile told.
pub fn record(status: &mut PostgresClusterStatus, before: &Decisions, decided: &Decided, now: Timestamp) {
    for told in &decided.told {
        match told {
            Told::Began { cause, last_write } => {
                begin(status, &decided.decisions, (cause, *last_write), now);
            }
            Told::Refused { request, why } => {
                let (request, refused) = (request.clone(), Some(why.clone()));
                status.last_switchover = Some(SwitchoverStatus { request, refused, result: None });
            }
            Told::Loss { detected_at, bytes, words } => {
                // Another promotion may have begun since then.
                let switchover = status.last_switchover.as_mut().and_then(|last| last.result.as_mut());
                let both = status.last_failover.iter_mut().chain(switchover);
                both.filter(|promotion| promotion.detected_at == *detected_at).for_each(|promotion| {
                    (promotion.possible_loss_bytes, promotion.possible_loss) = (*bytes, Some(words.clone()));
                });
            }
            _ => {
                if let Some(promotion) = under_way(status, before) {
                    go_on(promotion, told, seconds(now.duration_since(before.since)), now);
                }
            }
        }
    }
}

fn begin(
    status: &mut PostgresClusterStatus,
    after: &Decisions,
    (cause, last_write_at): (&str, Option<Timestamp>),
    now: Timestamp,
) {
    let promotion = FailoverStatus {
        cause: cause.to_owned(),
        from: after.leader_name().unwrap_or_default().to_owned(),
        detected_at: now,
        ..FailoverStatus::default()
    };
    match &after.switchover {
        Some(switchover) => {
            let request = switchover.request.clone();
            status.last_switchover = Some(SwitchoverStatus { request, refused: None, result: Some(promotion) });
        }
        // A switchover serves until its primary steps down; a failover begins with the last write.
        None => status.last_failover = Some(FailoverStatus { last_write_at, ..promotion }),
    }
}

/// The current promotion, or else the last one.
fn under_way<'s>(status: &'s mut PostgresClusterStatus, before: &Decisions) -> Option<&'s mut FailoverStatus> {
    match &before.switchover {
        Some(_) => status.last_switchover.as_mut()?.result.as_mut(),
        None => status.last_failover.as_mut(),
    }
}

fn go_on(promotion: &mut FailoverStatus, told: &Told, took: f64, now: Timestamp) {
    let step = match told {
        Told::Promised(members) => format!("promises of {}", members.join(", ")),
        Told::LeadsAgain(member) => format!("{member} itself leads again: too few standbys could be asked"),
        Told::Promoted(leader, Quorum { w: 0, .. }) => format!("{leader} promoted, no acknowledgement needed"),
        Told::Promoted(leader, Quorum { voters, w }) => {
            format!("{leader} promoted, {w} of {} standbys acknowledged the new term", voters.len())
        }
        Told::GateOpened if promotion.outage.is_none() => {
            let since = promotion.last_write_at.unwrap_or(promotion.detected_at);
            promotion.outage = Some(seconds(now.duration_since(since)));
            "gate opened".to_owned()
        }
        Told::Chose(member) => return promotion.to.clone_from(member),
        Told::GateOpened | Told::Began { .. } | Told::Loss { .. } | Told::Refused { .. } => return,
    };
    promotion.steps.push(TimedStep { step, took });
}

fn seconds(duration: SignedDuration) -> f64 {
    (duration.unsigned_abs().as_secs_f64() * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::api::postgres_cluster::{SwitchoverDecision, Voter};

    /// Decisions of a cluster that db-1 leads, in a stage that began after this many milliseconds.
    fn decisions(since: i64, switchover: Option<&str>) -> Decisions {
        let since = Timestamp::from_millisecond(since).unwrap_or_default();
        let leader = Some(Voter { member: "db-1".into(), incarnation: "i1".into() });
        let switchover = switchover.map(|request| SwitchoverDecision { request: request.into(), to: String::new() });
        Decisions { since, leader, switchover, ..Decisions::default() }
    }

    fn began(cause: &str) -> Told {
        Told::Began { cause: cause.into(), last_write: None }
    }

    fn tell(status: &mut PostgresClusterStatus, before: &Decisions, now: i64, after: &Decisions, told: Vec<Told>) {
        let decided = Decided { decisions: after.clone(), told, blocker: None };
        record(status, before, &decided, Timestamp::from_millisecond(now).unwrap_or_default());
    }

    fn check(status: &impl serde::Serialize, expected: Expect) {
        expected.assert_eq(&serde_json::to_string(status).unwrap_or_default());
    }

    #[test]
    fn a_failover_is_told_from_the_evidence_to_the_open_gate_and_its_loss_is_added_later() {
        let mut status = PostgresClusterStatus::default();
        let electing = decisions(100, None);
        tell(&mut status, &decisions(0, None), 100, &electing, vec![began("db-1: its container died")]);
        let detected_at = electing.since;
        let loss = |bytes, words: &str| Told::Loss { detected_at, bytes, words: words.into() };
        let promised = Told::Promised(vec!["db-2".into(), "db-3".into()]);
        let told = vec![promised, loss(None, "not known before db-1 is back"), Told::Chose("db-2".into())];
        tell(&mut status, &electing, 250, &decisions(250, None), told);
        let promoted = Told::Promoted("db-2".into(), Quorum::default());
        tell(&mut status, &decisions(250, None), 400, &decisions(400, None), vec![promoted]);
        for now in [700, 900] {
            tell(&mut status, &decisions(400, None), now, &decisions(400, None), vec![Told::GateOpened]);
        }
        tell(&mut status, &decisions(400, None), 5_000, &decisions(400, None), vec![loss(Some(0), "nothing")]);
        check(
            &status.last_failover,
            expect![[
                r#"{"cause":"db-1: its container died","from":"db-1","to":"db-2","detectedAt":"1970-01-01T00:00:00.1Z","steps":[{"step":"promises of db-2, db-3","took":0.15},{"step":"db-2 promoted, no acknowledgement needed","took":0.15},{"step":"gate opened","took":0.3}],"outage":0.6,"possibleLossBytes":0,"possibleLoss":"nothing"}"#
            ]],
        );
        check(&status.last_switchover, expect!["null"]);
    }

    #[test]
    fn a_switchover_that_fails_and_the_failover_behind_it_are_two_promotions() {
        let mut status = PostgresClusterStatus::default();
        let refused = Told::Refused { request: "r1".into(), why: "db-1 is the primary already".into() };
        tell(&mut status, &decisions(0, None), 50, &decisions(0, None), vec![refused]);
        check(&status.last_switchover, expect![[r#"{"request":"r1","refused":"db-1 is the primary already"}"#]]);
        let (electing, failing) = (decisions(100, Some("r2")), decisions(300, None));
        tell(&mut status, &decisions(0, None), 100, &electing, vec![began("switchover")]);
        tell(&mut status, &electing, 200, &decisions(200, Some("r2")), vec![Told::LeadsAgain("db-1".into())]);
        let cause = began("db-1: its container died before it was established");
        tell(&mut status, &decisions(200, Some("r2")), 300, &failing, vec![cause]);
        tell(&mut status, &failing, 350, &failing, vec![Told::Promised(vec!["db-2".into()])]);
        check(
            &status.last_switchover,
            expect![[
                r#"{"request":"r2","result":{"cause":"switchover","from":"db-1","to":"","detectedAt":"1970-01-01T00:00:00.1Z","steps":[{"step":"db-1 itself leads again: too few standbys could be asked","took":0.1}]}}"#
            ]],
        );
        check(
            &status.last_failover,
            expect![[
                r#"{"cause":"db-1: its container died before it was established","from":"db-1","to":"","detectedAt":"1970-01-01T00:00:00.3Z","steps":[{"step":"promises of db-2","took":0.05}]}"#
            ]],
        );
    }
}
