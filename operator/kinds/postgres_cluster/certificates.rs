//! What a cluster's certificates are for, which instances hold them, and the form in which they get them.

use std::net::{IpAddr, Ipv4Addr};

use super::view::{ClusterView, Member};
use crate::api::postgres_cluster::PostgresCluster;
use crate::api::postgres_tls::SecretRef;
use crate::kinds::certificates::authority::Authority;
use crate::kinds::certificates::due::{Certified, Holding};
use crate::supervisor::secrets::REPLICATION_ROLE;
use crate::supervisor::wire::Tls;

impl Certified for PostgresCluster {
    const CLIENT: Option<(&'static str, &'static str)> = Some(("replication", REPLICATION_ROLE));

    fn given(&self) -> Option<&SecretRef> {
        self.spec.tls.server_secret.as_ref()
    }

    fn members(&self) -> Vec<(&str, Option<Ipv4Addr>)> {
        let decisions = self.status.iter().filter_map(|status| status.decisions.as_ref());
        decisions.flat_map(|decisions| &decisions.members).map(|place| (place.name.as_str(), place.address)).collect()
    }

    fn more_names(&self) -> Vec<String> {
        let bound = self.spec.expose.iter().filter_map(|expose| expose.bind_address.parse::<IpAddr>().ok());
        bound.filter(|address| !address.is_unspecified()).map(|address| address.to_string()).collect()
    }
}

/// What each instance says of its certificates.
pub fn holdings<'a>(view: &ClusterView<'a>) -> Vec<Holding<'a>> {
    let holding = |member: &Member<'a>| {
        let report = member.live();
        Holding {
            member: &member.place.name,
            live: report.is_some(),
            hash: report.and_then(|report| report.tls.as_deref()),
            problem: report.and_then(|report| report.tls_problem.as_deref()),
        }
    };
    view.members.iter().map(holding).collect()
}

/// What every instance should hold; `None` while something is missing or the CA is unusable.
pub fn tls(authority: &Authority) -> Option<Tls> {
    let all = authority.material()?;
    let (server, client) = (all.server, all.client?);
    Some(Tls {
        hash: all.hash,
        ca: all.ca,
        client_ca: all.client_ca,
        server_cert: server.cert,
        server_key: server.key,
        client_cert: client.cert,
        client_key: client.key,
    })
}

#[cfg(test)]
mod tests;
