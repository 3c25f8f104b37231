//! Tests of a cluster's certificates: the real decisions and the real Secrets, with instances that hold what they were sent.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use expect_test::{Expect, expect};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::protocol;
use super::*;
use crate::api::object::Object as _;
use crate::api::postgres_tls::ROTATE_CA_ANNOTATION;
use crate::api::secret::{encoded, text};
use crate::kinds::certificates::authority::{Authorities, name_ends, own, perform};
use crate::kinds::certificates::due::{self, CA_LIFE, Due, Holders, Server, due_by, member_names};
use crate::kinds::certificates::{Made, Pair, Purpose, ends, make_ca, make_leaf};
use crate::runtime::Keeper as _;
use crate::runtime::clock::TestClock;
use crate::store::objects::{Objects, Preconditions};
use crate::store::{Clock as _, Key, MemoryStore};

const START: &str = "2026-11-28T15:00:00Z";
const HOUR: SignedDuration = SignedDuration::from_hours(1);

/// A cluster of three instances.
struct Cluster {
    clock: Arc<TestClock>,
    objects: Objects,
    object: PostgresCluster,
    /// What each instance holds.
    held: [Option<Tls>; 3],
}

impl Cluster {
    fn new() -> Self {
        let clock = Arc::new(TestClock::still(START.parse().unwrap()));
        let member = |ordinal: u8| {
            let (name, address) = (format!("db-{ordinal}"), format!("10.7.0.1{ordinal}"));
            json!({"name": name, "ordinal": ordinal, "host": "local", "address": address})
        };
        let mut decisions = protocol::begin(clock.now());
        decisions.members = serde_json::from_value(json!([member(1), member(2), member(3)])).unwrap();
        let object = json!({
            "apiVersion": "evenkeel.dev/v1alpha1", "kind": "PostgresCluster",
            "metadata": {"name": "db", "namespace": "here", "uid": "u", "annotations": {}},
            "spec": {"image": "postgres:15", "instances": 3}, "status": {"decisions": decisions},
        });
        let objects = Objects::new(Arc::new(MemoryStore::default()), clock.clone());
        Self { clock, objects, object: serde_json::from_value(object).unwrap(), held: Default::default() }
    }

    async fn authority(&self) -> Authority {
        Authority::read(&self.objects, &self.object, self.clock.now()).await.unwrap()
    }

    async fn due(&self) -> Option<Due> {
        let seen = self.authority().await.seen();
        let holds = |held: &Option<Tls>| held.as_ref().map(|tls| &tls.hash) == seen.hash.as_ref();
        let all = seen.hash.is_some() && self.held.iter().all(holds);
        due_by(&self.object, &seen, Holders { all, reached: all }, self.clock.now())
    }

    /// Performs what is due, once.
    async fn act(&self) -> Option<Due> {
        let due = self.due().await;
        if let Some(due) = due {
            perform(&self.objects, self.clock.now(), &self.object, due).await.unwrap();
        }
        due
    }

    /// An instance gets what it should hold.
    async fn send(&mut self, instance: usize) {
        let tls = tls(&self.authority().await);
        self.held[instance] = tls.or(self.held[instance].take());
    }

    /// Everything is done and sent; the names of what was done.
    async fn settle(&mut self) -> String {
        let mut done = Vec::new();
        loop {
            while let Some(due) = self.act().await {
                done.push(due.to_string());
                assert!(done.len() < 20, "{done:#?}");
            }
            let sent = self.authority().await.seen().hash;
            if self.held.iter().all(|held| held.as_ref().map(|tls| &tls.hash) == sent.as_ref()) {
                return done.join("\n");
            }
            for instance in 0..self.held.len() {
                self.send(instance).await;
                self.check();
            }
            done.push("(all instances hold them)".into());
        }
    }

    /// Every instance trusts what every other one shows, whatever the time is.
    fn check(&self) {
        let pair = |cert: &str, key: &str| {
            Pair::of_secret("", Some(&json!({"data": encoded(&[("tls.crt", cert), ("tls.key", key)])}))).unwrap()
        };
        for shows in self.held.iter().flatten() {
            let server = pair(&shows.server_cert, &shows.server_key);
            let client = pair(&shows.client_cert, &shows.client_key);
            let young = |pair: &Pair| pair.validity().unwrap().0 + HOUR;
            for trusts in self.held.iter().flatten() {
                assert_eq!(server.refused_as_server(&trusts.ca, young(&server)), None);
                assert_eq!(client.refused_as_client(&trusts.client_ca, young(&client)), None);
                assert_eq!(server.lacks(&member_names(&self.object)), Vec::<String>::new());
            }
        }
    }

    fn annotate(&mut self, text: &str) {
        let annotations = self.object.metadata.annotations.get_or_insert_default();
        annotations.insert(ROTATE_CA_ANNOTATION.into(), text.into());
    }

    async fn delete(&self, end: &str) {
        // It may be gone already.
        let _ = self.objects.delete(&own(&self.object, end), &Preconditions::default()).await;
    }

    async fn secret(&self, end: &str) -> Value {
        self.objects.get(&own(&self.object, end)).await.unwrap().unwrap()
    }

    async fn put(&self, name: &str, fields: &[(&str, &str)]) {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "here"}, "data": encoded(fields)});
        let key = Key::beside(&self.object, "secrets", name);
        if self.objects.create(&key, secret.clone()).await.is_err() {
            self.objects.update(&key, secret).await.unwrap();
        }
    }

    fn later(&self, days: u64) {
        self.clock.advance(std::time::Duration::from_secs(days * 86_400));
    }

    fn shown(&self) -> String {
        self.held[0].as_ref().unwrap().server_cert.clone()
    }
}

async fn settles(cluster: &mut Cluster, expected: Expect) {
    expected.assert_eq(&cluster.settle().await);
    assert_eq!(cluster.act().await, None);
}

/// Regression 141: another CA at once would have ended the trust between instances that have it and those that do not yet:
/// no standby could have connected again until all had it.
#[tokio::test]
async fn a_change_of_the_ca_has_two_phases() {
    let mut cluster = Cluster::new();
    settles(
        &mut cluster,
        expect![[r#"
            make a CA
            make certificates
            (all instances hold them)"#]],
    )
    .await;
    cluster.annotate("for the first time");
    settles(
        &mut cluster,
        expect![[r#"
            make the next CA
            write the CA certificates
            (all instances hold them)
            let the next CA make certificates
            make certificates
            (all instances hold them)
            trust the old CA no more
            write the CA certificates
            (all instances hold them)"#]],
    )
    .await;
}

#[tokio::test]
async fn an_ageing_ca_is_announced_for_a_month_before_the_next_one_makes_certificates() {
    let mut cluster = Cluster::new();
    cluster.settle().await;
    cluster.later(2430);
    cluster.settle().await;
    cluster.later(4);
    assert_eq!(cluster.settle().await, "make the next CA\nwrite the CA certificates\n(all instances hold them)");
    cluster.later(29);
    assert!(!cluster.settle().await.contains("let the next CA"));
    cluster.later(2);
    assert!(cluster.settle().await.starts_with("let the next CA make certificates\nmake certificates\n"));
    assert_eq!(due::status(&cluster.object, &cluster.authority().await.seen()).unwrap().ca.phase.word(), "Settled");
}

/// Regression 142: certificates that end, or lack the address of a new instance, are made again in time.
#[tokio::test]
async fn a_certificate_is_made_again_when_a_third_of_its_life_is_left_or_a_name_is_new() {
    let mut cluster = Cluster::new();
    cluster.settle().await;
    cluster.later(59);
    assert_eq!(cluster.act().await, None);
    cluster.later(2);
    assert_eq!(cluster.settle().await, "make certificates\n(all instances hold them)");
    let members = &mut cluster.object.status.as_mut().unwrap().decisions.as_mut().unwrap().members;
    members[2].address = None;
    assert_eq!(cluster.act().await, None, "an address that is not known now is no reason");
    let members = &mut cluster.object.status.as_mut().unwrap().decisions.as_mut().unwrap().members;
    members[2].address = Some([10, 7, 0, 45].into());
    assert_eq!(cluster.settle().await, "make certificates\n(all instances hold them)");
}

/// Regression 143: a Secret that was deleted is made again, also the one with the CA's key, and no instance loses trust; a
/// damaged CA is told and nothing is replaced.
#[tokio::test]
async fn what_was_deleted_is_made_again_and_a_damaged_ca_is_left_alone() {
    let mut cluster = Cluster::new();
    cluster.settle().await;
    for end in ["server", "replication"] {
        cluster.delete(end).await;
        assert_eq!(cluster.settle().await, "make certificates\n(all instances hold them)", "{end}");
    }
    cluster.delete("ca").await;
    settles(
        &mut cluster,
        expect![[r#"
            make a CA
            write the CA certificates
            (all instances hold them)
            let the next CA make certificates
            make certificates
            (all instances hold them)
            trust the old CA no more
            write the CA certificates
            (all instances hold them)"#]],
    )
    .await;

    let before = cluster.held.clone();
    let mut damaged = cluster.secret("ca").await;
    damaged["data"] = encoded(&[("ca.crt", "rubbish")]).into();
    cluster.objects.update(&own(&cluster.object, "ca"), damaged).await.unwrap();
    assert_eq!(cluster.later_due().await, None);
    assert_eq!(cluster.authority().await.seen().ca.unwrap_err(), "ca.crt of Secret db-ca holds no certificate in PEM");
    assert!(tls(&cluster.authority().await).is_none(), "nothing is sent: the instances keep what they have");
    assert!(cluster.held == before);
}

/// Regression 148: with the key of the CA and a certificate both deleted, the change to the next CA waited for ever for
/// instances to hold what did not exist; 90 days later no standby could have connected again.
#[tokio::test]
async fn a_certificate_that_only_the_next_ca_can_make_is_made_at_once() {
    for gone in [vec!["ca", "server"], vec!["ca", "replication"], vec!["ca", "server", "replication"]] {
        let mut cluster = Cluster::new();
        cluster.settle().await;
        for end in &gone {
            cluster.delete(end).await;
        }
        for _ in 0..9 {
            while cluster.act().await.is_some() {}
            for instance in 0..3 {
                cluster.send(instance).await;
            }
        }
        cluster.check();
        let seen = cluster.authority().await.seen();
        let ca = seen.ca.unwrap().unwrap();
        assert!(ca.issues && ca.next.is_none() && !ca.old, "{gone:?}: {ca:?}");
        assert!(seen.server.unwrap().current && seen.client.unwrap().current);
    }
}

/// Regression 148 too: an instance that could not be reached held the change up, also when everything was about to expire.
#[tokio::test]
async fn an_instance_that_is_away_does_not_let_certificates_end_whose_ca_has_lost_its_key() {
    let mut cluster = Cluster::new();
    cluster.settle().await;
    cluster.delete("ca").await;
    while cluster.act().await.is_some() {}
    let away = Holders { all: false, reached: true };
    let mut due = Vec::new();
    for days in [60, 17] {
        cluster.later(days);
        let seen = cluster.authority().await.seen();
        due.push(due_by(&cluster.object, &seen, away, cluster.clock.now()));
    }
    assert_eq!(due, [None, Some(Due::ChangeCa)]);
}

/// Regression 157: names that TLS does not know, such as `db.2026` in the namespace 2026, counted as missing for ever:
/// certificates were made, and loaded by every instance, twice a second.
#[tokio::test]
async fn a_name_that_no_certificate_can_have_is_not_missed() {
    let mut cluster = Cluster::new();
    cluster.object.metadata.namespace = Some("2026".into());
    assert_eq!(cluster.settle().await, "make a CA\nmake certificates\n(all instances hold them)");
}

/// Regression 155: a CA of the user's in `NAME-ca` was used. Its certificates named another issuer than it, no client accepted
/// them, and new ones were made without end.
#[tokio::test]
async fn a_strange_ca_in_the_place_of_the_clusters_is_told_and_makes_nothing() {
    let mut cluster = Cluster::new();
    cluster.settle().await;
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "corp");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let (cert, key) = (params.self_signed(&key).unwrap().pem(), key.serialize_pem());
    let mut secret = cluster.secret("ca").await;
    secret["data"] = encoded(&[("ca.crt", &cert), ("ca.key", &key)]).into();
    cluster.objects.update(&own(&cluster.object, "ca"), secret).await.unwrap();
    assert_eq!(cluster.act().await, None);
    let told = cluster.authority().await.seen().ca.unwrap_err();
    assert_eq!(told, "ca.crt of Secret db-ca was not made by Evenkeel; delete the Secret, and a new CA is made");
    cluster.delete("ca").await;
    cluster.settle().await;
}

/// Regression 148 too: a CA that was deleted between the decision and its act became a Secret without it, which nothing replaced.
#[tokio::test]
async fn what_was_decided_about_a_ca_that_is_gone_is_not_done() {
    let mut cluster = Cluster::new();
    cluster.settle().await;
    cluster.delete("ca").await;
    for due in [Due::NextCa, Due::ChangeCa, Due::DropOldCa] {
        perform(&cluster.objects, cluster.clock.now(), &cluster.object, due).await.unwrap();
        assert_eq!(cluster.authority().await.seen().ca, Ok(None), "{due}");
    }
}

impl Cluster {
    async fn later_due(&mut self) -> Option<Due> {
        self.later(70);
        self.act().await
    }
}

/// A user's CA and certificates.
struct Users {
    ca: Made,
    now: Timestamp,
}

impl Users {
    fn secret(&self, names: &[&str], days: u64) -> [(&'static str, String); 3] {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let life = std::time::Duration::from_secs(days * 86_400);
        let Made { cert, key } = make_leaf(&self.ca.key, Purpose::Server(&names), self.now, life).unwrap();
        [("tls.crt", cert), ("tls.key", key), ("ca.crt", self.ca.cert.clone())]
    }
}

impl Cluster {
    /// The user's Secret is written; why it is refused, or the empty text.
    async fn give(&mut self, secret: &[(&str, String)]) -> String {
        let fields: Vec<(&str, &str)> = secret.iter().map(|(key, text)| (*key, text.as_str())).collect();
        self.put("mine", &fields).await;
        self.settle().await;
        let seen = self.authority().await.seen();
        due::refused(&seen, self.clock.now()).unwrap_or_default()
    }
}

/// Regression 144: a user's certificate is taken only if the instances can go on with it; a bad one is told, and the one
/// before stays in force.
#[tokio::test]
async fn a_users_certificate_is_taken_if_it_is_good_and_the_former_stays_if_not() {
    let mut cluster = Cluster::new();
    cluster.settle().await;
    let now = cluster.clock.now();
    let users = Users { ca: make_ca(now, CA_LIFE).unwrap(), now };
    let mine = Some(serde_json::from_value(json!({"name": "mine"})).unwrap());
    cluster.object.spec.tls.server_secret = mine;
    let own = cluster.shown();
    let all = ["db.example.com", "db-1", "db-2", "db-3"];

    let told = cluster.give(&users.secret(&all[..3], 30)).await;
    assert_eq!(told, "it lacks the names db-3, by which the instances verify each other: add them as DNS names");
    assert_eq!(cluster.shown(), own);

    let good = users.secret(&all, 30);
    assert_eq!(cluster.give(&good).await, "");
    assert_eq!(cluster.shown(), good[0].1);
    assert!(!cluster.held[0].as_ref().unwrap().client_ca.contains(&users.ca.cert), "its CA makes no replication role");

    let [cert, key, ca] = users.secret(&all, 30);
    let other = users.secret(&all, 30);
    assert!(cluster.give(&[cert.clone(), other[1].clone(), ca.clone()]).await.contains("do not belong together"));
    assert!(cluster.give(&[cert.clone(), key.clone()]).await.starts_with("Secret mine has no key ca.crt"));
    let strange = make_ca(now, CA_LIFE).unwrap();
    let told = cluster.give(&[cert.clone(), key.clone(), ("ca.crt", strange.cert)]).await;
    assert!(told.starts_with("ca.crt of Secret mine does not verify its tls.crt"), "{told}");
    cluster.delete_given().await;
    assert_eq!(cluster.shown(), good[0].1, "the former stays");

    let renewed = users.secret(&all, 60);
    assert_eq!(cluster.give(&renewed).await, "");
    assert_eq!(cluster.shown(), renewed[0].1);
    cluster.later(61);
    cluster.settle().await;
    let seen = cluster.authority().await.seen();
    assert_eq!(due::refused(&seen, cluster.clock.now()).unwrap(), "it expired at 2027-01-27T15:00:00Z");
    assert!(seen.server.unwrap().current, "with an expired one no standby could connect again");

    let again = Users { now: cluster.clock.now(), ..users }.secret(&all, 60);
    assert_eq!(cluster.give(&again).await, "");
    assert_eq!(cluster.shown(), again[0].1);

    cluster.object.spec.tls.server_secret = None;
    cluster.settle().await;
    assert!(cluster.shown() != again[0].1 && cluster.authority().await.seen().server.unwrap().current);
}

impl Cluster {
    async fn delete_given(&mut self) {
        let key = Key::beside(&self.object, "secrets", "mine");
        self.objects.delete(&key, &Preconditions::default()).await.unwrap();
        self.settle().await;
        let seen = self.authority().await.seen();
        assert!(due::refused(&seen, self.clock.now()).unwrap().contains("does not exist"));
    }
}

/// Regression 146: the names of the new Secrets are plain ones, which a user may have taken before the update. A Secret of
/// somebody else is told and never overwritten.
#[tokio::test]
async fn a_users_secret_of_the_same_name_is_not_touched() {
    for end in name_ends::<PostgresCluster>() {
        let mut cluster = Cluster::new();
        cluster.put(&format!("db-{end}"), &[("tls.crt", "precious")]).await;
        let before = cluster.secret(end).await;
        assert_eq!(cluster.act().await, None);
        for due in [Due::Ca, Due::Leaves { server: Server::Make, client: true }] {
            perform(&cluster.objects, cluster.clock.now(), &cluster.object, due).await.unwrap();
        }
        assert_eq!(cluster.secret(end).await, before);
        let told = format!(
            "Secret db-{end} does not belong to PostgresCluster db, which needs the name: give yours another one"
        );
        assert_eq!(cluster.authority().await.seen().ca, Err(told));
        cluster.delete(end).await;
        assert_eq!(cluster.settle().await, "make a CA\nmake certificates\n(all instances hold them)");
    }
}

/// Only who may read the Secret of the cluster's CA could make a certificate of the replication role.
#[tokio::test]
async fn the_secret_that_instances_show_has_the_type_that_tools_expect_and_no_ca_key() {
    let mut cluster = Cluster::new();
    cluster.settle().await;
    let (server, ca) = (cluster.secret("server").await, cluster.secret("ca").await);
    let keys = |secret: &Value| secret["data"].as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!((server["type"].as_str(), keys(&server)), (Some("kubernetes.io/tls"), "ca.crt tls.crt tls.key".into()));
    assert_eq!(keys(&ca), "ca.crt ca.key");
    assert_eq!(server["metadata"]["ownerReferences"][0]["kind"], "PostgresCluster");
}

#[derive(Debug, Clone)]
enum Event {
    Act,
    Send(usize),
    Days(u64),
    Rotate(u8),
    Delete(&'static str),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => Just(Event::Act),
        6 => (0..3usize).prop_map(Event::Send),
        2 => (1..50u64).prop_map(Event::Days),
        1 => (0..9u8).prop_map(Event::Rotate),
        1 => prop::sample::select(vec!["ca", "server", "replication"]).prop_map(Event::Delete),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Regression 141, for any order of events: instances get what they should hold late and one by one, people ask for
    /// another CA at any moment and delete Secrets. No instance ever loses trust, and in the end there is one CA again.
    #[test]
    fn no_instance_ever_loses_the_trust_of_another(events in prop::collection::vec(event(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut cluster = Cluster::new();
            cluster.settle().await;
            for event in events {
                match event {
                    Event::Act => drop(cluster.act().await),
                    Event::Send(instance) => cluster.send(instance).await,
                    Event::Days(days) => cluster.later(days),
                    Event::Rotate(text) => cluster.annotate(&text.to_string()),
                    // With the CA's key and what it made both gone, nothing is left to go on with.
                    Event::Delete(end) => {
                        let seen = cluster.authority().await.seen();
                        let ca = seen.ca.clone().unwrap().is_some_and(|ca| ca.issues);
                        if ca && seen.server.is_some() && seen.client.is_some() && seen.told {
                            cluster.delete(end).await;
                        }
                    }
                }
                cluster.check();
            }
            cluster.settle().await;
            cluster.later(31);
            cluster.settle().await;
            let seen = cluster.authority().await.seen();
            let ca = seen.ca.unwrap().unwrap();
            assert!(ca.issues && ca.next.is_none() && !ca.old, "{ca:?}");
            assert!(seen.server.unwrap().current && seen.client.unwrap().current);
        });
    }
}

/// Regression 490: every reconcile parsed six keys and verified three chains of the same Secrets, 12 % of the CPU of the
/// operator, so a failover's outage grew by a fifth.
#[tokio::test]
async fn nothing_is_verified_twice_until_a_secret_or_a_life_ends() {
    let mut cluster = Cluster::new();
    cluster.settle().await;
    let known = Authorities::default();
    let read =
        async |cluster: &Cluster| known.read(&cluster.objects, &cluster.object, cluster.clock.now()).await.unwrap();
    let first = read(&cluster).await;
    cluster.later(89);
    assert!(Arc::ptr_eq(&first, &read(&cluster).await), "the same Secrets are verified again");
    assert!(first.seen().server.unwrap().current);
    cluster.later(2);
    let expired = read(&cluster).await;
    assert_eq!(expired.seen(), cluster.authority().await.seen());
    assert!(!expired.seen().server.unwrap().current && !expired.seen().client.unwrap().current);
    let back = known.read(&cluster.objects, &cluster.object, START.parse().unwrap()).await.unwrap();
    assert!(back.seen().server.unwrap().current, "a clock that was set back is not noticed");

    let before = read(&cluster).await;
    cluster.object.metadata.name = Some("other".into());
    assert_eq!(read(&cluster).await.seen().ca, Ok(None), "another object has its own");
    assert_eq!(known.count(), 2);
    known.forget(&cluster.object.owner());
    assert_eq!(known.count(), 1);
    cluster.object.metadata.name = Some("db".into());
    assert!(Arc::ptr_eq(&before, &read(&cluster).await));

    for secret in ["server", "replication", "ca"] {
        let before = read(&cluster).await.seen();
        cluster.delete(secret).await;
        let after = read(&cluster).await.seen();
        assert_ne!(after, before, "{secret}");
        assert_eq!(after, cluster.authority().await.seen());
    }
}

/// At the second of an end and of a beginning the verified certificates say what those that are verified anew say.
#[tokio::test]
async fn what_the_clock_decides_is_noticed_in_its_second() {
    let mut cluster = Cluster::new();
    let now = cluster.clock.now();
    let ca = make_ca(now, CA_LIFE).unwrap();
    cluster.settle().await;
    let known = Authorities::default();
    let made = make_leaf(&ca.key, Purpose::Server(&member_names(&cluster.object)), now, CA_LIFE / 3650).unwrap();
    cluster.put("mine", &[("tls.crt", &made.cert), ("tls.key", &made.key), ("ca.crt", &ca.cert)]).await;
    cluster.object.spec.tls = serde_json::from_value(json!({"serverSecret": {"name": "mine"}})).unwrap();
    let lives = [&cluster.secret("server").await, &cluster.secret("ca").await]
        .map(|secret| ends(&text(secret, "tls.crt").or_else(|| text(secret, "ca.crt")).unwrap()).unwrap());
    for end in lives.into_iter().chain([now + SignedDuration::from_hours(24), now - HOUR]) {
        for millis in [-1000, -1, 0, 1, 999, 1000, 1001] {
            let at = end + SignedDuration::from_millis(millis);
            let seen = known.read(&cluster.objects, &cluster.object, at).await.unwrap().seen();
            let anew = Authority::read(&cluster.objects, &cluster.object, at).await.unwrap().seen();
            assert_eq!(seen, anew, "{millis} ms after {end}");
        }
    }
}
