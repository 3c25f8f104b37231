//! What the DockerHosts declare, and what their agents have found, as the planners of kinds that live on several hosts need it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use crate::api::docker_host::{DockerHost, PortRange};
use crate::api::object::Object as _;
use crate::api::reach::Reach;
use crate::store::Error;
use crate::store::objects::Objects;

/// What the DockerHosts declare, by name.
pub type DeclaredHosts = BTreeMap<String, Declared>;

/// What one DockerHost declares.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Declared {
    /// The address by which other hosts reach it.
    pub address: Option<Ipv4Addr>,
    /// The ports that may be reserved.
    pub ports: PortRange,
    /// Labels that a selector can match.
    pub labels: BTreeMap<String, String>,
    /// Hosts that fail together share this value.
    pub domain: String,
    /// New containers may be placed on it.
    pub open: bool,
    /// Everything that can live elsewhere has to leave.
    pub drains: bool,
    /// It is restarted soon.
    pub maintained: bool,
    /// A person says that it is off and stays off.
    pub lost: bool,
    /// Ports of its range at which something listens that has no reservation, as far as it is known.
    pub foreign: BTreeSet<u16>,
    /// Whether it reaches other hosts, as far as it is known.
    pub reach: BTreeMap<String, Reach>,
}

impl From<&DockerHost> for Declared {
    fn from(host: &DockerHost) -> Self {
        let (spec, status) = (&host.spec, host.status.as_ref());
        Self {
            address: spec.address,
            ports: spec.port_range,
            labels: spec.labels.clone(),
            domain: spec.failure_domain.clone().unwrap_or_else(|| host.name().to_owned()),
            open: spec.takes_new() && host.metadata.deletion_timestamp.is_none(),
            drains: spec.drain,
            maintained: spec.maintenance,
            lost: spec.out_of_service,
            foreign: status.map(|status| status.foreign_ports.clone()).unwrap_or_default(),
            reach: status.map(|status| status.reach.clone()).unwrap_or_default(),
        }
    }
}

/// Reads all DockerHosts.
pub async fn read(objects: &Objects) -> Result<DeclaredHosts, Error> {
    let (all, _) = objects.list::<DockerHost>(DockerHost::RESOURCE, None).await?;
    Ok(all.iter().map(|host| (host.name().to_owned(), Declared::from(host))).collect())
}

/// Whether one of two hosts is known not to reach the other one.
pub fn apart(declared: &DeclaredHosts, one: &str, other: &str) -> bool {
    let cut = |from: &str, to: &str| {
        let reach = declared.get(from).and_then(|host| host.reach.get(to));
        reach.is_some_and(|reach| *reach != Reach::Ok)
    };
    cut(one, other) || cut(other, one)
}
