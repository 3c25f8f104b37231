//! The steps on containers that planners can return, and their texts. Every step names its host.

use std::fmt;
use std::time::Duration;

use super::EnvSource;
use crate::engine::{Attachment, ContainerSpec, NetworkSpec, VolumeSpec};
use crate::runtime::Significance;

/// One idempotent step. `Display` is its text in the log, the Event, the dry run and tests.
#[allow(missing_docs)]
#[derive(Debug, Clone, PartialEq)]
pub enum DockerStep {
    /// Create the network.
    EnsureNetwork { host: String, spec: NetworkSpec },
    /// Start to pull an image; `logins` are Secrets with registry logins.
    GetImage { host: String, image: String, revision: String, logins: Vec<String> },
    /// Start to copy Evenkeel's binary to the host; `image` is any image on the host.
    GetBinary { host: String, image: String },
    /// Create the volume.
    EnsureVolume { host: String, member: String, spec: VolumeSpec },
    /// Create the container; `env` is built from Secrets and ConfigMaps at that moment; `again` is the reason if the
    /// container existed before.
    Create { host: String, member: String, spec: Box<ContainerSpec>, env: Vec<EnvSource>, again: Option<String> },
    /// Copy the files of a Secret or ConfigMap to their mount in a container.
    Fill { host: String, member: String, fill: Fill },
    /// Connect the container to a network, running or not; a connection to it that is not like this one is replaced.
    Connect { host: String, member: String, container: String, to: Attachment, why: String },
    /// Start the container; `again` is the reason if it ran before.
    Start { host: String, member: String, container: String, again: Option<String> },
    /// Unpause the container.
    Unpause { host: String, member: String, container: String },
    /// Start to stop containers, each after its hook; `grace` is the time between SIGTERM and SIGKILL in seconds.
    Stop { host: String, member: String, subject: String, containers: Vec<(String, PreStop)>, grace: u64, why: String },
    /// Remove the container: start to stop it first if there is a `grace` in seconds, else remove it at once.
    Remove { host: String, member: String, container: String, grace: Option<u64>, why: String },
    /// Remove the volume and its data; `data`: the data belongs to a user.
    RemoveVolume { host: String, member: String, volume: String, data: bool },
    /// Remove the network; a `shared` one stays while other containers use it.
    RemoveNetwork { host: String, network: String, shared: bool },
}

impl DockerStep {
    /// The step that creates a container of a member; `env` and `again` as in [`DockerStep::Create`].
    pub fn create(host: &str, member: &str, spec: &ContainerSpec, env: &[EnvSource], again: Option<&str>) -> Self {
        let (host, member, spec) = (host.to_owned(), member.to_owned(), Box::new(spec.clone()));
        Self::Create { host, member, spec, env: env.to_vec(), again: again.map(str::to_owned) }
    }

    /// The step that starts a container of a member; `again`: the reason if it ran before.
    pub fn start(host: &str, member: &str, container: &str, again: Option<&str>) -> Self {
        let (host, member, container) = (host.to_owned(), member.to_owned(), container.to_owned());
        Self::Start { host, member, container, again: again.map(str::to_owned) }
    }

    /// The step that removes a container of a member: after a stop if there is a `grace` in seconds, else at once.
    pub fn remove(host: &str, member: &str, container: &str, grace: Option<u64>, why: &str) -> Self {
        let (host, member, container) = (host.to_owned(), member.to_owned(), container.to_owned());
        Self::Remove { host, member, container, grace, why: why.to_owned() }
    }

    /// The step that removes a volume of a member; `data`: the volume holds user data.
    pub fn remove_volume(host: &str, member: &str, volume: &str, data: bool) -> Self {
        Self::RemoveVolume { host: host.to_owned(), member: member.to_owned(), volume: volume.to_owned(), data }
    }
}

/// What precedes the signal that stops a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum PreStop {
    /// Nothing.
    #[default]
    None,
    /// Run this command in the container.
    Exec(Vec<String>),
    /// Wait this long.
    Sleep(Duration),
}

/// A volume with files from a Secret or ConfigMap, and its mount in a container.
#[derive(Debug, Clone, PartialEq)]
pub struct Fill {
    /// The container that mounts it.
    pub container: String,
    /// The mount path.
    pub directory: String,
    /// The volume in the template, which defines the content; `None`: an empty directory that every user may write to.
    pub volume: Option<Box<k8s_openapi::api::core::v1::Volume>>,
}

impl fmt::Display for DockerStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EnsureNetwork { host, spec } => write!(f, "create network {} on {host}", spec.name),
            Self::GetImage { host, image, .. } => write!(f, "get image {image} on {host}"),
            Self::GetBinary { host, .. } => write!(f, "put evenkeel on {host}"),
            Self::EnsureVolume { host, spec, .. } => write!(f, "create volume {} on {host}", spec.name),
            Self::Create { host, spec, again: None, .. } => write!(f, "create container {} on {host}", spec.name),
            Self::Create { host, spec, again: Some(why), .. } => {
                write!(f, "create container {} on {host} again: {why}", spec.name)
            }
            Self::Fill { fill: Fill { container, directory, .. }, .. } => write!(f, "fill {directory} of {container}"),
            Self::Connect { container, to, why, .. } => {
                write!(f, "connect container {container} to network {}: {why}", to.network)
            }
            Self::Start { container, again: None, .. } => write!(f, "start container {container}"),
            Self::Start { container, again: Some(why), .. } => write!(f, "start container {container} again: {why}"),
            Self::Unpause { container, .. } => write!(f, "unpause container {container}"),
            Self::Stop { subject, why, .. } => write!(f, "stop {subject}: {why}"),
            Self::Remove { container, why, .. } => write!(f, "remove container {container}: {why}"),
            Self::RemoveVolume { volume, data: true, .. } => write!(f, "remove volume {volume} and its data"),
            Self::RemoveVolume { volume, data: false, .. } => write!(f, "remove volume {volume}"),
            Self::RemoveNetwork { host, network, shared: true } => {
                write!(f, "remove network {network} on {host} unless it is used")
            }
            Self::RemoveNetwork { host, network, shared: false } => write!(f, "remove network {network} on {host}"),
        }
    }
}

impl Significance for DockerStep {
    fn event_reason(&self) -> Option<&'static str> {
        match self {
            Self::GetImage { .. } => Some("Pulling"),
            Self::Create { again: None, .. } => Some("Created"),
            Self::Create { again: Some(_), .. } | Self::Unpause { .. } | Self::Connect { .. } => Some("DriftRepaired"),
            Self::Start { again: None, .. } => Some("Started"),
            Self::Start { again: Some(_), .. } => Some("Restarted"),
            Self::Stop { .. } => Some("Killing"),
            Self::Remove { .. } => Some("Removed"),
            Self::RemoveVolume { data: true, .. } => Some("VolumeRemoved"),
            Self::EnsureNetwork { .. }
            | Self::GetBinary { .. }
            | Self::EnsureVolume { .. }
            | Self::Fill { .. }
            | Self::RemoveVolume { .. }
            | Self::RemoveNetwork { .. } => None,
        }
    }

    fn failure_reason(&self) -> &'static str {
        match self {
            Self::Start { .. } | Self::Create { .. } => "ContainerNotStarting",
            Self::Connect { .. } => "NetworkLost",
            _ => "StepFailed",
        }
    }

    /// Members are independent of each other. Background work is in the lane of its host.
    fn lane(&self) -> Option<&str> {
        match self {
            Self::EnsureVolume { member, .. }
            | Self::Create { member, .. }
            | Self::Fill { member, .. }
            | Self::Connect { member, .. }
            | Self::Start { member, .. }
            | Self::Unpause { member, .. }
            | Self::Stop { member, .. }
            | Self::Remove { member, .. }
            | Self::RemoveVolume { member, .. } => Some(member),
            Self::GetImage { host, .. } | Self::GetBinary { host, .. } => Some(host),
            Self::EnsureNetwork { .. } | Self::RemoveNetwork { .. } => None,
        }
    }
}
