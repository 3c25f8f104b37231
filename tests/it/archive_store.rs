//! The client of stores on two S3 servers: moto, which is strict, and rclone, which ignores conditions. Needs
//! EVENKEEL_TEST_DOCKER=1 and `scripts/ensure-s3-servers.sh`.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use evenkeel::archive::access::{S3, Store as Kind, StoreAccess};
use evenkeel::archive::store::{Kind as Failure, Probe, Put, Store};

use crate::etcd::{port, until, wanted};

const BUCKET: &str = "backups";
const SECRET: &str = "s3cr3t-0f-the-tests";

/// A server with one bucket. It ends with this, also because this process ends.
pub(crate) struct Server {
    shell: Child,
    pub(crate) port: u16,
    _folder: tempfile::TempDir,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Program {
    Moto,
    Rclone,
}

impl Server {
    /// `None`, and a line that says so, without EVENKEEL_TEST_DOCKER=1.
    pub(crate) async fn start(test: &str, program: Program) -> Option<Self> {
        wanted(test).then_some(())?;
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(BUCKET)).unwrap();
        let port = port();
        let tools = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/venv/bin");
        assert!(tools.join("rclone").exists(), "there are no S3 servers: run scripts/ensure-s3-servers.sh");
        // When its stdin is closed, also because this process ends, the shell kills the server.
        let script = "\"$@\" >/dev/null 2>&1 & read -r _; kill -9 $!; wait";
        let mut shell = Command::new("sh");
        shell.args(["-c", script, "sh"]).stdin(Stdio::piped());
        match program {
            Program::Moto => {
                shell.arg(tools.join("python")).args(["-m", "moto.server", "-H", "127.0.0.1", "-p"]);
                shell.arg(port.to_string());
            }
            Program::Rclone => {
                shell.arg(tools.join("rclone")).args(["serve", "s3", "--auth-key", &format!("tester,{SECRET}")]);
                shell.arg("--config=").arg(format!("--addr=127.0.0.1:{port}")).arg(folder.path());
            }
        }
        let server = Self { shell: shell.spawn().unwrap(), port, _folder: folder };
        let bucket = format!("http://127.0.0.1:{port}/{BUCKET}");
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        until(async || match program {
            Program::Moto => client.put(&bucket).send().await.is_ok_and(|answer| answer.status().is_success()),
            Program::Rclone => client.get(&bucket).send().await.is_ok(),
        })
        .await;
        Some(server)
    }

    pub(crate) fn s3(&self) -> S3 {
        S3 {
            bucket: BUCKET.into(),
            prefix: "prod".into(),
            endpoint: Some(format!("http://127.0.0.1:{}", self.port)),
            region: "us-east-1".into(),
            path_style: true,
            access_key_id: "tester".into(),
            secret_access_key: SECRET.into(),
            ..S3::default()
        }
    }

    pub(crate) fn store(&self) -> Store {
        open(self.s3()).at("default.db/7412-5f0c01aa")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        self.shell.wait().unwrap();
    }
}

fn open(s3: S3) -> Store {
    Store::open(&StoreAccess { hash: String::new(), store: Kind::S3(s3) }).unwrap()
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

/// What every store has to do.
async fn objects_come_and_go(store: &Store) {
    let put = async |text: &'static str| {
        store
            .put_new("wals/00000002.history", bytes(text), &[("term", "7".into())], |found| found == text.as_bytes())
            .await
    };
    assert_eq!(put("one").await, Ok(Put::Written));
    assert_eq!(put("one").await, Ok(Put::Same));
    assert_eq!(put("two").await, Ok(Put::Other));
    let head = store.head("wals/00000002.history").await.unwrap().unwrap();
    assert_eq!((head.size, head.value("term")), (3, Some("7")));
    store.replace("wals/00000002.history", bytes("new"), &[("term", "8".into())], &head).await.unwrap();
    let (found, head) = store.get_with_head("wals/00000002.history", 10).await.unwrap().unwrap();
    assert_eq!((found, head.value("term")), (bytes("new"), Some("8")));

    for key in ["wals/a/3", "wals/a/1", "wals/a/2", "walsx"] {
        store.put(key, bytes("0123456789")).await.unwrap();
    }
    let keys = async |folder: &str, after: Option<&str>, limit: usize| {
        let listed = store.list(folder, after, limit).await.unwrap();
        listed.into_iter().map(|object| object.key).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(keys("wals", None, 9).await, "wals/00000002.history wals/a/1 wals/a/2 wals/a/3");
    assert_eq!(keys("wals", Some("wals/a/1"), 1).await, "wals/a/2");
    assert_eq!(keys("nothing", None, 9).await, "");
    store.copy("wals/a/1", "orphans/1").await.unwrap();
    assert_eq!(store.get_range("orphans/1", 2..5).await, Ok(bytes("234")));
    assert_eq!(store.get_range("orphans/1", 8..12).await.unwrap_err().kind, Failure::Broken);
    store.delete(&["wals/a/1".into(), "wals/a/2".into(), "wals/a/9".into()]).await.unwrap();
    assert_eq!(keys("wals/a", None, 9).await, "wals/a/3");
    assert_eq!((store.get("wals/a/1", 9).await, store.head("wals/a/1").await), (Ok(None), Ok(None)));

    let piece: Vec<u8> = (0..=250_u8).cycle().take(5 << 20).collect();
    let mut upload = store.upload("base/1/data", 0).await.unwrap();
    for _ in 0..8 {
        upload.write(&piece).await.unwrap();
    }
    assert_eq!(store.head("base/1/data").await, Ok(None));
    assert_eq!(upload.finish().await, Ok(40 << 20));
    let middle = 17 << 20..18 << 20;
    let found = store.get_range("base/1/data", middle.start as u64..middle.end as u64).await.unwrap();
    assert!(found.iter().zip(middle).all(|(byte, at)| *byte == piece[at % piece.len()]));
}

#[tokio::test]
async fn a_strict_server_keeps_what_must_not_be_replaced() {
    let Some(server) = Server::start("a_strict_server", Program::Moto).await else { return };
    let store = server.store();
    assert_eq!(store.probe("1").await, Ok(Probe { conditional: true }));
    objects_come_and_go(&store).await;
    let stale = store.head("walsx").await.unwrap().unwrap();
    store.put("walsx", bytes("changed")).await.unwrap();
    assert_eq!(store.replace("walsx", bytes("x"), &[], &stale).await.unwrap_err().kind, Failure::Conflict);
    // Of eight that write one key at the same time, one has written it.
    let writes = (0..8_u8).map(|number| {
        let store = store.clone();
        async move { store.put_new("race", Bytes::from(vec![number; 9]), &[], |found| found == [number; 9]).await }
    });
    let done = futures::future::join_all(writes).await;
    assert_eq!(done.iter().filter(|done| **done == Ok(Put::Written)).count(), 1, "{done:?}");
    assert_eq!(done.iter().filter(|done| **done == Ok(Put::Other)).count(), 7, "{done:?}");
}

#[tokio::test]
async fn a_server_that_ignores_conditions_is_found_and_asked_first() {
    let Some(server) = Server::start("a_server_that_ignores_conditions", Program::Rclone).await else { return };
    let store = server.store();
    let probe = store.probe("1").await.unwrap();
    assert_eq!(probe, Probe { conditional: false });
    objects_come_and_go(&store.with(probe)).await;
}

#[tokio::test]
async fn what_is_wrong_with_a_store_has_a_kind_and_no_credential() {
    let Some(server) = Server::start("what_is_wrong_with_a_store", Program::Rclone).await else { return };
    let said = async |s3: S3| {
        let error = open(s3).put("x", bytes("x")).await.unwrap_err();
        let (words, place) = (error.to_string(), format!("127.0.0.1:{}", server.port));
        assert!(!words.contains(SECRET) && !words.contains("tester") && !words.contains("ignature="), "{words}");
        assert!(words.starts_with("writing x in bucket ") && words.contains(&place), "{words}");
        error.kind
    };
    let wrong = S3 { secret_access_key: "wrong".into(), ..server.s3() };
    assert_eq!(said(wrong).await, Failure::Denied);
    assert_eq!(said(S3 { bucket: "other".into(), ..server.s3() }).await, Failure::NoBucket);
    let closed = S3 { endpoint: Some(format!("https://127.0.0.1:{}", server.port)), ..server.s3() };
    assert_eq!(said(closed).await, Failure::Unreachable);
}
