//! Reach: whether a host can connect to another one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whether a host can connect to another one, as its agent found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Reach {
    /// Connections are accepted.
    Ok,
    /// Connections are refused: a firewall rejects them.
    Refused,
    /// Connections get no answer: a firewall drops them, or there is no way.
    Timeout,
}
