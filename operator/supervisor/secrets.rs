//! Credentials: stored in a file of mode 0600, and converted to SCRAM verifiers so that no server log ever
//! contains a password.

use std::fmt::Write as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use super::durable;
use super::place::Place;
use super::wire::Credentials;
use crate::api::hash::short_hash_of_parts;

/// RFC 5802 iterations, PostgreSQL's default.
const ITERATIONS: u32 = 4096;
/// The role that standbys use to stream, clone and rewind.
pub const REPLICATION_ROLE: &str = "evenkeel_replication";

/// Credentials with the verifiers that the server stores. `Debug` shows none.
#[derive(Clone)]
pub struct Secrets {
    /// As received.
    pub credentials: Credentials,
    /// Verifier of the application's owner.
    pub owner: String,
    /// Verifier of [`REPLICATION_ROLE`].
    pub replication: String,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secrets({})", self.credentials.hash)
    }
}

impl Secrets {
    /// Computes the verifiers. Their salts derive from the passwords, so that every member computes the same ones and a
    /// new leader finds them unchanged.
    pub fn new(credentials: Credentials) -> Self {
        let passwords = short_hash_of_parts([&credentials.replication_password, &credentials.owner_password], 16);
        let salt = |role: &str, password: &str| -> [u8; 16] {
            let mut hash = Sha256::new();
            for part in ["evenkeel salt", &passwords, role, password] {
                hash.update((part.len() as u64).to_be_bytes());
                hash.update(part);
            }
            let mut salt = [0; 16];
            salt.copy_from_slice(&hash.finalize()[..16]);
            salt
        };
        let owner = verifier(&credentials.owner_password, &salt("owner", &credentials.owner_password));
        let replication =
            verifier(&credentials.replication_password, &salt(REPLICATION_ROLE, &credentials.replication_password));
        Self { credentials, owner, replication }
    }

    /// The last saved credentials, if they are usable. A supervisor of the release before saved them without the
    /// certificates that it had got with them: without certificates the hash is not believed, and the operator sends all
    /// again.
    pub fn load(own: &Path) -> Option<Self> {
        let saved: Credentials = durable::read(&own.join("credentials.json"))?;
        let hash = if saved.tls.is_some() { saved.hash } else { String::new() };
        Some(Self::new(Credentials { hash, ..saved }))
    }

    /// Saves the credentials for the supervisor, and the password file for the server.
    pub fn save(&self, place: &Place) -> std::io::Result<()> {
        let own = place.own();
        durable::write(&own.join("credentials.json"), &serde_json::to_vec(&self.credentials)?)?;
        let pgpass = own.join("pgpass.tmp");
        durable::write(&pgpass, pgpass_line(&self.credentials.replication_password).as_bytes())?;
        std::os::unix::fs::chown(&pgpass, Some(place.uid.as_raw()), Some(place.gid.as_raw()))?;
        std::fs::rename(&pgpass, place.passfile())
    }
}

/// `host:port:database:user:password`, with `\` before `:` and `\`.
fn pgpass_line(password: &str) -> String {
    let mut line = format!("*:*:*:{REPLICATION_ROLE}:");
    for c in password.chars() {
        if matches!(c, ':' | '\\') {
            line.push('\\');
        }
        line.push(c);
    }
    line.push('\n');
    line
}

/// `SCRAM-SHA-256$<iterations>:<salt>$<stored key>:<server key>` (RFC 5803). Clients prepare a password by SASLprep before
/// they prove it, so the verifier is of the prepared one. Where SASLprep refuses a password, both sides take its bytes.
fn verifier(password: &str, salt: &[u8; 16]) -> String {
    let prepared = stringprep::saslprep(password).unwrap_or(password.into());
    let salted = salted_password(prepared.as_bytes(), salt);
    let stored_key = Sha256::digest(keyed(&salted, &[b"Client Key"]));
    let server_key = keyed(&salted, &[b"Server Key"]);
    let mut text = format!("SCRAM-SHA-256${ITERATIONS}:{}$", STANDARD.encode(salt));
    // Writing to a string cannot fail.
    let _ = write!(text, "{}:{}", STANDARD.encode(stored_key), STANDARD.encode(server_key));
    text
}

/// PBKDF2 with one block (RFC 5802's `Hi`).
fn salted_password(password: &[u8], salt: &[u8]) -> [u8; 32] {
    let mut last = keyed(password, &[salt, &[0, 0, 0, 1]]);
    let mut all = last;
    for _ in 1..ITERATIONS {
        last = keyed(password, &[&last]);
        for (sum, byte) in all.iter_mut().zip(last) {
            *sum ^= byte;
        }
    }
    all
}

fn keyed(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::wire::Tls;

    #[test]
    fn a_verifier_is_what_postgresql_computes() {
        // The value in postgres-protocol's own test for this password and salt.
        let salt = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
        assert_eq!(
            verifier("secret", &salt),
            "SCRAM-SHA-256$4096:AQIDBAUGBwgJCgsMDQ4PEA==$8rrDg00OqaiWXJ7p+sCgHEIaBSHY89ZJl3mfIsf32oY=:05L1f+yZbiN8O0AnO40Og85NNRhvzTS57naKRWCcsIA="
        );
    }

    /// Regression 116: a password from a user's Secret was hashed as its bytes, but libpq prepares it by SASLprep first. A
    /// password with a ligature or a no-break space never logged in.
    #[test]
    fn a_password_is_prepared_as_clients_prepare_it() {
        let salt = [7; 16];
        assert_eq!(verifier("\u{fb01}le\u{a0}1", &salt), verifier("file 1", &salt));
        assert_eq!(verifier("I\u{ad}X", &salt), verifier("IX", &salt));
        // SASLprep refuses a control character: the bytes count.
        assert_ne!(verifier("\u{7}\u{fb01}", &salt), verifier("\u{7}fi", &salt));
    }

    /// Regression 102: certificates became part of the credentials' hash, from which the salts derived, so each renewal of
    /// certificates wrote both roles anew. The salts are of the passwords only, and those of version 0.1.0.
    #[test]
    fn every_member_computes_the_same_verifiers_whatever_the_certificates_are() {
        let word = |word: &str| word.to_owned();
        let tls = |hash: &str| Tls {
            hash: word(hash),
            ca: word("ca"),
            client_ca: word("ca"),
            server_cert: word(hash),
            server_key: word("k"),
            client_cert: word(hash),
            client_key: word("k"),
        };
        let computed = |owner: &str, tls: Option<Tls>| {
            let hash = format!("of {owner} and {:?}", tls.as_ref().map(|tls| &tls.hash));
            let (replication_password, owner_password) = (word("r"), word(owner));
            let secrets = Secrets::new(Credentials { hash, replication_password, owner_password, tls });
            (secrets.owner, secrets.replication)
        };
        let renewed = [None, Some(tls("one")), Some(tls("two"))].map(|tls| computed("o", tls));
        assert!(renewed.iter().all(|one| one == &renewed[0]), "{renewed:?}");
        assert_ne!(renewed[0].0, renewed[0].1);
        assert_ne!(renewed[0].0, computed("other", None).0);
        assert!(renewed[0].0.starts_with("SCRAM-SHA-256$4096:9HaacU/khaswWtlOSRyPYA==$"), "{}", renewed[0].0);
    }

    #[test]
    fn colons_and_backslashes_of_a_password_are_escaped() {
        assert_eq!(pgpass_line(r"a:b\c"), "*:*:*:evenkeel_replication:a\\:b\\\\c\n");
    }

    /// Regression 135: an update to a supervisor with TLS stopped at the first standby. Its old supervisor had saved the
    /// hash of the credentials but not the certificates in them, so the operator saw no need to send them.
    #[test]
    fn credentials_that_were_saved_without_certificates_are_asked_for_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let saved = r#"{"hash": "h1", "replicationPassword": "r", "ownerPassword": "o"}"#;
        std::fs::write(folder.path().join("credentials.json"), saved).expect("a file");
        let credentials = Secrets::load(folder.path()).expect("credentials").credentials;
        assert_eq!((credentials.hash.as_str(), credentials.owner_password.as_str()), ("", "o"));
    }

    #[test]
    fn debug_shows_no_password() {
        let word = |word: &str| word.to_owned();
        let tls = Tls {
            hash: word("h2"),
            ca: word("ca"),
            client_ca: word("ca"),
            server_cert: word("sss"),
            server_key: word("kkk"),
            client_cert: word("ccc"),
            client_key: word("lll"),
        };
        assert_eq!(format!("{tls:?}"), "Tls(h2)");
        let credentials = Credentials {
            hash: word("h1"),
            replication_password: word("rrr"),
            owner_password: word("ooo"),
            tls: Some(tls),
        };
        assert_eq!(format!("{:?}", Secrets::new(credentials)), "Secrets(h1)");
    }
}
