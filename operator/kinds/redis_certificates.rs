//! What the members of an object of Redis are given: passwords, and with TLS certificates.

use std::sync::Arc;

use jiff::Timestamp;

use crate::api::hash::short_hash_of_parts;
use crate::api::redis_sentinel::RedisTls;
use crate::kinds::certificates::authority::{Authorities, Authority};
use crate::kinds::certificates::due::Certified;
use crate::store::Error;
use crate::store::objects::Objects;
use crate::supervisor::redis::wire::{Credentials, Tls};

/// The certificates, of which `known` were verified before; `None` without TLS.
///
/// # Errors
/// If the store cannot be read.
pub async fn authority<O: Certified>(
    known: &Authorities,
    objects: &Objects,
    object: &O,
    tls: &RedisTls,
    now: Timestamp,
) -> Result<Option<Arc<Authority>>, Error> {
    match tls.enabled {
        true => Ok(Some(known.read(objects, object, now).await?)),
        false => Ok(None),
    }
}

/// What every member should have, from the passwords of the supervisor, of replication, of the Sentinels and of the
/// application; `None` with TLS while there are no certificates to send: members keep those that they have.
pub fn credentials(passwords: [String; 4], tls: &RedisTls, authority: Option<&Authority>) -> Option<Credentials> {
    let certificates = authority.and_then(self::tls);
    if tls.enabled && certificates.is_none() {
        return None;
    }
    let hash = short_hash_of_parts(passwords.iter().chain(certificates.iter().map(|tls| &tls.hash)), 16);
    let [admin_password, replication_password, sentinel_password, app_password] = passwords;
    Some(Credentials { hash, admin_password, replication_password, sentinel_password, app_password, tls: certificates })
}

/// The certificates that every member should hold; `None` while something is missing or the CA is unusable.
pub fn tls(authority: &Authority) -> Option<Tls> {
    let all = authority.material()?;
    Some(Tls { hash: all.hash, ca: all.ca, cert: all.server.cert, key: all.server.key })
}

/// The addresses of the members: by these Sentinels and nodes name each other, to clients and to supervisors.
pub fn addresses(object: &impl Certified) -> Vec<String> {
    object.members().into_iter().filter_map(|(_, address)| Some(address?.to_string())).collect()
}

/// The scheme of an address of Redis for clients.
pub fn scheme(tls: &RedisTls) -> &'static str {
    if tls.enabled { "rediss" } else { "redis" }
}
