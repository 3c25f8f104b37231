//! The output of the protocol: the next decisions, what is told, and the blocker. Values only. Pure.

use jiff::Timestamp;

use crate::api::postgres_cluster::{Decisions, Quorum};

/// The result of one pass of the protocol.
#[derive(Debug, Clone, PartialEq)]
pub struct Decided {
    /// The next decisions.
    pub decisions: Decisions,
    /// The events of the promotion, in order.
    pub told: Vec<Told>,
    /// Why the protocol does not continue.
    pub blocker: Option<Blocker>,
}

impl Decided {
    /// No decision changes.
    pub fn unchanged(before: &Decisions) -> Self {
        Self { decisions: before.clone(), told: Vec::new(), blocker: None }
    }

    /// No decision is possible, with the reason.
    pub fn blocked(before: &Decisions, reason: &'static str, message: impl Into<String>) -> Self {
        Self { blocker: Some(Blocker::new(reason, message)), ..Self::unchanged(before) }
    }
}

/// Why the protocol does not continue, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocker {
    /// CamelCase, for the condition.
    pub reason: &'static str,
    /// The problem, and what would help.
    pub message: String,
}

impl Blocker {
    /// A blocker from its two parts.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// One event of a promotion. Members are given by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// An election began.
    Began {
        /// The evidence.
        cause: String,
        /// Time of the last write that a new session committed, if it is known.
        last_write: Option<Timestamp>,
    },
    /// These members have promised, and they are enough.
    Promised(Vec<String>),
    /// The last leader leads again.
    LeadsAgain(String),
    /// This member was chosen as leader.
    Chose(String),
    /// This leader is primary, and enough voters of this set have acknowledged its term.
    Promoted(String, Quorum),
    /// The leader's gate is open: told in every reconcile, and counted once.
    GateOpened,
    /// What the promotion with this `detectedAt` may have lost.
    Loss {
        /// `detectedAt` of the promotion.
        detected_at: Timestamp,
        /// At most this many bytes of WAL, if known.
        bytes: Option<u64>,
        /// The same as text for people.
        words: String,
    },
    /// A requested switchover is refused.
    Refused {
        /// The request.
        request: String,
        /// The reason.
        why: String,
    },
}
