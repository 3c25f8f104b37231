//! The certificates of the server, and those of its connections to other members: their files, and a handshake that shows
//! which of them the running server has loaded.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::durable;
use super::listen::listen;
use super::place::Place;
use super::wire::Tls;
use crate::api::chain::chain;

/// Names in the folder of the server's configuration: the CAs of server certificates.
pub const CA: &str = "ca.crt";
/// The CAs of client certificates.
pub const CLIENT_CA: &str = "client-ca.crt";
/// The certificate that the server shows.
pub const SERVER_CERT: &str = "server.crt";
/// Its key.
pub const SERVER_KEY: &str = "server.key";
/// The certificate of the replication role.
pub const CLIENT_CERT: &str = "client.crt";
/// Its key.
pub const CLIENT_KEY: &str = "client.key";

/// In the supervisor's folder on the volume: the certificates that a server was last proven to load.
const PROVEN: &str = "tls.json";
/// Time-out of a handshake with the own server.
const HANDSHAKE: Duration = Duration::from_secs(1);

/// The certificates that a server was last proven to load, if there are any.
pub fn load(own: &Path) -> Option<Tls> {
    durable::read(&own.join(PROVEN))
}

/// Saves the proven certificates for the next start.
pub fn save(own: &Path, proven: &Tls) -> std::io::Result<()> {
    durable::write(&own.join(PROVEN), &serde_json::to_vec(proven)?)
}

/// Writes the files.
pub fn write(place: &Place, tls: &Tls) -> Result<(), String> {
    let public =
        [(CA, &tls.ca), (CLIENT_CA, &tls.client_ca), (SERVER_CERT, &tls.server_cert), (CLIENT_CERT, &tls.client_cert)];
    for (name, text) in public {
        place.write_configuration(name, text)?;
    }
    for (name, text) in [(SERVER_KEY, &tls.server_key), (CLIENT_KEY, &tls.client_key)] {
        place.write_key(name, text)?;
    }
    Ok(())
}

/// Whether the running server has loaded exactly these certificates: it shows this one, and names these CAs. After a reload
/// that it refused it has the former ones, and only a line in its log says so.
pub async fn shown(tls: &Tls) -> Result<(), String> {
    let certificate = CertificateDer::from_pem_slice(tls.server_cert.as_bytes()).map_err(words)?;
    let mut roots = RootCertStore::empty();
    for ca in CertificateDer::pem_slice_iter(tls.client_ca.as_bytes()) {
        roots.add(ca.map_err(words)?).map_err(words)?;
    }
    let authorities: BTreeSet<Vec<u8>> = roots.subjects().into_iter().map(|name| name.as_ref().to_vec()).collect();
    let shown = Arc::new(Shown::default());
    tokio::time::timeout(HANDSHAKE, handshake(shown.clone()))
        .await
        .map_err(|_| "the server answers no handshake")??;
    let seen = shown.seen.lock().map(|seen| seen.clone()).unwrap_or_default();
    if seen.certificate != *certificate {
        return Err("the server still shows another certificate".to_owned());
    }
    if seen.authorities != authorities {
        return Err("the server still trusts other CA certificates".to_owned());
    }
    Ok(())
}

async fn handshake(shown: Arc<Shown>) -> Result<(), String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(words)?;
    let builder = builder.dangerous().with_custom_certificate_verifier(shown.clone());
    let config = Arc::new(builder.with_client_cert_resolver(shown));
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, listen().port)).await.map_err(words)?;
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await.map_err(words)?;
    if stream.read_u8().await.map_err(words)? != b'S' {
        return Err("the server offers no TLS".to_owned());
    }
    let name = ServerName::from(IpAddr::from(Ipv4Addr::LOCALHOST));
    let mut stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await.map_err(words)?;
    // The server's log gets no line about a connection that ends like this; all is known already.
    let _ = stream.shutdown().await;
    let _ = stream.read_to_end(&mut Vec::new()).await;
    Ok(())
}

fn words(error: impl std::error::Error) -> String {
    chain(&error)
}

/// Notes what a server shows in a handshake; refuses nothing, and has no certificate of its own.
#[derive(Debug)]
struct Shown {
    seen: Mutex<Seen>,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug, Clone, Default)]
struct Seen {
    certificate: Vec<u8>,
    /// Names of the CAs that it trusts for client certificates.
    authorities: BTreeSet<Vec<u8>>,
}

impl Default for Shown {
    fn default() -> Self {
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        Self { seen: Mutex::default(), algorithms }
    }
}

impl ServerCertVerifier for Shown {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Ok(mut seen) = self.seen.lock() {
            seen.certificate = certificate.to_vec();
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, authorities: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        if let Ok(mut seen) = self.seen.lock() {
            seen.authorities = authorities.iter().map(|name| name.to_vec()).collect();
        }
        None
    }

    fn has_certs(&self) -> bool {
        true
    }
}
