//! Where the members of a database live: `spec.placement` of the kinds with members.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::duration::Span;
use super::invalid::Invalid;

/// Where members live and how they reach each other.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Placement {
    /// `Bridge`: all members on the host `local`, on a Docker network of their own. `Host`: members on the hosts that have
    /// `spec.address`, each on its host's network with a reserved port. `Auto` (default): `Host` if there are two such hosts
    /// when the object is made. A change from `Bridge` to `Host` replaces one member after the other.
    #[serde(skip_serializing_if = "NetworkMode::is_auto")]
    pub network: NetworkMode,
    /// Labels that a host must have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Time after which a member on a silent host is replaced on another host, such as `30m` (default); `never`: only when a
    /// person says that the host is out of service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replace_after: Option<ReplaceAfter>,
}

/// See [`Placement::network`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum NetworkMode {
    /// `Host` if there are two hosts with an address.
    #[default]
    Auto,
    /// One host, on a Docker network.
    Bridge,
    /// Several hosts, on the hosts' networks.
    Host,
}

impl NetworkMode {
    fn is_auto(&self) -> bool {
        *self == Self::Auto
    }
}

/// See [`Placement::replace_after`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub enum ReplaceAfter {
    /// Only when a person says so.
    Never,
    /// After this time.
    Time(Span),
}

impl Default for ReplaceAfter {
    fn default() -> Self {
        Self::Time(Span::seconds(1800))
    }
}

impl TryFrom<String> for ReplaceAfter {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "never" => Ok(Self::Never),
            _ => serde_json::from_value(text.clone().into())
                .map(Self::Time)
                .map_err(|_| format!("{text:?} is neither `never` nor a time such as 30m")),
        }
    }
}

impl From<ReplaceAfter> for String {
    fn from(after: ReplaceAfter) -> Self {
        match after {
            ReplaceAfter::Never => "never".to_owned(),
            ReplaceAfter::Time(span) => span.to_string(),
        }
    }
}

impl Placement {
    /// Whether it is the default.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Every problem with it.
    pub fn validate(&self) -> Vec<Invalid> {
        let short = matches!(self.replace_after, Some(ReplaceAfter::Time(time)) if time < Span::seconds(60));
        let path = "spec.placement.replaceAfter";
        short
            .then(|| Invalid::new(path, "must be at least 60s: a host that restarts is silent for that long"))
            .into_iter()
            .collect()
    }
}

/// The network that the members of an object are on, as decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema, Hash)]
pub enum Network {
    /// A Docker network on one host.
    #[default]
    Bridge,
    /// The network of each member's host.
    Host,
}

impl Network {
    /// Whether it is the default.
    pub fn is_bridge(&self) -> bool {
        *self == Self::Bridge
    }
}

/// A member that another one takes the place of, on another host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Replacement {
    /// The member that leaves.
    pub member: String,
    /// The new member.
    pub by: String,
    /// Why.
    pub cause: ReplacementCause,
}

/// Why a member has to leave its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Hash)]
pub enum ReplacementCause {
    /// A person says that the host is out of service.
    OutOfService,
    /// The host has been silent for `spec.placement.replaceAfter`.
    HostSilent,
    /// The host is being drained.
    Drain,
    /// Another member is on the host, and another host has none.
    SharedHost,
    /// The member was to take the place of one that can stay now.
    NotNeeded,
}

/// How many losses an object survives by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ToleratedLosses {
    /// Members, whichever they are.
    pub members: u32,
    /// Hosts, whichever they are.
    pub hosts: u32,
}

impl ToleratedLosses {
    /// For this number of members that may be lost, and the host of each member.
    pub fn of<'a>(members: u32, hosts: impl Iterator<Item = &'a str>) -> Self {
        let mut on = BTreeMap::<&str, u32>::new();
        hosts.for_each(|host| *on.entry(host).or_default() += 1);
        let mut counts: Vec<u32> = on.into_values().collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let sums = counts.iter().scan(0, |lost, count| {
            *lost += count;
            Some(*lost)
        });
        let hosts = sums.take_while(|lost| *lost <= members).count();
        Self { members, hosts: u32::try_from(hosts).unwrap_or(u32::MAX) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_host_counts_with_all_its_members_and_the_worst_hosts_count_first() {
        let hosts = |members, hosts: &str| ToleratedLosses::of(members, hosts.split(' ')).hosts;
        assert_eq!(hosts(1, "a b c"), 1);
        assert_eq!(hosts(1, "a a b"), 0);
        assert_eq!(hosts(2, "a a b"), 1);
        assert_eq!(hosts(2, "a b c"), 2);
        assert_eq!(hosts(0, "a"), 0);
    }

    #[test]
    fn a_time_that_is_none_or_too_short_is_told() {
        let read = |text: &str| serde_json::from_value::<Placement>(serde_json::json!({"replaceAfter": text}));
        assert_eq!(read("never").map(|placement| placement.validate().len()).ok(), Some(0));
        assert_eq!(read("30m").map(|placement| placement.validate().len()).ok(), Some(0));
        assert_eq!(read("5s").map(|placement| placement.validate().len()).ok(), Some(1));
        let told = read("soon").map(drop).map_err(|error| error.to_string());
        assert_eq!(told, Err("\"soon\" is neither `never` nor a time such as 30m".to_owned()));
    }
}
