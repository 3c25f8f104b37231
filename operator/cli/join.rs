//! A node that joins: asks an operator for what all of them have, once, and writes it into the empty data directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, SignatureScheme};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::client::Client;
use super::error::{Error, Refusal};
use super::kubeconfig::Kubeconfig;
use crate::api::core::DEFAULT_NAMESPACE;
use crate::api::join::{BUSY, Bundle, CA, ETCD, JOIN, JoinToken, Joining};
use crate::runtime::clock::instant;
use crate::server::identity::shared;

/// Time-out of the connection and of its TLS handshake.
const CONNECT: Duration = Duration::from_secs(5);
/// Pause before this node asks again while another one joins.
const AGAIN: Duration = Duration::from_secs(1);
/// How long it waits for that one.
const PATIENCE: Duration = Duration::from_secs(300);

/// The operators to join.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(skip)]
pub struct Args {
    /// The API of an operator to join, in an empty data directory. Once joined, neither this nor the token is needed again
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub join: Option<String>,
    /// The token that `evenkeel cluster token` printed; others on this machine can see arguments
    #[arg(
        long,
        env = "EVENKEEL_JOIN_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN",
        conflicts_with = "token_file"
    )]
    pub token: Option<Secret>,
    /// File with the token
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

/// A token as it was given. `Debug` does not show it.
#[derive(Clone)]
pub struct Secret(String);

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Args {
    fn token(&self) -> Result<Option<JoinToken>, Error> {
        let text = match (&self.token, &self.token_file) {
            (Some(Secret(text)), _) => Some(text.clone()),
            (None, Some(path)) => Some(fs::read_to_string(path).map_err(reading(path))?),
            (None, None) => None,
        };
        text.map(|text| JoinToken::parse(&text)).transpose().map_err(|error| Error::Usage(error.to_string()))
    }
}

/// What a data directory has before the operator starts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Found {
    /// The certificate of its CA, DER.
    ca: Option<Vec<u8>>,
    /// It has the settings of a shared store.
    joined: bool,
    /// It has a store in a file.
    store: bool,
}

impl Found {
    fn read(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("pki").join(CA);
        let ca = match fs::read(&path) {
            Ok(pem) => Some(CertificateDer::from_pem_slice(&pem).map_or(Vec::new(), |der| der.to_vec())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(reading(&path)(error)),
        };
        Ok(Self { ca, joined: dir.join("pki").join(ETCD).exists(), store: dir.join("store.db").exists() })
    }

    /// Whether the node is still to join; an error if it must not.
    fn is_to_join(&self, token: Option<&JoinToken>) -> Result<bool, &'static str> {
        let other_ca = |token: &JoinToken| self.ca.as_ref().is_some_and(|ca| !token.trusts(ca));
        match (self, token) {
            (_, Some(token)) if other_ca(token) => {
                Err("belongs to other operators than the token (its CA is another one)")
            }
            (Self { joined: true, .. }, _) => Ok(false),
            (Self { store: true, .. }, _) => Err("has a store of its own (store.db), which would be given up"),
            (Self { ca: Some(_), .. }, _) => Err("has an identity of its own (pki/ca.crt)"),
            _ => Ok(true),
        }
    }
}

/// Joins, if that is wanted and not done. `complete` tries out what was received, and adds what is this node's own; nothing is
/// written before it succeeds.
pub async fn join<F: Future<Output = Result<Bundle, Error>>>(
    args: &Args,
    dir: &Path,
    node: &str,
    complete: impl FnOnce(Bundle, Asking) -> F,
) -> Result<(), Error> {
    let Some(address) = &args.join else { return Ok(()) };
    let token = args.token()?;
    let to_join = Found::read(dir)?.is_to_join(token.as_ref()).map_err(|why| {
        let dir = dir.display();
        Error::Failed(format!("cannot join {address}: the data directory {dir} {why}; name an empty one by --data-dir"))
    })?;
    if !to_join {
        tracing::info!("this node has joined before; --join is not needed any more");
        return Ok(());
    }
    let token = token.ok_or_else(|| {
        Error::Usage(
            "--join wants a token: --token-file, --token or EVENKEEL_JOIN_TOKEN; `evenkeel cluster token` makes one"
                .to_owned(),
        )
    })?;
    let ca = ca_of(address, &token).await.map_err(|source| Error::Operator {
        doing: format!("cannot join {address}; nothing was sent"),
        source: source.into(),
    })?;
    let asking = Asking::new(address, &ca, &token, node)?;
    let bundle = complete(asking.ask(None).await?, asking).await?;
    shared::install(dir, &bundle).map_err(|source| Error::Operator {
        doing: format!("cannot keep what {address} sent"),
        source: source.into(),
    })?;
    tracing::info!(address, "this node has joined; --join and the token are not needed any more");
    Ok(())
}

/// The way to an operator that was verified, and what this node asks it with.
pub struct Asking {
    client: Client,
    address: String,
    node: String,
}

impl Asking {
    fn new(address: &str, ca: &CertificateDer<'_>, token: &JoinToken, node: &str) -> Result<Self, Error> {
        let client = Client::new(Kubeconfig {
            path: PathBuf::new(),
            server: format!("https://{address}"),
            certificate_authority: Some(pem(ca).into_bytes()),
            token: Some(token.secret().to_owned()),
            client_certificate: None,
            namespace: DEFAULT_NAMESPACE.to_owned(),
            others: Vec::new(),
        })?;
        Ok(Self { client, address: address.to_owned(), node: node.to_owned() })
    }

    /// Asks for what all operators have. With the URL of this node's member of etcd, that is added first; while another node
    /// joins, this waits for it.
    pub async fn ask(&self, peer: Option<String>) -> Result<Bundle, Error> {
        let address = &self.address;
        let body = json!(Joining { node: self.node.clone(), peer });
        let patience = instant() + PATIENCE;
        let mut told = String::new();
        let answer = loop {
            match self.client.post(JOIN, &[], &body).await {
                Err(Error::Refused(refusal)) if refusal.reason == BUSY && instant() < patience => {
                    if told != refusal.message {
                        tracing::info!("waiting: {}", refusal.message);
                        told = refusal.message;
                    }
                    tokio::time::sleep(AGAIN).await;
                }
                answer => break answer,
            }
        };
        let answer = answer.map_err(|error| match error {
            Error::Refused(Refusal { code: 401 | 403, .. }) => Error::Failed(format!(
                "cannot join {address}: the operator there does not accept the token; it is wrong, expired or revoked. Make \
                 another one there with `evenkeel cluster token`"
            )),
            Error::Refused(refusal) => Error::Failed(format!("cannot join {address}: {}", refusal.message)),
            Error::Unreachable { source, .. } => {
                Error::Operator { doing: format!("cannot join {address}: the connection was lost"), source }
            }
            other => other,
        })?;
        let bundle: Bundle = serde_json::from_value(answer.body)
            .map_err(|_| Error::Failed(format!("cannot join {address}: it does not answer as an operator does")))?;
        match bundle.problem() {
            Some(problem) => Err(Error::Failed(format!(
                "cannot join {address}: {problem}; install the same version of evenkeel here"
            ))),
            None => Ok(bundle),
        }
    }
}

/// Why the operator at an address is not asked.
#[derive(Debug, thiserror::Error)]
enum Unfit {
    /// There is no connection.
    #[error("it cannot be reached")]
    Unreachable(#[source] std::io::Error),
    /// No answer.
    #[error("there was no answer within {} s", CONNECT.as_secs())]
    Late,
    /// The address is none.
    #[error("this is no ADDRESS:PORT")]
    NoAddress,
    /// Its CA is another one than the token's.
    #[error("the token is not of the operators there: their CA is another one")]
    OtherCa,
    /// Its certificate does not name the address.
    #[error("its certificate does not name this address; start that operator with --advertise {0}")]
    OtherName(String),
    /// Something else is wrong with its certificate, or no TLS is spoken there.
    #[error("TLS failed")]
    Tls(#[source] std::io::Error),
}

/// The CA that the operator at an address presents, if the token names it and the operator's certificate is of this CA. Sends
/// nothing.
async fn ca_of(address: &str, token: &JoinToken) -> Result<CertificateDer<'static>, Unfit> {
    let (host, _) = address.rsplit_once(':').ok_or(Unfit::NoAddress)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(host.to_owned()).map_err(|_| Unfit::NoAddress)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let pinned = Arc::new(Pinned { token: token.clone(), provider: provider.clone(), found: OnceLock::new() });
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Unfit::Tls(std::io::Error::other(error)))?
        .dangerous()
        .with_custom_certificate_verifier(pinned.clone())
        .with_no_client_auth();
    let shake = async {
        let stream = TcpStream::connect(address).await.map_err(Unfit::Unreachable)?;
        let connected = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        connected.map_err(|error| match certificate_problem(&error) {
            Some(CertificateError::ApplicationVerificationFailure) => Unfit::OtherCa,
            Some(CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }) => {
                Unfit::OtherName(host.to_owned())
            }
            _ => Unfit::Tls(error),
        })
    };
    let _stream = timeout(CONNECT, shake).await.map_err(|_| Unfit::Late)??;
    pinned.found.get().cloned().ok_or(Unfit::OtherCa)
}

fn certificate_problem(error: &std::io::Error) -> Option<&CertificateError> {
    match error.get_ref()?.downcast_ref()? {
        rustls::Error::InvalidCertificate(problem) => Some(problem),
        _ => None,
    }
}

/// Accepts servers of the CA that a token names, if they present it.
#[derive(Debug)]
struct Pinned {
    token: JoinToken,
    provider: Arc<CryptoProvider>,
    found: OnceLock<CertificateDer<'static>>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let other = rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
        let ca = intermediates.iter().find(|one| self.token.trusts(one)).ok_or(other)?.clone().into_owned();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca.clone())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone()).build();
        let verifier = verifier.map_err(|error| rustls::Error::General(error.to_string()))?;
        let verified = verifier.verify_server_cert(end_entity, &[], server_name, ocsp_response, now)?;
        let _ = self.found.set(ca); // the same one, if it was set
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// A certificate as PEM.
fn pem(certificate: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}

fn reading(path: &Path) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::Io { doing: format!("read {}", path.display()), source }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Regression 451: a node that was told to join must neither take the place of an identity that its data directory has, nor
    /// give up a store; a directory that has joined is left as it is, whatever the token's age.
    #[test]
    fn only_an_empty_data_directory_joins_and_one_that_has_joined_stays_as_it_is() {
        let token = JoinToken::new(b"CA", "s".into());
        let found = |ca: &[u8], joined, store| Found { ca: (!ca.is_empty()).then(|| ca.to_vec()), joined, store };
        let wanted = |found: Found| found.is_to_join(Some(&token));
        assert_eq!(wanted(found(b"", false, false)), Ok(true));
        assert_eq!(wanted(found(b"CA", true, false)), Ok(false));
        assert_eq!(found(b"CA", true, false).is_to_join(None), Ok(false), "no token is needed any more");
        assert!(wanted(found(b"other", true, false)).unwrap_err().contains("belongs to other operators"));
        assert!(wanted(found(b"other", false, true)).unwrap_err().contains("belongs to other operators"));
        assert!(wanted(found(b"", false, true)).unwrap_err().contains("store.db"));
        assert!(wanted(found(b"CA", false, false)).unwrap_err().contains("pki/ca.crt"));
    }

    #[test]
    fn a_token_is_not_shown_by_debug() {
        let args = Args { token: Some("EK1CANARY".into()), ..Args::default() };
        assert!(!format!("{args:?}").contains("CANARY"));
        let refused = args.token().unwrap_err();
        assert!(refused.exit_code() == 2 && !refused.to_string().contains("CANARY"), "{refused}");
    }
}
