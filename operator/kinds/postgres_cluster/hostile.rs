//! A supervisor that was taken over, against the production loop and the store that users have.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncWriteExt as _, DuplexStream};
use tokio_util::sync::CancellationToken;

use super::{PostgresClusterKind, RESOURCE};
use crate::engine::docker::OwnBinary;
use crate::engine::fake::FakeEngine;
use crate::engine::hosts::Hosts;
use crate::kinds::containers::HOME;
use crate::runtime::Manager;
use crate::runtime::clock::{TestClock, instant};
use crate::store::{Clock, Key, Objects, Seal, SqliteStore};
use crate::supervisor::wire::{Notice, Report, SOCKET};

/// Reports of the test.
const REPORTS: u64 = 300;
/// Most growth of the store in a minute, in bytes.
const GROWTH: u64 = 5_000_000;

/// Each report as large as it may be, and different in all that people read.
async fn flood(mut stream: DuplexStream, sent: Arc<AtomicU64>) {
    let text = |number: u64| format!("{number} {}", "x".repeat(10_000));
    loop {
        let number = sent.load(Ordering::SeqCst);
        let report = Report {
            boot: "boot".into(),
            problem: Some(text(number)),
            tls_problem: Some(text(number)),
            setting_errors: vec![text(number); 2],
            pending_restart: (0..64).map(|at| format!("{number}.{at}.{}", "y".repeat(50))).collect(),
            notices: Notice::TYPES.map(|type_| Notice::new(type_, text(number))).to_vec(),
            ..Report::default()
        };
        let mut line = serde_json::to_vec(&report).unwrap();
        line.push(b'\n');
        if stream.write_all(&line).await.is_err() {
            return;
        }
        sent.fetch_add(1, Ordering::SeqCst);
    }
}

/// Regression 138: a supervisor that was taken over sent a large and different report each time, and each one was written
/// into the store, 15 MB a second. Counts only: how many writes a minute has, and how many bytes one write costs.
#[tokio::test]
async fn a_flood_of_large_reports_writes_little_into_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let seal = Seal::parse("MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=").unwrap();
    let size = || std::fs::metadata(&path).unwrap().len();
    SqliteStore::open(&path, seal.clone()).await.unwrap().close().await;
    let empty = size();
    let store = Arc::new(SqliteStore::open(&path, seal).await.unwrap());
    let clock: Arc<dyn Clock> = Arc::new(TestClock::following_tokio("2026-01-01T00:00:00Z".parse().unwrap()));
    let objects = Objects::new(store.clone(), clock.clone());
    let (engine, sent) = (Arc::new(FakeEngine::new(HOME)), Arc::new(AtomicU64::new(0)));
    let count = sent.clone();
    engine.on_dial("default.db-1", &format!("unix:{SOCKET}"), move |stream| {
        drop(tokio::spawn(flood(stream, count.clone())))
    });
    let hosts = Arc::new(Hosts::new(Arc::new(OwnBinary::running())));
    hosts.insert(HOME, engine.clone());
    let mut manager = Manager::new(objects.clone(), clock.clone());
    manager.add(PostgresClusterKind::new(hosts.clone(), objects.clone(), clock, manager.wake()));
    let key = Key::new(RESOURCE, "default", "db");
    let spec = json!({"image": "postgres:15", "instances": 1});
    let metadata = json!({"name": "db", "namespace": "default"});
    let object =
        json!({"apiVersion": "evenkeel.dev/v1alpha1", "kind": "PostgresCluster", "metadata": metadata, "spec": spec});
    objects.create(&key, object).await.unwrap();
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    let operator = tokio::spawn(async move { manager.run(hosts.events(), stop).await });

    let revision = async || objects.list::<Value>(RESOURCE, None).await.unwrap().1;
    let until = async |reports: u64| {
        while sent.load(Ordering::SeqCst) < reports {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    // The first news of a link wake at once; a flood of them four times a second.
    until(REPORTS).await;
    let (began, first) = (instant(), revision().await);
    until(2 * REPORTS).await;
    let (writes, seconds) = (revision().await - first, began.elapsed().as_secs_f64());
    assert!(writes as f64 <= 4.0 * seconds + 5.0, "{writes} writes in {seconds:.1} s");
    shutdown.cancel();
    operator.await.unwrap();
    let all = revision().await;
    store.close().await;
    // On a busy machine there are few writes, and the tables themselves would count for much.
    let bytes = size() - empty;
    // The first 200, and four a second; a resync, every 10 s, may write too.
    let minute = (200 + 4 * 60 + 6) * bytes / all;
    assert!(minute < GROWTH, "{all} writes made {bytes} bytes, which is {minute} a minute");
}
