//! Writes the course of the last failover and the last switchover into the status; nothing else writes `lastFailover`
//! and `lastSwitchover`. Pure.

use jiff::{SignedDuration, Timestamp};

use super::decided::{Decided, Told};
use super::loss;
use super::view::View;
use crate::api::postgres_status::TimedStep;
use crate::api::redis_sentinel::{RedisDecisions, RedisFailoverStatus, RedisSentinelStatus, RedisSwitchoverStatus};

/// Records what one reconcile told. `writable`: a new client was seen to write at the recorded master.
pub fn record(status: &mut RedisSentinelStatus, view: &View, decided: &Decided, writable: bool) {
    let (before, now) = (view.before, view.now);
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
            Told::Promoted { to, lost, heard_ms, lives } => {
                go_on(status, before, decided, format!("{to} promoted"), now);
                if let Some(promotion) = current(status, before, decided) {
                    promotion.to.clone_from(to);
                    promotion.lost_bytes = *lost;
                    promotion.loss = Some(loss::known(*lost, *heard_ms, *lives));
                }
            }
            Told::Restarted(persistence) => {
                go_on(status, before, decided, "the old master starts again: nobody has newer data".to_owned(), now);
                if let Some(promotion) = current(status, before, decided) {
                    promotion.to.clone_from(&promotion.from);
                    promotion.loss = Some(loss::kept(*persistence).to_owned());
                }
            }
        }
    }
    let settled = decided.decisions.change.is_none() && before.change.is_none();
    let failover = status.last_failover.as_mut();
    let switchover = status.last_switchover.as_mut().and_then(|last| last.result.as_mut());
    for promotion in failover.into_iter().chain(switchover) {
        measure(promotion, view);
        if writable && settled && promotion.outage.is_none() && !promotion.to.is_empty() {
            push(promotion, "a new client can write".to_owned(), now);
            promotion.outage = Some(seconds(now.duration_since(promotion.detected_at)));
        }
    }
}

/// Completes what is known of the loss, when the old master is heard again.
fn measure(promotion: &mut RedisFailoverStatus, view: &View) {
    let Some(missing) = loss::missing(view, &promotion.from, &promotion.to) else { return };
    let more = !promotion.loss_measured && Some(missing.bytes) > promotion.lost_bytes;
    if missing.exact {
        (promotion.lost_bytes, promotion.loss_measured) = (Some(missing.bytes), true);
        promotion.loss = Some(loss::measured(missing.bytes));
    } else if more {
        promotion.lost_bytes = Some(missing.bytes);
        promotion.loss = Some(loss::known(Some(missing.bytes), None, false));
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
