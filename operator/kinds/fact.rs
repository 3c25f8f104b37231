//! The result of a read: a value, or the reason why it is unknown. Unknown is not absent.

use std::fmt::Display;

/// The result of a read: a value, or the reason why it is unknown.
#[derive(Debug, Clone, PartialEq)]
pub enum Fact<T> {
    /// It was read.
    Known(T),
    /// It could not be read, with the cause.
    Unknown(String),
}

impl<T> Fact<T> {
    /// The value, if it is known.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Unknown(_) => None,
        }
    }
}

impl<T, E: Display> From<Result<T, E>> for Fact<T> {
    fn from(read: Result<T, E>) -> Self {
        read.map_or_else(|error| Self::Unknown(error.to_string()), Self::Known)
    }
}
