//! The Secrets of a LoadBalancer: certificates from users, and the password of the stats page, created once and never
//! shown.

use serde_json::Value;

use super::inputs::certificate_secrets;
use super::{Certificate, Certificates, Hidden, LoadBalancer, LoadBalancerKind, text};
use crate::api::failure::Failure;
use crate::api::object::Object as _;
use crate::api::secret;
use crate::kinds::certificates::Pair;
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
    let pair = Pair::of_secret(name, secret)?;
    let pem = format!("{}\n{}", pair.cert, pair.key);
    Ok(Certificate { hash: text::hash(&pem), pem: Hidden(pem) })
}
