//! Injection of this program into a host: a volume named by the identity of its part in containers, filled
//! once through the archive API.
//!
//! The archive API writes only through a container, so a helper container is created from any available image; it is
//! never started. The program is uploaded first, a marker file last: a volume without the marker is incomplete and is
//! filled again. Volumes of other identities are removed when no container uses them any more.
//!
//! The program runs as root in every database, so what is in the volume is not believed: each operator reads it once and
//! compares its SHA-256 with its own program and with the label of the volume, which no container can change (another build
//! of the same identity may have filled it). Anything else is replaced, and no container may be able to write it. It is read
//! again when a container could not start it.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bollard::body_try_stream;
use bollard::models::{ContainerCreateBody, HostConfig, HostConfigLogConfig, Mount, MountPoint, MountType, Volume};
use bollard::query_parameters::{
    ContainerArchiveInfoOptionsBuilder, CreateContainerOptionsBuilder, DownloadFromContainerOptionsBuilder,
    ListContainersOptionsBuilder, ListVolumesOptionsBuilder, UploadToContainerOptionsBuilder,
};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio_util::io::{ReaderStream, StreamReader};

use super::super::{BINARY_DIR, Error, VolumeSpec};
use super::{ANSWER, DockerEngine};
use crate::CONTAINER_IDENTITY;
use crate::api::hash::hex;
use crate::api::labels::{self, Owner};
use crate::api::sync::lock;

/// Kind in the owner labels of the helper and the volume; no object of that kind exists.
const KIND: &str = "Binary";
const MARKER: &str = ".complete";
/// Label of the volume: the SHA-256 of the program that its maker puts into it.
const DIGEST: &str = "evenkeel.dev/sha256";
/// The name of the program in the volume.
const PROGRAM: &str = "evenkeel";
/// Most bytes of extended headers before a file.
const HEADERS: u64 = 64 * 1024;
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

    /// The SHA-256 of the program.
    async fn digest(&self) -> io::Result<String> {
        let mut file = tokio::fs::File::open(&self.path).await?;
        let length = file.metadata().await?.len();
        sha256(&mut file, length).await
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
    /// A container could not start the program in it, so it is read again.
    doubted: AtomicBool,
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
            doubted: AtomicBool::new(false),
            old_ones_left: AtomicBool::new(false),
            volume: std::sync::Mutex::default(),
        }
    }

    /// The name of the volume, if it is known to be complete.
    pub(super) fn volume(&self) -> Option<String> {
        lock(&self.volume).clone()
    }

    /// The volume is not known to be complete any more.
    pub(super) fn doubt(&self) {
        self.doubted.store(true, Ordering::Relaxed);
        self.set_volume(None);
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
        let doubted = self.binary.doubted.swap(false, Ordering::Relaxed);
        if *complete && ours && !doubted {
            return Ok(volume);
        }
        *complete = false;
        self.binary.set_volume(None);
        if there.is_some_and(|there| there.labels.is_empty()) {
            // Docker made it, empty, for a container that was created just when the volume had been pruned. It refuses to
            // remove a volume that is in use.
            self.volume_removed(&volume).await?;
        }
        let own = self.binary.binary.digest().await.map_err(|error| self.own_file(doing, &error))?;
        let mut labels = owner.labels();
        labels.insert(DIGEST.to_owned(), own.clone());
        self.volume_ensured(&VolumeSpec { name: volume.clone(), labels }).await?;
        let there = self.volume_named(&volume, doing).await?;
        let recorded = there.and_then(|there| there.labels.get(DIGEST).cloned());
        let trusted: Vec<String> = recorded.into_iter().chain([own]).collect();
        let mut attempt = 1;
        while let Err(error) = self.fill(&volume, &owner.labels(), &trusted, image, doing).await {
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
        trusted: &[String],
        image: &str,
        doing: &str,
    ) -> Result<(), Error> {
        let helper = format!("{volume}-fill");
        self.nobody_writes(volume, &helper, doing).await?;
        self.make_helper(&helper, volume, labels, image, doing).await?;
        let filled = async {
            if self.is_complete(&helper, doing).await? {
                if trusted.contains(&self.digest_there(&helper, doing).await?) {
                    return Ok(());
                }
                tracing::error!(
                    host = &*self.host,
                    volume,
                    "the evenkeel binary on the host was changed; it is replaced"
                );
            }
            tracing::info!(host = &*self.host, volume, "putting the evenkeel binary on the host");
            self.upload_binary(&helper, doing).await?;
            if !trusted.contains(&self.digest_there(&helper, doing).await?) {
                let message = format!("the program in volume {volume} was changed while it was copied");
                return Err(Error::refused(&self.host, doing, message));
            }
            self.upload(&helper, stream::once(async { Ok(archive_of_marker()) }), doing).await
        };
        let filled = filled.await;
        // A remaining helper does no harm; the next fill uses it.
        if let Err(error) = self.container_removed(&helper).await {
            tracing::debug!(host = &*self.host, helper, %error, "the helper container stays behind");
        }
        filled
    }

    /// [`Error::Conflict`] if a container other than the helper can write to the volume.
    async fn nobody_writes(&self, volume: &str, helper: &str, doing: &str) -> Result<(), Error> {
        let filters = HashMap::from([("volume".to_owned(), vec![volume.to_owned()])]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let found = self.call(doing, ANSWER, |docker| docker.list_containers(Some(options))).await?;
        let writes = |mounts: Option<Vec<MountPoint>>| {
            let is_it = |mount: &MountPoint| mount.name.as_deref() == Some(volume) && mount.rw != Some(false);
            mounts.into_iter().flatten().any(|mount| is_it(&mount))
        };
        let names = found.into_iter().filter_map(|one| {
            let name = one.names?.into_iter().next()?.trim_start_matches('/').to_owned();
            (name != helper && writes(one.mounts)).then_some(name)
        });
        let Some(name) = names.into_iter().next() else { return Ok(()) };
        let message = format!("container {name} can write to volume {volume}, whose program runs as root; remove it");
        Err(Error::conflict(&self.host, doing, message))
    }

    /// The SHA-256 of the program in the volume; empty if that is not a file.
    async fn digest_there(&self, helper: &str, doing: &str) -> Result<String, Error> {
        let options = DownloadFromContainerOptionsBuilder::default().path(&format!("{BINARY_DIR}/{PROGRAM}")).build();
        let body = self.client(doing).await?.download_from_container(helper, Some(options));
        let body = Box::pin(body.map_err(|error| match error {
            bollard::errors::Error::DockerResponseServerError { status_code: 404, .. } => {
                io::ErrorKind::NotFound.into()
            }
            error => io::Error::other(error),
        }));
        match tokio::time::timeout(UPLOAD, digest_in_archive(&mut StreamReader::new(body))).await {
            Ok(Ok(digest)) => Ok(digest),
            // The program is missing, unless another process has removed the helper.
            Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
                let there = self.call(doing, ANSWER, |docker| docker.inspect_container(helper, None)).await;
                there.map(|_| String::new())
            }
            Ok(Err(error)) => Err(Error::refused(&self.host, doing, format!("reading it back: {error}"))),
            Err(_) => Err(Error::unreachable(&self.host, doing, format!("no answer within {} s", UPLOAD.as_secs()))),
        }
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
                cap_drop: Some(vec!["ALL".to_owned()]),
                security_opt: Some(vec!["no-new-privileges:true".to_owned()]),
                readonly_rootfs: Some(true),
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
        let head = stream::once(async move { Ok(header(PROGRAM, length, 0o755)) });
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

/// The SHA-256 of the next `length` bytes.
async fn sha256(bytes: &mut (impl AsyncRead + Unpin), length: u64) -> io::Result<String> {
    let mut digest = Sha256::new();
    let mut left = length;
    let mut piece = vec![0; 256 * 1024];
    while left > 0 {
        let most = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = bytes.read(&mut piece[..most]).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        digest.update(&piece[..read]);
        left -= read as u64;
    }
    Ok(hex(&digest.finalize(), 64))
}

/// The SHA-256 of the first file in a tar archive; empty if its first entry is something else, such as a link.
async fn digest_in_archive(archive: &mut (impl AsyncRead + Unpin)) -> io::Result<String> {
    let mut block = [0; 512];
    loop {
        archive.read_exact(&mut block).await?;
        let header = tar::Header::from_byte_slice(&block);
        let (kind, size) = (header.entry_type(), header.entry_size()?);
        match kind {
            tar::EntryType::Regular => return sha256(archive, size).await,
            // What these say of the next entry does not matter here.
            tar::EntryType::XHeader | tar::EntryType::XGlobalHeader => {
                let padded = size.min(HEADERS).div_ceil(512) * 512;
                tokio::io::copy(&mut archive.take(padded), &mut tokio::io::sink()).await?;
            }
            _ => return Ok(String::new()),
        }
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

    #[tokio::test]
    async fn a_program_is_read_back_from_dockers_archive_and_a_link_is_not_a_program() {
        let program = [vec![7; 700], vec![8; 9]].concat();
        let mut pax = tar::Builder::new(Vec::new());
        pax.append_pax_extensions([("SCHILY.xattr.user.a", "b".as_bytes())]).unwrap();
        let pax = pax.get_ref().clone();
        let archive = [header("evenkeel", 709, 0o755).as_ref(), &program, &ending(709)].concat();
        let expected = crate::api::hash::short_hash(&program, 64);
        assert_eq!(digest_in_archive(&mut archive.as_slice()).await.unwrap(), expected);
        assert_eq!(digest_in_archive(&mut [pax, archive.clone()].concat().as_slice()).await.unwrap(), expected);
        let mut link = tar::Header::new_gnu();
        link.set_entry_type(tar::EntryType::Symlink);
        link.set_size(0);
        link.set_cksum();
        assert_eq!(digest_in_archive(&mut link.as_bytes().as_slice()).await.unwrap(), "");
        assert!(digest_in_archive(&mut &archive[..900]).await.is_err());
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
