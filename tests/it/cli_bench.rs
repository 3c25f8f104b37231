//! A server of this process with the memory store, and a person who types verbs at it.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use evenkeel::cli::client::Client;
use evenkeel::cli::error::Error;
use evenkeel::cli::session::Session;
use evenkeel::cli::{apply, delete, describe, events, get, kubeconfig, preview, switchover, wait};
use evenkeel::runtime::clock::{Clock as _, SystemClock};
use evenkeel::server::{self, identity};
use evenkeel::store::objects::Part;
use evenkeel::store::{Key, MemoryStore, Objects};
use expect_test::Expect;
use futures::FutureExt as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Nothing here takes longer.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A command line without its verb.
#[derive(Parser)]
struct Line<A: clap::Args> {
    #[command(flatten)]
    args: A,
}

/// The arguments of a verb from its words.
pub fn line<A: clap::Args>(words: &str) -> A {
    Line::<A>::try_parse_from(std::iter::once("evenkeel").chain(words.split_whitespace()))
        .map(|line| line.args)
        .unwrap()
}

/// A server, a folder for files, and what the verbs print.
pub struct Bench {
    pub objects: Objects,
    pub folder: tempfile::TempDir,
    stop: CancellationToken,
}

impl Bench {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let clock = Arc::new(SystemClock);
        let identity = identity::prepare(folder.path(), listener.local_addr().unwrap(), &*clock).unwrap();
        let objects = Objects::new(Arc::new(MemoryStore::new()), clock.clone());
        let stop = CancellationToken::new();
        let planner: server::Planner = Arc::new(|object| {
            async move {
                json!({"status": {"phase": "Bootstrapping"}, "steps": [format!("make {}", object["spec"]["image"])]})
            }
            .boxed()
        });
        let run = server::run(listener, identity, objects.clone(), clock, Some(planner), None, stop.clone());
        tokio::spawn(async move { run.await.unwrap() });
        Self { objects, folder, stop }
    }

    /// Writes a file; `FILE` in a command line stands for it.
    pub fn file(&self, text: &str) {
        std::fs::write(self.folder.path().join("db.yaml"), text).unwrap();
    }

    /// Types a command line; gives what it printed, its errors and its exit code.
    pub async fn run(&self, command: &str) -> String {
        let config = kubeconfig::load(&self.folder.path().join("kubeconfig")).unwrap();
        let namespace = config.namespace.clone();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let client = Client::new(config).unwrap();
        let now = || SystemClock.now();
        let mut session = Session { client, namespace, now, out: &mut out, err: &mut err };
        let file = self.folder.path().join("db.yaml").display().to_string();
        let command = command.replace("FILE", &file);
        let (verb, words) = command.split_once(' ').unwrap();
        let done = tokio::time::timeout(PATIENCE, typed(verb, words, &mut session)).await.unwrap();
        let mut text = String::from_utf8(out).unwrap() + &String::from_utf8(err).unwrap();
        if let Err(error) = done {
            text += &format!("{}exit code {}\n", error.report(), error.exit_code());
        }
        text.replace(&file, "db.yaml")
    }

    pub async fn check(&self, command: &str, expected: Expect) {
        expected.assert_eq(&self.run(command).await);
    }

    /// Writes the status of a cluster, as its controller would.
    pub async fn report(&self, name: &str, status: Value) {
        let change = |mut object: Value| {
            object["status"] = status.clone();
            Ok::<_, evenkeel::store::Error>(object)
        };
        self.objects.modify(&cluster(name), Part::Status, change).await.unwrap();
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn typed(verb: &str, words: &str, session: &mut Session<'_>) -> Result<(), Error> {
    match verb {
        "apply" => apply::run(line(words), session).await,
        "get" => get::run(line(words), session).await,
        "describe" => describe::run(line(words), session).await,
        "delete" => delete::run(line(words), session).await,
        "events" => events::run(line(words), session).await,
        "plan" => preview::run(line(words), session).await,
        "switchover" => switchover::run(line(words), session).await,
        "wait" => wait::run(line(words), session).await,
        other => panic!("no verb {other}"),
    }
}

/// The key of a cluster.
pub fn cluster(name: &str) -> Key {
    Key { resource: "postgresclusters.evenkeel.dev".into(), namespace: "default".into(), name: name.into() }
}

/// A small manifest.
pub const CLUSTER: &str = "\
apiVersion: evenkeel.dev/v1alpha1
kind: PostgresCluster
metadata: {name: db}
spec:
  image: postgres:15
  instances: 3
";
