//! Kubernetes conditions: what they say, and that their transition time moves only when their status does.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// What a condition says: status, reason (one CamelCase word), message.
pub type Verdict = (&'static str, String, String);

/// True, with a reason and a message.
pub fn yes(reason: &str, message: impl Into<String>) -> Verdict {
    ("True", reason.to_owned(), message.into())
}

/// False, with a reason and a message.
pub fn no(reason: &str, message: impl Into<String>) -> Verdict {
    ("False", reason.to_owned(), message.into())
}

/// Unknown, with a reason and a message.
pub fn unknown(reason: &str, message: impl Into<String>) -> Verdict {
    ("Unknown", reason.to_owned(), message.into())
}

/// Sets the condition of this type; its transition time moves only when its status does.
pub fn set(conditions: &mut Vec<Condition>, kind: &str, verdict: Verdict, generation: i64, now: Timestamp) {
    let (status, reason, message) = verdict;
    let old = conditions.iter().position(|condition| condition.type_ == kind);
    let since = old.map(|at| &conditions[at]).filter(|old| old.status == status);
    let condition = Condition {
        type_: kind.into(),
        last_transition_time: since.map_or_else(|| Time(whole_seconds(now)), |old| old.last_transition_time.clone()),
        observed_generation: Some(generation),
        status: status.into(),
        reason,
        message,
    };
    match old {
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
}

fn whole_seconds(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}
