//! Docker hosts, in Evenkeel's nouns. The only room that imports bollard.
//!
//! Every verb is idempotent: if it is already done, that is success; a removal, a stop and a kill succeed if the thing
//! is gone. Nothing here makes decisions or retries what an engine refused.
//!
//! - [`docker`]: the real engine, with bollard.
//! - [`fake`]: the same in memory, with faults on demand, for tests.
//! - [`mirror`]: a cache of what a host has, so that observing costs the host nothing.
//! - [`hosts`]: the engines by DockerHost name.
//! - [`ask`]: asks an image for its libraries.
//! - [`bridge`]: the other end of [`Engine::dial`], inside the container.

pub mod ask;
pub mod bridge;
pub mod docker;
pub mod fake;
mod hash;
pub mod hosts;
mod instant;
pub mod log_bound;
pub mod mirror;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;

use crate::api::chain::chain;
use crate::api::failure::{Class, Classify};
use crate::api::labels::Owner;

/// Mount path of the volume of [`Engine::ensure_binary`] in a managed container.
pub const BINARY_DIR: &str = "/evenkeel";
/// Path of this program in a managed container.
pub const BINARY: &str = "/evenkeel/evenkeel";

/// An image without a file, for a container that runs nothing but this program. [`Engine::pull_image`] makes it on the host: no
/// registry has it.
pub const EMPTY_IMAGE: &str = "evenkeel.dev/empty:1";

/// The network of [`ContainerSpec::network`] that is the host's own: the container has the host's addresses and ports.
pub const HOST_NETWORK: &str = "host";

/// A byte stream to a process inside a container.
pub trait Conversation: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Conversation for T {}

/// The desired container. Its hash ([`ContainerSpec::hash`]) is stored in a label; if the hash differs, the
/// container is recreated.
#[derive(Clone, PartialEq, Default, serde::Serialize)]
pub struct ContainerSpec {
    /// Container name, unique on the host.
    pub name: String,
    /// Host name inside.
    pub hostname: String,
    /// Image reference.
    pub image: String,
    /// Replaces the image's entrypoint and drops the image's CMD. Empty: the image's own entrypoint.
    pub entrypoint: Vec<String>,
    /// Arguments of the entrypoint. Empty: the image's CMD, if the entrypoint is also the image's.
    pub cmd: Vec<String>,
    /// Environment; contains secrets only if a user put them here.
    pub env: BTreeMap<String, String>,
    /// Labels, including the owner's.
    pub labels: BTreeMap<String, String>,
    /// Named volumes: (volume, path inside, read-only).
    pub volumes: Vec<(String, String, bool)>,
    /// tmpfs mounts: path -> options such as `mode=0700,size=16m`.
    pub tmpfs: BTreeMap<String, String>,
    /// Mounts other than named volumes of Evenkeel and tmpfs.
    pub mounts: Vec<Mount>,
    /// Its network; empty if it joins the network of another container.
    pub network: String,
    /// The container whose network namespace it shares. Docker stores that container's ID: if that container is
    /// recreated under the same name, this one must be recreated too; if it is restarted, this one must be restarted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub joins: Option<String>,
    /// Further networks that it is connected to before it starts.
    pub networks: Vec<Attachment>,
    /// Its fixed IPv4 address in that network.
    pub address: Option<std::net::Ipv4Addr>,
    /// DNS names in that network.
    pub aliases: Vec<String>,
    /// Published ports: (host address, host port, container port).
    pub ports: Vec<(std::net::IpAddr, u16, u16)>,
    /// Size of `/dev/shm` in bytes; `None`: Docker's default.
    pub shm_bytes: Option<i64>,
    /// Seconds between SIGTERM and SIGKILL on `docker stop`.
    pub stop_timeout_seconds: i64,
    /// Memory limit in bytes; `None`: no limit.
    pub memory_bytes: Option<i64>,
    /// CPU limit in units of 1e-9 CPUs; `None`: no limit.
    pub nano_cpus: Option<i64>,
    /// `true`: Docker restarts it when it exits or when the host boots (`unless-stopped`).
    pub restart: bool,
    /// `user` or `uid:gid` of the process; `None`: the image's.
    pub user: Option<String>,
    /// Working directory; `None`: the image's.
    pub working_dir: Option<String>,
    /// Supplementary groups of the process, by number.
    pub groups: Vec<String>,
    /// Limit of processes and threads; `None`: no limit.
    pub pids_limit: Option<i64>,
    /// Share of CPU time under contention, in Docker's units (1024 = one share); `None`: 1024.
    pub cpu_shares: Option<i64>,
    /// Limit of open files of a process; `None`: the engine's.
    pub open_files: Option<i64>,
    /// Its privileges.
    pub security: Security,
    /// What Evenkeel chooses for it.
    #[serde(skip)]
    pub chosen: Chosen,
}

/// What Evenkeel chooses for a container, where nothing was declared. It is not part of the hash: a later version that
/// chooses otherwise recreates no container. Each container gets it when it is next made.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Chosen {
    /// Options of the host's log driver; they bound the container's log.
    pub log_options: BTreeMap<String, String>,
    /// Size of `/dev/shm` in bytes, instead of the one in the spec.
    pub shm_bytes: Option<i64>,
    /// Further environment; every value from a Secret is here.
    pub env: BTreeMap<String, String>,
    /// Further networks of the same object. A container that runs is connected to them, too.
    pub networks: Vec<Attachment>,
    /// Limit of processes and threads, if the spec has none.
    pub pids_limit: Option<i64>,
    /// `uid:gid` of the process, instead of the one in the spec.
    pub user: Option<String>,
    /// Capabilities to drop besides those in the spec.
    pub cap_drop: Vec<String>,
    /// The root file system is read-only.
    pub read_only: bool,
    /// Setuid programs give no privileges.
    pub no_new_privileges: bool,
}

/// Capabilities of Docker's default set that no container gets unless its spec adds them: with them a process forges packets
/// of its neighbours, makes device files, gives programs capabilities, and writes to the host's audit log.
const UNWANTED: [&str; 4] = ["AUDIT_WRITE", "MKNOD", "NET_RAW", "SETFCAP"];

impl ContainerSpec {
    /// All capabilities that the container is made without.
    pub fn drops(&self) -> Vec<String> {
        let bare = |name: &String| name.strip_prefix("CAP_").unwrap_or(name).to_owned();
        let added: Vec<_> = self.security.cap_add.iter().map(bare).collect();
        let unwanted = UNWANTED.into_iter().filter(|name| !added.iter().any(|one| one == name || one == "ALL"));
        let mut drops = self.security.cap_drop.clone();
        for name in self.chosen.cap_drop.iter().cloned().chain(unwanted.map(str::to_owned)) {
            if !drops.iter().any(|known| *known == name || known == "ALL") {
                drops.push(name);
            }
        }
        drops
    }
}

impl std::fmt::Debug for ContainerSpec {
    /// Omits the environment, because it may contain secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ContainerSpec").field("name", &self.name).field("image", &self.image).finish_non_exhaustive()
    }
}

/// Privileges of a container that differ from Docker's default.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize)]
pub struct Security {
    /// Capabilities to add to Docker's default set, without `CAP_`.
    pub cap_add: Vec<String>,
    /// Capabilities to drop, without `CAP_`; `ALL` for every one.
    pub cap_drop: Vec<String>,
    /// The root file system is read-only.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// Setuid programs give no privileges.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub no_new_privileges: bool,
    /// It has all privileges of the host's root.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub privileged: bool,
    /// Kernel parameters of its namespaces.
    pub sysctls: BTreeMap<String, String>,
}

/// A mount of a container.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Mount {
    /// What is mounted.
    pub source: MountSource,
    /// The path inside the container.
    pub path: String,
    /// The mount is read-only.
    pub read_only: bool,
}

/// The source of a mount.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub enum MountSource {
    /// A path of the host, which must exist.
    Bind(String),
    /// A volume of the `local` driver; created with the container if it does not exist.
    Volume {
        /// Its name.
        name: String,
        /// Options of the driver, such as `type`, `device` and `o`; none for a directory on the host's disk.
        options: BTreeMap<String, String>,
        /// Labels of a newly created volume.
        labels: BTreeMap<String, String>,
    },
    /// A volume that outlives its containers. A new one starts with the image's directory and its owner.
    Kept {
        /// Its name.
        name: String,
        /// Labels of a newly created volume; an existing one must have the same owner.
        labels: BTreeMap<String, String>,
    },
}

impl MountSource {
    /// The name and the wanted labels of a volume.
    pub fn volume(&self) -> Option<(&String, &BTreeMap<String, String>)> {
        match self {
            Self::Bind(_) => None,
            Self::Volume { name, labels, .. } | Self::Kept { name, labels } => Some((name, labels)),
        }
    }
}

/// A connection of a container to a network, as it should be.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Attachment {
    /// The network, which must exist.
    pub network: String,
    /// DNS names in that network.
    pub aliases: Vec<String>,
    /// Its fixed IPv4 address in that network; `None`: Docker chooses one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<std::net::Ipv4Addr>,
}

impl ContainerSpec {
    /// All networks that the container must be connected to; none if it has the network of another container or of the host.
    pub fn attachments(&self) -> Vec<Attachment> {
        let main = Attachment { network: self.network.clone(), aliases: self.aliases.clone(), address: self.address };
        let main = Some(main).filter(|_| self.joins.is_none() && self.network != HOST_NETWORK);
        main.into_iter().chain(self.further()).collect()
    }

    /// The networks that it is connected to after it was created.
    pub fn further(&self) -> impl Iterator<Item = Attachment> {
        self.networks.iter().chain(&self.chosen.networks).cloned()
    }

    /// Whether this network belongs to the same object as the container.
    pub fn owns(&self, network: &str) -> bool {
        self.network == network || self.chosen.networks.iter().any(|one| one.network == network)
    }
}

/// A file to copy into a container.
#[derive(Clone, PartialEq)]
pub struct File {
    /// Path relative to the target directory; missing parent directories are created (owner root, mode 0755). A path
    /// that ends in `/` is a directory, and `./` is the target directory itself.
    pub path: String,
    /// Permissions, e.g. `0o600`.
    pub mode: u32,
    /// Owning user and group.
    pub owner: (u64, u64),
    /// The content.
    pub bytes: Vec<u8>,
}

impl std::fmt::Debug for File {
    /// Omits the content, because it may be secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "File({}, {} bytes)", self.path, self.bytes.len())
    }
}

/// The result of a command in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecResult {
    /// Its exit code.
    pub code: i64,
    /// Its output on stdout and stderr, at most 16 KiB.
    pub output: String,
}

/// A command to run in a container with its streams attached.
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

/// The output of a process in a container.
pub type Outputs = Pin<Box<dyn Stream<Item = Result<Output, Error>> + Send>>;

/// A running command in a container. Dropping it closes its streams.
pub struct ExecSession {
    /// Docker's ID of it, for [`Engine::exec_resize`] and [`Engine::exec_code`].
    pub id: String,
    /// Its output; the stream ends with the command.
    pub output: Outputs,
    /// Its stdin.
    pub input: Pin<Box<dyn AsyncWrite + Send>>,
}

/// The requested part of a container's log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogOptions {
    /// Follow: continue with new output until the container ends.
    pub follow: bool,
    /// Only this many lines from the end.
    pub tail: Option<u64>,
    /// Only output since this time (seconds since the epoch).
    pub since: Option<i64>,
    /// Start each line with its time.
    pub timestamps: bool,
    /// Only what was said before the container was last started; [`Error::NotFound`] if it was started once.
    pub previous: bool,
}

/// An image on a host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageSeen {
    /// Docker's ID of it, `sha256:…`.
    pub id: String,
    /// References by digest that a registry knows (`repository@sha256:…`); none for an image that was built
    /// on the host.
    pub digests: Vec<String>,
    /// The user of its processes, unless a container names another: `user` or `uid:gid`; empty for root.
    pub user: String,
}

/// The login for a registry.
#[derive(Clone, PartialEq, Eq)]
pub struct RegistryLogin {
    /// The registry's address, as in the Secret.
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

/// A container as observed.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerSeen {
    /// Docker's ID of this container.
    pub id: String,
    /// Its name without the slash.
    pub name: String,
    /// All its labels.
    pub labels: BTreeMap<String, String>,
    /// Its state.
    pub state: ContainerState,
    /// The image reference it was created from; the image's ID if that reference now means another image.
    pub image: String,
    /// Its connections by the name of the network. A container that does not run keeps them for its next start.
    pub networks: BTreeMap<String, ConnectionSeen>,
    /// The exit code of its main process, if it has ended.
    pub exit_code: Option<i64>,
}

impl ContainerSeen {
    /// Its address in this network, while it runs.
    pub fn address(&self, network: &str) -> Option<std::net::Ipv4Addr> {
        let runs = matches!(self.state, ContainerState::Running | ContainerState::Paused | ContainerState::Restarting);
        self.networks.get(network)?.address.filter(|_| runs)
    }
}

/// A connection of a container to a network, as observed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConnectionSeen {
    /// Docker's ID of the network; empty if Docker does not tell.
    pub network: String,
    /// The address that it has, or will have when it starts.
    pub address: Option<std::net::Ipv4Addr>,
    /// Its DNS names there; `None` if they are not known yet.
    pub aliases: Option<Vec<String>>,
}

/// Docker's container states, as far as planners distinguish them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainerState {
    /// Created, never started.
    Created,
    /// Running.
    Running,
    /// Frozen by `docker pause`.
    Paused,
    /// Docker is restarting it.
    Restarting,
    /// Exited; no process of it runs.
    Exited,
    /// Being removed, or dead in Docker's sense; no process of it runs.
    Dead,
}

/// A desired network: a bridge with an explicit subnet (one that the engine finds free), so that addresses
/// can be fixed.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkSpec {
    /// Its name.
    pub name: String,
    /// Labels, including the owner's.
    pub labels: BTreeMap<String, String>,
    /// It has no way out of its host: only containers that are connected to it reach each other.
    pub internal: bool,
}

/// A network as observed.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkSeen {
    /// Its name.
    pub name: String,
    /// Docker's ID of it; another one if the network was removed and made again.
    pub id: String,
    /// It was made by Evenkeel.
    pub ours: bool,
    /// IPv4 subnet: (network address, prefix length).
    pub subnet: (std::net::Ipv4Addr, u8),
}

/// Everything on a host that Evenkeel owns.
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
    /// Labels, including the owner's.
    pub labels: BTreeMap<String, String>,
}

/// What an engine reports about itself.
#[derive(Debug, Clone, PartialEq)]
pub struct HostInfo {
    /// The engine's own identity: Docker's `ID`, which it creates once and keeps; empty if it reports none.
    pub engine_id: String,
    /// Engine version, e.g. `20.10.24`.
    pub engine_version: String,
    /// The negotiated API version, e.g. `1.41`.
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

/// What containers depend on in the engine of their host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Daemon {
    /// The log driver of containers that name none, e.g. `json-file`.
    pub log_driver: String,
    /// The host's memory in bytes.
    pub memory_bytes: i64,
}

/// Who answers at a host's endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// It tells no ID: a host of a test.
    Untold,
    /// It has not told its ID since the connection to it was last lost.
    Lost,
    /// The engine with this ID.
    Told(String),
}

/// The clock of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockSeen {
    /// What it showed.
    pub time: jiff::Timestamp,
    /// When it was read, in the middle of the request.
    pub read: tokio::time::Instant,
}

/// Why a host does not answer: a word for programs and a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Trouble {
    /// One CamelCase word: the reason of a condition.
    pub reason: &'static str,
    /// The cause, and what to do.
    pub message: String,
}

/// The reason of a host that does not answer, if nothing more is known.
const UNREACHABLE: &str = "Unreachable";

/// Something of this owner changed, or (`None`) events may have been lost: observe everything again.
pub type EventHint = Option<Owner>;

/// One Docker host.
#[async_trait::async_trait]
pub trait Engine: Send + Sync + 'static {
    /// The engine's version and capacity; also used as a ping.
    async fn info(&self) -> Result<HostInfo, Error>;
    /// Whether the engine answers at all; costs it less than [`Engine::info`].
    async fn ping(&self) -> Result<(), Error> {
        self.info().await.map(drop)
    }
    /// Who answers, as last told.
    fn identity(&self) -> Identity {
        Identity::Untold
    }
    /// The host's clock, as last read.
    fn clock(&self) -> Option<ClockSeen> {
        None
    }
    /// Notified when memory of the host may be old and no hint says of what: a volume, network or image came or went, or
    /// the stream of events ended.
    fn stirred(&self) -> Option<Arc<Notify>> {
        None
    }
    /// Gives back what the connection holds on this machine; the engine cannot be used any more.
    fn close(&self) {}
    /// What containers depend on in this engine, as last read; `None` until it was read for the first time.
    fn daemon(&self) -> Option<Daemon>;
    /// All containers of an owner, running or not.
    async fn list_containers(&self, owner: &Owner) -> Result<Vec<ContainerSeen>, Error>;
    /// Names of all volumes of an owner.
    async fn list_volumes(&self, owner: &Owner) -> Result<Vec<String>, Error>;
    /// All containers on the host that have an owner, as in [`Everything`], in one request.
    async fn list_owned(&self) -> Result<BTreeMap<Owner, Vec<ContainerSeen>>, Error> {
        Ok(self.list_all().await?.containers)
    }
    /// Everything on the host that Evenkeel owns, in a few requests whatever the number of owners.
    async fn list_all(&self) -> Result<Everything, Error>;
    /// The network with this name, if it exists.
    async fn network(&self, name: &str) -> Result<Option<NetworkSeen>, Error>;
    /// Creates the network if it does not exist.
    async fn ensure_network(&self, spec: &NetworkSpec) -> Result<NetworkSeen, Error>;
    /// Connects the container to the network, running or not; replaces a connection to a network of that name.
    async fn connect_network(&self, container: &str, to: &Attachment) -> Result<(), Error>;
    /// Removes the network; [`Error::Conflict`] while a container is attached.
    async fn remove_network(&self, name: &str) -> Result<(), Error>;
    /// Creates the volume if it does not exist.
    async fn ensure_volume(&self, spec: &VolumeSpec) -> Result<(), Error>;
    /// The volume with this name, if it exists.
    async fn volume(&self, name: &str) -> Result<Option<VolumeSpec>, Error> {
        let _ = name;
        Err(unable())
    }
    /// Removes the volume and its data.
    async fn remove_volume(&self, name: &str) -> Result<(), Error>;
    /// Copies this process's own binary to the host, into a volume named by its identity. Returns the volume's name;
    /// mounted read-only at [`BINARY_DIR`] it holds the file [`BINARY`]. `image` is any image on the host; no program
    /// of it is run.
    async fn ensure_binary(&self, image: &str) -> Result<String, Error>;
    /// The volume of [`Engine::ensure_binary`], once this process has seen it complete.
    fn binary(&self) -> Option<String>;
    /// Creates the container without starting it. Success if a container with this name and spec hash exists,
    /// [`Error::Conflict`] if the name is used by anything else.
    async fn create_container(&self, spec: &ContainerSpec) -> Result<(), Error>;
    /// Starts the container.
    async fn start_container(&self, name: &str) -> Result<(), Error>;
    /// Sends SIGTERM, then SIGKILL after `timeout`. Success if the container is gone.
    async fn stop_container(&self, name: &str, timeout: Duration) -> Result<(), Error>;
    /// Resumes a paused container.
    async fn unpause_container(&self, name: &str) -> Result<(), Error>;
    /// Kills and removes the container; named volumes stay.
    async fn remove_container(&self, name: &str) -> Result<(), Error>;
    // The simulation of databases does not need the verbs from here to `dial`.

    /// The image on the host, if it exists.
    async fn image(&self, image: &str) -> Result<Option<ImageSeen>, Error> {
        let _ = image;
        Err(unable())
    }
    /// Pulls the image even if it exists, with a login if the registry needs one. May take minutes: each layer's
    /// progress is logged at debug level, a summary at info level.
    async fn pull_image(&self, image: &str, login: Option<&RegistryLogin>) -> Result<(), Error> {
        let _ = (image, login);
        Err(unable())
    }
    /// Sends a signal such as `SIGHUP` to the container's main process.
    async fn signal_container(&self, name: &str, signal: &str) -> Result<(), Error> {
        let _ = (name, signal);
        Err(unable())
    }
    /// Writes files below a directory of the container, running or not; replaces existing files.
    /// On a tmpfs the files stay only while a container that mounts it runs.
    async fn put_files(&self, container: &str, directory: &str, files: &[File]) -> Result<(), Error> {
        let _ = (container, directory, files);
        Err(unable())
    }
    /// Runs a command in the container until it ends; after `limit` it keeps running and the result is
    /// [`Error::Refused`].
    async fn exec(&self, container: &str, command: &[String], limit: Duration) -> Result<ExecResult, Error> {
        let _ = (container, command, limit);
        Err(unable())
    }
    /// Runs a command in the container with its streams attached.
    async fn exec_attached(&self, container: &str, request: &ExecRequest) -> Result<ExecSession, Error> {
        let _ = (container, request);
        Err(unable())
    }
    /// Sets the terminal size of a running command: rows, columns.
    async fn exec_resize(&self, id: &str, size: (u16, u16)) -> Result<(), Error> {
        let _ = (id, size);
        Err(unable())
    }
    /// The exit code of a command; `None` while it runs.
    async fn exec_code(&self, id: &str) -> Result<Option<i64>, Error> {
        let _ = id;
        Err(unable())
    }
    /// The stdout and stderr of the container.
    async fn logs(&self, container: &str, options: &LogOptions) -> Result<Outputs, Error> {
        let _ = (container, options);
        Err(unable())
    }
    /// Opens a stream to an address inside the container (`unix:/path` or `tcp:host:port`), by exec of the injected
    /// binary. `Ok` means connected; dropping the stream disconnects.
    async fn dial(&self, container: &str, address: &str) -> Result<Box<dyn Conversation>, Error>;
    /// Hints that owned containers changed; reconnects for ever, and sends `None` after each (re)connect.
    /// (Docker's events of volumes and networks carry no labels, so they cause no hints.)
    fn events(&self) -> Pin<Box<dyn Stream<Item = EventHint> + Send>>;
}

fn unable() -> Error {
    Error::refused("", "the call", "this engine cannot do that")
}

/// Why a verb of an engine failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The engine does not answer.
    #[error("Docker host {host} does not answer while {doing}")]
    Unreachable {
        /// The DockerHost's name.
        host: String,
        /// The failed operation.
        doing: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Another engine than the known one answers: a reinstalled host, or another machine at its address.
    #[error(
        "Docker host {host} is another engine than before: its ID is {found} and was {known}. Nothing there is believed or \
         changed until a person says that it is right: evenkeel host accept {host}"
    )]
    Stranger {
        /// The DockerHost's name.
        host: String,
        /// The ID of the known engine.
        known: String,
        /// The ID of the one that answers.
        found: String,
    },
    /// The container, image, network or volume does not exist.
    #[error("Docker host {host}: not found while {doing}: {message}")]
    NotFound {
        /// The DockerHost's name.
        host: String,
        /// The failed operation.
        doing: String,
        /// The engine's message.
        message: String,
    },
    /// The name is in use, the thing is still in use, or it changed meanwhile.
    #[error("Docker host {host}: conflict while {doing}: {message}")]
    Conflict {
        /// The DockerHost's name.
        host: String,
        /// The failed operation.
        doing: String,
        /// The engine's message.
        message: String,
    },
    /// The engine understood the request and refused or failed: invalid image name, port in use, disk full,
    /// image not available.
    #[error("Docker host {host} refused {doing}: {message}")]
    Refused {
        /// The DockerHost's name.
        host: String,
        /// The failed operation.
        doing: String,
        /// The engine's message.
        message: String,
    },
}

impl Error {
    /// [`Error::Unreachable`] with the cause as text.
    pub fn unreachable(host: &str, doing: impl Into<String>, cause: impl Into<String>) -> Self {
        Self::Unreachable { host: host.to_owned(), doing: doing.into(), source: cause.into().into() }
    }

    /// [`Error::Unreachable`] with a cause that has a name.
    pub fn trouble(host: &str, doing: impl Into<String>, cause: Trouble) -> Self {
        Self::Unreachable { host: host.to_owned(), doing: doing.into(), source: Box::new(cause) }
    }

    /// Why the host does not answer, or does not do what it is asked.
    pub fn cause(&self) -> Trouble {
        match self {
            Self::Unreachable { source, .. } => source
                .downcast_ref::<Trouble>()
                .cloned()
                .unwrap_or_else(|| Trouble { reason: UNREACHABLE, message: chain(source.as_ref()) }),
            Self::Stranger { .. } => Trouble { reason: "IdentityChanged", message: self.to_string() },
            _ => Trouble { reason: "EngineRefused", message: chain(self) },
        }
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
            // What an engine refuses now (port in use, disk full, registry down) may succeed later.
            Self::Unreachable { .. } | Self::Refused { .. } | Self::Stranger { .. } => Class::Transient,
            Self::NotFound { .. } => Class::NotFound,
            Self::Conflict { .. } => Class::Conflict,
        }
    }
}
