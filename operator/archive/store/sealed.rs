//! Objects with content of a database: encrypted, with names in `.age`, where the archive has keys.
//!
//! One archive may have both forms: encryption was switched on or off later. The name of an object says which form it has.

use bytes::Bytes;

use crate::archive::cipher::{Cipher, Closed, HEADER, METADATA, is_fingerprint};
use crate::archive::names::{is_sealed, sealed};
use crate::archive::store::Store;
use crate::archive::store::failure::{Error, Kind};

impl Store {
    /// The keys; `None`: nothing is encrypted.
    pub fn cipher(&self) -> Option<&Cipher> {
        self.cipher.as_ref()
    }

    /// The key under which this store writes an object with content.
    pub fn content_key(&self, key: &str) -> String {
        match &self.cipher {
            Some(_) => sealed(key),
            None => key.to_owned(),
        }
    }

    /// Writes content, also over an object of that key; what is stored.
    pub async fn put_content(&self, key: &str, content: Bytes) -> Result<Bytes, Error> {
        let (key, stored) = (self.content_key(key), self.seal(key, content).await?);
        self.put(&key, stored.clone()).await?;
        Ok(stored)
    }

    /// The content of an object in either form, and the form: `true` for the encrypted one; `None` if there is none in any. That form is
    /// asked for first.
    pub async fn get_content(&self, key: &str, limit: u64, first: bool) -> Result<Option<(Bytes, bool)>, Error> {
        for is_sealed in [first, !first] {
            let key = if is_sealed { sealed(key) } else { key.to_owned() };
            // Each part of an age file has a tag.
            let limit = if is_sealed { limit + limit / 4096 + HEADER } else { limit };
            if let Some((stored, head)) = self.get_with_head(&key, limit).await? {
                let opened = self.unseal(&key, stored).await;
                // The metadata has the fingerprint of the key that is missing.
                if opened.as_ref().is_err_and(|error| error.kind == Kind::KeyMissing) {
                    self.opens(&key, head.value(METADATA).filter(|text| is_fingerprint(text)))?;
                }
                return Ok(Some((opened?, is_sealed)));
            }
        }
        Ok(None)
    }

    /// Content as this store keeps it.
    pub async fn seal(&self, key: &str, content: Bytes) -> Result<Bytes, Error> {
        let Some(cipher) = self.cipher.clone() else { return Ok(content) };
        let failed = |said: String| self.speaker.fail(Kind::Config, &format!("encrypting {key}"), said);
        let work = tokio::task::spawn_blocking(move || cipher.seal(&content)).await;
        let sealed = work.map_err(|panic| failed(panic.to_string()))?;
        sealed.map(Bytes::from).map_err(|error| failed(error.to_string()))
    }

    /// The content of a stored object with this key.
    pub async fn unseal(&self, key: &str, stored: Bytes) -> Result<Bytes, Error> {
        if !is_sealed(key) {
            return Ok(stored);
        }
        let (store, owned) = (self.clone(), key.to_owned());
        let work = tokio::task::spawn_blocking(move || store.unsealed(&owned, &stored)).await;
        work.map_err(|panic| self.broken(key, &panic.to_string()))?
    }

    /// The same at once, for a caller that may wait for the processor.
    pub fn unsealed(&self, key: &str, stored: &[u8]) -> Result<Bytes, Error> {
        match (is_sealed(key), &self.cipher) {
            (false, _) => Ok(Bytes::copy_from_slice(stored)),
            (true, Some(cipher)) => cipher.open(stored).map(Bytes::from).map_err(|closed| self.closed(key, &closed)),
            (true, None) => Err(self.no_key(key)),
        }
    }

    /// Whether what was encrypted for the key with this fingerprint can be read; `None`: it was not encrypted.
    ///
    /// # Errors
    /// `KeyMissing`, with the fingerprints.
    pub fn opens(&self, key: &str, fingerprint: Option<&str>) -> Result<(), Error> {
        let Some(needed) = fingerprint else { return Ok(()) };
        let given = self.cipher.as_ref().map(Cipher::fingerprints).unwrap_or_default();
        if given.iter().any(|known| known == needed) {
            return Ok(());
        }
        let given = match given {
            [] => "no key was given".to_owned(),
            some => format!("those that were given have {}", some.join(", ")),
        };
        let said = format!("it is encrypted for the key with the fingerprint {needed}, and {given}");
        Err(self.speaker.fail(Kind::KeyMissing, &format!("reading {key}"), said))
    }

    /// The failure that an object cannot be decrypted.
    pub fn closed(&self, key: &str, closed: &Closed) -> Error {
        let kind = match closed {
            Closed::OtherKey(_) => Kind::KeyMissing,
            Closed::Damaged(_) => Kind::Broken,
        };
        self.speaker.fail(kind, &format!("reading {key}"), closed.to_string())
    }

    /// The failure that an object is encrypted, and there is no key.
    pub fn no_key(&self, key: &str) -> Error {
        self.speaker.fail(Kind::KeyMissing, &format!("reading {key}"), "it is encrypted, and no key was given")
    }
}
