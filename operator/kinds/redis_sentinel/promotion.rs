//! Writes the course of the last failover and the last switchover into the status; nothing else writes `lastFailover`
//! and `lastSwitchover`. Pure.

use jiff::{SignedDuration, Timestamp};

use super::decide::{Decided, Told};
use crate::api::postgres_status::TimedStep;
use crate::api::redis_sentinel::{
    Persistence, RedisDecisions, RedisFailoverStatus, RedisSentinelStatus, RedisSwitchoverStatus,
};

/// Records what one reconcile told. `writable`: a new client was seen to write at the recorded master.
pub fn record(
    status: &mut RedisSentinelStatus,
    before: &RedisDecisions,
    decided: &Decided,
    writable: bool,
    now: Timestamp,
) {
    for told in &decided.told {
        match told {
            Told::Began { cause, from, request, ago_ms } => {
                let ago = SignedDuration::from_millis(i64::try_from(*ago_ms).unwrap_or(0));
                let detected_at = now.checked_sub(ago).unwrap_or(now);
                let (cause, from) = (cause.clone(), from.clone());
                let began = RedisFailoverStatus { cause, from, detected_at, ..RedisFailoverStatus::default() };
                match request.clone() {
                    Some(request) => {
                        let result = Some(RedisFailoverStatus { cause: "switchover".to_owned(), ..began });
                        status.last_switchover = Some(RedisSwitchoverStatus { request, refused: None, result });
                    }
                    None => status.last_failover = Some(began),
                }
            }
            Told::Refused { request, why } => {
                let last = status.last_switchover.take().filter(|last| last.request == *request);
                let mut result = last.and_then(|last| last.result);
                // The old master goes on, and the outage is the time of its pause.
                let stays = decided.decisions.change.is_none() && decided.decisions.master == before.master;
                if let Some(result) = result.as_mut().filter(|_| stays) {
                    result.to.clone_from(&result.from);
                    result.loss = Some("nothing: the master stayed the same".to_owned());
                }
                let (request, refused) = (request.clone(), Some(why.clone()));
                status.last_switchover = Some(RedisSwitchoverStatus { request, refused, result });
            }
            Told::Step(step) => go_on(status, before, decided, (*step).to_owned(), now),
            Told::Promoted { to, lost, heard_ms } => {
                go_on(status, before, decided, format!("{to} promoted"), now);
                if let Some(promotion) = current(status, before, decided) {
                    promotion.to.clone_from(to);
                    promotion.lost_bytes = *lost;
                    promotion.loss = Some(loss(*lost, *heard_ms));
                }
            }
            Told::Restarted(persistence) => {
                go_on(status, before, decided, "the old master starts again: nobody has newer data".to_owned(), now);
                if let Some(promotion) = current(status, before, decided) {
                    promotion.to.clone_from(&promotion.from);
                    promotion.loss = Some(kept(*persistence).to_owned());
                }
            }
        }
    }
    let settled = decided.decisions.change.is_none() && before.change.is_none();
    if writable && settled {
        let failover = status.last_failover.as_mut();
        let switchover = status.last_switchover.as_mut().and_then(|last| last.result.as_mut());
        let open = failover.into_iter().chain(switchover);
        for promotion in open.filter(|one| one.outage.is_none() && !one.to.is_empty()) {
            push(promotion, "a new client can write".to_owned(), now);
            promotion.outage = Some(seconds(now.duration_since(promotion.detected_at)));
        }
    }
}

/// What is known about the loss, as text.
fn loss(lost: Option<u64>, heard_ms: Option<u64>) -> String {
    let beside = match heard_ms {
        Some(0) => String::new(),
        Some(ms) => format!(", and what it acknowledged in the {ms} ms after that and had not sent to the new master"),
        None => ", and what it acknowledged after that and had not sent to the new master".to_owned(),
    };
    match lost {
        Some(0) if beside.is_empty() => "nothing: the new master has everything that the old one had".to_owned(),
        Some(0) => format!("nothing of what the old master had when it was last heard{beside}"),
        Some(bytes) => format!("what was acknowledged in the last {bytes} bytes of the replication stream{beside}"),
        None => "not known: the offset of the old master was never heard".to_owned(),
    }
}

/// What is known about the loss when the same master starts again from its disk.
fn kept(persistence: Persistence) -> &'static str {
    match persistence {
        Persistence::Aof => {
            "nothing, if only the server ended: its log has all writes; if the host lost power, the last second may be missing"
        }
        Persistence::Rdb => "what was written after the last snapshot",
        Persistence::None => "everything: with persistence none nothing is on disk",
    }
}

/// The promotion that runs: a switchover while its request is recorded, and until another one begins.
fn current<'s>(
    status: &'s mut RedisSentinelStatus,
    before: &RedisDecisions,
    decided: &Decided,
) -> Option<&'s mut RedisFailoverStatus> {
    // A failover that begins out of a switchover is the one that runs.
    if decided.told.iter().any(|told| matches!(told, Told::Began { request: None, .. })) {
        return status.last_failover.as_mut();
    }
    let change = decided.decisions.change.as_ref().or(before.change.as_ref());
    match change.and_then(|change| change.request.as_ref()) {
        Some(_) => status.last_switchover.as_mut()?.result.as_mut(),
        None => status.last_failover.as_mut(),
    }
}

fn go_on(status: &mut RedisSentinelStatus, before: &RedisDecisions, decided: &Decided, step: String, now: Timestamp) {
    if let Some(promotion) = current(status, before, decided) {
        push(promotion, step, now);
    }
}

/// A step, with the time since the one before.
fn push(promotion: &mut RedisFailoverStatus, step: String, now: Timestamp) {
    let before: f64 = promotion.steps.iter().map(|step| step.took).sum();
    let took = seconds(now.duration_since(promotion.detected_at)) - before;
    // A Sentinel that refuses again and again fills no status.
    if promotion.steps.len() < 32 {
        promotion.steps.push(TimedStep { step, took: (took * 1000.0).round() / 1000.0 });
    }
}

fn seconds(duration: SignedDuration) -> f64 {
    (duration.unsigned_abs().as_secs_f64() * 1000.0).round() / 1000.0
}
