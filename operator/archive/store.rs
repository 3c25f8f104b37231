//! The client of a store: a few operations with time-outs, and failures with a kind. All keys are relative to the archive.

mod failure;
mod open;
mod ranges;
mod sealed;
mod upload;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
    UpdateVersion,
};

use crate::archive::access::{ArchiveAccess, StoreAccess};
use crate::archive::cipher::{BadIdentities, Cipher};
use crate::archive::store::failure::Speaker;
pub use crate::archive::store::failure::{Error, Kind};
pub use crate::archive::store::upload::Upload;

/// Time-out of one operation; of a read: until its next bytes.
const LIMIT: Duration = Duration::from_secs(30);
/// Deletions and uploads of parts at the same time.
const PARALLEL: usize = 8;
/// Folders of one level that are looked into.
const FOLDERS: usize = 1_000;
/// Bytes of an object that is compared: no WAL segment, encrypted or not, and no small object is larger.
const COMPARED: u64 = 2 << 30;

/// A store, or the folder of one archive in it. A clone costs little.
#[derive(Clone)]
pub struct Store {
    quick: Arc<dyn ObjectStore>,
    patient: Arc<dyn ObjectStore>,
    /// What every key begins with, without slashes at its ends.
    base: String,
    is_bucket: bool,
    probe: Probe,
    speaker: Speaker,
    cipher: Option<Cipher>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({}, {})", self.speaker.store, self.base)
    }
}

/// What was found out about a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// It refuses to replace an object when the request says so. Some stores ignore that part of a request.
    pub conditional: bool,
}

/// The result of [`Store::put_new`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It is stored.
    Written,
    /// The same content was there already.
    Same,
    /// Another content is there; it was left alone.
    Other,
}

/// An object in a list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// Its bytes.
    pub size: u64,
    /// Seconds since 1970 when it was written, by the store's clock.
    pub modified: i64,
}

/// What is known of an object without its content.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Head {
    /// Its bytes.
    pub size: u64,
    /// Identifies its content for [`Store::replace`].
    pub etag: Option<String>,
    /// What was stored with it. A directory keeps none.
    pub metadata: Vec<(String, String)>,
}

impl Head {
    /// The value of a name in the metadata.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.metadata.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

impl Store {
    /// Opens a store; connects to nothing.
    ///
    /// # Errors
    /// `Config`: the settings are unusable, or the keys: nothing is written in the clear instead. `NoBucket`: the directory does not
    /// exist.
    pub fn open(access: &StoreAccess) -> Result<Self, Error> {
        let open::Opened { quick, patient, prefix, is_bucket, mut speaker } = open::open(&access.store)?;
        let base = prefix.trim_matches('/').to_owned();
        let wrong = |bad: BadIdentities| speaker.fail(Kind::Config, "opening the store", format!("its keys: {bad}"));
        let cipher = access.encryption.as_ref().map(Cipher::try_from).transpose().map_err(wrong)?;
        speaker.secrets.extend(cipher.iter().flat_map(Cipher::secrets));
        Ok(Self { quick, patient, base, is_bucket, probe: Probe { conditional: true }, speaker, cipher })
    }

    /// Opens the archive of a cluster. Errors as [`Store::open`].
    pub fn open_archive(archive: &ArchiveAccess) -> Result<Self, Error> {
        Self::open(&archive.access).map(|store| store.at(&archive.path))
    }

    /// The folder `path` of this one.
    pub fn at(&self, path: &str) -> Self {
        let base = [self.base.as_str(), path.trim_matches('/')].into_iter().filter(|part| !part.is_empty());
        Self { base: base.collect::<Vec<_>>().join("/"), ..self.clone() }
    }

    /// The same store, of which this was found out.
    pub fn with(self, probe: Probe) -> Self {
        Self { probe, ..self }
    }

    /// Whether objects keep metadata: those of a directory do not.
    pub fn keeps_metadata(&self) -> bool {
        self.is_bucket
    }

    fn path(&self, key: &str) -> Path {
        Path::from(format!("{}/{key}", self.base))
    }

    /// Puts two different objects to one new key below `probe/`, with the condition that none is there, and deletes it.
    /// `name` makes the key unique.
    pub async fn probe(&self, name: &str) -> Result<Probe, Error> {
        let key = format!("probe/{name}");
        let created = async |bytes: &'static [u8]| {
            let (doing, path) = (format!("writing {key}"), self.path(&key));
            let put = self.quick.put_opts(&path, PutPayload::from_static(bytes), PutMode::Create.into());
            match within(&self.speaker, &doing, put).await? {
                Ok(_) => Ok(true),
                Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
                Err(error) => Err(self.speaker.explain(&doing, &error)),
            }
        };
        // This may already meet what an earlier probe of the same name has left.
        created(b"one").await?;
        let replaced = created(b"two").await?;
        self.delete(std::slice::from_ref(&key)).await?;
        Ok(Probe { conditional: !replaced })
    }

    /// Puts an object that must not replace another one. If there is one, `same` compares its content.
    ///
    /// A store that ignores the condition (see [`Store::with`]) is asked first; two writers at the same moment are not
    /// told apart then.
    pub async fn put_new(
        &self,
        key: &str,
        bytes: Bytes,
        metadata: &[(&str, String)],
        same: impl Fn(&[u8]) -> bool,
    ) -> Result<Put, Error> {
        let doing = format!("writing {key}");
        let mut again = false;
        loop {
            let there = match self.probe.conditional {
                true => false,
                false => self.head(key).await?.is_some(),
            };
            if !there {
                let mode = if self.probe.conditional { PutMode::Create } else { PutMode::Overwrite };
                match self.send(&doing, key, bytes.clone(), metadata, mode).await {
                    Ok(()) => return Ok(Put::Written),
                    Err(error) if error.kind == Kind::Conflict => {}
                    Err(error) => return Err(error),
                }
            }
            match self.get(key, COMPARED).await? {
                Some(found) if same(&found) => return Ok(Put::Same),
                Some(_) => return Ok(Put::Other),
                // A store may also answer so while another request writes or deletes that key.
                None if again => return Err(self.speaker.fail(Kind::Conflict, &doing, "it is there and it is not")),
                None => again = true,
            }
        }
    }

    /// Puts an object, also over another one.
    pub async fn put(&self, key: &str, bytes: Bytes) -> Result<(), Error> {
        self.send(&format!("writing {key}"), key, bytes, &[], PutMode::Overwrite).await
    }

    /// Puts an object over the one that `head` is of; `Conflict` if it is another one meanwhile. A store that ignores
    /// conditions does not tell.
    pub async fn replace(
        &self,
        key: &str,
        bytes: Bytes,
        metadata: &[(&str, String)],
        head: &Head,
    ) -> Result<(), Error> {
        let mode = match &head.etag {
            Some(etag) if self.is_bucket && self.probe.conditional => {
                PutMode::Update(UpdateVersion { e_tag: Some(etag.clone()), version: None })
            }
            _ => PutMode::Overwrite,
        };
        self.send(&format!("replacing {key}"), key, bytes, metadata, mode).await
    }

    async fn send(
        &self,
        doing: &str,
        key: &str,
        bytes: Bytes,
        metadata: &[(&str, String)],
        mode: PutMode,
    ) -> Result<(), Error> {
        let mut attributes = Attributes::new();
        for (name, value) in metadata.iter().filter(|_| self.is_bucket) {
            attributes.insert(Attribute::Metadata((*name).to_owned().into()), value.clone().into());
        }
        let options = PutOptions { mode, attributes, ..PutOptions::default() };
        let path = self.path(key);
        let put = self.quick.put_opts(&path, PutPayload::from(bytes), options);
        within(&self.speaker, doing, put).await?.map(drop).map_err(|error| self.speaker.explain(doing, &error))
    }

    /// The content of an object; `None` if there is none. `Broken` if it has more than `limit` bytes.
    pub async fn get(&self, key: &str, limit: u64) -> Result<Option<Bytes>, Error> {
        let found = self.fetch(&self.quick, key, GetOptions::default(), limit).await?;
        Ok(found.map(|(bytes, _)| bytes))
    }

    /// [`Store::get`] with what [`Store::head`] tells.
    pub async fn get_with_head(&self, key: &str, limit: u64) -> Result<Option<(Bytes, Head)>, Error> {
        self.fetch(&self.quick, key, GetOptions::default(), limit).await
    }

    /// A range of an object that exists. Tries for minutes. `Broken` if the object is shorter.
    pub async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, Error> {
        let (doing, length) = (format!("reading {key}"), range.end.saturating_sub(range.start));
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        let (bytes, _) = self.fetch(&self.patient, key, options, length).await?.ok_or_else(|| self.missing(key))?;
        match bytes.len() as u64 == length {
            true => Ok(bytes),
            false => Err(self.speaker.fail(Kind::Broken, &doing, "it is shorter than it was when it was written")),
        }
    }

    async fn fetch(
        &self,
        client: &Arc<dyn ObjectStore>,
        key: &str,
        options: GetOptions,
        limit: u64,
    ) -> Result<Option<(Bytes, Head)>, Error> {
        let doing = format!("reading {key}");
        let path = self.path(key);
        let got = match Arc::ptr_eq(client, &self.patient) && self.is_bucket {
            true => client.get_opts(&path, options).await,
            false => within(&self.speaker, &doing, client.get_opts(&path, options)).await?,
        };
        let got = match got {
            Ok(got) => got,
            Err(error) => {
                let error = self.speaker.explain(&doing, &error);
                return if error.kind == Kind::NotFound { Ok(None) } else { Err(error) };
            }
        };
        let head = head_of(&got);
        let large = || self.speaker.fail(Kind::Broken, &doing, format!("it has more than {limit} bytes"));
        if got.range.end.saturating_sub(got.range.start) > limit {
            return Err(large());
        }
        let mut stream = got.into_stream();
        let mut bytes = BytesMut::new();
        while let Some(chunk) = within(&self.speaker, &doing, stream.next()).await? {
            bytes.extend_from_slice(&chunk.map_err(|error| self.speaker.explain(&doing, &error))?);
            if bytes.len() as u64 > limit {
                return Err(large());
            }
        }
        Ok(Some((bytes.freeze(), head)))
    }

    /// What is known of an object; `None` if there is none.
    pub async fn head(&self, key: &str) -> Result<Option<Head>, Error> {
        let (doing, path) = (format!("asking for {key}"), self.path(key));
        let options = GetOptions { head: true, ..GetOptions::default() };
        match within(&self.speaker, &doing, self.quick.get_opts(&path, options)).await? {
            Ok(got) => Ok(Some(head_of(&got))),
            Err(error) => match self.speaker.explain(&doing, &error) {
                Error { kind: Kind::NotFound, .. } => Ok(None),
                error => Err(error),
            },
        }
    }

    /// The objects in this folder and below, in the order of their keys, at most `limit`; those after the key `after`
    /// if it is given. An empty folder: all of the archive.
    pub async fn list(&self, folder: &str, after: Option<&str>, limit: usize) -> Result<Vec<Listed>, Error> {
        let doing = format!("listing {folder}");
        let prefix = Path::from(format!("{}/{}", self.base, folder.trim_matches('/')));
        let (root, start) = (self.path("").to_string(), after.map(|after| self.path(after)));
        let mut listing = match &start {
            Some(start) => self.quick.list_with_offset(Some(&prefix), start),
            None => self.quick.list(Some(&prefix)),
        };
        let mut found = Vec::new();
        while let Some(object) = within(&self.speaker, &doing, listing.next()).await? {
            let object = object.map_err(|error| self.speaker.explain(&doing, &error))?;
            let whole = object.location.to_string();
            let Some(key) = whole.strip_prefix(&root) else { continue };
            let key = key.trim_start_matches('/').to_owned();
            // Not every store knows from where a list is wanted.
            if after.is_some_and(|after| key.as_str() <= after) {
                continue;
            }
            found.push(Listed { key, size: object.size, modified: object.last_modified.timestamp() });
            // A directory is read in the order of the disk.
            if self.is_bucket && found.len() >= limit {
                break;
            }
        }
        found.sort();
        found.truncate(limit);
        Ok(found)
    }

    /// The folders so many levels below this one, in order.
    pub async fn folders(&self, levels: usize) -> Result<Vec<String>, Error> {
        let mut found = vec![String::new()];
        for _ in 0..levels {
            let mut deeper = Vec::new();
            for folder in found {
                let (doing, prefix) = (format!("listing {folder}"), Path::from(format!("{}/{folder}", self.base)));
                let listed = within(&self.speaker, &doing, self.quick.list_with_delimiter(Some(&prefix))).await?;
                let listed = listed.map_err(|error| self.speaker.explain(&doing, &error))?;
                let names = listed.common_prefixes.iter().filter_map(|path| path.filename().map(str::to_owned));
                let parent = if folder.is_empty() { folder } else { format!("{folder}/") };
                deeper.extend(names.map(|name| format!("{parent}{name}")).take(FOLDERS));
            }
            found = deeper;
        }
        found.sort();
        Ok(found)
    }

    /// Deletes these objects, in no order. What does not exist is deleted.
    pub async fn delete(&self, keys: &[String]) -> Result<(), Error> {
        let deletions = futures::stream::iter(keys.to_vec()).map(|key| async move {
            let (doing, path) = (format!("deleting {key}"), self.path(&key));
            let deleted = within(&self.speaker, &doing, self.quick.delete(&path)).await?;
            match deleted.map_err(|error| self.speaker.explain(&doing, &error)) {
                Err(error) if error.kind != Kind::NotFound => Err(error),
                _ => Ok(()),
            }
        });
        deletions.buffer_unordered(PARALLEL).try_collect().await
    }

    /// Copies an object within the archive, also over another one.
    pub async fn copy(&self, from: &str, to: &str) -> Result<(), Error> {
        let (doing, source, target) = (format!("copying {from} to {to}"), self.path(from), self.path(to));
        let copied = within(&self.speaker, &doing, self.quick.copy(&source, &target)).await?;
        copied.map_err(|error| self.speaker.explain(&doing, &error))
    }

    /// Begins an object with content that is uploaded while it is made; `expected` is about its bytes. Its key is
    /// [`Store::content_key`].
    pub async fn upload(&self, key: &str, expected: u64) -> Result<Upload, Error> {
        self.begin(key, (expected, false)).await
    }

    /// The same with little memory, by one request at a time.
    pub async fn upload_lean(&self, key: &str, expected: u64) -> Result<Upload, Error> {
        self.begin(key, (expected, true)).await
    }

    async fn begin(&self, key: &str, size: (u64, bool)) -> Result<Upload, Error> {
        let key = self.content_key(key);
        let (doing, path) = (format!("uploading {key}"), self.path(&key));
        let begun = within(&self.speaker, &doing, self.patient.put_multipart(&path)).await?;
        let upload = begun.map_err(|error| self.speaker.explain(&doing, &error))?;
        let upload = Upload::new(upload, self.speaker.clone(), doing, size);
        match &self.cipher {
            None => Ok(upload),
            Some(cipher) => upload.sealed(cipher).await,
        }
    }

    /// The failure that there is no such object.
    pub fn missing(&self, key: &str) -> Error {
        self.speaker.fail(Kind::NotFound, &format!("reading {key}"), "it does not exist")
    }

    /// A failure of what this store holds.
    pub fn broken(&self, key: &str, said: &str) -> Error {
        self.speaker.fail(Kind::Broken, &format!("reading {key}"), said)
    }
}

async fn within<T>(speaker: &Speaker, doing: &str, work: impl Future<Output = T>) -> Result<T, Error> {
    let done = tokio::time::timeout(LIMIT, work).await;
    done.map_err(|_| speaker.fail(Kind::Unreachable, doing, format!("no answer within {} s", LIMIT.as_secs())))
}

fn head_of(got: &object_store::GetResult) -> Head {
    let metadata = got.attributes.iter().filter_map(|(name, value)| match name {
        Attribute::Metadata(name) => Some((name.to_string(), value.to_string())),
        _ => None,
    });
    Head { size: got.meta.size, etag: got.meta.e_tag.clone(), metadata: metadata.collect() }
}

#[cfg(test)]
mod tests;
