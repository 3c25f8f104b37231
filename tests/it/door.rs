//! The doors of a server that strangers crowd: who is let in, and what it costs the others.
#![allow(clippy::unwrap_used)]

use std::net::{Ipv4Addr, SocketAddr};

use std::sync::Arc;
use std::time::Duration;

use evenkeel::runtime::clock::{SystemClock, instant};
use evenkeel::server::doors::Doors;
use evenkeel::server::{self, identity};
use evenkeel::store::{MemoryStore, Objects};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(60);

struct House {
    address: SocketAddr,
    by_socket: reqwest::Client,
    by_port: reqwest::Client,
    token: String,
    stop: CancellationToken,
    _dir: tempfile::TempDir,
}

impl House {
    async fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("api.sock");
        let doors = Doors::open("127.0.0.1:0".parse().unwrap(), std::slice::from_ref(&socket)).await.unwrap();
        let (address, clock) = (doors.address, Arc::new(SystemClock));
        let identity = identity::prepare(dir.path(), address, &[], &*clock).unwrap();
        let token = std::fs::read_to_string(dir.path().join("pki/token")).unwrap().trim().to_owned();
        let objects = Objects::new(Arc::new(MemoryStore::new()), clock.clone());
        let stop = CancellationToken::new();
        tokio::spawn(server::run(doors, identity, objects, clock, server::Behind::default(), stop.clone()));
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = || reqwest::Client::builder().no_proxy().tls_danger_accept_invalid_certs(true).timeout(PATIENCE);
        let by_socket = builder().unix_socket(socket.as_path()).build().unwrap();
        Self { address, by_socket, by_port: builder().build().unwrap(), token, stop, _dir: dir }
    }

    /// The code of a GET by the socket: who asks is root, without a token.
    async fn get_by_socket(&self) -> u16 {
        self.by_socket.get("http://localhost/api/v1/namespaces").send().await.unwrap().status().as_u16()
    }

    /// The code of a GET by the port, with the token or without.
    async fn get_by_port(&self, token: bool) -> reqwest::Response {
        let request = self.by_port.get(format!("https://{}/api/v1/namespaces", self.address));
        let request = if token { request.bearer_auth(&self.token) } else { request };
        request.send().await.unwrap()
    }
}

impl House {
    /// A request of the administrator whose body is to come when the server asks for it.
    async fn begun(&self, path: &str) -> impl AsyncRead + AsyncWrite + Unpin {
        let pem = std::fs::read(self._dir.path().join("pki/ca.crt")).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
        let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let stream = TcpStream::connect(self.address).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect(self.address.ip().into(), stream).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {}\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n",
            self.token
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    }
}

/// The server asks for the body.
async fn asks(stream: &mut (impl AsyncRead + Unpin)) {
    let mut line = [0; 25];
    stream.read_exact(&mut line).await.unwrap();
    assert_eq!(str::from_utf8(&line).unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
}

/// Regression 158: the bodies of reviews and plans did not count to the 32 of a user that are in memory at once. Anybody with a
/// token could fill the memory of the operator with 992 of them, of 3 MiB each.
#[tokio::test]
async fn a_user_has_so_many_bodies_at_once_whatever_they_are_for() {
    let house = House::open().await;
    let paths = [
        "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
        "/evenkeel/v1/clientcertificates",
        "/api/v1/namespaces",
    ];
    let mut all = Vec::new();
    for number in 0..32 {
        let mut one = house.begun(paths[number % 3]).await;
        timeout(PATIENCE, asks(&mut one)).await.unwrap();
        all.push(one);
    }
    for path in paths {
        let mut next = house.begun(path).await;
        assert!(timeout(Duration::from_millis(100), asks(&mut next)).await.is_err(), "{path} has to wait");
        drop(all.pop());
        timeout(PATIENCE, asks(&mut next)).await.unwrap();
        all.push(next);
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn idle(from: Ipv4Addr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    socket.connect(to).await
}

/// Regression 163: 1,153 connections that sent nothing kept everybody out for 7 s. The unix socket has slots of its own now,
/// an address keeps 64 connections without a user, and one without a TLS handshake is closed after 3 s.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_silent_peers_do_not_disturb_root() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(16_384), hard).unwrap();
    let house = House::open().await;
    let twenty = async || {
        let began = instant();
        for _ in 0..20 {
            assert_eq!(timeout(PATIENCE, house.get_by_socket()).await.unwrap(), 200);
        }
        began.elapsed()
    };
    twenty().await;
    let alone = twenty().await;
    let mut silent = Vec::new();
    for number in 0..2_000_u16 {
        let [low, high] = (number / 10 + 2).to_le_bytes();
        silent.push(timeout(PATIENCE, idle(Ipv4Addr::new(127, 0, high, low), house.address)).await.unwrap().unwrap());
    }
    let crowded = twenty().await;
    let limit = Duration::from_millis(100) * 20 + alone * 10;
    assert!(crowded < limit, "20 requests took {alone:?} alone and {crowded:?} in the crowd");
    // Who comes by the port has to wait until some are closed, and is served.
    assert_eq!(timeout(PATIENCE, house.get_by_port(true)).await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_too_often_is_told_when_to_come_again() {
    let house = House::open().await;
    let mut refused = None;
    for _ in 0..1_000 {
        let response = house.get_by_port(false).await;
        if response.status() == 429 {
            refused = Some(response);
            break;
        }
        assert_eq!(response.status(), 401);
    }
    let refused = refused.expect("1,000 requests without a user are too many");
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_eq!(house.get_by_port(true).await.status(), 200, "the user of the same address is served");
}
