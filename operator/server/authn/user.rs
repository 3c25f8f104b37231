//! Who sends a request: a name with groups. Pure.

use jiff::Timestamp;

/// The group whose members may do everything, always.
pub const MASTERS: &str = "system:masters";
/// The group of nodes that may join the operators; only `evenkeel cluster token` gives it.
pub const JOINING: &str = "system:joining-nodes";
/// The group of everyone who has shown who they are.
pub const AUTHENTICATED: &str = "system:authenticated";

/// Who sends a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The name; limits and audit lines count by it.
    pub name: String,
    /// The groups.
    pub groups: Vec<String>,
    /// How the user has shown who they are.
    pub via: Via,
    /// When that is worth nothing any more.
    pub expires: Option<Timestamp>,
}

/// How a user has shown who they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Via {
    /// A process of the same machine, by the unix socket.
    Socket,
    /// The token in `pki/token`, or the one before it: its SHA-256.
    AdminToken([u8; 32]),
    /// The Token with this uid.
    Token(String),
    /// A client certificate.
    Certificate,
}

impl User {
    /// A user in these groups and in [`AUTHENTICATED`].
    pub fn new(name: impl Into<String>, mut groups: Vec<String>, via: Via, expires: Option<Timestamp>) -> Self {
        groups.push(AUTHENTICATED.to_owned());
        Self { name: name.into(), groups, via, expires }
    }

    /// Whether it is a node that may join.
    pub fn may_join(&self) -> bool {
        self.groups.iter().any(|group| group == JOINING)
    }

    /// Whether the user may do everything, whatever the rules are.
    pub fn is_master(&self) -> bool {
        self.groups.iter().any(|group| group == MASTERS)
    }
}
