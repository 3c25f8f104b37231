//! Nodes that join: the token for one, and the files that an operator of the same store has. Only an operator that shares its
//! store has others.

use std::net::IpAddr;

use axum::http::StatusCode;
use jiff::SignedDuration;
use serde_json::json;

use super::Server;
use super::authn::user::JOINING;
use super::body::parsed;
use super::cluster::{Cluster, refusal};
use super::status::Refusal;
use super::tokens;
use crate::api::chain::chain;
use crate::api::cluster::{MemberStatus, host, name_problem};
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
    let Joining { node, peer } = parsed(body)?;
    if let Some(problem) = name_problem(&node) {
        return Err(Refusal::bad_request(problem));
    }
    let mut bundle = shared(server)?;
    if let Some(cluster) = &server.cluster {
        let unavailable = |error| Refusal::unavailable(chain(&error));
        let running = cluster.nodes.list().await.map_err(unavailable)?;
        let members = cluster.members.list().await.map_err(unavailable)?;
        // In an etcd of the user's, the members have names of the user's.
        let own = members.iter().filter(|_| cluster.managed).map(|member| &member.name);
        let mut known = running.iter().map(|node| &node.name).chain(own);
        if known.any(|name| *name == node) {
            return Err(conflict(format!(
                "a node is called {node:?} already; give the joining one another name with --node, or remove the other one: \
                 evenkeel cluster remove {node}"
            )));
        }
        bundle.members = match peer {
            Some(peer) => Some(admit(cluster, &node, &peer).await?),
            None => None,
        };
    }
    tracing::info!(node, "a node gets the keys of the operators");
    Ok(bundle)
}

/// Adds the member of a node to etcd; all members, as etcd takes them.
async fn admit(cluster: &Cluster, node: &str, peer: &str) -> Result<String, Refusal> {
    if !cluster.managed {
        return Err(conflict("etcd is not managed by Evenkeel: no member is added to it"));
    }
    let is_address = host(peer).is_some_and(|host| host.parse::<IpAddr>().is_ok());
    if !is_address || peer.contains([',', '=']) {
        return Err(Refusal::bad_request(format!("{peer:?} is no URL of a member of etcd")));
    }
    let (id, members) = cluster.members.admit(peer).await.map_err(refusal)?;
    tracing::info!(node, peer, id, "a member was added to etcd");
    let one = |member: &MemberStatus| {
        let name = if member.id == id { node } else { &member.name };
        format!("{name}={}", member.peer)
    };
    Ok(members.iter().map(one).collect::<Vec<_>>().join(","))
}

/// The files, if this operator shares its store.
fn shared(server: &Server) -> Result<Bundle, Refusal> {
    let files = server.authority.bundle().map_err(|error| Refusal::internal(chain(&error)))?;
    files.ok_or_else(|| {
        conflict("this operator has its store in a file and is the only one: start it with --cluster-init or --etcd-endpoints first")
    })
}

fn conflict(message: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::CONFLICT, "Conflict", message)
}
