//! What was decided in one reconcile: the next decisions, what to ask a Sentinel, what is told. Plain data.

use crate::api::redis_sentinel::{Persistence, RedisDecisions};
use crate::supervisor::redis::wire::Act;

/// The decisions of one reconcile.
#[derive(Debug, Clone, PartialEq)]
pub struct Decided {
    /// The decisions to record.
    pub decisions: RedisDecisions,
    /// The act of a Sentinel that is due: its member name, the id of the request, and the act.
    pub act: Option<(String, String, Act)>,
    /// Why nothing can be done, as reason and message.
    pub blocker: Option<(&'static str, String)>,
    /// What happened to a promotion.
    pub told: Vec<Told>,
}

/// What happened to a promotion; the status tells it.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    /// One began, this many milliseconds ago. `request`: of a switchover.
    Began { cause: String, from: String, request: Option<String>, ago_ms: u64 },
    /// A step of it began.
    Step(&'static str),
    /// Another member is master. `lost`: bytes that the old one had and this one has not, if known, as the old one was heard
    /// this many milliseconds before its end. `lives`: nothing proves that end.
    Promoted { to: String, lost: Option<u64>, heard_ms: Option<u64>, lives: bool },
    /// A switchover was refused, or given up.
    Refused { request: String, why: String },
    /// A failover ended, because the same master starts again, with what this persistence has kept.
    Restarted(Persistence),
}

impl Decided {
    /// Nothing changes.
    pub fn unchanged(before: &RedisDecisions) -> Self {
        Self { decisions: before.clone(), act: None, blocker: None, told: Vec::new() }
    }

    /// The same, with why nothing goes on.
    pub fn blocked(self, reason: &'static str, message: impl Into<String>) -> Self {
        Self { blocker: Some((reason, message.into())), ..self }
    }
}
