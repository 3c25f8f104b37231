//! Kubernetes conditions: what they say, and that their transition time moves only when their status does.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The status of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// Nobody can say.
    Unknown,
}

impl Status {
    /// The word that the API has for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// What a condition says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it holds.
    pub status: Status,
    /// One CamelCase word, for programs.
    pub reason: String,
    /// A sentence, for people.
    pub message: String,
}

impl Verdict {
    /// A verdict from its three parts.
    pub fn new(status: Status, reason: &str, message: impl Into<String>) -> Self {
        Self { status, reason: reason.to_owned(), message: message.into() }
    }
}

/// True, with a reason and a message.
pub fn yes(reason: &str, message: impl Into<String>) -> Verdict {
    Verdict::new(Status::True, reason, message)
}

/// False, with a reason and a message.
pub fn no(reason: &str, message: impl Into<String>) -> Verdict {
    Verdict::new(Status::False, reason, message)
}

/// Unknown, with a reason and a message.
pub fn unknown(reason: &str, message: impl Into<String>) -> Verdict {
    Verdict::new(Status::Unknown, reason, message)
}

/// Sets the condition of this type; its transition time moves only when its status does.
pub fn set(conditions: &mut Vec<Condition>, kind: &str, verdict: Verdict, generation: i64, now: Timestamp) {
    let Verdict { status, reason, message } = verdict;
    let status = status.as_str();
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
