//! What the certificates of a RedisSentinel are for, and which members hold them.

use std::net::Ipv4Addr;

use super::view::{Member, View};
use crate::api::postgres_tls::SecretRef;
use crate::api::redis_sentinel::RedisSentinel;
use crate::kinds::certificates::due::{Certified, Holding};
use crate::kinds::redis_certificates;

impl Certified for RedisSentinel {
    // Redis connects to others with the certificate of its server.
    const CLIENT: Option<(&'static str, &'static str)> = None;

    fn given(&self) -> Option<&SecretRef> {
        self.spec.tls.server_secret.as_ref()
    }

    fn members(&self) -> Vec<(&str, Option<Ipv4Addr>)> {
        let decisions = self.status.iter().filter_map(|status| status.decisions.as_ref());
        let places = decisions.flat_map(|decisions| decisions.members.iter().chain(&decisions.sentinels));
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
    view.members.iter().chain(&view.sentinels).map(holding).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::api::secret::encoded;
    use crate::kinds::certificates::authority::{Authority, perform};
    use crate::kinds::certificates::due::{due, refused};
    use crate::kinds::certificates::{Made, Pair, Purpose, make_ca, make_leaf};
    use crate::kinds::redis_certificates::tls;
    use crate::runtime::clock::TestClock;
    use crate::store::{Clock as _, Key, MemoryStore, Objects};

    const DAY: Duration = Duration::from_secs(86_400);

    struct World {
        clock: Arc<TestClock>,
        objects: Objects,
        object: RedisSentinel,
    }

    impl World {
        fn new(tls: &Value) -> Self {
            let clock = Arc::new(TestClock::still("2026-11-28T15:00:00Z".parse().unwrap()));
            let place = |name: &str, last: u8, port: u16| json!({"name": name, "ordinal": 1, "host": "local", "address": format!("10.7.0.{last}"), "port": port});
            let decisions = json!({
                "stage": "Steady", "epoch": 1, "revision": 1, "group": "g", "since": clock.now(),
                "members": [place("cache-1", 11, 6379)], "sentinels": [place("cache-sentinel-1", 23, 26379)],
            });
            let object = json!({
                "metadata": {"name": "cache", "namespace": "here", "uid": "u"},
                "spec": {"image": "redis:7", "tls": tls}, "status": {"decisions": decisions},
            });
            let objects = Objects::new(Arc::new(MemoryStore::default()), clock.clone());
            Self { clock, objects, object: serde_json::from_value(object).unwrap() }
        }

        /// All that is due is done, with members that hold what they should; the names of what was done.
        async fn settle(&self) -> String {
            let mut done = Vec::new();
            while done.len() < 9 {
                let (authority, now) = (self.authority().await, self.clock.now());
                let seen = authority.seen();
                let held = Holding { member: "cache-1", live: true, hash: seen.hash.as_deref(), problem: None };
                let Some(due) = due(&self.object, &[held], &seen, now) else { break };
                perform(&self.objects, now, &self.object, due).await.unwrap();
                done.push(due.to_string());
            }
            done.join("\n")
        }

        async fn authority(&self) -> Authority {
            Authority::read(&self.objects, &self.object, self.clock.now()).await.unwrap()
        }

        async fn give(&self, made: &Made, ca: &str) {
            let fields = encoded(&[("tls.crt", &made.cert), ("tls.key", &made.key), ("ca.crt", ca)]);
            let secret = json!({"metadata": {"name": "mine", "namespace": "here"}, "data": fields});
            let key = Key::beside(&self.object, "secrets", "mine");
            if self.objects.create(&key, secret.clone()).await.is_err() {
                self.objects.update(&key, secret).await.unwrap();
            }
        }
    }

    #[tokio::test]
    async fn one_certificate_serves_a_server_and_what_it_connects_with() {
        let world = World::new(&json!({"enabled": true}));
        assert_eq!(world.settle().await, "make a CA\nmake certificates");
        let (tls, now) = (tls(&world.authority().await).unwrap(), world.clock.now());
        let data = encoded(&[("tls.crt", &tls.cert), ("tls.key", &tls.key)]);
        let pair = Pair::of_secret("", Some(&json!({"data": data}))).unwrap();
        assert_eq!((pair.refused_as_server(&tls.ca, now), pair.refused_as_client(&tls.ca, now)), (None, None));
        let names = ["cache-1", "cache-sentinel-1.here", "10.7.0.11", "10.7.0.23", "10.7.0.24"].map(String::from);
        assert_eq!(pair.lacks(&names), ["10.7.0.24"]);
    }

    #[tokio::test]
    async fn a_users_certificate_needs_the_addresses_of_all_members_and_both_uses() {
        let world = World::new(&json!({"enabled": true, "serverSecret": {"name": "mine"}}));
        let now = world.clock.now();
        let ca = make_ca(now, 30 * DAY).unwrap();
        let mut told = Vec::new();
        let names = ["10.7.0.11", "10.7.0.23"].map(String::from);
        let purposes = [Purpose::Member(&names[..1]), Purpose::Server(&names), Purpose::Member(&names)];
        for purpose in purposes {
            world.give(&make_leaf(&ca.key, purpose, now, 10 * DAY).unwrap(), &ca.cert).await;
            world.settle().await;
            told.push(refused(&world.authority().await.seen(), now).unwrap_or_default());
        }
        assert_eq!(told[0], "it lacks 10.7.0.23, by which the instances verify each other: add them as IP addresses");
        assert!(told[1].contains("it needs the extended key usages serverAuth and clientAuth"), "{}", told[1]);
        assert_eq!(told[2], "");
        assert!(tls(&world.authority().await).unwrap().ca.contains(ca.cert.trim()));
    }
}
