//! Seals Secrets at rest: each written value gets a key of its own, which is sealed with a key of the operator.
//!
//! `evk1:KEYID:BASE64` of: nonce, sealed key, sealed value (AES-256-GCM). The name of the object is sealed along, so a row
//! that is exchanged with that of another object does not open.

use std::borrow::Cow;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde_json::Value;

use super::{Error, Key};
use crate::api::hash::short_hash_of_parts;

/// The resource whose objects are sealed.
pub(super) const SEALED: &str = "secrets";
/// What a sealed value begins with; JSON begins with a brace.
const FORMAT: &str = "evk1:";
/// Length of a key in bytes.
const KEY_LEN: usize = 32;
/// Length of the sealed key in front of a sealed value: nonce, key and tag.
const HEAD_LEN: usize = NONCE_LEN + KEY_LEN + 16;

/// A key of the operator.
struct Kek {
    id: String,
    key: LessSafeKey,
}

/// The keys of the operator: the first seals, all open.
#[derive(Clone)]
pub struct Seal(Arc<[Arc<Kek>]>);

/// Why a text holds no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// No line has a key.
    #[error("it holds no key; write one with: head -c 32 /dev/urandom | base64")]
    None,
    /// A line that is no key.
    #[error("line {0} is no key: a key is 32 random bytes in base64 (head -c 32 /dev/urandom | base64)")]
    Line(usize),
}

/// A new key, as a line of a key file.
pub fn new_key() -> String {
    format!("{}\n", BASE64.encode(random::<KEY_LEN>()))
}

impl Seal {
    /// Reads keys: one a line, 32 bytes in base64; empty lines and lines that begin with `#` do not count.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let lines = text.lines().map(str::trim).enumerate();
        let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let key = |(at, line): (usize, &str)| {
            let bytes = BASE64.decode(line).ok().filter(|bytes| bytes.len() == KEY_LEN);
            let bytes = bytes.ok_or(KeyError::Line(at + 1))?;
            let id = short_hash_of_parts([b"evenkeel key id".as_slice(), &bytes], 8);
            Ok(Arc::new(Kek { id, key: aes(&bytes) }))
        };
        let keys: Arc<[_]> = lines.map(key).collect::<Result<_, _>>()?;
        if keys.is_empty() { Err(KeyError::None) } else { Ok(Self(keys)) }
    }

    /// The ids of the keys; the first one seals.
    pub fn ids(&self) -> Vec<String> {
        self.0.iter().map(|kek| kek.id.clone()).collect()
    }

    /// These keys and others, which open only.
    pub(super) fn and(self, others: Self) -> Self {
        Self(self.0.iter().chain(others.0.iter()).cloned().collect())
    }

    /// What every text begins with that is sealed with the first key.
    pub(super) fn prefix(&self) -> String {
        format!("{FORMAT}{}:", self.ids().first().map_or("", String::as_str))
    }

    /// The text as it is stored.
    pub(super) fn seal(&self, at: &Key, plain: String) -> String {
        let kek = self.0.first();
        let Some(kek) = kek.filter(|_| at.resource == SEALED) else { return plain };
        let (nonce, own) = (random::<NONCE_LEN>(), random::<KEY_LEN>());
        let (mut head, mut body) = (own.to_vec(), plain.into_bytes());
        // It fails only for texts of more than 64 GiB. The own key seals one text, so its nonce may be constant.
        let sealed = kek
            .key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), name(at), &mut head)
            .and_then(|()| aes(&own).seal_in_place_append_tag(zero(), name(at), &mut body));
        sealed.expect("a text of an object can be sealed");
        format!("{FORMAT}{}:{}", kek.id, BASE64.encode([nonce.as_slice(), &head, &body].concat()))
    }

    /// A stored text, sealed anew with the first key.
    pub(super) fn renewed(&self, at: &Key, stored: &str) -> Result<String, Error> {
        Ok(self.seal(at, self.open(at, stored)?.into_owned()))
    }

    /// The JSON in a stored text. A text that a version before has stored is not sealed.
    pub(super) fn open<'a>(&self, at: &Key, stored: &'a str) -> Result<Cow<'a, str>, Error> {
        let Some((id, sealed)) = parts(stored) else { return Ok(stored.into()) };
        let kek = self.0.iter().find(|kek| kek.id == id);
        let kek = kek.ok_or_else(|| Error::KeyMissing {
            key: at.to_string(),
            id: id.to_owned(),
            known: self.ids().join(", "),
        })?;
        let plain = opened(kek, at, sealed).and_then(|plain| String::from_utf8(plain).ok());
        plain.map(Cow::from).ok_or_else(|| Error::Tampered { key: at.clone() })
    }
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Seal").field(&self.ids()).finish()
    }
}

/// The id of the key that sealed a stored text; `None` if it is not sealed.
pub(super) fn key_id(stored: &str) -> Option<&str> {
    parts(stored).map(|(id, _)| id)
}

fn parts(stored: &str) -> Option<(&str, &str)> {
    stored.strip_prefix(FORMAT)?.split_once(':')
}

/// A Secret without its values: what is kept of one that was deleted.
pub(super) fn emptied(at: &Key, value: &Value) -> Value {
    let mut value = value.clone();
    if at.resource == SEALED {
        if let Some(fields) = value.as_object_mut() {
            fields.retain(|field, _| !matches!(field.as_str(), "data" | "stringData"));
        }
        // `kubectl apply` writes the whole object into an annotation.
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("annotations");
        }
    }
    value
}

fn opened(kek: &Kek, at: &Key, sealed: &str) -> Option<Vec<u8>> {
    let mut bytes = BASE64.decode(sealed).ok()?;
    let (head, body) = bytes.split_at_mut_checked(HEAD_LEN)?;
    let (nonce, head) = head.split_at_mut(NONCE_LEN);
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let own = kek.key.open_in_place(nonce, name(at), head).ok()?;
    aes(own).open_in_place(zero(), name(at), body).ok().map(|plain| plain.to_vec())
}

/// The name of an object; it is sealed along.
fn name(at: &Key) -> Aad<Vec<u8>> {
    Aad::from([at.resource.as_bytes(), at.namespace.as_bytes(), at.name.as_bytes()].join(&b'/'))
}

fn aes(key: &[u8]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("a key of 32 bytes"))
}

fn zero() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("the kernel gives random bytes");
    bytes
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new("secrets", "default", name)
    }

    #[test]
    fn what_is_sealed_opens_under_its_own_name_and_with_its_key_only() {
        let seal = Seal::parse(&new_key()).unwrap();
        let (one, again) = (seal.seal(&key("a"), "{1}".into()), seal.seal(&key("a"), "{1}".into()));
        assert!(one.starts_with(&seal.prefix()) && one != again && !one.contains("{1}"), "{one}");
        assert_eq!(seal.open(&key("a"), &one).unwrap(), "{1}");
        assert!(matches!(seal.open(&key("b"), &one), Err(Error::Tampered { .. })));
        let other = Seal::parse(&new_key()).unwrap();
        let refused = other.open(&key("a"), &one).unwrap_err().to_string();
        assert!(refused.contains(&seal.ids()[0]) && refused.contains(&other.ids()[0]), "{refused}");
    }

    #[test]
    fn every_changed_byte_and_every_cut_is_noticed() {
        let seal = Seal::parse(&new_key()).unwrap();
        let sealed = seal.seal(&key("a"), "{\"data\": 1}".into());
        let (head, body) = sealed.split_at(seal.prefix().len());
        let bytes = BASE64.decode(body).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            for broken in [changed.as_slice(), &bytes[..at]] {
                let broken = format!("{head}{}", BASE64.encode(broken));
                assert!(matches!(seal.open(&key("a"), &broken), Err(Error::Tampered { .. })), "byte {at}");
            }
        }
    }

    #[test]
    fn only_secrets_are_sealed_and_what_is_not_sealed_is_read_as_it_is() {
        let seal = Seal::parse(&new_key()).unwrap();
        assert_eq!(seal.seal(&Key::new("configmaps", "default", "a"), "{}".into()), "{}");
        assert_eq!(seal.open(&key("a"), "{}").unwrap(), "{}");
    }

    #[test]
    fn the_first_key_seals_and_the_others_open() {
        let (old, new) = (Seal::parse(&new_key()).unwrap(), Seal::parse(&new_key()).unwrap());
        let both = new.clone().and(old.clone());
        assert_eq!(both.open(&key("a"), &old.seal(&key("a"), "{}".into())).unwrap(), "{}");
        assert_eq!(new.open(&key("a"), &both.seal(&key("a"), "{}".into())).unwrap(), "{}");
    }

    #[test]
    fn a_key_file_is_judged_by_line_and_never_quoted() {
        let refused = |text: &str| Seal::parse(text).unwrap_err().to_string();
        assert!(refused("# nothing\n\n").starts_with("it holds no key"));
        let short = refused(&format!("# first\n{}hunter2\n", new_key()));
        assert!(short.starts_with("line 3 is no key") && !short.contains("hunter2"), "{short}");
    }
}
