//! The nodes of several operators and the members of their etcd: what is shown of them, how many may be lost, and whether one
//! may be removed. Pure.

use serde::{Deserialize, Serialize};

/// The path of the API that shows the nodes: GET, the answer is a [`ClusterStatus`].
pub const CLUSTER: &str = "/evenkeel/v1/cluster";
/// The path of the API that removes a node: POST of a [`Removal`], the answer is a [`Removed`].
pub const REMOVE: &str = "/evenkeel/v1/cluster/remove";
/// The path of the API that removes a node whose files others may have, and ends the tokens that it knows: POST of a [`Removal`], the
/// answer is a [`Removed`].
pub const REMOVE_STOLEN: &str = "/evenkeel/v1/cluster/removestolen";
/// The path of the API that gives a copy of the store: GET, the answer is a file of SQLite.
pub const BACKUP: &str = "/evenkeel/v1/cluster/backup";
/// Port of a member of etcd for clients.
pub const CLIENT_PORT: u16 = 2379;
/// Port of a member of etcd for the other members.
pub const PEER_PORT: u16 = 2380;

/// An operator that runs, as it tells the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeInfo {
    /// The name of its node.
    pub name: String,
    /// The address of its API.
    pub address: String,
    /// Its version.
    pub version: String,
    /// When it was started.
    pub started: String,
}

/// What a member of etcd does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It orders the writes.
    Leader,
    /// It votes.
    Follower,
    /// It receives everything and does not vote yet.
    Learner,
    /// It was added and has never run.
    Joining,
    /// It does not answer, or knows no leader.
    Down,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Learner => "learner",
            Self::Joining => "joining",
            Self::Down => "down",
        })
    }
}

/// One member of etcd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// Its ID, in hexadecimal digits.
    pub id: String,
    /// Its name: that of its node, where Evenkeel manages etcd. Empty while it has never run.
    pub name: String,
    /// Where the other members reach it.
    pub peer: String,
    /// Where clients reach it.
    pub client: Option<String>,
    /// What it does.
    pub role: Role,
    /// Whether it counts for a majority.
    pub voter: bool,
    /// Its version.
    pub version: Option<String>,
    /// Bytes of its database on disk.
    pub db_size: Option<i64>,
    /// Entries of the log that the leader has and it has not performed.
    pub lag: Option<u64>,
}

/// One node: an operator, a member of etcd, or both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Its operator; `None`: none of that name is known to run.
    pub operator: Option<NodeInfo>,
    /// Whether its operator leads.
    pub leads: bool,
    /// Its member of etcd.
    pub etcd: Option<MemberStatus>,
}

/// All nodes, and what that means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// Whether Evenkeel manages etcd.
    pub managed: bool,
    /// How many members of etcd may be lost now.
    pub tolerates: usize,
    /// The same in words, with what to do.
    pub verdict: String,
    /// The nodes by name.
    pub nodes: Vec<NodeStatus>,
    /// Why the operators are not known, if they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A node that is to be removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Removal {
    /// Its name; or the address of a member that has never run.
    pub node: String,
    /// Also if those that answer and remain are no majority.
    #[serde(default)]
    pub force: bool,
}

/// A node that was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Removed {
    /// Its name.
    pub node: String,
    /// Where its member of etcd was; empty where Evenkeel does not manage etcd.
    pub peer: String,
    /// Whether its operator is known to run.
    pub runs: bool,
    /// What [`ClusterStatus::verdict`] says of those that remain.
    pub verdict: String,
    /// The names of the join tokens that were revoked, if the node was stolen.
    #[serde(default)]
    pub revoked: Vec<String>,
}

/// The members that vote, and how many of them answer.
fn voters(members: &[&MemberStatus]) -> (usize, usize) {
    let voters = members.iter().filter(|member| member.voter);
    let healthy = voters.clone().filter(|member| matches!(member.role, Role::Leader | Role::Follower));
    (voters.count(), healthy.count())
}

/// How many members may be lost now, and that in words.
pub fn verdict(members: &[&MemberStatus]) -> (usize, String) {
    let (all, healthy) = voters(members);
    let majority = all / 2 + 1;
    if all == 0 {
        return (0, "no member of etcd is known".to_owned());
    }
    let Some(spare) = healthy.checked_sub(majority) else {
        return (
            0,
            format!(
                "the store stands still: {healthy} of {all} members of etcd work, and {majority} are needed. Start the other \
                 machines; if they are lost for good, stop the operator of one that is left and run `evenkeel cluster reset` there"
            ),
        );
    };
    let more = "`evenkeel cluster token` lets another machine join";
    let text = match (all, spare) {
        (1, _) => format!("the loss of this one node stops the store; {more}, best two"),
        (2, _) => format!(
            "the loss of one of these two nodes stops the store; {more}: the third one needs no databases, only Docker (a witness)"
        ),
        (_, 0) => {
            let down: Vec<_> =
                members.iter().filter(|one| one.voter && one.role == Role::Down).map(|one| named(one)).collect();
            format!(
                "the loss of one more node stops the store; start {} again, or remove it (`evenkeel cluster remove`) and let \
                 another machine join",
                down.join(", ")
            )
        }
        (_, 1) => "one node may be lost now".to_owned(),
        (_, more) => format!("{more} nodes may be lost now"),
    };
    (spare, text)
}

/// The name of a member, or where it is.
pub fn named(member: &MemberStatus) -> String {
    if member.name.is_empty() { member.peer.clone() } else { member.name.clone() }
}

/// Why a node is not removed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unremovable {
    /// There is none of that name.
    #[error("no node is called {wanted:?}; there are: {known}")]
    Unknown {
        /// The name.
        wanted: String,
        /// The names that there are.
        known: String,
    },
    /// It is the node that is asked.
    #[error("{0} is the node that is asked; ask another one (its kubeconfig is in its data directory)")]
    Itself(String),
    /// The others could not go on.
    #[error(
        "without {node}, {healthy} of {all} members of etcd work, and the store needs {majority}: it would stand still. Start the \
         others first; --force removes it nevertheless"
    )]
    Majority {
        /// The node.
        node: String,
        /// The voters that work without it.
        healthy: usize,
        /// All voters without it.
        all: usize,
        /// How many must work.
        majority: usize,
    },
}

/// The member that a removal is about, if it may be removed by the node `asked`.
pub fn removable<'a>(
    members: &[&'a MemberStatus],
    asked: &str,
    removal: &Removal,
) -> Result<&'a MemberStatus, Unremovable> {
    let at = |member: &MemberStatus| member.name.is_empty() && host(&member.peer) == Some(removal.node.as_str());
    let Some(target) = members.iter().copied().find(|member| member.name == removal.node || at(member)) else {
        let known: Vec<_> = members.iter().map(|member| named(member)).collect();
        return Err(Unremovable::Unknown { wanted: removal.node.clone(), known: known.join(", ") });
    };
    if target.name == asked {
        return Err(Unremovable::Itself(asked.to_owned()));
    }
    let rest: Vec<_> = members.iter().copied().filter(|member| member.id != target.id).collect();
    let (all, healthy) = voters(&rest);
    let majority = all / 2 + 1;
    if healthy < majority && target.voter && !removal.force {
        return Err(Unremovable::Majority { node: named(target), healthy, all, majority });
    }
    Ok(target)
}

/// The address in a URL such as `https://10.0.0.1:2380`.
pub fn host(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let (host, _) = rest.rsplit_once(':')?;
    Some(host.trim_start_matches('[').trim_end_matches(']'))
}

/// Why a node cannot have this name, if it cannot: it is the name of its member, in a list of etcd.
pub fn name_problem(node: &str) -> Option<String> {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '.' | '_');
    let is_name = !node.is_empty() && node.len() <= 63 && node.chars().all(fits);
    (!is_name).then(|| {
        format!("the node is called {node:?}; name it by --node with up to 63 letters, digits, '-', '.' and '_'")
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Members by their first letters: leader, follower, learner (`n`), joining, down; named a, b, c ...
    fn members(roles: &str) -> Vec<MemberStatus> {
        let of = |(at, letter): (usize, char)| {
            let role = match letter {
                'l' => Role::Leader,
                'f' => Role::Follower,
                'n' => Role::Learner,
                'j' => Role::Joining,
                _ => Role::Down,
            };
            let name = char::from(b'a' + u8::try_from(at).unwrap()).to_string();
            MemberStatus {
                id: at.to_string(),
                name: if role == Role::Joining { String::new() } else { name },
                peer: format!("https://10.0.0.{at}:2380"),
                client: None,
                role,
                voter: !matches!(role, Role::Learner | Role::Joining),
                version: None,
                db_size: None,
                lag: None,
            }
        };
        roles.chars().enumerate().map(of).collect()
    }

    fn told(roles: &str) -> String {
        let members = members(roles);
        let (tolerates, text) = verdict(&members.iter().collect::<Vec<_>>());
        format!("{tolerates}: {text}")
    }

    #[test]
    fn the_verdict_says_how_many_nodes_may_be_lost_and_what_to_do() {
        assert_eq!(told("lff"), "1: one node may be lost now");
        assert_eq!(told("lffff"), "2: 2 nodes may be lost now");
        assert!(told("l").starts_with("0: the loss of this one node stops the store; "));
        assert!(told("lf").contains("a witness"), "{}", told("lf"));
        assert!(told("lfn").contains("a witness"), "a learner counts for nothing");
        assert!(told("lfd").starts_with("0: the loss of one more node stops the store; start c again, or remove it"));
        assert!(told("ddf").starts_with("0: the store stands still: 1 of 3 members of etcd work, and 2 are needed"));
        assert_eq!(
            told("lffd"),
            "0: the loss of one more node stops the store; start d again, or remove it (`evenkeel cluster remove`) and let another machine join"
        );
    }

    /// Regression 493, found before its release: removing a healthy node while another one was down left two members of which one
    /// answered, and the store stood still at once.
    #[test]
    fn a_node_is_removed_only_if_the_others_go_on_without_it() {
        let remove = |roles: &str, node: &str, force| {
            let members = members(roles);
            let removal = Removal { node: node.to_owned(), force };
            removable(&members.iter().collect::<Vec<_>>(), "a", &removal).map(|member| member.id.clone())
        };
        assert_eq!(remove("lfd", "c", false).unwrap(), "2");
        assert_eq!(remove("lff", "c", false).unwrap(), "2");
        let refused = remove("lfd", "b", false).unwrap_err().to_string();
        assert!(refused.starts_with("without b, 1 of 2 members of etcd work, and the store needs 2"), "{refused}");
        assert_eq!(remove("lfd", "b", true).unwrap(), "1");
        assert_eq!(remove("lf", "b", false).unwrap(), "1");
        assert!(matches!(remove("lff", "a", true), Err(Unremovable::Itself(_))));
        assert!(remove("lff", "x", true).unwrap_err().to_string().ends_with("there are: a, b, c"));
        assert_eq!(remove("lfj", "10.0.0.2", false).unwrap(), "2", "one that never ran is called by its address");
        assert_eq!(remove("lj", "10.0.0.1", false).unwrap(), "1");
    }

    #[test]
    fn the_address_of_a_member_is_in_its_url() {
        assert_eq!(host("https://10.0.0.1:2380"), Some("10.0.0.1"));
        assert_eq!(host("https://[fd00::1]:2380"), Some("fd00::1"));
        assert_eq!(host("rubbish"), None);
    }

    #[test]
    fn a_name_that_would_be_two_in_a_list_of_etcd_is_refused() {
        assert_eq!(name_problem("node-1.example"), None);
        for name in ["", "a,b", "a=b", "a b", "a/b"] {
            assert!(name_problem(name).is_some_and(|why| why.contains("--node")), "{name}");
        }
    }
}
