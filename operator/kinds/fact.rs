//! What a read brought: a value, or the reason why nothing is known. Unknown is not absent.

use std::fmt::Display;

/// What a read brought: a value, or the reason why nothing is known.
#[derive(Debug, Clone, PartialEq)]
pub enum Fact<T> {
    /// It was read.
    Known(T),
    /// It could not be read, and why.
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
