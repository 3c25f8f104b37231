//! The Secrets of a LoadBalancer: certificates from users, and the password of the stats page, created once and never
//! shown.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use serde_json::Value;

use super::inputs::certificate_secrets;
use super::{Certificate, Certificates, Hidden, LoadBalancer, LoadBalancerKind, text};
use crate::api::failure::Failure;
use crate::api::object::Object as _;
use crate::api::secret;
use crate::store::clock;
use crate::store::objects::Objects;
use crate::store::{Error, Key};

const PASSWORD_LENGTH: usize = 32;

/// The key of the Secret with the password of the stats page.
pub(super) fn key(object: &LoadBalancer) -> Key {
    Key::beside(object, "secrets", &format!("{}-stats", object.name()))
}

/// The password of the stats page, if it exists.
pub async fn password(objects: &Objects, object: &LoadBalancer) -> Result<Option<String>, Error> {
    let secret: Option<Value> = objects.get(&key(object)).await?;
    let password = secret.and_then(|secret| secret::text(&secret, "password"));
    // It becomes part of a configuration: another password than one plain word is replaced.
    Ok(password.filter(|word| !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))))
}

/// Creates the password of the stats page unless it exists.
pub async fn ensure(controller: &LoadBalancerKind, object: &LoadBalancer) -> Result<(), Failure> {
    let objects = &controller.objects;
    if password(objects, object).await?.is_some() {
        return Ok(());
    }
    let key = key(object);
    let made = clock::password(&*controller.clock, PASSWORD_LENGTH);
    let secret = secret::owned(object, &key.name, &[("username", "admin"), ("password", &made)]);
    match objects.get::<Value>(&key).await? {
        None => drop(objects.create(&key, secret).await?),
        Some(mut old) => {
            old["data"] = secret["data"].clone();
            objects.update(&key, old).await?;
        }
    }
    Ok(())
}

/// The certificates that frontends refer to, by Secret, or the problem of each.
pub async fn certificates(objects: &Objects, object: &LoadBalancer) -> Result<Certificates, Error> {
    let mut certificates = Certificates::new();
    for name in certificate_secrets(&object.spec) {
        let secret: Option<Value> = objects.get(&Key::beside(object, "secrets", name)).await?;
        certificates.insert(name.to_owned(), certificate(name, secret.as_ref()));
    }
    Ok(certificates)
}

/// A certificate and its key from a Secret, or the problem with them.
fn certificate(name: &str, secret: Option<&Value>) -> Result<Certificate, String> {
    let secret = secret.ok_or_else(|| format!("Secret {name} does not exist: create it with tls.crt and tls.key"))?;
    let part = |part: &str| secret::bytes(secret, part).ok_or_else(|| format!("Secret {name} has no key {part}"));
    let (chain, key) = (part("tls.crt")?, part("tls.key")?);
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&chain)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("tls.crt of Secret {name} is not PEM: {error}"))?;
    if certificates.is_empty() {
        return Err(format!("tls.crt of Secret {name} holds no certificate in PEM"));
    }
    let private = PrivateKeyDer::from_pem_slice(&key)
        .map_err(|error| format!("tls.key of Secret {name} holds no private key in PEM: {error}"))?;
    let signing = rustls::crypto::ring::sign::any_supported_type(&private)
        .map_err(|error| format!("tls.key of Secret {name} cannot be used: {error}"))?;
    match CertifiedKey::new(certificates, signing).keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
        Err(error) => return Err(format!("tls.crt and tls.key of Secret {name} do not belong together: {error}")),
    }
    let mut pem = String::from_utf8_lossy(&chain).into_owned();
    pem.push('\n');
    pem.push_str(&String::from_utf8_lossy(&key));
    Ok(Certificate { hash: text::hash(&pem), pem: Hidden(pem) })
}
