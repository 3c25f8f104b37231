//! This program's own binary on a host: a volume named by the binary's hash, filled once through the archive API.
//!
//! The archive API writes only through a container, so a helper is made of any
//! image at hand; it never starts. The binary goes up first, a marker last: a volume
//! without the marker was left in the middle and is filled again.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bollard::body_try_stream;
use bollard::models::{ContainerCreateBody, HostConfig, Mount, MountType};
use bollard::query_parameters::{
    ContainerArchiveInfoOptionsBuilder, CreateContainerOptionsBuilder, UploadToContainerOptionsBuilder,
};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;
use tokio_util::io::ReaderStream;

use super::super::{BINARY_DIR, Error, VolumeSpec};
use super::{ANSWER, DockerEngine};
use crate::api::hash::hex;
use crate::api::labels::Owner;

/// Kind in the owner labels of what injection makes; no object of that kind exists.
const KIND: &str = "Binary";
const MARKER: &str = ".complete";
/// Tens of megabytes, to a host that may be far.
const UPLOAD: Duration = Duration::from_secs(300);
/// Two operators that fill the same volume take the helper away under each other; more often than this is no race.
const ATTEMPTS: usize = 3;

/// A binary to inject, and its hash once somebody asked.
pub struct OwnBinary {
    path: PathBuf,
    hash: OnceCell<String>,
}

impl OwnBinary {
    /// The running program, even if its file has been replaced since.
    pub fn running() -> Self {
        Self::at("/proc/self/exe")
    }

    /// The program at `path`; for tests, whose own binary is another.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), hash: OnceCell::new() }
    }

    /// The first 12 hex digits of its SHA-256.
    async fn hash(&self) -> std::io::Result<&str> {
        let hash = self.hash.get_or_try_init(|| async {
            let path = self.path.clone();
            tokio::task::spawn_blocking(move || hash_file(&path)).await.map_err(std::io::Error::other)?
        });
        hash.await.map(String::as_str)
    }
}

fn hash_file(path: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut file = std::fs::File::open(path)?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&digest.finalize(), 12)),
            length => digest.update(&buffer[..length]),
        }
    }
}

/// The state of injection on one host.
pub(super) struct Injection {
    binary: Arc<OwnBinary>,
    /// Held while filling; `true` once this process has seen the volume complete.
    complete: tokio::sync::Mutex<bool>,
    /// The name of the volume while it is known to be complete.
    volume: std::sync::Mutex<Option<String>>,
}

impl Injection {
    pub(super) fn new(binary: Arc<OwnBinary>) -> Self {
        Self { binary, complete: tokio::sync::Mutex::new(false), volume: std::sync::Mutex::default() }
    }

    /// The name of the volume, if it is known to be complete.
    pub(super) fn volume(&self) -> Option<String> {
        self.volume.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    fn set_volume(&self, volume: Option<String>) {
        *self.volume.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = volume;
    }
}

impl DockerEngine {
    pub(super) async fn binary_ensured(&self, image: &str) -> Result<String, Error> {
        let doing = "putting the evenkeel binary on it";
        let hash = self.binary.binary.hash().await.map_err(|error| self.own_file(doing, &error))?;
        let volume = format!("evenkeel-bin-{hash}");
        let mut complete = self.binary.complete.lock().await;
        // Someone may have pruned it, and Docker would make an empty one in its place.
        if *complete && self.volume_named(&volume, doing).await?.is_some() {
            return Ok(volume);
        }
        *complete = false;
        self.binary.set_volume(None);
        let owner = Owner { kind: KIND.to_owned(), namespace: String::new(), name: hash.to_owned() };
        self.volume_ensured(&VolumeSpec { name: volume.clone(), labels: owner.labels() }).await?;
        let mut attempt = 1;
        while let Err(error) = self.fill(&volume, &owner.labels(), image, doing).await {
            if !matches!(error, Error::NotFound { .. }) || attempt == ATTEMPTS || !self.image_present(image).await? {
                return Err(error);
            }
            attempt += 1;
        }
        *complete = true;
        self.binary.set_volume(Some(volume.clone()));
        Ok(volume)
    }

    async fn fill(
        &self,
        volume: &str,
        labels: &BTreeMap<String, String>,
        image: &str,
        doing: &str,
    ) -> Result<(), Error> {
        let helper = format!("{volume}-fill");
        self.make_helper(&helper, volume, labels, image, doing).await?;
        let filled = async {
            if self.is_complete(&helper, doing).await? {
                return Ok(());
            }
            tracing::info!(host = &*self.host, volume, "putting the evenkeel binary on the host");
            self.upload_binary(&helper, doing).await?;
            self.upload(&helper, stream::once(async { Ok(archive_of_marker()) }), doing).await
        };
        let filled = filled.await;
        // A helper that stays behind does no harm; the next fill uses it.
        if let Err(error) = self.container_removed(&helper).await {
            tracing::debug!(host = &*self.host, helper, %error, "the helper container stays behind");
        }
        filled
    }

    /// Makes the helper, or takes the one that is there: all of one name are alike.
    async fn make_helper(
        &self,
        helper: &str,
        volume: &str,
        labels: &BTreeMap<String, String>,
        image: &str,
        doing: &str,
    ) -> Result<(), Error> {
        let options = CreateContainerOptionsBuilder::default().name(helper).build();
        let body = ContainerCreateBody {
            image: Some(image.to_owned()),
            entrypoint: Some(vec![super::super::BINARY.to_owned()]),
            labels: Some(labels.clone().into_iter().collect::<HashMap<_, _>>()),
            network_disabled: Some(true),
            host_config: Some(HostConfig {
                mounts: Some(vec![Mount {
                    typ: Some(MountType::VOLUME),
                    source: Some(volume.to_owned()),
                    target: Some(BINARY_DIR.to_owned()),
                    volume_options: Some(bollard::models::MountVolumeOptions {
                        no_copy: Some(true),
                        ..Default::default()
                    }),
                    ..Default::default()
                }]),
                ..Default::default()
            }),
            ..Default::default()
        };
        match self.call(doing, ANSWER, |docker| docker.create_container(Some(options), body)).await {
            Ok(_) | Err(Error::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn is_complete(&self, helper: &str, doing: &str) -> Result<bool, Error> {
        let path = format!("{BINARY_DIR}/{MARKER}");
        let options = ContainerArchiveInfoOptionsBuilder::default().path(&path).build();
        match self.call(doing, ANSWER, |docker| docker.get_container_archive_info(helper, Some(options))).await {
            Ok(_) => Ok(true),
            // The file or the helper; a missing helper shows at the upload.
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn upload_binary(&self, helper: &str, doing: &str) -> Result<(), Error> {
        let opened = async {
            let file = tokio::fs::File::open(&self.binary.binary.path).await?;
            let length = file.metadata().await?.len();
            Ok((file, length))
        };
        let (file, length) = opened.await.map_err(|error| self.own_file(doing, &error))?;
        let head = stream::once(async move { Ok(header("evenkeel", length, 0o755)) });
        let tail = stream::once(async move { Ok(ending(length)) });
        let file = ReaderStream::with_capacity(file, 256 * 1024);
        self.upload(helper, head.chain(file).chain(tail), doing).await
    }

    async fn upload(
        &self,
        helper: &str,
        archive: impl futures::Stream<Item = std::io::Result<Bytes>> + Send + 'static,
        doing: &str,
    ) -> Result<(), Error> {
        let options = UploadToContainerOptionsBuilder::default().path(BINARY_DIR).build();
        self.call(doing, UPLOAD, |docker| docker.upload_to_container(helper, Some(options), body_try_stream(archive)))
            .await
    }

    fn own_file(&self, doing: &str, error: &std::io::Error) -> Error {
        Error::refused(&self.host, doing, format!("{}: {error}", self.binary.binary.path.display()))
    }
}

/// A tar header of a file of root's.
fn header(name: &str, length: u64, mode: u32) -> Bytes {
    let mut header = tar::Header::new_ustar();
    header.set_path(name).expect("the name is short");
    header.set_size(length);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    Bytes::copy_from_slice(header.as_bytes())
}

/// Padding of a last file of this length, and the end of a tar archive.
fn ending(length: u64) -> Bytes {
    let padding = (512 - (length % 512) as usize) % 512;
    Bytes::from(vec![0; padding + 1024])
}

fn archive_of_marker() -> Bytes {
    Bytes::from([header(MARKER, 0, 0o444), ending(0)].concat())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn the_archive_is_one_a_tar_reader_understands() {
        let content = vec![7; 700];
        let archive = [header("evenkeel", 700, 0o755).as_ref(), &content, &ending(700)].concat();
        assert_eq!(archive.len() % 512, 0);
        let mut reader = tar::Archive::new(archive.as_slice());
        let mut entries = reader.entries().unwrap();
        let mut entry = entries.next().unwrap().unwrap();
        assert_eq!((entry.path().unwrap().to_str(), entry.header().mode().unwrap()), (Some("evenkeel"), 0o755));
        let mut read = Vec::new();
        entry.read_to_end(&mut read).unwrap();
        assert_eq!(read, content);
        assert!(entries.next().is_none());
        assert_eq!(tar::Archive::new(archive_of_marker().as_ref()).entries().unwrap().count(), 1);
    }

    #[tokio::test]
    async fn the_hash_is_that_of_the_content() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "abc").unwrap();
        assert_eq!(OwnBinary::at(file.path()).hash().await.unwrap(), "ba7816bf8f01");
    }
}
