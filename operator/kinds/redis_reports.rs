//! What both kinds of Redis do with the report of a supervisor, and without one: bounds of its names and texts, and the state of
//! a member that gives none. Pure.

use crate::api::redis_status::RedisState;
use crate::engine::ContainerState;

/// Bytes of a text for people; the rest is cut off.
const TEXT: usize = 512;
/// Items of a list for people; the rest is left out.
pub const TEXTS: usize = 32;
/// Most bytes of a name or an id.
const NAME: usize = 128;
/// The highest epoch, and the highest revision: some 10^16 failovers.
pub const EPOCH: u64 = 1 << 53;

/// Refuses a report with a name that is too long or has control characters. What a decision reads is never cut.
pub fn check_names<'a>(names: impl IntoIterator<Item = &'a String>) -> Result<(), String> {
    match names.into_iter().any(|name| name.len() > NAME || name.contains(char::is_control)) {
        true => Err(format!("a name in it is longer than {NAME} bytes, or has characters that no name has")),
        false => Ok(()),
    }
}

/// Cuts texts for people to their bound, without control characters.
pub fn cut<'a>(texts: impl IntoIterator<Item = &'a mut String>) {
    for text in texts {
        let end = text.char_indices().map(|(at, _)| at).find(|at| *at >= TEXT).unwrap_or(text.len());
        text.truncate(end);
        *text = text.replace(char::is_control, " ");
    }
}

/// The state of a member whose supervisor is not heard, by its container; `None`: it has none, if that is `known`.
pub fn absent_state(known: bool, container: Option<ContainerState>) -> RedisState {
    match container {
        _ if !known => RedisState::Unknown,
        None => RedisState::Absent,
        Some(ContainerState::Paused) => RedisState::Paused,
        Some(ContainerState::Running | ContainerState::Restarting) => RedisState::Unknown,
        Some(ContainerState::Created) => RedisState::Created,
        Some(ContainerState::Exited | ContainerState::Dead) => RedisState::Stopped,
    }
}
