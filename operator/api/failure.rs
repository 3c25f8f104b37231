//! How a failure is to be answered. Every room's error type says its class; one place in `runtime` acts on it.

/// What a caller should do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// May go away by itself (engine unreachable, time-out): retry with backoff.
    Transient,
    /// Somebody wrote first: look again at once, decide anew.
    Conflict,
    /// What was addressed is not there.
    NotFound,
    /// Retrying the same will fail the same: report it and wait for a change.
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
    /// How to answer it.
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

/// The message of an error and those of its causes, `: `-separated, each said once.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let message = cause.to_string();
        if !text.ends_with(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        source = cause.source();
    }
    text
}
