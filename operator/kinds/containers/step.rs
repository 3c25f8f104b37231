//! The deeds about containers that planners ask for, and their words. Every step names its host.

use std::fmt;
use std::time::Duration;

use super::EnvSource;
use crate::engine::{ContainerSpec, NetworkSpec, VolumeSpec};
use crate::runtime::Significance;

/// One idempotent deed. `Display` is the log line, the Event, the dry run and the test's expectation.
#[allow(missing_docs)]
#[derive(Debug, Clone, PartialEq)]
pub enum DockerStep {
    /// Make the network.
    EnsureNetwork { host: String, spec: NetworkSpec },
    /// Begin to pull an image; `logins` are Secrets with registry logins.
    GetImage { host: String, image: String, revision: String, logins: Vec<String> },
    /// Begin to put our binary on the host; `image` is any image that is there.
    GetBinary { host: String, image: String },
    /// Make the volume.
    EnsureVolume { host: String, member: String, spec: VolumeSpec },
    /// Make the container; `env` is put together from Secrets and ConfigMaps at that moment, `again` says why if it was
    /// there before.
    Create { host: String, member: String, spec: Box<ContainerSpec>, env: Vec<EnvSource>, again: Option<String> },
    /// Put files of a Secret or ConfigMap where a container has them mounted.
    Fill { host: String, member: String, fill: Fill },
    /// Start the container; `again` says why if it ran before.
    Start { host: String, member: String, container: String, again: Option<String> },
    /// Let a paused container go on.
    Unpause { host: String, member: String, container: String },
    /// Begin to stop containers, each after its hook; `grace` is seconds between SIGTERM and SIGKILL.
    Stop { host: String, member: String, subject: String, containers: Vec<(String, PreStop)>, grace: u64, why: String },
    /// Remove the container: begin to stop it first if there is a `grace` in seconds, else at once.
    Remove { host: String, member: String, container: String, grace: Option<u64>, why: String },
    /// Remove the volume and what is in it; `data` if that is a user's.
    RemoveVolume { host: String, member: String, volume: String, data: bool },
    /// Remove the network; one that is `shared` stays while somebody else is in it.
    RemoveNetwork { host: String, network: String, shared: bool },
}

impl DockerStep {
    /// Makes a container of a member; `env` and `again` as in [`DockerStep::Create`].
    pub fn create(host: &str, member: &str, spec: &ContainerSpec, env: &[EnvSource], again: Option<&str>) -> Self {
        let (host, member, spec) = (host.to_owned(), member.to_owned(), Box::new(spec.clone()));
        Self::Create { host, member, spec, env: env.to_vec(), again: again.map(str::to_owned) }
    }

    /// Starts a container of a member; `again` says why if it ran before.
    pub fn start(host: &str, member: &str, container: &str, again: Option<&str>) -> Self {
        let (host, member, container) = (host.to_owned(), member.to_owned(), container.to_owned());
        Self::Start { host, member, container, again: again.map(str::to_owned) }
    }

    /// Removes a container of a member: after a stop if there is a `grace` in seconds, else at once.
    pub fn remove(host: &str, member: &str, container: &str, grace: Option<u64>, why: &str) -> Self {
        let (host, member, container) = (host.to_owned(), member.to_owned(), container.to_owned());
        Self::Remove { host, member, container, grace, why: why.to_owned() }
    }

    /// Removes a volume of a member; `data` if what is in it is a user's.
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
    /// Run this command in it.
    Exec(Vec<String>),
    /// Wait this long.
    Sleep(Duration),
}

/// A volume of files from a Secret or ConfigMap, and where a container has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Fill {
    /// The container that has it mounted.
    pub container: String,
    /// Where.
    pub directory: String,
    /// The template's volume, which says what is in it; `None`: an empty directory that everybody may write to.
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
            Self::Create { again: Some(_), .. } | Self::Unpause { .. } => Some("DriftRepaired"),
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
            _ => "StepFailed",
        }
    }

    /// Members are independent of each other. What is begun and not awaited keeps to its host.
    fn lane(&self) -> Option<&str> {
        match self {
            Self::EnsureVolume { member, .. }
            | Self::Create { member, .. }
            | Self::Fill { member, .. }
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
