//! What the protocol answers with: the decisions from now on, what happened, and what stands in the way. Values only. Pure.

use jiff::Timestamp;

use crate::api::postgres_cluster::{Decisions, Quorum};

/// What follows from one look at a cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Decided {
    /// The decisions from now on.
    pub decisions: Decisions,
    /// What happened, in order.
    pub told: Vec<Told>,
    /// Why the protocol does not go on.
    pub blocker: Option<Blocker>,
}

impl Decided {
    /// Nothing is decided.
    pub fn unchanged(before: &Decisions) -> Self {
        Self { decisions: before.clone(), told: Vec::new(), blocker: None }
    }

    /// Nothing can be decided, and why.
    pub fn blocked(before: &Decisions, reason: &'static str, message: impl Into<String>) -> Self {
        Self { blocker: Some(Blocker::new(reason, message)), ..Self::unchanged(before) }
    }
}

/// Why the protocol does not go on, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocker {
    /// CamelCase, for the condition.
    pub reason: &'static str,
    /// What is the matter and what would help.
    pub message: String,
}

impl Blocker {
    /// From its two parts.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// Something that people are told of a promotion. Members are told by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// An election began, for this cause.
    Began(String),
    /// These have promised, and that is enough.
    Promised(Vec<String>),
    /// The last leader itself leads again.
    LeadsAgain(String),
    /// This one is to lead.
    Chose(String),
    /// This leader is primary, and as many voters of this set as must have acknowledged its term.
    Promoted(String, Quorum),
    /// The leader's gate is open: told at every look, and counts once.
    GateOpened,
    /// What the promotion that was detected then may have lost.
    Loss {
        /// `detectedAt` of the promotion.
        detected_at: Timestamp,
        /// At most so much WAL, where that is known.
        bytes: Option<u64>,
        /// The same for people.
        words: String,
    },
    /// A switchover that was asked for does not begin.
    Refused {
        /// The request.
        request: String,
        /// Why.
        why: String,
    },
}
