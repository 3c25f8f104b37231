//! The client of stores on two S3 servers: moto, which is strict, and rclone, which ignores conditions. Needs
//! EVENKEEL_TEST_DOCKER=1 and `scripts/ensure-s3-servers.sh`.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use evenkeel::archive::access::{S3, Store as Kind, StoreAccess};
use evenkeel::archive::store::{Kind as Failure, Probe, Put, Store};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::etcd::{port, until, wanted};
use crate::etcd_store::{authority, leaf};

const BUCKET: &str = "backups";
const SECRET: &str = "s3cr3t-0f-the-tests";

/// A server with one bucket. It ends with this, also because this process ends.
pub(crate) struct Server {
    shell: Child,
    pub(crate) port: u16,
    /// The CA of its certificate.
    ca: Option<String>,
    _folders: [tempfile::TempDir; 2],
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Program {
    Moto,
    Rclone,
    /// With a certificate of a CA of its own.
    RcloneTls,
}

impl Server {
    /// `None`, and a line that says so, without EVENKEEL_TEST_DOCKER=1.
    pub(crate) async fn start(test: &str, program: Program) -> Option<Self> {
        wanted(test).then_some(())?;
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(BUCKET)).unwrap();
        let port = port();
        let beside = tempfile::tempdir().unwrap();
        let tls = (program == Program::RcloneTls).then(|| {
            let (ca, issuer) = authority("stores");
            let (certificate, key) = leaf(&issuer);
            (ca, certificate, key)
        });
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
            Program::Rclone | Program::RcloneTls => {
                shell.arg(tools.join("rclone")).args(["serve", "s3", "--auth-key", &format!("tester,{SECRET}")]);
                shell.arg("--config=").arg(format!("--addr=127.0.0.1:{port}"));
                if let Some((_, certificate, key)) = &tls {
                    for (option, pem) in [("--cert", certificate), ("--key", key)] {
                        let file = beside.path().join(&option[2..]);
                        std::fs::write(&file, pem).unwrap();
                        shell.arg(option).arg(file);
                    }
                }
                shell.arg(folder.path());
            }
        }
        let ca = tls.map(|(ca, ..)| ca);
        let server = Self { shell: shell.spawn().unwrap(), port, ca, _folders: [folder, beside] };
        let bucket = format!("{}/{BUCKET}", server.endpoint());
        let _ = rustls::crypto::ring::default_provider().install_default();
        let trusted = server.ca.iter().map(|ca| reqwest::Certificate::from_pem(ca.as_bytes()).unwrap());
        let client = reqwest::Client::builder().no_proxy().tls_certs_only(trusted).build().unwrap();
        until(async || match program {
            Program::Moto => client.put(&bucket).send().await.is_ok_and(|answer| answer.status().is_success()),
            Program::Rclone | Program::RcloneTls => client.get(&bucket).send().await.is_ok(),
        })
        .await;
        Some(server)
    }

    fn endpoint(&self) -> String {
        let scheme = if self.ca.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    pub(crate) fn s3(&self) -> S3 {
        S3 {
            bucket: BUCKET.into(),
            prefix: "prod".into(),
            endpoint: Some(self.endpoint()),
            ca: self.ca.clone(),
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
    Store::open(&StoreAccess { hash: String::new(), store: Kind::S3(s3), encryption: None }).unwrap()
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
        upload.write(piece.clone().into()).await.unwrap();
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
    objects_come_and_go(&open(S3 { sha256: true, prefix: "checked".into(), ..server.s3() })).await;
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

/// No retention is set here: with one, moto wants a header that S3 does not need, and the client does not send. What is deleted or replaced stays in such a bucket as an older version.
#[tokio::test]
async fn a_bucket_with_object_lock_keeps_what_is_deleted() {
    let Some(server) = Server::start("a_bucket_with_object_lock", Program::Moto).await else { return };
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
    let asked = async |request: reqwest::RequestBuilder| {
        let signed =
            "AWS4-HMAC-SHA256 Credential=tester/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";
        request.header("Authorization", signed).send().await.unwrap().error_for_status().unwrap()
    };
    let bucket = format!("{}/locked", server.endpoint());
    asked(client.put(&bucket).header("x-amz-bucket-object-lock-enabled", "true")).await;
    let store = open(S3 { bucket: "locked".into(), sha256: true, ..server.s3() });
    assert_eq!(store.probe("1").await, Ok(Probe { conditional: true }));
    objects_come_and_go(&store).await;
    let versions = asked(client.get(format!("{bucket}?versions&prefix=prod/wals/a/1"))).await.text().await.unwrap();
    assert_eq!(
        (versions.matches("<Version>").count(), versions.matches("<DeleteMarker>").count()),
        (1, 1),
        "{versions}"
    );
}

#[tokio::test]
async fn an_upload_has_a_checksum_if_that_is_declared() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let checksum = async |sha256| {
        let s3 =
            S3 { bucket: BUCKET.into(), endpoint: Some(endpoint.clone()), path_style: true, sha256, ..S3::default() };
        let (store, answered) = (open(s3), async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nETag: \"1\"\r\nContent-Length: 0\r\n\r\n").await.unwrap();
            String::from_utf8_lossy(&request[..length]).to_lowercase()
        });
        let (put, request) = tokio::join!(store.put("x", bytes("content")), answered);
        put.unwrap();
        request.lines().find_map(|line| line.strip_prefix("x-amz-checksum-sha256: ").map(str::to_owned))
    };
    assert_eq!(checksum(false).await, None);
    assert_eq!(checksum(true).await.as_deref(), Some("7xactdnprirfijv9giusferzd722aw0+yumil7nsn3m="));
}

#[tokio::test]
async fn a_server_with_tls_is_trusted_by_its_ca_alone() {
    let Some(server) = Server::start("a_server_with_tls", Program::RcloneTls).await else { return };
    let store = server.store();
    let probe = store.probe("1").await.unwrap();
    objects_come_and_go(&store.with(probe)).await;
    let error = open(S3 { ca: None, ..server.s3() }).put("x", bytes("x")).await.unwrap_err();
    assert_eq!(error.kind, Failure::Unreachable);
    assert!(error.to_string().contains("certificate"), "{error}");
}
