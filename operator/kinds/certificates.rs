//! Certificates in Secrets: checks those of users, and makes Evenkeel's own. [`authority`]: those of an object with members;
//! [`due`]: what is due for them.

pub mod authority;
pub mod due;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::RootCertStore;
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use serde_json::Value;

use crate::api::hash::short_hash;
use crate::api::{secret, x509};

/// Clocks differ: a certificate, unless it is a CA's, is valid from this time before it was made.
const BACKDATED: Duration = Duration::from_secs(3600);

/// A certificate with its intermediate ones, and its key.
pub struct Pair {
    /// As PEM.
    pub cert: String,
    /// The key as PEM.
    pub key: String,
    chain: Vec<CertificateDer<'static>>,
}

impl Pair {
    /// `tls.crt` and `tls.key` of the Secret of this name, or the problem with them.
    pub fn of_secret(name: &str, secret: Option<&Value>) -> Result<Self, String> {
        let secret =
            secret.ok_or_else(|| format!("Secret {name} does not exist: create it with tls.crt and tls.key"))?;
        Self::of_keys(name, secret, "tls.crt", "tls.key")
    }

    /// The same of other keys.
    pub fn of_keys(name: &str, secret: &Value, cert: &str, key: &str) -> Result<Self, String> {
        let part = |part: &str| secret::text(secret, part).ok_or_else(|| format!("Secret {name} has no key {part}"));
        let pair = (part(cert)?, part(key)?);
        let chain = certificates(&pair.0).map_err(|why| format!("{cert} of Secret {name} {why}"))?;
        let private = PrivateKeyDer::from_pem_slice(pair.1.as_bytes())
            .map_err(|error| format!("{key} of Secret {name} holds no private key in PEM: {error}"))?;
        let signing = rustls::crypto::ring::sign::any_supported_type(&private)
            .map_err(|error| format!("{key} of Secret {name} cannot be used: {error}"))?;
        match CertifiedKey::new(chain.clone(), signing).keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(error) => return Err(format!("{cert} and {key} of Secret {name} do not belong together: {error}")),
        }
        Ok(Self { cert: pair.0, key: pair.1, chain })
    }

    /// Whether it is a CA that Evenkeel made: what its key makes names it as its maker.
    pub fn is_our_ca(&self) -> bool {
        let named = self.chain.first().and_then(|der| x509::read(der)?.common_name);
        named.is_some() && named == KeyPair::from_pem(&self.key).ok().map(|key| ca_name(&key))
    }

    /// Since when, and until when it is valid; `None` if that cannot be read.
    pub fn validity(&self) -> Option<(Timestamp, Timestamp)> {
        x509::read(self.chain.first()?).map(|read| (read.from, read.until))
    }

    /// Those of these names that no client could verify, and could by another certificate.
    pub fn lacks(&self, names: &[String]) -> Vec<String> {
        let leaf = self.chain.first().and_then(|leaf| ParsedCertificate::try_from(leaf).ok());
        let has = |name: &&String| {
            let Ok(name) = ServerName::try_from(name.as_str()) else { return true };
            leaf.as_ref().is_some_and(|leaf| verify_server_name(leaf, &name).is_ok())
        };
        names.iter().filter(|name| !has(name)).cloned().collect()
    }

    /// Why a client that trusts these CA certificates alone refuses it at this time, whatever its names.
    pub fn refused_as_server(&self, authorities: &str, at: Timestamp) -> Option<String> {
        let (leaf, intermediates) = self.chain.split_first()?;
        let verify = || {
            if certificates(authorities)?.contains(leaf) && x509::read(leaf).is_some_and(|read| read.self_issued) {
                // It is its own CA.
                return Ok(());
            }
            let roots = roots(authorities)?;
            let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms.all;
            let leaf = ParsedCertificate::try_from(leaf).map_err(|error| error.to_string())?;
            verify_server_cert_signed_by_trust_anchor(&leaf, &roots, intermediates, unix(at), algorithms)
                .map_err(|error| error.to_string())
        };
        verify().err()
    }

    /// Why a server that trusts these CA certificates alone refuses it at this time as a client's.
    pub fn refused_as_client(&self, authorities: &str, at: Timestamp) -> Option<String> {
        let (leaf, intermediates) = self.chain.split_first()?;
        let verify = || {
            let (roots, provider) = (Arc::new(roots(authorities)?), rustls::crypto::ring::default_provider());
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::new(provider)).build();
            let verifier = verifier.map_err(|error| error.to_string())?;
            verifier.verify_client_cert(leaf, intermediates, unix(at)).map_err(|error| error.to_string())
        };
        verify().err()
    }
}

/// The certificates of a PEM text, or what is wrong with it.
fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let all = all.map_err(|error| format!("is not PEM: {error}"))?;
    if all.is_empty() { Err("holds no certificate in PEM".to_owned()) } else { Ok(all) }
}

/// The CA certificates of a PEM text, or what is wrong with it.
pub fn roots(pem: &str) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots.add(certificate).map_err(|error| format!("holds an unusable certificate: {error}"))?;
    }
    Ok(roots)
}

/// Until when each certificate of a PEM text is valid.
pub fn ends(pem: &str) -> Option<Timestamp> {
    certificates(pem).ok()?.iter().filter_map(|der| Some(x509::read(der)?.until)).min()
}

fn unix(at: Timestamp) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(at.as_second().max(0).unsigned_abs()))
}

/// A certificate that was made, and its key, as PEM.
#[derive(Clone)]
pub struct Made {
    /// The certificate.
    pub cert: String,
    /// The key.
    pub key: String,
}

/// What a certificate is for.
pub enum Purpose<'a> {
    /// A server with these DNS names and IP addresses.
    Server(&'a [String]),
    /// The same, and its members connect to each other with it.
    Member(&'a [String]),
    /// A client with this name.
    Client(&'a str),
}

/// A new CA. It is valid from one life before `now`: PostgreSQL refuses a CA that is not valid yet, and a clock that was ahead
/// when the CA was made must not keep every standby out until that time.
pub fn make_ca(now: Timestamp, life: Duration) -> Result<Made, rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = ca_params(&key);
    valid(&mut params, now, life, life);
    Ok(Made { cert: params.self_signed(&key)?.pem(), key: key.serialize_pem() })
}

/// A new certificate by the CA with this key.
pub fn make_leaf(ca_key: &str, purpose: Purpose, now: Timestamp, life: Duration) -> Result<Made, rcgen::Error> {
    let (ca_key, key) = (KeyPair::from_pem(ca_key)?, KeyPair::generate()?);
    let (as_server, as_client) = (ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth);
    let (names, usages): (&[String], _) = match purpose {
        Purpose::Server(names) => (names, vec![as_server]),
        Purpose::Member(names) => (names, vec![as_server, as_client]),
        Purpose::Client(_) => (&[], vec![as_client]),
    };
    let name = if let Purpose::Client(name) = purpose { name } else { names.first().map_or("", String::as_str) };
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = usages;
    params.use_authority_key_identifier_extension = true;
    valid(&mut params, now, BACKDATED, life);
    let issuer = Issuer::new(ca_params(&ca_key), ca_key);
    Ok(Made { cert: params.signed_by(&key, &issuer)?.pem(), key: key.serialize_pem() })
}

/// The parameters of a CA's certificate. They follow from its key, so that the key alone can sign; and each CA has another
/// name, by which a server shows which of them it trusts.
fn ca_params(key: &KeyPair) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, ca_name(key));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn ca_name(key: &KeyPair) -> String {
    format!("evenkeel-ca-{}", short_hash(key.public_key_raw(), 16))
}

fn valid(params: &mut CertificateParams, now: Timestamp, before: Duration, life: Duration) {
    let now = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(now.as_second().max(0).unsigned_abs());
    params.not_before = now - before;
    params.not_after = now + life;
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    const DAY: Duration = Duration::from_secs(86_400);

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn pair(made: &Made) -> Pair {
        let encoded = secret::encoded(&[("tls.crt", &made.cert), ("tls.key", &made.key)]);
        Pair::of_secret("s", Some(&json!({"data": encoded}))).unwrap()
    }

    #[test]
    fn what_is_made_is_valid_for_its_names_and_its_time_alone() {
        // The second date is after 2049, so X.509 writes the other kind of time.
        for now in [at("2026-11-28T15:00:00Z"), at("2051-01-01T00:00:00Z")] {
            let ca = make_ca(now, 3650 * DAY).unwrap();
            let names = ["db-1", "db-1.here", "localhost", "10.0.0.11", "::1"].map(String::from);
            let server = pair(&make_leaf(&ca.key, Purpose::Server(&names), now, 90 * DAY).unwrap());
            assert_eq!(server.validity(), Some((now - BACKDATED, now + 90 * DAY)));
            assert_eq!(ends(&ca.cert), Some(now + 3650 * DAY));
            let asked = ["db-1", "10.0.0.11", "::1", "db-2", "10.0.0.12"].map(String::from);
            assert_eq!(server.lacks(&asked), ["db-2", "10.0.0.12"]);
            assert_eq!(server.refused_as_server(&ca.cert, now), None);
            assert!(server.refused_as_server(&ca.cert, now + 91 * DAY).unwrap().contains("expired"));
            let other = make_ca(now, DAY).unwrap();
            assert!(server.refused_as_server(&other.cert, now).is_some());
            assert!(server.refused_as_client(&ca.cert, now).is_some(), "a server's certificate is not a client's");
            let client = pair(&make_leaf(&ca.key, Purpose::Client("replicator"), now, DAY).unwrap());
            assert_eq!(client.refused_as_client(&format!("{}{}", other.cert, ca.cert), now), None);
            assert!(client.refused_as_client(&other.cert, now).is_some());
        }
    }

    /// Regression 149: a CA that was made while the clock was ahead was valid only from that time. PostgreSQL judges that, too,
    /// and no standby could connect until then; nothing was wrong by the time of the certificates that it had made.
    #[test]
    fn a_ca_that_was_made_while_the_clock_was_ahead_is_valid_now() {
        let now = at("2026-11-28T15:00:00Z");
        let ca = pair(&make_ca(now + 3000 * DAY, 3650 * DAY).unwrap());
        assert!(ca.validity().unwrap().0 < now);
    }

    /// Regression 159: a certificate that stands among the CA certificates was accepted whoever had made it. PostgreSQL accepts
    /// there only one that has made itself, so no standby could have connected.
    #[test]
    fn a_certificate_in_the_place_of_its_ca_is_accepted_only_if_it_made_itself() {
        let now = at("2026-11-28T15:00:00Z");
        let ca = make_ca(now, DAY).unwrap();
        let leaf = make_leaf(&ca.key, Purpose::Server(&["db-1".to_owned()]), now, DAY).unwrap();
        assert!(pair(&leaf).refused_as_server(&leaf.cert, now).is_some());
        assert_eq!(pair(&leaf).refused_as_server(&format!("{}{}", leaf.cert, ca.cert), now), None);
        assert_eq!(pair(&ca).refused_as_server(&ca.cert, now), None);
    }

    #[test]
    fn what_is_not_a_certificate_with_its_key_is_named() {
        let now = at("2026-11-28T15:00:00Z");
        let (one, other) = (make_ca(now, DAY).unwrap(), make_ca(now, DAY).unwrap());
        let told = |cert: &str, key: &str| {
            let encoded = secret::encoded(&[("tls.crt", cert), ("tls.key", key)]);
            Pair::of_secret("s", Some(&json!({"data": encoded}))).err().unwrap()
        };
        assert_eq!(told("x", &one.key), "tls.crt of Secret s holds no certificate in PEM");
        assert!(told(&one.cert, "x").starts_with("tls.key of Secret s holds no private key in PEM"));
        assert!(told(&one.cert, &other.key).starts_with("tls.crt and tls.key of Secret s do not belong together"));
        assert_eq!(Pair::of_secret("s", Some(&json!({}))).err().unwrap(), "Secret s has no key tls.crt");
        assert_eq!(roots("").err().unwrap(), "holds no certificate in PEM");
    }
}
