//! A master that is cut off from its replicas and from nobody else. It refuses writes (`min-replicas-to-write`), and no
//! Sentinel takes it for down, so that nobody would fail over. Pure.

use super::decide;
use super::view::{Member, View};
use crate::supervisor::redis::wire::{RedisSeen, Role};

/// Seconds without a link after which a replica that its master does not list any more is cut off.
const BROKEN_S: u64 = 3;

/// The best replica of a master that takes no writes because no replica acknowledges, although every one that could be
/// promoted can be reached; and how many bytes of the master's data it has not, as last reported.
pub fn cut_off<'v, 'a>(view: &'v View<'a>) -> Option<(&'v Member<'a>, u64)> {
    let master = view.master()?;
    let seen = master.serving().filter(|seen| seen.role == Some(Role::Master) && seen.writable == Some(false))?;
    let bound = view.object.spec.min_replicas_max_lag.as_millis() / 1_000;
    let hears = seen.replicas.iter().filter(|one| one.online && one.lag_s <= bound).count();
    let replicas = decide::candidates(view);
    let cut = !replicas.is_empty() && replicas.iter().all(|one| silent(one, seen, bound));
    if hears >= view.object.spec.min_replicas_to_write() as usize || !cut || !decide::agreed(view) {
        return None;
    }
    let best = decide::best(&replicas)?;
    Some((best, seen.offset.saturating_sub(best.serving()?.offset)))
}

/// Whether a replica and its master have not heard of each other for some seconds.
fn silent(replica: &Member, master: &RedisSeen, bound: u64) -> bool {
    match master.replicas.iter().find(|one| Some(one.address) == replica.address()) {
        Some(known) => known.online && known.lag_s > bound,
        None => {
            let link = replica.serving().and_then(|seen| seen.link.as_ref());
            link.is_some_and(|link| !link.up && !link.syncing && link.down_s >= BROKEN_S)
        }
    }
}

/// The request of the switchover that is tried once: it ends without a change unless a replica has everything.
pub fn request(view: &View) -> String {
    format!(
        "{} is cut off from its replicas in epoch {}",
        view.before.master.as_deref().unwrap_or("?"),
        view.before.epoch
    )
}

/// What people must know if no replica has everything.
pub fn message(view: &View, best: &Member, lacks: u64) -> String {
    let (master, best) = (view.before.master.as_deref().unwrap_or("?"), best.name());
    format!(
        "{master} takes no writes: no replica acknowledges, although the operator reaches them, so the network between them is cut. Mend it, or stop the container of {master}: then {best} becomes master without the last {lacks} bytes of the replication stream"
    )
}
