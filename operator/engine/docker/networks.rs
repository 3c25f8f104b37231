//! Networks: bridges with an explicit subnet, because Docker allows fixed addresses only in those.
//!
//! Only the engine knows which subnets are free on its host. So a network is created without a subnet (the probe), its
//! subnet is read, it is removed, and the real one is created with that subnet. Fixed addresses come from the lower
//! half; Docker assigns addresses from the upper half.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;

use bollard::models::{
    Ipam, IpamConfig, NetworkConnectRequest, NetworkCreateRequest, NetworkDisconnectRequest, NetworkInspect,
};
use bollard::query_parameters::ListNetworksOptionsBuilder;

use super::super::{Attachment, Error, NetworkSeen, NetworkSpec};
use super::create::endpoint;
use super::{ANSWER, DockerEngine, any_owner_filter, owner_in_words, same_owner};
use crate::api::hash::short_hash;
use crate::api::labels;

/// Attempts: another program may take the subnet between probe and network; after this many the pool is full.
const ATTEMPTS: usize = 5;
/// A narrower subnet has no room for two halves with a few members each.
const NARROWEST: u8 = 28;

impl DockerEngine {
    async fn inspect_network(&self, name: &str, doing: &str) -> Result<Option<NetworkInspect>, Error> {
        match self.call(doing, ANSWER, |docker| docker.inspect_network(name, None)).await {
            Err(Error::NotFound { .. }) => Ok(None),
            // Docker also accepts the beginning of an ID.
            other => other.map(|network| Some(network).filter(|network| network.name.as_deref() == Some(name))),
        }
    }

    pub(super) async fn network_named(&self, name: &str) -> Result<Option<NetworkSeen>, Error> {
        let doing = format!("looking at network {name}");
        match self.inspect_network(name, &doing).await? {
            None => Ok(None),
            Some(network) => self.seen(name, &doing, &network).map(Some),
        }
    }

    pub(super) async fn networks_of_all(&self) -> Result<BTreeMap<String, NetworkSeen>, Error> {
        let options = ListNetworksOptionsBuilder::default().filters(&any_owner_filter()).build();
        let doing = "listing all networks of ours";
        let found = self.call(doing, ANSWER, |docker| docker.list_networks(Some(options))).await?;
        let seen = |network: bollard::models::Network| {
            let (name, subnet) = (network.name?, subnet_of(network.ipam.as_ref())?);
            Some((name.clone(), NetworkSeen { name, id: network.id.unwrap_or_default(), ours: true, subnet }))
        };
        Ok(found.into_iter().filter_map(seen).collect())
    }

    fn seen(&self, name: &str, doing: &str, network: &NetworkInspect) -> Result<NetworkSeen, Error> {
        let subnet = subnet_of(network.ipam.as_ref()).ok_or_else(|| {
            Error::conflict(&self.host, doing, "the network of that name has no IPv4 subnet; remove it")
        })?;
        let ours = network.labels.as_ref().is_some_and(|labels| labels.contains_key(labels::KIND));
        Ok(NetworkSeen { name: name.to_owned(), id: network.id.clone().unwrap_or_default(), ours, subnet })
    }

    pub(super) async fn network_ensured(&self, spec: &NetworkSpec) -> Result<NetworkSeen, Error> {
        let doing = format!("making network {}", spec.name);
        let _one_at_a_time = self.networks.lock().await;
        if let Some(network) = self.inspect_network(&spec.name, &doing).await? {
            return self.ours(spec, &doing, &network);
        }
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let subnet = self.probe_subnet(spec, &doing).await?;
            match self.create_network(&spec.name, spec, Some(subnet), &doing).await {
                Ok(id) => return Ok(NetworkSeen { name: spec.name.clone(), id, ours: true, subnet }),
                Err(error @ Error::Refused { .. }) => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.expect("a failed attempt leaves its error"))
    }

    fn ours(&self, spec: &NetworkSpec, doing: &str, network: &NetworkInspect) -> Result<NetworkSeen, Error> {
        if same_owner(&spec.labels, network.labels.as_ref()) {
            return self.seen(&spec.name, doing, network);
        }
        let message = format!(
            "a network of that name is there already and {}; rename it or remove it",
            owner_in_words(network.labels.as_ref())
        );
        Err(Error::conflict(&self.host, doing, message))
    }

    /// A subnet that is free on this host.
    async fn probe_subnet(&self, spec: &NetworkSpec, doing: &str) -> Result<(Ipv4Addr, u8), Error> {
        let probe = probe_name(&spec.name);
        // Left over if the operator was stopped between the two steps.
        if let Some(left) = self.inspect_network(&probe, doing).await? {
            if !same_owner(&spec.labels, left.labels.as_ref()) {
                let message = format!("network {probe} is not a probe for this network; remove it");
                return Err(Error::conflict(&self.host, doing, message));
            }
            self.network_removed(&probe).await?;
        }
        self.create_network(&probe, spec, None, doing).await?;
        let found = self.inspect_network(&probe, doing).await;
        self.network_removed(&probe).await?;
        let subnet = found?.and_then(|network| subnet_of(network.ipam.as_ref()));
        match subnet {
            Some((address, prefix)) if prefix <= NARROWEST => Ok((address, prefix)),
            Some((_, prefix)) => Err(Error::refused(
                &self.host,
                doing,
                format!("its default-address-pools hand out /{prefix} subnets; they must be /{NARROWEST} or wider"),
            )),
            None => Err(Error::refused(&self.host, doing, "Docker chose no IPv4 subnet for a new network")),
        }
    }

    async fn create_network(
        &self,
        name: &str,
        spec: &NetworkSpec,
        subnet: Option<(Ipv4Addr, u8)>,
        doing: &str,
    ) -> Result<String, Error> {
        let request = NetworkCreateRequest {
            name: name.to_owned(),
            driver: Some("bridge".to_owned()),
            internal: Some(spec.internal),
            ipam: subnet.map(|subnet| Ipam { config: Some(vec![ipam_config(subnet)]), ..Default::default() }),
            labels: Some(spec.labels.clone().into_iter().collect()),
            ..Default::default()
        };
        let made = self.call(doing, ANSWER, |docker| docker.create_network(request)).await?;
        self.only_one(name, &made.id, doing).await?;
        Ok(made.id)
    }

    /// Docker identifies networks by ID and allows two with one name; then ours is removed.
    async fn only_one(&self, name: &str, id: &str, doing: &str) -> Result<(), Error> {
        let filters = HashMap::from([("name".to_owned(), vec![format!("^{name}$")])]);
        let options = ListNetworksOptionsBuilder::default().filters(&filters).build();
        let found = self.call(doing, ANSWER, |docker| docker.list_networks(Some(options))).await?;
        if found.iter().filter(|network| network.name.as_deref() == Some(name)).count() < 2 {
            return Ok(());
        }
        self.call(doing, ANSWER, |docker| docker.remove_network(id)).await?;
        Err(Error::conflict(&self.host, doing, "another network of that name was made at the same time"))
    }

    pub(super) async fn network_connected(&self, container: &str, to: &Attachment) -> Result<(), Error> {
        let doing = format!("connecting container {container} to network {}", to.network);
        let request = NetworkDisconnectRequest { container: container.to_owned(), force: Some(true) };
        let disconnected = self.call(&doing, ANSWER, |docker| docker.disconnect_network(&to.network, request)).await;
        // Any other error: it was not connected, or the connect fails for the same reason.
        if let Err(error @ Error::Unreachable { .. }) = disconnected {
            return Err(error);
        }
        let request = NetworkConnectRequest { container: container.to_owned(), endpoint_config: Some(endpoint(to)) };
        self.call(&doing, ANSWER, |docker| docker.connect_network(&to.network, request)).await
    }

    pub(super) async fn network_removed(&self, name: &str) -> Result<(), Error> {
        let doing = format!("removing network {name}");
        match self.call(&doing, ANSWER, |docker| docker.remove_network(name)).await {
            Err(Error::NotFound { .. }) => Ok(()),
            // Engines before 29 answer 403 here, the same as for a network that can never be removed.
            Err(Error::Refused { message, .. }) if message.contains("active endpoints") => {
                Err(Error::conflict(&self.host, doing, message))
            }
            other => other,
        }
    }
}

/// The name of the probe for a network. No object can have a network of this name: all their names begin with a namespace
/// or with `evenkeel-`, and no namespace has an underscore.
fn probe_name(network: &str) -> String {
    format!("evenkeel_probe_{}", short_hash(network, 16))
}

fn ipam_config((address, prefix): (Ipv4Addr, u8)) -> IpamConfig {
    let first = u32::from(address);
    let upper_half = Ipv4Addr::from(first + (1 << (31 - prefix)));
    IpamConfig {
        subnet: Some(format!("{address}/{prefix}")),
        ip_range: Some(format!("{upper_half}/{}", prefix + 1)),
        gateway: Some(Ipv4Addr::from(first + 1).to_string()),
        ..Default::default()
    }
}

fn subnet_of(ipam: Option<&Ipam>) -> Option<(Ipv4Addr, u8)> {
    ipam?.config.as_ref()?.iter().find_map(|config| {
        let (address, prefix) = config.subnet.as_deref()?.split_once('/')?;
        Some((address.parse().ok()?, prefix.parse().ok().filter(|prefix| *prefix <= 32)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_hands_out_addresses_of_the_upper_half_only() {
        let said: String = [([172, 18, 0, 0], 16), ([192, 168, 16, 0], 20), ([10, 1, 2, 16], 28)]
            .map(|(address, prefix)| {
                let config = ipam_config((address.into(), prefix));
                let text = |value: Option<String>| value.unwrap_or_default();
                format!(
                    "{} gateway {} automatic {}\n",
                    text(config.subnet),
                    text(config.gateway),
                    text(config.ip_range)
                )
            })
            .concat();
        expect_test::expect![[r#"
            172.18.0.0/16 gateway 172.18.0.1 automatic 172.18.128.0/17
            192.168.16.0/20 gateway 192.168.16.1 automatic 192.168.24.0/21
            10.1.2.16/28 gateway 10.1.2.17 automatic 10.1.2.24/29
        "#]]
        .assert_eq(&said);
    }

    /// Regression 190: the probe for the network `X` was called `X-probe`. With PostgresClusters `db` and `db-probe`, making the
    /// network of the first removed that of the second, or failed for ever while that was in use.
    #[test]
    fn the_probe_has_a_name_that_no_object_gives_to_its_network() {
        let (one, other) = (probe_name("a.db"), probe_name("a.db-probe"));
        assert_ne!(one, other);
        assert!(one.starts_with("evenkeel_probe_") && !one.contains(['.', '-']), "{one}");
    }

    #[test]
    fn the_ipv4_subnet_is_found_beside_an_ipv6_one() {
        let config = |subnet: &str| IpamConfig { subnet: Some(subnet.to_owned()), ..Default::default() };
        let ipam = Ipam { config: Some(vec![config("fd00::/64"), config("172.18.0.0/16")]), ..Default::default() };
        assert_eq!(subnet_of(Some(&ipam)), Some(([172, 18, 0, 0].into(), 16)));
        assert_eq!(subnet_of(None), None);
    }
}
