//! Classes of failures. The error type of every room has a class; one place in `runtime` handles it.

use super::chain::chain;

/// How to handle an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// It may resolve by itself (engine unreachable, time-out): retry with backoff.
    Transient,
    /// The object has changed meanwhile: reconcile again at once.
    Conflict,
    /// The addressed thing does not exist.
    NotFound,
    /// A retry would fail in the same way: report it and wait for a change.
    Terminal,
}

/// Implemented by the error type of every room.
pub trait Classify: std::error::Error + Send + Sync + 'static {
    /// The class of this error.
    fn class(&self) -> Class;
}

/// Any classified error with its message chain, as the runtime handles it.
#[derive(Debug)]
pub struct Failure {
    /// How to handle it.
    pub class: Class,
    /// The whole message chain, printed once, `: `-separated.
    pub message: String,
}

impl Failure {
    /// A failure of the given class with its own message.
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Self { class, message: message.into() }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl<E: Classify> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { class: error.class(), message: chain(&error) }
    }
}
