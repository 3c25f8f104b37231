//! A master that lives and that the Sentinels do not reach: they are about to promote another. Its writes are paused for a
//! moment, so that it acknowledges nothing that the new one lacks. No Sentinel is asked. Pure.

use jiff::SignedDuration;

use super::decide;
use super::decided::{Decided, Told};
use super::view::View;
use crate::api::redis_sentinel::{ChangePhase, RedisChange};
use crate::supervisor::redis::wire::Role;

/// Begins the pause, if so many Sentinels take a master for down as they need for a failover, its supervisor says that it is up,
/// and they know a replica that they can promote. Not more often than Sentinels try to fail over.
pub fn begin(view: &View) -> Option<Decided> {
    let master = view.master().filter(|master| master.role() == Some(Role::Master))?;
    let cause = format!("the Sentinels take {} for down", master.name());
    if !view.threatened() || decide::candidates(view).is_empty() || tried(view, &cause) {
        return None;
    }
    let request = format!("{cause} since {}", view.now);
    let change = RedisChange {
        request: Some(request.clone()),
        to: String::new(),
        asked: String::new(),
        attempt: 0,
        phase: ChangePhase::Yielding,
        offset: 0,
        heard_ms: Some(0),
        since: view.now,
    };
    let from = master.name().to_owned();
    let told = vec![Told::Began { cause, from, request: Some(request), ago_ms: 0 }];
    Some(decide::begin(view, change, told))
}

/// Whether this was the last switchover, within the time in which Sentinels do not try again.
fn tried(view: &View, cause: &str) -> bool {
    let last = view.object.status.as_ref().and_then(|status| status.last_switchover.as_ref());
    let last = last.filter(|last| last.request.starts_with(cause)).and_then(|last| last.result.as_ref());
    let timeout = 2 * view.object.spec.failover_timeout.get();
    let long = SignedDuration::try_from(timeout).unwrap_or(SignedDuration::MAX);
    last.is_some_and(|result| view.now.duration_since(result.detected_at) < long)
}
