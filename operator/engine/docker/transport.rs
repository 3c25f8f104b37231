//! The connection to an engine: endpoint, TLS, and the negotiated API version.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bollard::errors::Error as Bollard;
use bollard::models::SystemInfo;
use bollard::{API_DEFAULT_VERSION, BollardRequest, ClientVersion, Docker};
use futures::future::BoxFuture;
use futures::{FutureExt as _, TryFutureExt as _};
use hyper::Response;
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::super::instant::instant;
use super::super::{ClockSeen, Daemon, Error, HostInfo, Identity};
use super::ssh::{Forward, SshKeys};
use super::ssh_words::Peer;
use super::{ANSWER, DockerEngine, classify};
use crate::api::docker_host::Endpoint;
use crate::api::sync::lock;

/// The oldest supported API: Docker Engine 20.10.
const OLDEST: ClientVersion = ClientVersion { major_version: 1, minor_version: 41 };
/// bollard's own time-out, in seconds; effectively disabled, because every call here has a shorter one or
/// watches progress.
const NEVER: u64 = 24 * 3600;
const CONNECT: Duration = Duration::from_secs(5);
/// TCP keepalive: detects a dead host while a connection is idle, after three of these.
const KEEPALIVE: Duration = Duration::from_secs(3);
const KEEPALIVES: u32 = 2;
/// A host that acknowledges nothing for this long while something is sent is dead: keepalive does not see that.
const UNSENT: Duration = Duration::from_secs(5);

/// A client certificate for mutual TLS, and the authority that signed the engine's; all PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Tls {
    /// Authority that signed the engine's certificate; no other is trusted.
    pub ca: Vec<u8>,
    /// Our certificate, with its chain.
    pub certificate: Vec<u8>,
    /// Our private key.
    pub key: Vec<u8>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls(..)")
    }
}

/// What a connection proves itself with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keys {
    /// For a TCP endpoint.
    Tls(Tls),
    /// For an ssh endpoint.
    Ssh(SshKeys),
}

/// The checked parts of a client; nothing is opened yet.
pub(super) enum Transport {
    Unix(String),
    Tcp { address: String, send: Send },
    Ssh { forward: Box<Forward>, socket: OnceLock<String> },
}

/// Sends one bollard request.
type Send =
    Arc<dyn Fn(BollardRequest) -> BoxFuture<'static, Result<Response<Incoming>, Bollard>> + std::marker::Send + Sync>;

impl Transport {
    pub(super) fn new(host: &str, endpoint: &Endpoint, keys: Option<&Keys>, run: &Path) -> Result<Self, Error> {
        let (name, port) = match endpoint {
            Endpoint::Unix { path } => return Ok(Self::Unix(path.clone())),
            Endpoint::Tcp { host, port } => (host, port),
            Endpoint::Ssh { user, host: address, port, socket } => {
                let Some(Keys::Ssh(keys)) = keys else {
                    return Err(Error::refused(host, "an ssh endpoint", "it needs a key and known hosts"));
                };
                let (name, user, socket) = (host.to_owned(), user.clone(), socket.clone());
                let peer = Peer { name, user, host: address.clone(), port: *port, socket };
                return Ok(Self::Ssh {
                    forward: Box::new(Forward::new(peer, keys.clone(), run)),
                    socket: OnceLock::new(),
                });
            }
        };
        let tls = match keys {
            Some(Keys::Tls(tls)) => Some(tls),
            _ => None,
        };
        let scheme = if tls.is_some() { "https" } else { "http" };
        let config =
            tls_config(tls).map_err(|message| Error::refused(host, "the TLS material of its Secret", message))?;
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT));
        connector.set_keepalive(Some(KEEPALIVE));
        connector.set_keepalive_interval(Some(KEEPALIVE));
        connector.set_keepalive_retries(Some(KEEPALIVES));
        #[cfg(target_os = "linux")]
        connector.set_tcp_user_timeout(Some(UNSENT));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        // An idle pooled connection may be dead, and a dial takes over its connection anyway.
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
        let send: Send = Arc::new(move |request| client.request(request).map_err(Bollard::from).boxed());
        Ok(Self::Tcp { address: format!("{scheme}://{name}:{port}"), send })
    }

    /// Waits until requests can be sent; fails at once if the way is known to be broken.
    pub(super) async fn ready(&self, doing: &str) -> Result<(), Error> {
        if let Self::Ssh { forward, socket } = self {
            let path = forward.ready(doing).await?;
            socket.get_or_init(|| path.display().to_string());
        }
        Ok(())
    }

    /// The error of a request, with what is known of the way.
    pub(super) async fn explained(&self, doing: &str, error: Error) -> Error {
        match self {
            Self::Ssh { forward, .. } => forward.explained(doing, error).await,
            _ => error,
        }
    }

    /// Notes that a request was answered.
    pub(super) fn works(&self) {
        if let Self::Ssh { forward, .. } = self {
            forward.works();
        }
    }

    /// Gives back what it holds on this machine.
    pub(super) fn close(&self) {
        if let Self::Ssh { forward, .. } = self {
            forward.close();
        }
    }

    fn client(&self) -> Result<Docker, Bollard> {
        match self {
            Self::Unix(path) => Docker::connect_with_unix(path, NEVER, API_DEFAULT_VERSION),
            Self::Ssh { socket, .. } => {
                let path = socket.get().map(String::as_str).unwrap_or_default();
                Docker::connect_with_unix(path, NEVER, API_DEFAULT_VERSION)
            }
            Self::Tcp { address, send } => {
                let send = send.clone();
                let send = move |request| send(request);
                Docker::connect_with_custom_transport(send, Some(address.as_str()), NEVER, API_DEFAULT_VERSION)
            }
        }
    }

    /// A client with the newest API that both sides support; [`Error::Refused`] if the engine is too old.
    pub(super) async fn negotiate(&self, host: &str, doing: &str) -> Result<Docker, Error> {
        let failed = |error| classify::classify(host, doing, error);
        let client = self.client().map_err(failed)?.with_request_modifier(url_safe);
        let client = client.negotiate_version().await.map_err(failed)?;
        if client.client_version() < OLDEST {
            let version = client.client_version();
            return Err(Error::refused(
                host,
                doing,
                format!("its Docker API is {version}, older than {OLDEST}; upgrade it to Docker Engine 20.10 or later"),
            ));
        }
        Ok(client)
    }
}

/// Docker expects a login as URL-safe base64 and ignores any other; bollard 0.21 writes the standard alphabet.
fn url_safe(mut request: BollardRequest) -> BollardRequest {
    if let Some(login) = request.headers_mut().get_mut("x-registry-auth")
        && let Some(safe) = login.to_str().ok().map(|text| text.replace('+', "-").replace('/', "_"))
        && let Ok(safe) = HeaderValue::from_str(&safe)
    {
        *login = safe;
        login.set_sensitive(true);
    }
    request
}

fn tls_config(tls: Option<&Tls>) -> Result<rustls::ClientConfig, String> {
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let Some(tls) = tls else {
        return Ok(builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth());
    };
    let mut roots = rustls::RootCertStore::empty();
    for authority in certificates(&tls.ca, "ca.crt")? {
        roots.add(authority).map_err(|error| format!("ca.crt: {error}"))?;
    }
    let key = PrivateKeyDer::from_pem_slice(&tls.key).map_err(|_| "tls.key holds no private key in PEM".to_owned())?;
    builder
        .with_root_certificates(roots)
        .with_client_auth_cert(certificates(&tls.certificate, "tls.crt")?, key)
        .map_err(|error| format!("tls.crt and tls.key: {error}"))
}

fn certificates(pem: &[u8], key: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|_| format!("{key} is not PEM"))?;
    if found.is_empty() { Err(format!("{key} holds no certificate in PEM")) } else { Ok(found) }
}

impl DockerEngine {
    /// The engine's answer about itself, which [`crate::engine::Engine::daemon`] keeps. An engine is configured anew only
    /// by a restart, after which the next subscription to its events reads this again.
    pub(super) async fn system_info(&self, doing: &str) -> Result<SystemInfo, Error> {
        let asked = instant();
        let info = self.call(doing, ANSWER, Docker::info).await?;
        let time = info.system_time.as_deref().and_then(|time| time.parse().ok());
        {
            let mut told = lock(&self.told);
            told.identity = match info.id.clone().filter(|id| !id.is_empty()) {
                Some(id) => Identity::Told(id),
                None => Identity::Untold,
            };
            // The engine read its clock somewhere between the question and the answer.
            told.clock = time.map(|time| ClockSeen { time, read: asked + asked.elapsed() / 2 }).or(told.clock);
        }
        *lock(&self.daemon) = Some(Daemon {
            log_driver: info.logging_driver.clone().unwrap_or_default(),
            memory_bytes: info.mem_total.unwrap_or_default(),
        });
        Ok(info)
    }

    pub(super) async fn host_info(&self) -> Result<HostInfo, Error> {
        let info = self.system_info("asking for its status").await?;
        let api_version = self.client("asking for its version").await?.client_version().to_string();
        Ok(HostInfo {
            engine_id: info.id.unwrap_or_default(),
            engine_version: info.server_version.unwrap_or_default(),
            api_version,
            operating_system: info.operating_system.unwrap_or_default(),
            architecture: info.architecture.unwrap_or_default(),
            cpus: info.ncpu.unwrap_or_default(),
            memory_bytes: info.mem_total.unwrap_or_default(),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::super::OwnBinary;
    use super::*;
    use crate::engine::Engine as _;

    fn refusal(tls: Tls) -> String {
        let endpoint = "tcp://127.0.0.1:1".parse().unwrap();
        match DockerEngine::connect("db-host", &endpoint, Some(&Keys::Tls(tls)), Arc::new(OwnBinary::running())) {
            Err(error) => error.to_string(),
            Ok(_) => "accepted".to_owned(),
        }
    }

    #[test]
    fn tls_material_that_cannot_work_is_refused_by_its_key() {
        let authority = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![]).unwrap().self_signed(&authority).unwrap().pem().into_bytes();
        let good = Tls { ca: certificate.clone(), certificate, key: authority.serialize_pem().into_bytes() };
        let other = KeyPair::generate().unwrap().serialize_pem().into_bytes();
        let told = [
            refusal(Tls { ca: b"nothing".to_vec(), ..good.clone() }),
            refusal(Tls { certificate: vec![], ..good.clone() }),
            refusal(Tls { key: b"none".to_vec(), ..good.clone() }),
            refusal(Tls { key: other, ..good.clone() }),
            refusal(good),
        ];
        expect_test::expect![[r#"
            Docker host db-host refused the TLS material of its Secret: ca.crt holds no certificate in PEM
            Docker host db-host refused the TLS material of its Secret: tls.crt holds no certificate in PEM
            Docker host db-host refused the TLS material of its Secret: tls.key holds no private key in PEM
            Docker host db-host refused the TLS material of its Secret: tls.crt and tls.key: keys may not be consistent: KeyMismatch
            accepted
        "#]].assert_eq(&(told.join("\n") + "\n"));
    }

    /// Answers each connection with the next of these texts, over mutual TLS if a configuration is given.
    async fn engine_that_says(answers: Vec<&'static str>, tls: Option<rustls::ServerConfig>) -> u16 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = tls.map(|config| tokio_rustls::TlsAcceptor::from(Arc::new(config)));
        tokio::spawn(async move {
            for answer in answers {
                let (stream, _) = listener.accept().await.unwrap();
                match &acceptor {
                    Some(acceptor) => reply(acceptor.accept(stream).await.unwrap(), answer).await,
                    None => reply(stream, answer).await,
                }
            }
        });
        port
    }

    async fn reply(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin, body: &str) {
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await.unwrap();
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all((head + body).as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn an_engine_that_is_too_old_is_refused_with_what_to_do() {
        let port = engine_that_says(vec![r#"{"ApiVersion":"1.39"}"#], None).await;
        let endpoint = format!("tcp://127.0.0.1:{port}").parse().unwrap();
        let engine = DockerEngine::connect("old", &endpoint, None, Arc::new(OwnBinary::running())).unwrap();
        assert_eq!(
            engine.info().await.unwrap_err().to_string(),
            "Docker host old refused asking for its status: its Docker API is 1.39, older than 1.41; upgrade it to Docker Engine 20.10 or later"
        );
    }

    #[tokio::test]
    async fn an_engine_behind_mutual_tls_is_reached_with_the_material_of_a_secret() {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_key = KeyPair::generate().unwrap();
        let ca = params.self_signed(&ca_key).unwrap();
        let issuer = Issuer::new(params, ca_key);
        let issue = |name: &str| {
            let key = KeyPair::generate().unwrap();
            (CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap(), key)
        };
        let (server, server_key) = issue("127.0.0.1");
        let (client, client_key) = issue("operator");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .build()
            .unwrap();
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![server.der().clone()], PrivateKeyDer::try_from(server_key.serialize_der()).unwrap())
            .unwrap();
        let port = engine_that_says(
            vec![r#"{"ApiVersion":"1.52"}"#, r#"{"ServerVersion":"29.0","NCPU":8,"MemTotal":64}"#],
            Some(config),
        )
        .await;
        let tls = Tls { ca: ca.pem().into(), certificate: client.pem().into(), key: client_key.serialize_pem().into() };
        let endpoint = format!("tcp://127.0.0.1:{port}").parse().unwrap();
        let engine =
            DockerEngine::connect("far", &endpoint, Some(&Keys::Tls(tls)), Arc::new(OwnBinary::running())).unwrap();
        let info = engine.info().await.unwrap();
        assert_eq!((info.engine_version.as_str(), info.api_version.as_str(), info.cpus), ("29.0", "1.52", 8));
    }
}
