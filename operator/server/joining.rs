//! Nodes that join: the token for one, and the files that an operator of the same store has. Only an operator that shares its
//! store has others.

use axum::http::StatusCode;
use jiff::SignedDuration;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::Server;
use super::authn::user::JOINING;
use super::status::Refusal;
use super::tokens;
use crate::api::chain::chain;
use crate::api::join::{Bundle, JoinToken, Joining, Made, Wanted};
use crate::api::object::Object as _;
use crate::api::token::Token;
use crate::store::Key;

/// The user that a joining node is.
const USER: &str = "system:joining-node";

/// A new token for a node that joins.
pub async fn token(server: &Server, body: &[u8]) -> Result<Made, Refusal> {
    let Wanted { seconds } = parsed(body)?;
    let now = server.clock.now();
    let expires = now + SignedDuration::from_secs(seconds.into());
    if let Some(problem) = tokens::life_problem(expires, now) {
        return Err(Refusal::unprocessable(format!("seconds: {problem}")));
    }
    // Refused now rather than when the node joins.
    shared(server)?;
    let address = server.authority.reached().ok_or_else(|| {
        conflict(
            "no other node reaches this operator: its API listens on loopback, or its certificate names no address; \
                  start it with --listen and --advertise",
        )
    })?;
    let ca = server.authority.ca().map_err(|error| Refusal::internal(chain(&error)))?;
    let wanted = json!({
        "apiVersion": "evenkeel.dev/v1alpha1", "kind": Token::KIND,
        "metadata": {"generateName": "join-"},
        "spec": {"user": USER, "groups": [JOINING], "expires": format!("{expires:.0}")},
    });
    let failed = |error| Refusal::internal(chain(&error));
    let made = server.objects.create(&Key::new(Token::RESOURCE, "", ""), wanted).await.map_err(failed)?;
    let secret = tokens::bearer(server, &made).await.map_err(failed)?;
    // Whoever reads this answer finds it in force.
    server.access.refresh().await.map_err(failed)?;
    Ok(Made {
        token: JoinToken::new(&ca, secret).text(),
        name: made["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
        expires: format!("{expires:.0}"),
        address,
    })
}

/// The files for a node that joins.
pub async fn bundle(server: &Server, body: &[u8]) -> Result<Bundle, Refusal> {
    let Joining { node } = parsed(body)?;
    let bundle = shared(server)?;
    if let Some(nodes) = &server.nodes {
        let known = nodes().await.map_err(|error| Refusal::unavailable(chain(&error)))?;
        if known.contains(&node) {
            return Err(conflict(format!(
                "an operator runs on a node called {node:?} already; give the joining one another name with --node"
            )));
        }
    }
    tracing::info!(node, "a node gets the keys of the operators");
    Ok(bundle)
}

/// The files, if this operator shares its store.
fn shared(server: &Server) -> Result<Bundle, Refusal> {
    let files = server.authority.bundle().map_err(|error| Refusal::internal(chain(&error)))?;
    files.ok_or_else(|| {
        conflict("this operator has its store in a file and is the only one: start it with --etcd-endpoints first")
    })
}

fn conflict(message: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::CONFLICT, "Conflict", message)
}

fn parsed<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| {
        let at = format!("line {}, column {}", error.line(), error.column());
        Refusal::bad_request(format!("the body has not the fields that it must have; wrong at {at}"))
    })
}
