//! What the certificates of a RedisCluster are for, and which members hold them.

use std::net::Ipv4Addr;

use super::view::{Member, View};
use crate::api::postgres_tls::SecretRef;
use crate::api::redis_cluster::RedisCluster;
use crate::kinds::certificates::due::{Certified, Holding};
use crate::kinds::redis_certificates;

impl Certified for RedisCluster {
    // Redis connects to others with the certificate of its server.
    const CLIENT: Option<(&'static str, &'static str)> = None;

    fn given(&self) -> Option<&SecretRef> {
        self.spec.tls.server_secret.as_ref()
    }

    fn members(&self) -> Vec<(&str, Option<Ipv4Addr>)> {
        let decisions = self.status.iter().filter_map(|status| status.decisions.as_ref());
        let places = decisions.flat_map(|decisions| &decisions.members);
        places.map(|place| (place.name.as_str(), place.address)).collect()
    }

    fn verified_by(&self) -> Vec<String> {
        redis_certificates::addresses(self)
    }
}

/// What each member says of its certificates.
pub fn holdings<'a>(view: &View<'a>) -> Vec<Holding<'a>> {
    let holding = |member: &Member<'a>| {
        let report = member.live();
        let hash = report.and_then(|report| report.tls.as_deref());
        Holding { member: member.name(), live: report.is_some(), hash, problem: None }
    };
    view.members.iter().map(holding).collect()
}
