//! Credentials beside Tokens: certificates of users, a new token of the administrator, and what nodes join with. Only who may
//! do everything may make them; a node that joins has a token for that alone.

use axum::http::{Method, StatusCode};
use axum::response::Response;
use jiff::SignedDuration;
use serde::Deserialize;
use serde_json::json;

use super::authz::attributes::{Attributes, JOINS};
use super::body::parsed;
use super::status::Refusal;
use super::{Server, administrator, joining, tokens, view};
use crate::api::chain::chain;
use crate::api::join::{JOIN, JOIN_TOKENS};
use crate::api::token::subject_problems;

/// POST: a kubeconfig with a certificate; the body is a [`Wanted`].
const CERTIFICATES: &str = "/evenkeel/v1/clientcertificates";
/// POST: the administrator's token is replaced, at every operator over this store; the body is a [`Rotation`].
const ADMIN_TOKEN: &str = "/evenkeel/v1/admintoken";

/// A credential that is asked for.
pub enum Credential {
    Certificate,
    AdminToken,
    JoinToken,
    Join,
}

/// Whose certificate, and for how long.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Wanted {
    user: String,
    #[serde(default)]
    groups: Vec<String>,
    seconds: u32,
}

/// How the administrator's token is replaced.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rotation {
    /// The one before is refused from now on, and not after an hour.
    #[serde(default)]
    revoke_old: bool,
}

impl Credential {
    /// The credential that a request asks for.
    pub fn asked(method: &Method, path: &str) -> Option<Self> {
        match path {
            CERTIFICATES if method == Method::POST => Some(Self::Certificate),
            ADMIN_TOKEN if method == Method::POST => Some(Self::AdminToken),
            JOIN_TOKENS if method == Method::POST => Some(Self::JoinToken),
            JOIN if method == Method::POST => Some(Self::Join),
            _ => None,
        }
    }

    /// What the request wants, in the words of RBAC.
    pub fn attributes(&self) -> Attributes {
        let resource = match self {
            Self::Certificate => "clientcertificates",
            Self::AdminToken | Self::JoinToken => "tokens",
            Self::Join => JOINS,
        };
        Attributes {
            verb: "create".to_owned(),
            group: "evenkeel.dev".to_owned(),
            version: "v1".to_owned(),
            resource: resource.to_owned(),
            ..Attributes::default()
        }
    }

    /// Makes it.
    pub async fn make(&self, server: &Server, body: &[u8]) -> Result<Response, Refusal> {
        let failed = |error: &dyn std::error::Error| Refusal::internal(chain(error));
        let made = match self {
            Self::Certificate => {
                let wanted: Wanted = serde_json::from_slice(body).map_err(|error| {
                    let at = format!("line {}, column {}", error.line(), error.column());
                    Refusal::bad_request(format!("the body must have user, groups and seconds; wrong at {at}"))
                })?;
                let now = server.clock.now();
                let end = now + SignedDuration::from_secs(wanted.seconds.into());
                let mut problems: Vec<String> =
                    subject_problems("", &wanted.user, &wanted.groups).iter().map(ToString::to_string).collect();
                problems.extend(tokens::life_problem(end, now).map(|problem| format!("seconds: {problem}")));
                if !problems.is_empty() {
                    return Err(Refusal::unprocessable(problems.join(", ")));
                }
                server.authority.issue(&wanted.user, &wanted.groups, now, end).map_err(|error| failed(&error))?
            }
            Self::AdminToken => {
                let Rotation { revoke_old } = parsed(body)?;
                administrator::rotate(server, revoke_old).await.map_err(|error| failed(&error))?;
                json!({"kubeconfig": server.authority.kubeconfig(), "shared": server.cluster.is_some()})
            }
            Self::JoinToken => json!(joining::token(server, body).await?),
            Self::Join => json!(joining::bundle(server, body).await?),
        };
        Ok(view::answer(StatusCode::CREATED, &made, &[]))
    }
}
