//! What only the store on etcd has: sealed values in etcd, leases of Events, compaction by turn, refused set-ups. Runs only
//! with EVENKEEL_TEST_DOCKER=1.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{AlarmAction, AlarmOptions, AlarmType, GetOptions, WatchOptions};
use evenkeel::runtime::SystemClock;
use evenkeel::runtime::clock::instant;
use evenkeel::store::etcd::{EtcdConfig, EtcdTls, Turn};
use evenkeel::store::{Candidate, Error, EtcdStore, Expect, Key, Leases as _, Seal, Store as _, revision_of};
use futures::{StreamExt as _, stream};
use serde_json::{Value, json};

use crate::etcd::{self, Bench};

fn object(text: &str) -> Value {
    json!({"metadata": {}, "text": text})
}

/// All keys of the test with their values and leases.
async fn raw(bench: &Bench) -> Vec<(String, String, i64)> {
    let options = GetOptions::new().with_prefix();
    let found = bench.raw(0).await.get(format!("{}/", bench.prefix()), Some(options)).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    found.kvs().iter().map(|kv| (text(kv.key()), text(kv.value()), kv.lease())).collect()
}

#[tokio::test]
async fn a_secret_is_sealed_in_etcd_and_opens_with_its_key_and_under_its_name_only() {
    let Some(bench) = etcd::shared("a_secret_is_sealed").await else { return };
    let store = bench.store().await;
    let key = Key::new("secrets", "default", "a");
    store.put(&key, Expect::Absent, object("canary")).await.unwrap();
    store.put(&Key::new("toys", "", "a"), Expect::Absent, object("plain")).await.unwrap();
    let kept = raw(&bench).await;
    let value = |resource: &str| kept.iter().find(|(key, ..)| key.contains(resource)).unwrap().1.clone();
    assert!(value("secrets").starts_with("evk1:") && !value("secrets").contains("canary"), "{kept:?}");
    assert_eq!(value("/v1/toys/-/a"), r#"{"metadata":{},"text":"plain"}"#);
    assert_eq!(store.get(&key).await.unwrap().unwrap()["text"], "canary");

    let exchanged = format!("{}/v1/secrets/default/b", bench.prefix());
    bench.raw(0).await.put(exchanged, value("secrets"), None).await.unwrap();
    let error = store.get(&Key::new("secrets", "default", "b")).await.unwrap_err();
    assert!(matches!(error, Error::Tampered { .. }), "{error}");
    let other = Seal::parse(&evenkeel::store::seal::new_key()).unwrap();
    let other = EtcdStore::open(&bench.config(0), other, Arc::new(SystemClock)).await.unwrap();
    let error = other.get(&key).await.unwrap_err();
    assert!(matches!(error, Error::KeyMissing { .. }), "{error}");
}

#[tokio::test]
async fn events_are_under_a_lease_of_an_hour_and_nothing_else_is() {
    let Some(bench) = etcd::shared("events_are_under_a_lease").await else { return };
    let store = bench.store().await;
    for (resource, name) in [("events", "a"), ("events", "b"), ("toys", "a")] {
        store.put(&Key::new(resource, "n", name), Expect::Absent, object("x")).await.unwrap();
    }
    let leases: Vec<i64> =
        raw(&bench).await.into_iter().filter(|(key, ..)| !key.contains('!')).map(|(.., lease)| lease).collect();
    let [one, other, none] = leases.as_slice() else { panic!("{leases:?}") };
    assert!(one == other && *one != 0 && *none == 0, "{leases:?}");
    let left = bench.raw(0).await.lease_time_to_live(*one, None).await.unwrap();
    assert_eq!(left.granted_ttl(), 3600);

    // The lease ends: both are gone, which a watch tells once each, and the next Event gets a new lease.
    let since = store.revision().await.unwrap();
    let mut watch = store.watch("events", None, since).await.unwrap();
    bench.raw(0).await.lease_revoke(*one).await.unwrap();
    for name in ["a", "b"] {
        let change = watch.next().await.unwrap().unwrap();
        assert!(change.key.name == name && change.old.is_some() && change.new.is_none(), "{change:?}");
    }
    store.put(&Key::new("events", "n", "c"), Expect::Absent, object("x")).await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().key.name, "c");
}

#[tokio::test]
async fn one_operator_at_a_time_compacts_up_to_its_turn_before() {
    let Some(bench) = etcd::alone("one_operator_at_a_time").await else { return };
    let (one, other) = (bench.store().await, bench.store_at(1).await);
    let key = Key::new("toys", "n", "a");
    let put = async |expect| revision_of(&one.put(&key, expect, object("x")).await.unwrap()).unwrap();
    let first = put(Expect::Absent).await;
    // Both begin; the opened stores have taken a turn themselves.
    let (mine, its) = (one.take_turn(Turn::default()).await.unwrap(), other.take_turn(Turn::default()).await.unwrap());
    let second = put(Expect::Revision(first)).await;
    let mine = one.take_turn(mine).await.unwrap();
    let its = other.take_turn(its).await.unwrap();
    // What was before the turn before is forgotten, and not what came after it.
    assert!(matches!(one.watch("toys", None, first - 1).await, Err(Error::Compacted { .. })));
    assert_eq!(one.watch("toys", None, second - 1).await.unwrap().next().await.unwrap().unwrap().revision, second);
    // The other one has only noted where the store was; it compacts when it is first at a later turn.
    let third = put(Expect::Revision(second)).await;
    other.take_turn(its).await.unwrap();
    assert!(matches!(one.watch("toys", None, second - 1).await, Err(Error::Compacted { .. })));
    assert_eq!(one.watch("toys", None, third - 1).await.unwrap().next().await.unwrap().unwrap().revision, third);
    // It was not this one's turn.
    one.take_turn(mine).await.unwrap();
    assert!(one.watch("toys", None, third - 1).await.is_ok());
}

#[tokio::test]
async fn what_was_before_a_change_is_compacted_and_the_reader_lists_again() {
    let Some(bench) = etcd::alone("what_was_before_a_change").await else { return };
    let store = bench.store().await;
    let key = Key::new("toys", "n", "a");
    let first = revision_of(&store.put(&key, Expect::Absent, object("one")).await.unwrap()).unwrap();
    let second = revision_of(&store.put(&key, Expect::Revision(first), object("two")).await.unwrap()).unwrap();
    store.compact(second).await.unwrap();
    // The watch can begin here, as far as etcd is concerned; nothing older is told wrongly.
    assert!(matches!(store.watch("toys", None, first).await, Err(Error::Compacted { oldest, .. }) if oldest == second));
    let mut watch = store.watch("toys", None, second).await.unwrap();
    let gone = revision_of(&store.delete(&key, second).await.unwrap()).unwrap();
    let change = watch.next().await.unwrap().unwrap();
    assert_eq!((change.revision, change.old.unwrap()["text"].as_str()), (gone, Some("two")));
}

/// A store with a new first key reads everything, and then seals everything with it.
#[tokio::test]
async fn secrets_are_sealed_anew_with_a_new_key() {
    let Some(bench) = etcd::shared("secrets_are_sealed_anew").await else { return };
    let store = bench.store().await;
    let key = |name: &str| Key::new("secrets", "default", name);
    for name in ["a", "b"] {
        store.put(&key(name), Expect::Absent, object("canary")).await.unwrap();
    }
    let new = evenkeel::store::seal::new_key();
    let both = Seal::parse(&format!("{new}AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")).unwrap();
    let renewed = EtcdStore::open(&bench.config(0), both, Arc::new(SystemClock)).await.unwrap();
    let found = renewed.get(&key("a")).await.unwrap().unwrap();
    renewed.put(&key("a"), Expect::Revision(revision_of(&found).unwrap()), found).await.unwrap();
    assert_eq!((renewed.reseal().await.unwrap(), renewed.reseal().await.unwrap()), (1, 0));
    let only = EtcdStore::open(&bench.config(0), Seal::parse(&new).unwrap(), Arc::new(SystemClock)).await.unwrap();
    assert_eq!(only.get(&key("b")).await.unwrap().unwrap()["text"], "canary");
    assert!(matches!(store.get(&key("b")).await, Err(Error::KeyMissing { .. })));
}

/// Reads and deletions go on.
#[tokio::test]
async fn a_full_etcd_says_so_and_takes_writes_again_when_its_alarm_is_off() {
    let quota = ["--quota-backend-bytes", "8388608"].map(str::to_owned).to_vec();
    let Some(solo) = etcd::Solo::start("a_full_etcd", "http", quota) else { return };
    let store = solo.store(None).await;
    let key = |index: usize| Key::new("toys", "n", &index.to_string());
    let mut written = Vec::new();
    let full = loop {
        match store.put(&key(written.len()), Expect::Absent, object(&"x".repeat(1_400_000))).await {
            Ok(value) => written.push(revision_of(&value).unwrap()),
            Err(error) => break error,
        }
        assert!(written.len() < 20, "it is never full");
    };
    assert!(matches!(full, Error::Full), "{full}");
    assert!(full.to_string().starts_with("the store is full: etcd has raised its alarm NOSPACE"), "{full}");
    let who = Candidate { node: "a".into(), address: "a:7443".into() };
    assert!(matches!(store.leases().acquire(&who).await, Err(Error::Full)));
    for (index, revision) in written.iter().enumerate() {
        store.delete(&key(index), *revision).await.unwrap();
    }
    store.compact(u64::MAX).await.unwrap();
    let mut raw = etcd_client::Client::connect([solo.url()], None).await.unwrap();
    let mut options = AlarmOptions::new();
    options.with_member(raw.status().await.unwrap().header().unwrap().member_id());
    // etcd compacts in the background.
    etcd::until(async || {
        raw.defragment().await.unwrap();
        raw.alarm(AlarmAction::Deactivate, AlarmType::Nospace, Some(options.clone())).await.unwrap();
        store.put(&key(0), Expect::Absent, object("x")).await.is_ok()
    })
    .await;
    assert!(store.leases().acquire(&who).await.unwrap().is_some());
}

/// Readers of the same objects share one watch of etcd. One of them that takes nothing holds up nobody, and misses nothing.
#[tokio::test]
async fn a_reader_that_takes_nothing_holds_up_no_other_reader_of_the_same_objects_and_gets_all_later() {
    let Some(bench) = etcd::shared("a_reader_that_takes_nothing").await else { return };
    let store = bench.store().await;
    let since = store.revision().await.unwrap();
    let mut slow = store.watch("toys", None, since).await.unwrap();
    let mut quick = store.watch("toys", None, since).await.unwrap();
    // Together they are more than may wait for a reader.
    let (text, mut written) = ("x".repeat(500_000), Vec::new());
    for index in 0..24 {
        let key = Key::new("toys", "n", &index.to_string());
        let value = store.put(&key, Expect::Absent, object(&text)).await.unwrap();
        written.push(revision_of(&value).unwrap());
        assert_eq!(quick.next().await.unwrap().unwrap().revision, written[index]);
    }
    let mut late = store.watch("toys", None, written[20]).await.unwrap();
    for revision in &written[21..] {
        assert_eq!(late.next().await.unwrap().unwrap().revision, *revision);
    }
    for revision in &written {
        assert_eq!(slow.next().await.unwrap().unwrap().revision, *revision);
    }
    let last = store.put(&Key::new("toys", "n", "last"), Expect::Absent, object("x")).await.unwrap();
    for watch in [&mut slow, &mut quick, &mut late] {
        assert_eq!(Some(watch.next().await.unwrap().unwrap().revision), revision_of(&last));
    }
}

/// A watch that has nothing to tell learns from etcd's notices how far the store is: what is compacted meanwhile is nothing
/// that it missed.
#[tokio::test]
async fn an_idle_watch_survives_compaction_and_the_loss_of_its_connection() {
    let often = ["--experimental-watch-progress-notify-interval", "100ms"].map(str::to_owned).to_vec();
    let Some(solo) = etcd::Solo::start("an_idle_watch", "http", often) else { return };
    let store = solo.store(None).await;
    let mut raw = etcd_client::Client::connect([solo.url()], None).await.unwrap();
    let mut watch = store.watch("toys", None, store.revision().await.unwrap()).await.unwrap();
    for index in 0..20 {
        store.put(&Key::new("cars", "n", &index.to_string()), Expect::Absent, object("x")).await.unwrap();
    }
    // A watch beside it that gets a notice of this revision: etcd sends them to all watches in turn.
    let now = store.revision().await.unwrap();
    let options = WatchOptions::new().with_progress_notify();
    let mut beside = raw.watch("beside", Some(options)).await.unwrap();
    let mut notices = 0;
    while notices < 3 {
        let response = beside.message().await.unwrap().unwrap();
        let is_new = response.header().is_some_and(|header| header.revision().unsigned_abs() >= now);
        notices += usize::from(is_new && !response.created());
    }
    store.compact(now).await.unwrap();
    solo.restart();
    etcd::until(async || store.revision().await.is_ok()).await;
    let written = store.put(&Key::new("toys", "n", "a"), Expect::Absent, object("x")).await.unwrap();
    let change = watch.next().await.unwrap().unwrap();
    assert_eq!(Some(change.revision), revision_of(&written));
}

/// An authority: its certificate, and what signs with it.
pub(crate) fn authority(name: &str) -> (String, rcgen::Issuer<'static, rcgen::KeyPair>) {
    let mut of = rcgen::CertificateParams::new(Vec::new()).unwrap();
    of.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    of.distinguished_name.push(rcgen::DnType::CommonName, name);
    let key = rcgen::KeyPair::generate().unwrap();
    (of.self_signed(&key).unwrap().pem(), rcgen::Issuer::new(of, key))
}

/// A certificate of loopback, and its key.
pub(crate) fn leaf(issuer: &rcgen::Issuer<'static, rcgen::KeyPair>) -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut of = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    of.extended_key_usages =
        vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    (of.signed_by(&key, issuer).unwrap().pem(), key.serialize_pem())
}

#[tokio::test]
async fn with_mutual_tls_only_the_right_certificates_get_through() {
    let ((ca, issuer), (other_ca, other)) = (authority("ours"), authority("others"));
    let (server, server_key) = leaf(&issuer);
    let folder = tempfile::tempdir().unwrap();
    let mut more = vec!["--client-cert-auth".to_owned()];
    for (option, name, text) in
        [("--cert-file", "cert", &server), ("--key-file", "key", &server_key), ("--trusted-ca-file", "ca", &ca)]
    {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        more.extend([option.to_owned(), path.display().to_string()]);
    }
    let Some(solo) = etcd::Solo::start("with_mutual_tls", "https", more) else { return };
    let tls = |ca: &str, (certificate, key): (String, String)| EtcdTls { ca: ca.to_owned(), certificate, key };
    let right = tls(&ca, leaf(&issuer));
    assert_eq!(format!("{right:?}"), "EtcdTls { .. }");
    let store = solo.store(Some(right)).await;
    store.put(&Key::new("toys", "n", "a"), Expect::Absent, object("x")).await.unwrap();
    for (wrong, why) in [(tls(&other_ca, leaf(&issuer)), "invalid peer certificate"), (tls(&ca, leaf(&other)), "")] {
        let config = EtcdConfig { endpoints: vec![solo.url()], prefix: "/x".into(), tls: Some(wrong), managed: false };
        let error = EtcdStore::open(&config, etcd::seal(), Arc::new(SystemClock)).await.err().unwrap().to_string();
        println!("{error}");
        assert!(error.starts_with("the store has no quorum: no member of etcd answers here"), "{error}");
        assert!(error.contains(why), "{error}");
    }
}

#[tokio::test]
async fn a_store_that_cannot_be_opened_says_why() {
    let Some(bench) = etcd::shared("a_store_that_cannot_be_opened").await else { return };
    let open = async |endpoints: &[&str]| {
        let mut config = bench.config(0);
        config.endpoints = endpoints.iter().map(|&url| url.to_owned()).collect();
        EtcdStore::open(&config, etcd::seal(), Arc::new(SystemClock)).await.err().unwrap()
    };
    assert_eq!(open(&[]).await.to_string(), "the store cannot be used: no address of etcd is given");
    let began = instant();
    let silent = open(&["http://127.0.0.1:1"]).await.to_string();
    assert!(
        silent.starts_with("the store has no quorum: no member of etcd answers here (http://127.0.0.1:1)"),
        "{silent}"
    );
    assert!(began.elapsed().as_secs() < 3);
    let odd = open(&["http://[nonsense"]).await.to_string();
    assert!(odd.starts_with("the store cannot be used: http://[nonsense cannot be used"), "{odd}");
}

/// Prints what reads, writes and watches take; the limits are wide, because other tests may run at the same time.
#[tokio::test]
async fn two_thousand_objects_are_listed_and_their_changes_told_soon() {
    let Some(bench) = etcd::alone("two_thousand_objects").await else { return };
    let store = bench.store().await;
    let object = || json!({"kind": "Toy", "metadata": {}, "spec": {"text": "x".repeat(700), "numbers": [1, 2, 3]}});
    let key = |index: usize| Key::new("toys", "n", &format!("x{index:04}"));
    let create = async |index| store.put(&key(index), Expect::Absent, object()).await.unwrap();
    let began = instant();
    let written: Vec<Value> = stream::iter(0..2000).map(create).buffered(32).collect().await;
    println!("2,000 creations, 32 at once: {:?}", began.elapsed());
    let mut lists = Vec::new();
    for _ in 0..10 {
        let began = instant();
        assert_eq!(store.list("toys", None).await.unwrap().0.len(), 2000);
        lists.push(began.elapsed());
    }
    let mut watch = store.watch("toys", None, store.revision().await.unwrap()).await.unwrap();
    let (mut puts, mut gets, mut tells) = (Vec::new(), Vec::new(), Vec::new());
    for (index, old) in written.into_iter().enumerate().take(200) {
        let expect = Expect::Revision(revision_of(&old).unwrap());
        let began = instant();
        let write = async {
            store.put(&key(index), expect, old).await.unwrap();
            began.elapsed()
        };
        let tell = async {
            watch.next().await.unwrap().unwrap();
            began.elapsed()
        };
        let (put, told) = tokio::join!(write, tell);
        puts.push(put);
        tells.push(told);
        let began = instant();
        store.get(&key(index)).await.unwrap();
        gets.push(began.elapsed());
    }
    for (what, mut times) in
        [("list of 2,000", lists), ("put", puts), ("get", gets), ("event after the put began", tells)]
    {
        times.sort();
        let (median, late) = (times[times.len() / 2], times[times.len() * 99 / 100]);
        println!("{what}: median {median:?}, p99 {late:?}");
        assert!(median < Duration::from_millis(500), "{what}: {median:?}");
    }
}
