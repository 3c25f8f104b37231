//! Docker hosts, in our nouns. The only room that names bollard.
//!
//! Every verb is idempotent: already so is success, gone is success for a
//! removal, a stop and a kill. Nothing here decides anything; nothing here
//! retries what an engine refused.
//!
//! - [`docker`]: the real thing, over bollard.
//! - [`fake`]: the same in memory, with faults on demand, for tests.
//! - [`hosts`]: the engines by DockerHost name.
//! - [`bridge`]: the other end of [`Engine::dial`], inside the container.

pub mod bridge;
pub mod docker;
pub mod fake;
mod hash;
pub mod hosts;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::api::failure::{Class, Classify};
use crate::api::labels::Owner;

/// Where the volume of [`Engine::ensure_binary`] is mounted in a managed container.
pub const BINARY_DIR: &str = "/evenkeel";
/// This program inside a managed container.
pub const BINARY: &str = "/evenkeel/evenkeel";

/// A byte stream to something inside a container.
pub trait Conversation: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Conversation for T {}

/// What a container is to be. Its hash ([`ContainerSpec::hash`]) is kept in a label: other hash, other container.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct ContainerSpec {
    /// Container name, unique on the host.
    pub name: String,
    /// Host name inside.
    pub hostname: String,
    /// Image reference.
    pub image: String,
    /// Replaces the image's entrypoint; the image's CMD is dropped.
    pub entrypoint: Vec<String>,
    /// Environment; never secrets.
    pub env: BTreeMap<String, String>,
    /// Labels, the owner's among them.
    pub labels: BTreeMap<String, String>,
    /// Named volumes: (volume, path inside, read-only).
    pub volumes: Vec<(String, String, bool)>,
    /// tmpfs mounts: path -> options such as `mode=0700,size=16m`.
    pub tmpfs: BTreeMap<String, String>,
    /// The one network it is in.
    pub network: String,
    /// Its fixed IPv4 address in that network.
    pub address: Option<std::net::Ipv4Addr>,
    /// DNS names in that network.
    pub aliases: Vec<String>,
    /// Published ports: (host address, host port, container port).
    pub ports: Vec<(std::net::IpAddr, u16, u16)>,
    /// `/dev/shm` size in bytes; `None` = Docker's default.
    pub shm_bytes: Option<i64>,
    /// Seconds between SIGTERM and SIGKILL on `docker stop`.
    pub stop_timeout_seconds: i64,
    /// Memory limit in bytes; `None` = none.
    pub memory_bytes: Option<i64>,
    /// CPU limit in units of 1e-9 CPUs; `None` = none.
    pub nano_cpus: Option<i64>,
    /// `true`: Docker starts it again by itself when it exits or when the host boots (`unless-stopped`).
    pub restart: bool,
}

/// A container as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerSeen {
    /// Docker's id of this container.
    pub id: String,
    /// Its name without the slash.
    pub name: String,
    /// All its labels.
    pub labels: BTreeMap<String, String>,
    /// What it is doing.
    pub state: ContainerState,
    /// Image reference it was made from; the image's id if that reference has moved on since.
    pub image: String,
}

/// Docker's container states, those that a planner can tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainerState {
    /// Made, never started.
    Created,
    /// Running.
    Running,
    /// Frozen by `docker pause`.
    Paused,
    /// Docker is starting it again.
    Restarting,
    /// Ended; nothing of it runs.
    Exited,
    /// Being removed, or dead in Docker's sense; nothing of it runs.
    Dead,
}

/// A network to be: a bridge with an explicit subnet (chosen from what the engine finds free), so that addresses can be fixed.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkSpec {
    /// Its name.
    pub name: String,
    /// Labels, the owner's among them.
    pub labels: BTreeMap<String, String>,
}

/// A network as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkSeen {
    /// Its name.
    pub name: String,
    /// IPv4 subnet: (network address, prefix length).
    pub subnet: (std::net::Ipv4Addr, u8),
}

/// A named volume.
#[derive(Debug, Clone, PartialEq)]
pub struct VolumeSpec {
    /// Its name.
    pub name: String,
    /// Labels, the owner's among them.
    pub labels: BTreeMap<String, String>,
}

/// What an engine says of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct HostInfo {
    /// Engine version, e.g. `20.10.24`.
    pub engine_version: String,
    /// API version agreed on, e.g. `1.41`.
    pub api_version: String,
    /// Operating system, e.g. `Debian GNU/Linux 12 (bookworm)`.
    pub operating_system: String,
    /// Machine architecture, e.g. `x86_64`.
    pub architecture: String,
    /// CPUs.
    pub cpus: i64,
    /// Memory in bytes.
    pub memory_bytes: i64,
}

/// Something happened to things of this owner, or (`None`) events may have been missed: look at all again.
pub type EventHint = Option<Owner>;

/// One Docker host.
#[async_trait::async_trait]
pub trait Engine: Send + Sync + 'static {
    /// The engine's version and capacity; also serves as ping.
    async fn info(&self) -> Result<HostInfo, Error>;
    /// All containers of an owner, running or not.
    async fn list_containers(&self, owner: &Owner) -> Result<Vec<ContainerSeen>, Error>;
    /// Names of all volumes of an owner.
    async fn list_volumes(&self, owner: &Owner) -> Result<Vec<String>, Error>;
    /// The network of this name, if there.
    async fn network(&self, name: &str) -> Result<Option<NetworkSeen>, Error>;
    /// Makes the network unless it is there.
    async fn ensure_network(&self, spec: &NetworkSpec) -> Result<NetworkSeen, Error>;
    /// Removes the network; [`Error::Conflict`] while something is attached.
    async fn remove_network(&self, name: &str) -> Result<(), Error>;
    /// Makes the volume unless it is there.
    async fn ensure_volume(&self, spec: &VolumeSpec) -> Result<(), Error>;
    /// Removes the volume and what is in it.
    async fn remove_volume(&self, name: &str) -> Result<(), Error>;
    /// Whether the image is on the host.
    async fn has_image(&self, image: &str) -> Result<bool, Error>;
    /// Pulls the image unless it is there. May take minutes: each layer's changes are logged at debug level, a
    /// summary at info level, and [`Engine::image_progress`] has the latest.
    async fn ensure_image(&self, image: &str) -> Result<(), Error>;
    /// How far a pull of this image is, in words; `None` when none is under way.
    fn image_progress(&self, image: &str) -> Option<String>;
    /// Puts this process's own binary on the host, in a volume named by its hash. Returns the volume's name; mounted
    /// read-only at [`BINARY_DIR`] it holds the file [`BINARY`]. `image` is any image on the host; nothing of it is run.
    async fn ensure_binary(&self, image: &str) -> Result<String, Error>;
    /// Makes the container (does not start it); success if one of that name with the same spec hash is there,
    /// [`Error::Conflict`] if the name is taken by anything else.
    async fn create_container(&self, spec: &ContainerSpec) -> Result<(), Error>;
    /// Starts it.
    async fn start_container(&self, name: &str) -> Result<(), Error>;
    /// SIGTERM, then SIGKILL after `timeout`. A container that is gone is stopped.
    async fn stop_container(&self, name: &str, timeout: Duration) -> Result<(), Error>;
    /// SIGKILL, and waits until nothing of it runs; a paused container too. A container that is gone is killed.
    async fn kill_container(&self, name: &str) -> Result<(), Error>;
    /// Resumes a paused container.
    async fn unpause_container(&self, name: &str) -> Result<(), Error>;
    /// Kills and removes the container; named volumes stay.
    async fn remove_container(&self, name: &str) -> Result<(), Error>;
    /// Opens a stream to an address inside the container (`unix:/path` or `tcp:host:port`), by exec of the injected
    /// binary. `Ok` means connected; dropping the stream disconnects.
    async fn dial(&self, container: &str, address: &str) -> Result<Box<dyn Conversation>, Error>;
    /// Hints that owned containers changed; reconnects by itself for ever, and says `None` after each (re)connect.
    /// (Docker's events of volumes and networks carry no labels, so those are not heard.)
    fn events(&self) -> Pin<Box<dyn Stream<Item = EventHint> + Send>>;
}

/// Why an engine did not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The engine does not answer.
    #[error("Docker host {host} does not answer while {doing}")]
    Unreachable {
        /// The DockerHost's name.
        host: String,
        /// What was being done.
        doing: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The container, image, network or volume is not there.
    #[error("Docker host {host}: not found while {doing}: {message}")]
    NotFound {
        /// The DockerHost's name.
        host: String,
        /// What was being done.
        doing: String,
        /// The engine's words.
        message: String,
    },
    /// Name taken, still in use, or changed meanwhile.
    #[error("Docker host {host}: conflict while {doing}: {message}")]
    Conflict {
        /// The DockerHost's name.
        host: String,
        /// What was being done.
        doing: String,
        /// The engine's words.
        message: String,
    },
    /// The engine understood and refused or failed: bad image name, port taken, disk full, image not to be had.
    #[error("Docker host {host} refused {doing}: {message}")]
    Refused {
        /// The DockerHost's name.
        host: String,
        /// What was being done.
        doing: String,
        /// The engine's words.
        message: String,
    },
}

impl Error {
    /// [`Error::Unreachable`] with the cause in words.
    pub fn unreachable(host: &str, doing: impl Into<String>, cause: impl Into<String>) -> Self {
        Self::Unreachable { host: host.to_owned(), doing: doing.into(), source: cause.into().into() }
    }

    /// [`Error::NotFound`].
    pub fn not_found(host: &str, doing: impl Into<String>, message: impl Into<String>) -> Self {
        Self::NotFound { host: host.to_owned(), doing: doing.into(), message: message.into() }
    }

    /// [`Error::Conflict`].
    pub fn conflict(host: &str, doing: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Conflict { host: host.to_owned(), doing: doing.into(), message: message.into() }
    }

    /// [`Error::Refused`].
    pub fn refused(host: &str, doing: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Refused { host: host.to_owned(), doing: doing.into(), message: message.into() }
    }
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            // What an engine refuses today (port taken, disk full, registry away) it may do later.
            Self::Unreachable { .. } | Self::Refused { .. } => Class::Transient,
            Self::NotFound { .. } => Class::NotFound,
            Self::Conflict { .. } => Class::Conflict,
        }
    }
}
