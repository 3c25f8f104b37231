//! What a new master lacks of the old one's data, and the text about it for people. Pure.

use super::view::{Member, View};
use crate::api::redis_sentinel::Persistence;
use crate::supervisor::redis::wire::{Position, Role};

/// What the old master had and the new one has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missing {
    /// Bytes of the replication stream.
    pub bytes: u64,
    /// The old master acknowledges nothing any more: there is no more than this.
    pub exact: bool,
}

/// What `to`, a promoted member, lacks of the data of `from`, by what both say now of the history that they had in common.
/// Offsets of different histories say nothing of each other.
pub fn missing(view: &View, from: &str, to: &str) -> Option<Missing> {
    let new = view.member(to)?.serving().filter(|new| new.promoted.is_some())?;
    let common = new.promoted_replid.as_ref()?;
    let (member, old) = view.member(from).and_then(|member| Some((member, member.redis()?)))?;
    let here = |position: &Position| (position.replid == *common).then_some(position.offset);
    let paused = member.serving().filter(|seen| {
        seen.role == Some(Role::Master) && seen.paused.is_some() && seen.replid.as_ref() == Some(common)
    });
    let end = old.demoted.as_ref().and_then(here).or(paused.map(|seen| seen.offset));
    let offset = end.or(old.last.as_ref().and_then(here))?;
    Some(Missing { bytes: offset.saturating_sub(new.promoted_offset), exact: end.is_some() })
}

/// The offset that a member last reported, and how many milliseconds ago. A supervisor that lived longer than its server
/// knows the last one, and how long before the server's end that was.
pub fn last_offset(member: &Member) -> (u64, Option<u64>) {
    let died = member.redis().and_then(|seen| seen.last.as_ref()).map_or(0, |last| last.offset);
    let ended_ms = member.redis().and_then(|seen| seen.ended_ms);
    match member.offset {
        Some((offset, age)) if died < offset => (offset, Some(age)),
        _ => (died, ended_ms),
    }
}

/// What is known of the loss before the old master is heard again: `lost` bytes, as it was last heard `heard_ms` before its
/// end. `lives`: it may acknowledge still.
pub fn known(lost: Option<u64>, heard_ms: Option<u64>, lives: bool) -> String {
    let beside = match heard_ms {
        _ if lives => "; what it acknowledges until it follows is known when it is heard again".to_owned(),
        Some(0) => String::new(),
        Some(ms) => format!(", and what it acknowledged in the {ms} ms after that and had not sent to the new master"),
        None => ", and what it acknowledged after that and had not sent to the new master".to_owned(),
    };
    match lost {
        Some(bytes) if beside.is_empty() => measured(bytes),
        Some(0) => format!("nothing of what the old master had when it was last heard{beside}"),
        Some(bytes) => {
            format!("at least what was acknowledged in the last {bytes} bytes of the replication stream{beside}")
        }
        None if lives => "not known before the old master is heard again".to_owned(),
        None => "not known: the offset of the old master was never heard".to_owned(),
    }
}

/// What is lost if there is no more than this.
pub fn measured(bytes: u64) -> String {
    match bytes {
        0 => "nothing: the new master has everything that the old one had".to_owned(),
        _ => format!("what was acknowledged in the last {bytes} bytes of the old master's replication stream"),
    }
}

/// What is known about the loss when the same master starts again from its disk.
pub fn kept(persistence: Persistence) -> &'static str {
    match persistence {
        Persistence::Aof => {
            "nothing, if only the server ended: its log has all writes; if the host lost power, the last second may be missing"
        }
        Persistence::Rdb => "what was written after the last snapshot",
        Persistence::None => "everything: with persistence none nothing is on disk",
    }
}
