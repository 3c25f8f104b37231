//! Token: a bearer token of a user. Its secret is in no object: it is shown once, when the Token is made.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::invalid::Invalid;

/// The one name that begins with `system:` which a Token or certificate may have: the group that may do everything.
const MASTERS: &str = "system:masters";
/// Limit of the length of a name.
const LONGEST: usize = 253;
/// Limit of the number of groups.
const MOST: usize = 64;

/// A bearer token of a user. It cannot be changed; revoke it by deleting it.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "evenkeel.dev",
    version = "v1alpha1",
    kind = "Token",
    plural = "tokens",
    derive = "PartialEq",
    doc = "A bearer token of a user. It cannot be changed; revoke it by deleting it.",
    printcolumn = r#"{"name":"User","type":"string","jsonPath":".spec.user"}"#,
    printcolumn = r#"{"name":"Groups","type":"string","jsonPath":".spec.groups"}"#,
    printcolumn = r#"{"name":"Expires","type":"string","jsonPath":".spec.expires"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenSpec {
    /// The name of its bearer, as RBAC knows it.
    pub user: String,
    /// The groups of its bearer.
    #[serde(default)]
    pub groups: Vec<String>,
    /// When it expires, e.g. `2026-01-02T15:04:05Z`; at most a year ahead.
    pub expires: String,
}

impl TokenSpec {
    /// Every problem that does not depend on the time of day.
    pub fn validate(&self) -> Vec<Invalid> {
        let mut problems = subject_problems("spec.", &self.user, &self.groups);
        if self.expires.parse::<jiff::Timestamp>().is_err() {
            problems.push(Invalid::new("spec.expires", "must be a time like 2026-01-02T15:04:05Z"));
        }
        problems
    }
}

/// The problems with the name and groups that a Token or a certificate gives its bearer.
pub fn subject_problems(path: &str, user: &str, groups: &[String]) -> Vec<Invalid> {
    let one = |path: String, name: &str, reserved: bool| {
        let problem = match name {
            "" => "must not be empty",
            _ if name.len() > LONGEST => "must be no more than 253 bytes",
            _ if name.contains(char::is_control) => "must not contain control characters",
            _ if reserved => "must not begin with \"system:\": such names are the operator's own",
            _ => return None,
        };
        Some(Invalid::new(path, problem))
    };
    let reserved = |name: &str| name.starts_with("system:");
    let mut problems: Vec<Invalid> = one(format!("{path}user"), user, reserved(user)).into_iter().collect();
    for (index, group) in groups.iter().enumerate().take(MOST) {
        problems.extend(one(format!("{path}groups[{index}]"), group, reserved(group) && group != MASTERS));
    }
    if groups.len() > MOST {
        problems.push(Invalid::new(format!("{path}groups"), format!("must be no more than {MOST}")));
    }
    problems
}
