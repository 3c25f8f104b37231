//! Injection of this program into a host: a volume named by the identity of its part in containers, filled
//! once through the archive API.
//!
//! The archive API writes only through a container, so a helper container is created from any available image; it is
//! never started. The program is uploaded first, a marker file last: a volume without the marker is incomplete and is
//! filled again. Volumes of other identities are removed when no container uses them any more.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bollard::body_try_stream;
use bollard::models::{ContainerCreateBody, HostConfig, HostConfigLogConfig, Mount, MountType, Volume};
use bollard::query_parameters::{
    ContainerArchiveInfoOptionsBuilder, CreateContainerOptionsBuilder, ListVolumesOptionsBuilder,
    UploadToContainerOptionsBuilder,
};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use tokio_util::io::ReaderStream;

use super::super::{BINARY_DIR, Error, VolumeSpec};
use super::{ANSWER, DockerEngine};
use crate::CONTAINER_IDENTITY;
use crate::api::labels::{self, Owner};
use crate::api::sync::lock;

/// Kind in the owner labels of the helper and the volume; no object of that kind exists.
const KIND: &str = "Binary";
const MARKER: &str = ".complete";
/// Timeout of the upload: tens of megabytes, perhaps to a distant host.
const UPLOAD: Duration = Duration::from_secs(300);
/// Attempts at filling. Two operators that fill the same volume remove each other's helper; further failures
/// have another cause.
const ATTEMPTS: usize = 3;
/// Grace for an unused volume of another identity: another operator on the host may be about to use it.
const GRACE: Duration = Duration::from_secs(3600);

/// The program to inject.
pub struct OwnBinary {
    path: PathBuf,
    identity: String,
    /// Only old, unused volumes of this family are removed; stored as the namespace in their labels.
    family: String,
    grace: Duration,
}

impl OwnBinary {
    /// The running program, even if its file has been replaced since.
    pub fn running() -> Self {
        Self::at("/proc/self/exe", CONTAINER_IDENTITY)
    }

    /// The program at `path` with this identity in containers; for tests, where the running program is the test itself.
    pub fn at(path: impl Into<PathBuf>, identity: &str) -> Self {
        Self { path: path.into(), identity: identity.to_owned(), family: String::new(), grace: GRACE }
    }

    /// Uses a separate family of volumes, and no grace for old ones; for tests.
    pub fn in_family(self, family: &str) -> Self {
        Self { family: family.to_owned(), grace: Duration::ZERO, ..self }
    }

    fn volume(&self) -> String {
        format!("evenkeel-bin-{}", self.identity)
    }

    fn owner(&self) -> Owner {
        Owner { kind: KIND.to_owned(), namespace: self.family.clone(), name: self.identity.clone() }
    }
}

/// The state of injection on one host.
pub(super) struct Injection {
    binary: Arc<OwnBinary>,
    /// Locked while filling; `true` once this process has seen the volume complete.
    complete: tokio::sync::Mutex<bool>,
    /// Whether there are volumes of other identities that could not be removed yet.
    old_ones_left: AtomicBool,
    /// The name of the volume while it is known to be complete.
    volume: std::sync::Mutex<Option<String>>,
}

impl Injection {
    pub(super) fn new(binary: Arc<OwnBinary>) -> Self {
        Self {
            binary,
            complete: tokio::sync::Mutex::new(false),
            old_ones_left: AtomicBool::new(false),
            volume: std::sync::Mutex::default(),
        }
    }

    /// The name of the volume, if it is known to be complete.
    pub(super) fn volume(&self) -> Option<String> {
        lock(&self.volume).clone()
    }

    fn set_volume(&self, volume: Option<String>) {
        *lock(&self.volume) = volume;
    }
}

impl DockerEngine {
    pub(super) async fn binary_ensured(&self, image: &str) -> Result<String, Error> {
        let doing = "putting the evenkeel binary on it";
        let (volume, owner) = (self.binary.binary.volume(), self.binary.binary.owner());
        let mut complete = self.binary.complete.lock().await;
        // The volume may have been pruned, and then Docker would create an empty one.
        let there = self.volume_named(&volume, doing).await?;
        let ours = there.as_ref().is_some_and(|there| self.volume_of(&owner.labels(), there, doing).is_ok());
        if *complete && ours {
            return Ok(volume);
        }
        *complete = false;
        self.binary.set_volume(None);
        if there.is_some_and(|there| there.labels.is_empty()) {
            // Docker made it, empty, for a container that was created just when the volume had been pruned. It refuses to
            // remove a volume that is in use.
            self.volume_removed(&volume).await?;
        }
        self.volume_ensured(&VolumeSpec { name: volume.clone(), labels: owner.labels() }).await?;
        let mut attempt = 1;
        while let Err(error) = self.fill(&volume, &owner.labels(), image, doing).await {
            // Another process that fills the same volume may have removed the helper, also during an upload.
            let helper_lost = matches!(error, Error::NotFound { .. } | Error::Refused { .. });
            if !helper_lost || attempt == ATTEMPTS || !self.image_present(image).await? {
                return Err(error);
            }
            attempt += 1;
        }
        *complete = true;
        self.binary.set_volume(Some(volume.clone()));
        self.remove_old_binaries();
        Ok(volume)
    }

    /// Called when a container was removed: it may have been the last one that used an old volume.
    pub(super) fn container_gone(&self) {
        if self.binary.old_ones_left.swap(false, Ordering::Relaxed) {
            self.remove_old_binaries();
        }
    }

    /// Removes unused volumes of other identities, in the background.
    fn remove_old_binaries(&self) {
        let engine = self.clone();
        tokio::spawn(async move {
            let all_gone = engine.old_binaries_removed().await.unwrap_or_else(|error| {
                tracing::debug!(host = &*engine.host, %error, "old volumes with the evenkeel binary stay for now");
                false
            });
            engine.binary.old_ones_left.store(!all_gone, Ordering::Relaxed);
        });
    }

    /// Whether all old volumes were removed.
    async fn old_binaries_removed(&self) -> Result<bool, Error> {
        let doing = "removing old volumes with the evenkeel binary";
        let filters = HashMap::from([("label".to_owned(), vec![format!("{}={KIND}", labels::KIND)])]);
        let options = ListVolumesOptionsBuilder::default().filters(&filters).build();
        let found = self.call(doing, ANSWER, |docker| docker.list_volumes(Some(options))).await?;
        let OwnBinary { family, grace, .. } = &*self.binary.binary;
        let old = others(found.volumes.unwrap_or_default(), family, &self.binary.binary.volume());
        if old.is_empty() {
            return Ok(true);
        }
        // By the host's own clock, which also set the creation times of the volumes.
        let now = self.call(doing, ANSWER, |docker| docker.info()).await?.system_time;
        let now: Option<Timestamp> = now.and_then(|now| now.parse().ok());
        let mut all_gone = true;
        for (volume, made) in old {
            let due = made.zip(now).is_some_and(|(made, now)| now.duration_since(made).unsigned_abs() >= *grace);
            // Docker refuses to remove a volume that a container mounts, running or not.
            all_gone &= due && self.volume_removed(&volume).await.is_ok();
        }
        Ok(all_gone)
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
        // A remaining helper does no harm; the next fill uses it.
        if let Err(error) = self.container_removed(&helper).await {
            tracing::debug!(host = &*self.host, helper, %error, "the helper container stays behind");
        }
        filled
    }

    /// Creates the helper, or uses the existing one: all helpers with the same name are equal.
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
                // It is never started.
                log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
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
            // The file or the helper is missing; a missing helper shows at the upload.
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

/// The volumes of the family except ours, each with its creation time.
fn others(volumes: Vec<Volume>, family: &str, ours: &str) -> Vec<(String, Option<Timestamp>)> {
    let of_the_family = |volume: &Volume| volume.labels.get(labels::NAMESPACE).is_some_and(|found| found == family);
    let volumes = volumes.into_iter().filter(|volume| of_the_family(volume) && volume.name != ours);
    volumes.map(|volume| (volume.name, volume.created_at.and_then(|made| made.parse().ok()))).collect()
}

/// A tar header of a file that root owns.
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

/// Padding after a last file of this length, and the end of a tar archive.
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

    #[test]
    fn old_volumes_are_those_of_the_family_but_ours() {
        let volume = |name: &str, family: &str| Volume {
            name: name.to_owned(),
            labels: HashMap::from([(labels::NAMESPACE.to_owned(), family.to_owned())]),
            created_at: Some("2026-11-28T05:00:00+01:00".to_owned()),
            ..Volume::default()
        };
        let volumes =
            vec![volume("evenkeel-bin-1", ""), volume("evenkeel-bin-2", ""), volume("evenkeel-bin-3", "test")];
        let made = "2026-11-28T04:00:00Z".parse().ok();
        assert_eq!(others(volumes, "", "evenkeel-bin-2"), [("evenkeel-bin-1".to_owned(), made)]);
    }
}
