//! Connections to servers of Redis: to the one of this container by its socket, to others by TCP, with TLS if there are
//! certificates.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ErrorKind, RedisConnectionInfo, RedisError, RedisResult};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::supervisor::redis::wire::{Address, Tls};

/// Bytes that are read from a server elsewhere in one connection.
const MOST: u64 = 4 << 20;

/// The name and the password of a user.
#[derive(Clone, Copy)]
pub struct Login<'a> {
    /// The name.
    pub user: &'a str,
    /// The password.
    pub password: &'a str,
}

/// Connects to the server of this container.
pub async fn local(socket: &Path, login: Login<'_>) -> RedisResult<MultiplexedConnection> {
    enter(UnixStream::connect(socket).await?, login).await
}

/// Connects to a server by TCP.
pub async fn remote(address: Address, tls: Option<&Tls>, login: Login<'_>) -> RedisResult<MultiplexedConnection> {
    let stream = TcpStream::connect((address.ip, address.port)).await?;
    stream.set_nodelay(true)?;
    let Some(tls) = tls else { return enter(bounded(stream), login).await };
    let name = ServerName::from(IpAddr::from(address.ip));
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config(tls)?)).connect(name, stream).await?;
    enter(bounded(stream), login).await
}

/// Limits the time of an exchange.
pub async fn within<T>(limit: Duration, exchange: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    let silent = || RedisError::from((ErrorKind::Io, "no answer", format!("for {} ms", limit.as_millis())));
    tokio::time::timeout(limit, exchange).await.map_err(|_| silent())?
}

/// The server's own code and words, without those of the library.
pub fn words(error: &RedisError) -> String {
    let text = match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        _ => error.to_string(),
    };
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

async fn enter<S>(stream: S, login: Login<'_>) -> RedisResult<MultiplexedConnection>
where
    S: AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static,
{
    let login = RedisConnectionInfo::default().set_username(login.user).set_password(login.password);
    // Redis 7.0 does not know CLIENT SETINFO. Each caller has a time-out of its own.
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    let (connection, driver) =
        MultiplexedConnection::new_with_config(&login.set_skip_set_lib_name(), stream, config).await?;
    // It ends with the connection.
    tokio::spawn(driver);
    Ok(connection)
}

fn bounded<S: AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static>(
    stream: S,
) -> impl AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static {
    let (input, output) = tokio::io::split(stream);
    tokio::io::join(input.take(MOST), output)
}

fn config(tls: &Tls) -> RedisResult<ClientConfig> {
    let unusable = |error: String| RedisError::from((ErrorKind::InvalidClientConfig, "the certificates", error));
    let mut roots = RootCertStore::empty();
    for ca in CertificateDer::pem_slice_iter(tls.ca.as_bytes()) {
        let ca = ca.map_err(|error| unusable(error.to_string()))?;
        roots.add(ca).map_err(|error| unusable(error.to_string()))?;
    }
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(tls.cert.as_bytes()).collect();
    let chain = chain.map_err(|error| unusable(error.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(tls.key.as_bytes()).map_err(|error| unusable(error.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| unusable(error.to_string()))?.with_root_certificates(roots);
    builder.with_client_auth_cert(chain, key).map_err(|error| unusable(error.to_string()))
}
