//! The nodes of several operators over one etcd: shows them, removes one, and gives a copy of the store. What may be removed is
//! decided in `api/cluster.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::json;

use super::administrator::{self, Shared};
use super::authz::attributes::Attributes;
use super::body::parsed;
use super::status::Refusal;
use super::{Server, tokens, view};
use crate::api::chain::chain;
use crate::api::cluster::{
    BACKUP, CLUSTER, ClusterStatus, MemberStatus, NodeStatus, REMOVE, REMOVE_STOLEN, Removal, Removed, Unremovable,
    named, removable, verdict,
};
use crate::store::Leases;
use crate::store::etcd::{ChangeError, EtcdCluster, EtcdNodes};

/// What this operator knows the others by.
pub struct Cluster {
    /// The name of its node.
    pub node: String,
    /// Whether Evenkeel manages etcd.
    pub managed: bool,
    /// The members of etcd.
    pub members: EtcdCluster,
    /// The operators that run.
    pub nodes: EtcdNodes,
    /// The administrator's token of all operators.
    pub administrator: Shared,
    /// Who leads.
    pub leases: Arc<dyn Leases>,
}

impl Cluster {
    async fn status(&self) -> Result<ClusterStatus, Refusal> {
        let (members, nodes, leader) = tokio::join!(self.members.survey(), self.nodes.list(), self.leases.leader());
        let members = members.map_err(|error| Refusal::unavailable(chain(&error)))?;
        let problem = nodes.as_ref().err().map(|error| format!("the operators are not known: {}", chain(error)));
        let leader = leader.ok().flatten().map(|leader| leader.who.node);
        let (tolerates, verdict) = verdict(&members.iter().collect::<Vec<_>>());
        let mut rows: BTreeMap<String, NodeStatus> = BTreeMap::new();
        let row = |rows: &mut BTreeMap<String, NodeStatus>, name: String| {
            rows.entry(name.clone()).or_insert_with(|| NodeStatus {
                leads: leader.as_ref() == Some(&name),
                name,
                operator: None,
                etcd: None,
            });
        };
        for member in members {
            let name = named(&member);
            row(&mut rows, name.clone());
            rows.entry(name).and_modify(|row| row.etcd = Some(member));
        }
        for node in nodes.unwrap_or_default() {
            row(&mut rows, node.name.clone());
            rows.entry(node.name.clone()).and_modify(|row| row.operator = Some(node));
        }
        Ok(ClusterStatus { managed: self.managed, tolerates, verdict, nodes: rows.into_values().collect(), problem })
    }

    /// Removes a node. `stolen`: others may have its files, so the tokens that it knows end first.
    async fn remove(&self, server: &Server, removal: &Removal, stolen: bool) -> Result<Removed, Refusal> {
        if !self.managed {
            return self.forget(server, removal, stolen).await;
        }
        let (members, nodes) = tokio::join!(self.members.survey(), self.nodes.list());
        let members = members.map_err(|error| Refusal::unavailable(chain(&error)))?;
        let target = match removable(&members.iter().collect::<Vec<_>>(), &self.node, removal) {
            Ok(target) => target,
            Err(unknown @ Unremovable::Unknown { .. }) => {
                return Err(Refusal::new(StatusCode::NOT_FOUND, "NotFound", unknown.to_string()));
            }
            Err(refused) => return Err(conflict(refused.to_string())),
        };
        let revoked = if stolen { end_tokens(server).await? } else { Vec::new() };
        self.members.remove(&target.id).await.map_err(refusal)?;
        // Another machine may have its name at once.
        self.nodes.leave(&target.name).await;
        tracing::warn!(node = named(target), peer = target.peer, "a node was removed");
        let rest: Vec<&MemberStatus> = members.iter().filter(|member| member.id != target.id).collect();
        Ok(Removed {
            node: named(target),
            peer: target.peer.clone(),
            runs: nodes.is_ok_and(|nodes| nodes.iter().any(|node| node.name == target.name)),
            verdict: verdict(&rest).1,
            revoked,
        })
    }

    /// Forgets the operator of a stolen node over an etcd of the user's, whose members Evenkeel does not change.
    async fn forget(&self, server: &Server, removal: &Removal, stolen: bool) -> Result<Removed, Refusal> {
        if !stolen {
            return Err(conflict(
                "etcd is not managed by Evenkeel: remove its member with etcdctl, and stop the operator there",
            ));
        }
        if removal.node == self.node {
            return Err(conflict(Unremovable::Itself(self.node.clone()).to_string()));
        }
        let nodes = self.nodes.list().await.map_err(|error| Refusal::unavailable(chain(&error)))?;
        let revoked = end_tokens(server).await?;
        self.nodes.leave(&removal.node).await;
        let runs = nodes.iter().any(|node| node.name == removal.node);
        let verdict = "remove its member of etcd, if it has one, with etcdctl".to_owned();
        Ok(Removed { node: removal.node.clone(), peer: String::new(), runs, verdict, revoked })
    }
}

/// Ends the tokens that every node knows: revokes those to join with, whose names it returns, and replaces the administrator's.
async fn end_tokens(server: &Server) -> Result<Vec<String>, Refusal> {
    let doing = "not all of its tokens were ended, and the node was not removed; run the same command again";
    let failed = |error: &dyn std::error::Error| Refusal::unavailable(format!("{doing}: {}", chain(error)));
    let revoked = tokens::revoke_joining(server).await.map_err(|error| failed(&error))?;
    administrator::rotate(server, true).await.map_err(|error| failed(&error))?;
    Ok(revoked)
}

/// What is asked about the cluster.
pub enum Ask {
    /// Who the nodes are and how they do.
    Status,
    /// To remove one.
    Remove,
    /// To remove one whose files others may have.
    RemoveStolen,
    /// A copy of the store.
    Backup,
}

impl Ask {
    /// What a request asks.
    pub fn asked(method: &Method, path: &str) -> Option<Self> {
        match path {
            CLUSTER if method == Method::GET => Some(Self::Status),
            REMOVE if method == Method::POST => Some(Self::Remove),
            REMOVE_STOLEN if method == Method::POST => Some(Self::RemoveStolen),
            BACKUP if method == Method::GET => Some(Self::Backup),
            _ => None,
        }
    }

    /// What the request wants, in the words of RBAC.
    pub fn attributes(&self) -> Attributes {
        let (verb, resource) = match self {
            Self::Status => ("get", "clusternodes"),
            Self::Remove => ("delete", "clusternodes"),
            // It replaces the administrator's token.
            Self::RemoveStolen => ("create", "tokens"),
            Self::Backup => ("get", "storebackups"),
        };
        Attributes {
            verb: verb.to_owned(),
            group: "evenkeel.dev".to_owned(),
            version: "v1".to_owned(),
            resource: resource.to_owned(),
            ..Attributes::default()
        }
    }

    /// Answers it.
    pub async fn answer(&self, server: &Server, body: &[u8]) -> Result<Response, Refusal> {
        if matches!(self, Self::Backup) {
            return backup(server).await;
        }
        let alone = || conflict("this operator has its store in a file and is the only one: there is no cluster");
        let cluster = server.cluster.as_ref().ok_or_else(alone)?;
        let answer = match self {
            Self::Remove => json!(cluster.remove(server, &parsed(body)?, false).await?),
            Self::RemoveStolen => json!(cluster.remove(server, &parsed(body)?, true).await?),
            _ => json!(cluster.status().await?),
        };
        Ok(view::answer(StatusCode::OK, &answer, &[]))
    }
}

async fn backup(server: &Server) -> Result<Response, Refusal> {
    let snapshots = server.snapshots.as_ref().ok_or_else(|| conflict("this operator has no folder for snapshots"))?;
    let taken = snapshots.bytes(server.clock.now()).await;
    let bytes = taken.map_err(|error| Refusal::unavailable(chain(&error)))?;
    Ok(([(header::CONTENT_TYPE, "application/vnd.sqlite3")], bytes).into_response())
}

/// The refusal of a change of the members.
pub fn refusal(error: ChangeError) -> Refusal {
    match error {
        ChangeError::Busy { .. } | ChangeError::Unsettled => {
            Refusal::new(StatusCode::CONFLICT, crate::api::join::BUSY, error.to_string())
        }
        ChangeError::Taken { .. } | ChangeError::Refused(_) => conflict(error.to_string()),
        ChangeError::Store(error) => Refusal::unavailable(chain(&error)),
    }
}

fn conflict(message: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::CONFLICT, "Conflict", message)
}
