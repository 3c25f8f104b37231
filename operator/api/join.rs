//! How a node joins other operators: the token that its owner gives it, and the files that it gets for it. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::hash::hex;

/// The path of the API that gives a joining node its files: POST of a [`Joining`], the answer is a [`Bundle`].
pub const JOIN: &str = "/evenkeel/v1/join";
/// The path of the API that makes tokens: POST of a [`Wanted`], the answer is a [`Made`].
pub const JOIN_TOKENS: &str = "/evenkeel/v1/jointokens";
/// The file with the settings of the shared store.
pub const ETCD: &str = "etcd.json";
/// The certificate of the CA.
pub const CA: &str = "ca.crt";
/// The keys of the Secrets.
pub const KEYS: &str = "secrets.key";
/// The reason of a refusal that ends by itself: another node is joining.
pub const BUSY: &str = "AnotherNodeJoins";
/// The certificate of the CA of an etcd that Evenkeel manages.
pub const ETCD_CA: &str = "etcd-ca.crt";
/// The key of that CA.
pub const ETCD_CA_KEY: &str = "etcd-ca.key";
/// The files that every operator over one store has in its folder `pki`.
pub const FILES: [&str; 10] =
    [CA, "ca.key", "client-ca.crt", "client-ca.key", "token", "token.old", KEYS, ETCD, ETCD_CA, ETCD_CA_KEY];
/// Those of [`FILES`] that may be missing: no token was replaced yet, the keys of the Secrets are in a file of the user's, or etcd is
/// not managed by Evenkeel.
const OPTIONAL: [&str; 4] = ["token.old", KEYS, ETCD_CA, ETCD_CA_KEY];
/// The start of every token; the number is that of its form.
const PREFIX: &str = "EK1";

/// The token of a joining node: which CA it may trust, and a secret that this CA's operators know by its hash.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    ca: String,
    secret: String,
}

/// Why a text is no [`JoinToken`]. It does not repeat the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is no join token: one is EK1, 64 hexadecimal digits, a dot and a secret; make one with `evenkeel cluster token`"
)]
pub struct NoToken;

impl JoinToken {
    /// A token for operators with this CA certificate (DER).
    pub fn new(ca: &[u8], secret: String) -> Self {
        Self { ca: fingerprint(ca), secret }
    }

    /// Reads a token; spaces around it do not matter.
    pub fn parse(text: &str) -> Result<Self, NoToken> {
        let (ca, secret) = text.trim().strip_prefix(PREFIX).and_then(|rest| rest.split_once('.')).ok_or(NoToken)?;
        let is_hash = ca.len() == 64 && ca.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let is_secret = !secret.is_empty() && secret.bytes().all(|byte| byte.is_ascii_graphic());
        if is_hash && is_secret { Ok(Self { ca: ca.to_owned(), secret: secret.to_owned() }) } else { Err(NoToken) }
    }

    /// The token as its owner gets it.
    pub fn text(&self) -> String {
        format!("{PREFIX}{}.{}", self.ca, self.secret)
    }

    /// Whether it is for operators with this CA certificate (DER).
    pub fn trusts(&self, ca: &[u8]) -> bool {
        self.ca == fingerprint(ca)
    }

    /// What shows an operator that the token is right: a bearer token of its API.
    pub fn secret(&self) -> &str {
        &self.secret
    }
}

impl std::fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinToken").field("ca", &self.ca).finish_non_exhaustive()
    }
}

/// The SHA-256 of a certificate, in lower-case hexadecimal digits.
fn fingerprint(certificate: &[u8]) -> String {
    hex(&Sha256::digest(certificate), 64)
}

/// A token that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// How long it is valid.
    pub seconds: u32,
}

/// A new token. No `Debug`: it is a secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// The token; it is not shown again.
    pub token: String,
    /// The name of the Token object, to revoke it by.
    pub name: String,
    /// When it expires.
    pub expires: String,
    /// Where the next node reaches this operator.
    pub address: String,
}

/// A node that wants to join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joining {
    /// Its name.
    pub node: String,
    /// Where its member of etcd will be reached by the others. `None`: it asks for the files alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
}

/// What every operator over one store has: the text of each of [`FILES`]. No `Debug`: almost all of it is secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    /// The texts by the names of the files.
    pub files: BTreeMap<String, String>,
    /// The members of etcd with the one that was added, as etcd takes them: `NAME=URL,...`. Only for who asked with a `peer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<String>,
}

impl Bundle {
    /// The text of a file.
    pub fn text(&self, file: &str) -> Option<&str> {
        self.files.get(file).map(String::as_str)
    }

    /// What is wrong with it, if anything is.
    pub fn problem(&self) -> Option<String> {
        let odd = self.files.keys().find(|name| !FILES.contains(&name.as_str()));
        if let Some(name) = odd {
            return Some(format!("it sent the file {name:?}, which this version does not know"));
        }
        let missing = FILES.iter().find(|name| !OPTIONAL.contains(name) && self.text(name).is_none());
        missing.map(|name| format!("it sent no {name}"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_its_ca_and_is_read_as_it_was_written() {
        let token = JoinToken::new(b"the CA", "evk_0.s".to_owned());
        let text = token.text();
        assert_eq!(text, format!("EK1{}.evk_0.s", fingerprint(b"the CA")));
        assert_eq!(JoinToken::parse(&format!(" {text}\n")), Ok(token.clone()));
        assert!(token.trusts(b"the CA") && !token.trusts(b"another CA"));
        assert_eq!(token.secret(), "evk_0.s");
        assert!(!format!("{token:?}").contains("evk_0"), "nobody logs it by mistake");
    }

    #[test]
    fn what_is_no_token_is_told_so_and_not_repeated() {
        let hash = fingerprint(b"the CA");
        for text in [
            String::new(),
            "evk_0.s".to_owned(),
            format!("EK1{hash}"),
            format!("EK1{hash}."),
            format!("EK1{}.s", hash.to_uppercase()),
            format!("EK1{}.s", &hash[1..]),
            format!("EK2{hash}.s"),
            format!("EK1{hash}.s s"),
        ] {
            assert_eq!(JoinToken::parse(&text), Err(NoToken), "{text}");
        }
        assert!(NoToken.to_string().starts_with("this is no join token"));
    }

    #[test]
    fn a_bundle_has_all_files_and_no_others() {
        let bundle = |names: &[&str]| Bundle {
            files: names.iter().map(|n| ((*n).to_owned(), String::new())).collect(),
            members: None,
        };
        assert_eq!(bundle(&FILES).problem(), None);
        assert_eq!(bundle(&FILES[1..]).problem().unwrap(), "it sent no ca.crt");
        let odd = [&FILES[..], &["../etc/passwd"]].concat();
        assert!(bundle(&odd).problem().unwrap().starts_with("it sent the file \"../etc/passwd\""));
    }
}
