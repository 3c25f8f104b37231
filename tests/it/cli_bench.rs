//! A server in this process with the memory store, and a user who types verbs.
#![allow(clippy::unwrap_used)]

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use evenkeel::api::failure::{Class, Failure};
use evenkeel::api::pod_security::Level;
use evenkeel::cli::client::Client;
use evenkeel::cli::error::Error;
use evenkeel::cli::session::Session;
use evenkeel::cli::{
    apply, backup, delete, describe, events, exec, get, host, kubeconfig, logs, preview, restore_dump, rollouts, scale,
    switchover, wait,
};
use evenkeel::runtime::clock::{Clock as _, SystemClock};
use evenkeel::server::containers::{
    Command, Connection, Containers, LogOptions, Output, Outputs, Place, Session as Work,
};
use evenkeel::server::doors::Doors;
use evenkeel::server::{self, identity};
use evenkeel::store::objects::Part;
use evenkeel::store::{Key, MemoryStore, Objects};
use expect_test::Expect;
use futures::{FutureExt as _, StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Time-out of everything in these tests.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A command line without its verb.
#[derive(Parser)]
struct Line<A: clap::Args> {
    #[command(flatten)]
    args: A,
}

/// The arguments of a verb, parsed from its words.
pub fn line<A: clap::Args>(words: &str) -> A {
    Line::<A>::try_parse_from(std::iter::once("evenkeel").chain(words.split_whitespace()))
        .map(|line| line.args)
        .unwrap()
}

/// A server, a folder for files, and the output of the verbs.
pub struct CliBench {
    pub objects: Objects,
    pub folder: tempfile::TempDir,
    stop: CancellationToken,
}

impl CliBench {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let clock = Arc::new(SystemClock);
        let identity = identity::prepare(folder.path(), listener.local_addr().unwrap(), &[], &*clock).unwrap();
        let objects = Objects::new(Arc::new(MemoryStore::new()), clock.clone());
        let stop = CancellationToken::new();
        let planner: server::Planner = Arc::new(|object| {
            async move {
                json!({"status": {"phase": "Bootstrapping"}, "steps": [format!("make {}", object["spec"]["image"])]})
            }
            .boxed()
        });
        let containers: Option<Arc<dyn Containers>> = Some(Arc::new(Parrots));
        let run = server::run(
            Doors::only(listener).unwrap(),
            identity,
            objects.clone(),
            clock,
            server::Behind { planner: Some(planner), containers, default_level: Level::Baseline, ..Default::default() },
            stop.clone(),
        );
        tokio::spawn(async move { run.await.unwrap() });
        Self { objects, folder, stop }
    }

    /// Writes a file; `FILE` in a command line stands for it.
    pub fn file(&self, text: &str) {
        std::fs::write(self.folder.path().join("db.yaml"), text).unwrap();
    }

    /// Runs a command line; returns its output, its errors and its exit code.
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

    /// Runs the lines after `$ ` one after the other; compares the whole session.
    pub async fn session(&self, expected: Expect) {
        let mut shown = String::new();
        for command in expected.data.lines().filter_map(|line| line.trim_start().strip_prefix("$ ")) {
            shown += &format!("$ {command}\n{}", self.run(command).await);
        }
        expected.assert_eq(&shown);
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

impl Drop for CliBench {
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
        "backup" => backup::run(line(words), session).await,
        "restore-dump" => restore_dump::run(line(words), session).await,
        "switchover" => switchover::run(line(words), session).await,
        "wait" => wait::run(line(words), session).await,
        "logs" => logs::run(line(words), session).await,
        "exec" => exec::run(line(words), session).await,
        "rollout" => rollouts::run(line(words), session).await,
        "host" => host::run(line(words), session).await,
        "scale" => scale::run(line(words), session).await,
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

/// Containers that log their own names, and commands that print themselves; `exit N` ends with code N.
struct Parrots;

#[async_trait::async_trait]
impl Containers for Parrots {
    async fn logs(&self, place: &Place, options: LogOptions) -> Result<Outputs, Failure> {
        let lines = [format!("first of {}\n", place.container), format!("last of {}\n", place.container)];
        let skipped = 2 - options.tail.map_or(2, |lines| lines.min(2) as usize);
        let lines: Vec<_> = lines.into_iter().skip(skipped).map(|line| Ok(Output::Stdout(line.into()))).collect();
        Ok(stream::iter(lines).boxed())
    }

    async fn exec(&self, place: &Place, command: &Command) -> Result<Work, Failure> {
        let said = format!("{} on {}: {}\n", place.container, place.host, command.words.join(" "));
        let output = stream::iter([Ok(Output::Stdout(said.into())), Ok(Output::Stderr("oh\n".into()))]).boxed();
        let id = command.words.last().cloned().unwrap_or_default();
        Ok(Work { id, output, input: Box::pin(tokio::io::sink()) })
    }

    async fn resize(&self, _: &Place, _: &str, _: (u16, u16)) -> Result<(), Failure> {
        Ok(())
    }

    async fn code(&self, _: &Place, id: &str) -> Result<Option<i64>, Failure> {
        Ok(Some(id.parse().unwrap_or(0)))
    }

    async fn connect(&self, _: &Place, _: Option<IpAddr>, _: u16) -> Result<Connection, Failure> {
        Err(Failure::new(Class::Terminal, "parrots have no ports"))
    }
}
