//! Docker hosts, in our nouns. The only room that names bollard.
//!
//! Every verb is idempotent: already so is success, gone is success for a
//! removal, a stop and a kill. Nothing here decides anything; nothing here
//! retries what an engine refused.
//!
//! - [`docker`]: the real thing, over bollard.
//! - [`fake`]: the same in memory, with faults on demand, for tests.
//! - [`mirror`]: what a host shows, kept in memory, so that looking costs it nothing.
//! - [`hosts`]: the engines by DockerHost name.
//! - [`bridge`]: the other end of [`Engine::dial`], inside the container.

pub mod bridge;
pub mod docker;
pub mod fake;
mod hash;
pub mod hosts;
pub mod mirror;

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
#[derive(Clone, PartialEq, Default, serde::Serialize)]
pub struct ContainerSpec {
    /// Container name, unique on the host.
    pub name: String,
    /// Host name inside.
    pub hostname: String,
    /// Image reference.
    pub image: String,
    /// Replaces the image's entrypoint, and the image's CMD is dropped. Empty: the image's own.
    pub entrypoint: Vec<String>,
    /// Arguments of the entrypoint. Empty: the image's CMD, if the entrypoint is the image's too.
    pub cmd: Vec<String>,
    /// Environment; secrets only where a user asked for them here.
    pub env: BTreeMap<String, String>,
    /// Labels, the owner's among them.
    pub labels: BTreeMap<String, String>,
    /// Named volumes: (volume, path inside, read-only).
    pub volumes: Vec<(String, String, bool)>,
    /// tmpfs mounts: path -> options such as `mode=0700,size=16m`.
    pub tmpfs: BTreeMap<String, String>,
    /// Mounts beyond named volumes of ours and tmpfs.
    pub mounts: Vec<Mount>,
    /// The network it is in; empty if it joins the one of another container.
    pub network: String,
    /// The container whose network namespace it shares. Docker keeps that one's id: made again under the same name it
    /// is not joined, so this one must be made again too; started again, this one must be started again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub joins: Option<String>,
    /// Further networks it is connected to before it starts.
    pub networks: Vec<Attachment>,
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
    /// `user` or `uid:gid` to run as; `None` = the image's.
    pub user: Option<String>,
    /// Working directory; `None` = the image's.
    pub working_dir: Option<String>,
    /// Further groups of the process, by number.
    pub groups: Vec<String>,
    /// How many processes and threads it may have; `None` = any number.
    pub pids_limit: Option<i64>,
    /// Share of CPU time when there is too little, in Docker's units (1024 = one share); `None` = 1024.
    pub cpu_shares: Option<i64>,
    /// What it may do.
    pub security: Security,
}

impl std::fmt::Debug for ContainerSpec {
    /// Without the environment, for that may hold secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ContainerSpec").field("name", &self.name).field("image", &self.image).finish_non_exhaustive()
    }
}

/// What a container may do, where that differs from Docker's default.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize)]
pub struct Security {
    /// Capabilities beyond Docker's default set, without `CAP_`.
    pub cap_add: Vec<String>,
    /// Capabilities taken away, without `CAP_`; `ALL` for every one.
    pub cap_drop: Vec<String>,
    /// Its root file system cannot be written.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// It can gain no privileges by setuid programs.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub no_new_privileges: bool,
    /// It may do all that the host's root may.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub privileged: bool,
    /// Kernel parameters of its namespaces.
    pub sysctls: BTreeMap<String, String>,
}

/// Something mounted into a container.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Mount {
    /// What.
    pub source: MountSource,
    /// Where inside.
    pub path: String,
    /// It cannot be written there.
    pub read_only: bool,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub enum MountSource {
    /// A path of the host, which must be there.
    Bind(String),
    /// A volume of the `local` driver; made together with the container unless it is there.
    Volume {
        /// Its name.
        name: String,
        /// Options of the driver, such as `type`, `device` and `o`; none for a directory on the host's disk.
        options: BTreeMap<String, String>,
        /// Labels of a volume that is made.
        labels: BTreeMap<String, String>,
    },
}

/// A further network of a container.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Attachment {
    /// The network, which must be there.
    pub network: String,
    /// DNS names in it.
    pub aliases: Vec<String>,
}

/// A file to be put into a container.
#[derive(Clone, PartialEq)]
pub struct File {
    /// Path, relative to the directory it is put into; directories between are made (root's, mode 0755). One that
    /// ends in `/` is a directory, and `./` the directory itself.
    pub path: String,
    /// Permissions, e.g. `0o600`.
    pub mode: u32,
    /// Owning user and group.
    pub owner: (u64, u64),
    /// What is in it.
    pub bytes: Vec<u8>,
}

impl std::fmt::Debug for File {
    /// Without what is in it, for that may be a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "File({}, {} bytes)", self.path, self.bytes.len())
    }
}

/// How a command in a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecResult {
    /// Its exit status.
    pub code: i64,
    /// What it wrote to stdout and stderr, 16 KiB at most.
    pub output: String,
}

/// A command to be run in a container with its streams attached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecRequest {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Whether stdin is attached.
    pub stdin: bool,
    /// Whether it gets a terminal; then all output is stdout.
    pub tty: bool,
}

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// From stdout.
    Stdout(bytes::Bytes),
    /// From stderr.
    Stderr(bytes::Bytes),
}

/// What a process in a container writes.
pub type Outputs = Pin<Box<dyn Stream<Item = Result<Output, Error>> + Send>>;

/// A command at work in a container. Dropping it closes its streams.
pub struct ExecSession {
    /// Docker's id of it, for [`Engine::exec_resize`] and [`Engine::exec_code`].
    pub id: String,
    /// What it writes; ends with it.
    pub output: Outputs,
    /// Its stdin.
    pub input: Pin<Box<dyn AsyncWrite + Send>>,
}

/// Which part of a container's log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogOptions {
    /// Go on with what is written from now on, until the container ends.
    pub follow: bool,
    /// Only that many lines from the end.
    pub tail: Option<u64>,
    /// Only what was written since (seconds since the epoch).
    pub since: Option<i64>,
    /// Each line begins with its time.
    pub timestamps: bool,
}

/// An image on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSeen {
    /// Docker's id of it, `sha256:…`.
    pub id: String,
    /// References by digest that a registry knows it by (`repository@sha256:…`); none for one that was built here.
    pub digests: Vec<String>,
}

/// How to log in at a registry.
#[derive(Clone, PartialEq, Eq)]
pub struct RegistryLogin {
    /// The registry, as in the Secret.
    pub server: String,
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: String,
}

impl std::fmt::Debug for RegistryLogin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RegistryLogin({})", self.server)
    }
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
    /// Its addresses by network, while it runs.
    pub addresses: BTreeMap<String, std::net::Ipv4Addr>,
    /// How its main process ended, if it has.
    pub exit_code: Option<i64>,
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

/// Everything of ours on a host.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Everything {
    /// All containers that have an owner, by owner and sorted by name.
    pub containers: BTreeMap<Owner, Vec<ContainerSeen>>,
    /// Names of all volumes that have an owner, by owner and sorted.
    pub volumes: BTreeMap<Owner, Vec<String>>,
    /// All networks that have an owner, by name.
    pub networks: BTreeMap<String, NetworkSeen>,
    /// Tags and digests of all images, sorted, by the image's id.
    pub images: BTreeMap<String, Vec<String>>,
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
    /// The engine's own identity: Docker's `ID`, which it makes once and keeps; empty if it says none.
    pub engine_id: String,
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
    /// Everything of ours on the host, in a few requests whatever the number of owners.
    async fn list_all(&self) -> Result<Everything, Error>;
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
    /// Puts this process's own binary on the host, in a volume named by its identity. Returns the volume's name; mounted
    /// read-only at [`BINARY_DIR`] it holds the file [`BINARY`]. `image` is any image on the host; nothing of it is run.
    async fn ensure_binary(&self, image: &str) -> Result<String, Error>;
    /// The volume of [`Engine::ensure_binary`], once this process has seen it complete.
    fn binary(&self) -> Option<String>;
    /// Makes the container (does not start it); success if one of that name with the same spec hash is there,
    /// [`Error::Conflict`] if the name is taken by anything else.
    async fn create_container(&self, spec: &ContainerSpec) -> Result<(), Error>;
    /// Starts it.
    async fn start_container(&self, name: &str) -> Result<(), Error>;
    /// SIGTERM, then SIGKILL after `timeout`. A container that is gone is stopped.
    async fn stop_container(&self, name: &str, timeout: Duration) -> Result<(), Error>;
    /// Resumes a paused container.
    async fn unpause_container(&self, name: &str) -> Result<(), Error>;
    /// Kills and removes the container; named volumes stay.
    async fn remove_container(&self, name: &str) -> Result<(), Error>;
    // The verbs from here to `dial` are those that a simulation of databases does without.

    /// What is known of an image on the host, if it is there.
    async fn image(&self, image: &str) -> Result<Option<ImageSeen>, Error> {
        let _ = image;
        Err(unable())
    }
    /// Pulls the image even if it is there, with a login where its registry wants one. May take minutes: each layer's
    /// changes are logged at debug level, a summary at info level.
    async fn pull_image(&self, image: &str, login: Option<&RegistryLogin>) -> Result<(), Error> {
        let _ = (image, login);
        Err(unable())
    }
    /// Sends a signal such as `SIGHUP` to the container's main process.
    async fn signal_container(&self, name: &str, signal: &str) -> Result<(), Error> {
        let _ = (name, signal);
        Err(unable())
    }
    /// Writes files below a directory that the container has, running or not; one that is there is replaced.
    /// Where a tmpfs is mounted they stay only while some container that mounts it runs.
    async fn put_files(&self, container: &str, directory: &str, files: &[File]) -> Result<(), Error> {
        let _ = (container, directory, files);
        Err(unable())
    }
    /// Runs a command in the container to its end; one that takes longer than `limit` is left to itself and is [`Error::Refused`].
    async fn exec(&self, container: &str, command: &[String], limit: Duration) -> Result<ExecResult, Error> {
        let _ = (container, command, limit);
        Err(unable())
    }
    /// Runs a command in the container with its streams attached.
    async fn exec_attached(&self, container: &str, request: &ExecRequest) -> Result<ExecSession, Error> {
        let _ = (container, request);
        Err(unable())
    }
    /// Tells the terminal of a command at work its size: rows, columns.
    async fn exec_resize(&self, id: &str, size: (u16, u16)) -> Result<(), Error> {
        let _ = (id, size);
        Err(unable())
    }
    /// How a command ended; `None` while it runs.
    async fn exec_code(&self, id: &str) -> Result<Option<i64>, Error> {
        let _ = id;
        Err(unable())
    }
    /// What the container wrote to stdout and stderr.
    async fn logs(&self, container: &str, options: &LogOptions) -> Result<Outputs, Error> {
        let _ = (container, options);
        Err(unable())
    }
    /// Opens a stream to an address inside the container (`unix:/path` or `tcp:host:port`), by exec of the injected
    /// binary. `Ok` means connected; dropping the stream disconnects.
    async fn dial(&self, container: &str, address: &str) -> Result<Box<dyn Conversation>, Error>;
    /// Hints that owned containers changed; reconnects by itself for ever, and says `None` after each (re)connect.
    /// (Docker's events of volumes and networks carry no labels, so those are not heard.)
    fn events(&self) -> Pin<Box<dyn Stream<Item = EventHint> + Send>>;
}

fn unable() -> Error {
    Error::refused("", "the call", "this engine cannot do that")
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
