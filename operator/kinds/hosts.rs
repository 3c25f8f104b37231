//! What the DockerHosts declare, as the planners of kinds that live on several hosts need it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::api::docker_host::{DockerHost, PortRange};
use crate::api::object::Object as _;
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
}

impl From<&DockerHost> for Declared {
    fn from(host: &DockerHost) -> Self {
        let spec = &host.spec;
        Self {
            address: spec.address,
            ports: spec.port_range,
            labels: spec.labels.clone(),
            domain: spec.failure_domain.clone().unwrap_or_else(|| host.name().to_owned()),
            open: spec.takes_new() && host.metadata.deletion_timestamp.is_none(),
            drains: spec.drain,
            maintained: spec.maintenance,
            lost: spec.out_of_service,
        }
    }
}

/// Reads all DockerHosts.
pub async fn read(objects: &Objects) -> Result<DeclaredHosts, Error> {
    let (all, _) = objects.list::<DockerHost>(DockerHost::RESOURCE, None).await?;
    Ok(all.iter().map(|host| (host.name().to_owned(), Declared::from(host))).collect())
}
