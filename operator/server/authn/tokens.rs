//! Bearer tokens. Only the SHA-256 of each is known here, and it is in no object that the API serves.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::user::{MASTERS, User, Via};
use crate::api::object::Object as _;
use crate::api::token::Token;
use crate::store::{Clock, Key, rules};

/// Where the store has the hashes, by the uid of their Tokens. The API serves no such resource.
pub const HASHES: &str = "tokenhashes.evenkeel.dev";
/// The start of every token, so that it can be recognised where it does not belong.
pub const PREFIX: &str = "evk_";

/// The SHA-256 of a secret.
pub type Hash = [u8; 32];

/// The tokens in force.
#[derive(Debug, Clone, Default)]
pub struct Tokens {
    /// The administrator's, and the end of each that a newer one replaces.
    admin: Vec<(Hash, Option<Timestamp>)>,
    /// The Tokens by their uid.
    named: BTreeMap<String, (Hash, User)>,
}

impl Tokens {
    /// The tokens among these objects, and the administrator's.
    pub fn new(objects: &[(Key, Arc<Value>)], admin: Vec<(Hash, Option<Timestamp>)>) -> Self {
        let hashes = objects.iter().filter(|(key, _)| key.resource == HASHES);
        let hashes: BTreeMap<&str, &Value> = hashes.map(|(key, value)| (key.name.as_str(), &**value)).collect();
        let named = objects.iter().filter(|(key, value)| key.resource == Token::RESOURCE && !rules::is_deleting(value));
        let named = named.filter_map(|(_, value)| {
            let uid = rules::uid_of(value)?.to_owned();
            // A Token that cannot be understood lets nobody in.
            let spec = serde_json::from_value::<Token>(Value::clone(value)).ok()?.spec;
            let user = User::new(spec.user, spec.groups, Via::Token(uid.clone()), spec.expires.parse().ok());
            user.expires?;
            let hash = hashes.get(uid.as_str())?["sha256"].as_str().and_then(parsed)?;
            Some((uid, (hash, user)))
        });
        Self { admin, named: named.collect() }
    }

    /// These, with other tokens of the administrator.
    pub fn with_admin(self, admin: Vec<(Hash, Option<Timestamp>)>) -> Self {
        Self { admin, ..self }
    }

    /// The administrator's tokens.
    pub fn of_admin(&self) -> &[(Hash, Option<Timestamp>)] {
        &self.admin
    }

    /// The bearer of a token.
    pub fn user(&self, token: &str) -> Option<User> {
        if let Some((id, secret)) = token.strip_prefix(PREFIX).and_then(|rest| rest.split_once('.')) {
            let (expected, user) = self.named.get(&uid(id)?)?;
            return bool::from(hash(secret).ct_eq(expected)).then(|| user.clone());
        }
        let sent = hash(token);
        let known = self.admin.iter().find(|(expected, _)| sent.ct_eq(expected).into());
        known.map(|(_, end)| User::new("admin", vec![MASTERS.to_owned()], Via::AdminToken(sent), *end))
    }

    /// When the Token with this uid expires; `None` if there is none.
    pub fn expires(&self, uid: &str) -> Option<Option<Timestamp>> {
        self.named.get(uid).map(|(_, user)| user.expires)
    }

    /// When an administrator's token expires; `None` if it is none.
    pub fn admin(&self, hash: &Hash) -> Option<Option<Timestamp>> {
        self.admin.iter().find(|(known, _)| known == hash).map(|(_, end)| *end)
    }
}

/// The token of the Token with this uid.
pub fn token(uid: &str, secret: &str) -> String {
    format!("{PREFIX}{}.{secret}", uid.replace('-', ""))
}

/// The uid in a token.
fn uid(id: &str) -> Option<String> {
    uuid::Uuid::try_parse(id).ok().filter(|_| id.len() == 32).map(|uid| uid.to_string())
}

/// A new secret, of 256 bits.
pub fn secret(clock: &dyn Clock) -> String {
    let bytes: Vec<u8> = (0..4).flat_map(|_| clock.random().to_be_bytes()).collect();
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The hash of a secret.
pub fn hash(secret: &str) -> Hash {
    Sha256::digest(secret.as_bytes()).into()
}

/// A hash as text.
pub fn shown(hash: &Hash) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A hash from its text.
pub fn parsed(text: &str) -> Option<Hash> {
    let bytes = (0..64).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok());
    bytes.collect::<Option<Vec<_>>>()?.try_into().ok()
}
