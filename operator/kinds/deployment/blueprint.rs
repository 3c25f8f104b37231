//! Builds the containers and volumes of one pod from a pod template. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, PodSpec, Volume, VolumeMount};

use super::claims;
use crate::api::deployment::{Deployment, Pod, Revision};
use crate::api::docker_host::LOCAL;
use crate::api::hash::short_hash_of_json;
use crate::api::object::Object as _;
use crate::api::resources::Resources;
use crate::api::{labels, quantity};
use crate::engine::{Attachment, BINARY, BINARY_DIR, Chosen, ContainerSpec, Mount, MountSource, Security};
use crate::kinds::containers::bounds::limits;
use crate::kinds::containers::inputs::{config_map, secret};
use crate::kinds::containers::{EnvSource, Fill, InputRef, PreStop};
use crate::kinds::network_of;

/// Seconds between SIGTERM and SIGKILL, unless the template sets them.
const GRACE_SECONDS: i64 = 30;
/// Limit of processes and threads of a container, unless the template sets one.
const PIDS: i64 = 4096;
/// The same for a sandbox. It has one process; Docker needs some threads for a moment to run a command in it.
const SANDBOX_PIDS: i64 = 64;
/// Mount path, in the sandbox, of the volumes that hold files.
const VOLUMES: &str = "/volumes";

/// The containers of one pod, in the order of their creation.
#[derive(Debug, Clone, PartialEq)]
pub struct Blueprint {
    /// Holds the pod's network and volumes; see [`needs_sandbox`].
    pub sandbox: Option<Part>,
    /// Init containers: they run one after the other, before the main containers.
    pub init: Vec<Part>,
    /// The main containers.
    pub main: Vec<Part>,
    /// Volumes that are removed with the pod.
    pub volumes: Vec<String>,
}

/// One container of a pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// The container's name in the pod; empty for the sandbox.
    pub name: String,
    /// The desired container, without its inputs from Secrets and ConfigMaps.
    pub spec: ContainerSpec,
    /// Environment variables from Secrets and ConfigMaps, in order.
    pub env: Vec<EnvSource>,
    /// Files that are copied into its volumes before it starts.
    pub fills: Vec<Fill>,
    /// What precedes the signal that stops it.
    pub pre_stop: PreStop,
}

/// Docker's name of a container of a pod; the sandbox's name if `container` is empty.
pub fn docker_name(object: &Deployment, pod: &str, container: &str) -> String {
    let sandbox = format!("{}.{pod}", object.namespace());
    if container.is_empty() { sandbox } else { format!("{sandbox}.{container}") }
}

/// The pod spec of a revision's template.
pub fn pod_spec(revision: &Revision) -> PodSpec {
    revision.template.spec.clone().unwrap_or_default()
}

/// All containers of a template, init containers included.
pub fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.containers.iter().chain(spec.init_containers.iter().flatten())
}

/// Seconds between SIGTERM and SIGKILL.
pub fn grace_seconds(spec: &PodSpec) -> i64 {
    spec.termination_grace_period_seconds.unwrap_or(GRACE_SECONDS)
}

/// Why two pods of this template cannot run at the same time: they need the same host port or write the same volume.
pub fn forbids_surge(spec: &PodSpec) -> Option<&'static str> {
    match (has_host_port(spec), single_writer(spec)) {
        (true, _) => Some("a host port"),
        (false, true) => Some("a volume for one writer"),
        (false, false) => None,
    }
}

/// Whether the template publishes a port on its host.
pub fn has_host_port(spec: &PodSpec) -> bool {
    host_ports(spec).next().is_some()
}

/// The ports of its host that the template names.
pub fn host_ports(spec: &PodSpec) -> impl Iterator<Item = u16> {
    let ports = spec.containers.iter().flat_map(|container| container.ports.iter().flatten());
    ports.filter_map(|port| u16::try_from(port.host_port?).ok().filter(|port| *port != 0))
}

/// Whether the template has a volume that only one pod may write.
pub fn single_writer(spec: &PodSpec) -> bool {
    let claims = spec.volumes.iter().flatten().filter_map(|volume| volume.persistent_volume_claim.as_ref());
    claims.into_iter().any(|claim| claim.read_only != Some(true))
}

/// Whether pods of this template need a sandbox: to share a network, to keep a volume in memory, or to fill a volume that
/// their containers mount read-only.
pub fn needs_sandbox(spec: &PodSpec) -> bool {
    spec.containers.len() > 1 || spec.volumes.iter().flatten().any(|volume| in_memory(volume) || is_files(volume))
}

/// Whether pods of this template need Evenkeel's binary on this host.
pub fn needs_binary(spec: &PodSpec, host: &str) -> bool {
    needs_sandbox(spec) || spec.containers.iter().any(|container| has_binary(container, host))
}

/// Whether the container needs Evenkeel's binary in it: a command is one of its probes, or it is probed over a network that this
/// machine does not reach.
fn has_binary(container: &Container, host: &str) -> bool {
    let probes = [&container.startup_probe, &container.readiness_probe, &container.liveness_probe];
    probes.into_iter().flatten().any(|probe| probe.exec.is_some() || host != LOCAL)
}

/// Why a container that must not run as root would, or might, in the words of Kubernetes. `image`: the user of its image.
pub fn breaks_non_root(spec: &PodSpec, container: &Container, image: &str) -> Option<String> {
    let (pod, own) = (spec.security_context.as_ref(), container.security_context.as_ref());
    let wanted = own.and_then(|own| own.run_as_non_root).or(pod.and_then(|pod| pod.run_as_non_root));
    if wanted != Some(true) {
        return None;
    }
    if let Some(user) = own.and_then(|own| own.run_as_user).or(pod.and_then(|pod| pod.run_as_user)) {
        return (user == 0).then(|| "runAsUser is 0, which breaks runAsNonRoot".to_owned());
    }
    match image.split(':').next().unwrap_or_default() {
        "" | "0" | "root" => Some("it has runAsNonRoot and its image will run as root; set runAsUser".to_owned()),
        user if user.chars().all(|c| c.is_ascii_digit()) => None,
        user => Some(format!(
            "it has runAsNonRoot and its image has the non-numeric user {user}, which may be root; set runAsUser"
        )),
    }
}

/// Secrets and ConfigMaps that a template uses, and whether each is optional.
pub fn inputs(spec: &PodSpec) -> BTreeMap<InputRef, bool> {
    let mut found = BTreeMap::new();
    let mut add = |input: InputRef, optional: bool| {
        let known = found.entry(input).or_insert(optional);
        *known &= optional;
    };
    for volume in spec.volumes.iter().flatten() {
        if let Some(secret) = &volume.secret {
            add(self::secret(secret.secret_name.as_deref().unwrap_or_default()), secret.optional == Some(true));
        }
        if let Some(map) = &volume.config_map {
            add(config_map(&map.name), map.optional == Some(true));
        }
    }
    for source in all_env_sources(spec) {
        match source {
            EnvSource::Key { input, optional, .. } | EnvSource::All { input, optional, .. } => add(input, optional),
            EnvSource::Value { .. } => {}
        }
    }
    found
}

/// What a pod gets from outside its template.
#[derive(Debug, Clone, Copy)]
pub struct Outside<'a> {
    /// The networks of databases that it joins.
    pub networks: &'a BTreeSet<String>,
    /// The claims that are the Docker volume of exactly their name.
    pub exact: &'a BTreeSet<String>,
    /// The volume with Evenkeel's binary.
    pub binary: Option<&'a str>,
}

/// All containers and volumes of one pod.
pub fn blueprint(object: &Deployment, pod: &Pod, revision: &Revision, outside: &Outside) -> Blueprint {
    let spec = pod_spec(revision);
    let Outside { networks, exact, binary } = *outside;
    let binary = binary.unwrap_or_default();
    let builder = Builder { object, pod, revision, spec: &spec, networks, exact, binary };
    let sandboxed = needs_sandbox(&spec);
    let part = |container: &Container, init: bool| builder.part(container, sandboxed, init);
    let volumes = spec.volumes.iter().flatten().filter_map(|volume| builder.own_volume(volume));
    Blueprint {
        sandbox: sandboxed.then(|| builder.sandbox()),
        init: spec.init_containers.iter().flatten().map(|container| part(container, true)).collect(),
        main: spec.containers.iter().map(|container| part(container, false)).collect(),
        volumes: volumes.map(|(name, _)| name).collect(),
    }
}

struct Builder<'a> {
    object: &'a Deployment,
    pod: &'a Pod,
    revision: &'a Revision,
    spec: &'a PodSpec,
    networks: &'a BTreeSet<String>,
    exact: &'a BTreeSet<String>,
    binary: &'a str,
}

impl Builder<'_> {
    fn labels(&self, container: &str) -> BTreeMap<String, String> {
        let mut all = self.revision.template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
        all.extend(self.object.owner().member_labels(&self.pod.name));
        all.insert(labels::CONTAINER.into(), container.into());
        all
    }

    fn aliases(&self) -> Vec<String> {
        vec![self.pod.name.clone(), self.object.name().to_owned()]
    }

    /// Adds the network and the ports to the container that holds the pod's network.
    fn networked(&self, spec: ContainerSpec) -> ContainerSpec {
        let namespace = self.object.namespace();
        let attach = |network: &String| Attachment { network: network.clone(), aliases: self.aliases(), address: None };
        ContainerSpec {
            hostname: self.pod.name.clone(),
            network: network_of(namespace),
            aliases: self.aliases(),
            networks: self.networks.iter().map(attach).collect(),
            ports: self.ports(),
            ..spec
        }
    }

    fn ports(&self) -> Vec<(IpAddr, u16, u16)> {
        let all = self.spec.containers.iter().flat_map(|container| container.ports.iter().flatten());
        let published = all.filter_map(|port| {
            let host = u16::try_from(port.host_port?).ok().filter(|port| *port != 0)?;
            // A host port listens on this machine only, unless the template names another address.
            let address = port.host_ip.as_deref().and_then(|ip| ip.parse().ok());
            Some((address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)), host, u16::try_from(port.container_port).ok()?))
        });
        let reserved = self.pod.ports.iter().map(|(inside, at)| (IpAddr::V4(*at.ip()), at.port(), *inside));
        published.chain(reserved).collect()
    }

    fn image(&self, container: &Container) -> String {
        let resolved = self.revision.images.get(&container.name).cloned();
        resolved.or_else(|| container.image.clone()).unwrap_or_default()
    }

    fn sandbox(&self) -> Part {
        let image = self.spec.containers.first().map(|container| self.image(container)).unwrap_or_default();
        let docker_name = docker_name(self.object, &self.pod.name, "");
        let held = self.spec.volumes.iter().flatten().filter(|volume| holds(volume));
        let kept = self.spec.volumes.iter().flatten().filter(|volume| holds(volume) || in_memory(volume));
        let mounts = kept.filter_map(|volume| self.mount(volume, &format!("{VOLUMES}/{}", volume.name), false));
        let spec = ContainerSpec {
            name: docker_name.clone(),
            image,
            entrypoint: vec![BINARY.into(), "pause".into()],
            user: Some("0:0".into()),
            labels: self.labels(""),
            volumes: self.binary_volume(),
            mounts: mounts.collect(),
            stop_timeout_seconds: 1,
            security: Security { sysctls: self.sysctls(), no_new_privileges: true, ..Default::default() },
            // It only waits; its volumes are filled from outside.
            chosen: Chosen {
                pids_limit: Some(SANDBOX_PIDS),
                user: Some("65534:65534".into()),
                cap_drop: vec!["ALL".into()],
                read_only: true,
                ..Default::default()
            },
            ..Default::default()
        };
        let fill = |volume: &Volume| Fill {
            container: docker_name.clone(),
            directory: format!("{VOLUMES}/{}", volume.name),
            volume: is_files(volume).then(|| Box::new(volume.clone())),
        };
        let fills = held.map(fill).collect();
        Part { name: String::new(), spec: self.networked(spec), env: Vec::new(), fills, pre_stop: PreStop::None }
    }

    /// The mount of Evenkeel's binary.
    fn binary_volume(&self) -> Vec<(String, String, bool)> {
        vec![(self.binary.into(), BINARY_DIR.into(), true)]
    }

    fn part(&self, container: &Container, sandboxed: bool, init: bool) -> Part {
        let docker_name = docker_name(self.object, &self.pod.name, &container.name);
        let volume_of = |name: &str| self.spec.volumes.iter().flatten().find(|volume| volume.name == name);
        let mounted = container.volume_mounts.iter().flatten();
        let mounted: Vec<_> = mounted.filter_map(|mount| Some((mount, volume_of(&mount.name)?))).collect();
        let mounts = mounted.iter().filter_map(|(mount, volume)| {
            self.mount(volume, &mount.mount_path, mount.read_only == Some(true) || is_files(volume))
        });
        let probed = has_binary(container, &self.pod.host);
        let mut labels = self.labels(&container.name);
        labels.extend(probed.then(|| (labels::BINARY.to_owned(), self.binary.to_owned())));
        let spec = ContainerSpec {
            name: docker_name.clone(),
            image: self.image(container),
            volumes: if probed { self.binary_volume() } else { Vec::new() },
            entrypoint: container.command.clone().unwrap_or_default(),
            cmd: container.args.clone().unwrap_or_default(),
            labels,
            mounts: mounts.collect(),
            stop_timeout_seconds: grace_seconds(self.spec),
            working_dir: container.working_dir.clone(),
            ..self.limits(container)
        };
        let spec = if sandboxed {
            let joins = Some(self::docker_name(self.object, &self.pod.name, ""));
            ContainerSpec { joins, ..spec }
        } else {
            let mut spec = self.networked(spec);
            spec.security.sysctls = self.sysctls();
            if init {
                // The main container has the pod's ports.
                spec.ports = Vec::new();
            }
            spec
        };
        // Without a sandbox no volume has files; an empty directory is opened by a container that may write to it.
        let opened = |mount: &VolumeMount, volume| !sandboxed && holds(volume) && mount.read_only != Some(true);
        let fills = mounted.iter().filter(|(mount, volume)| opened(mount, volume)).map(|(mount, _)| Fill {
            container: docker_name.clone(),
            directory: mount.mount_path.clone(),
            volume: None,
        });
        let (name, env, fills) = (container.name.clone(), env_sources(container, &self.fields()), fills.collect());
        Part { name, spec, env, fills, pre_stop: pre_stop(container) }
    }

    fn limits(&self, container: &Container) -> ContainerSpec {
        let pod = self.spec.security_context.clone().unwrap_or_default();
        let own = container.security_context.clone().unwrap_or_default();
        let user = own.run_as_user.or(pod.run_as_user);
        let group = own.run_as_group.or(pod.run_as_group);
        let resources = container.resources.as_ref().map(Resources::from).unwrap_or_default();
        let capabilities = own.capabilities.unwrap_or_default();
        ContainerSpec {
            user: match (user, group) {
                (Some(user), Some(group)) => Some(format!("{user}:{group}")),
                (Some(user), None) => Some(user.to_string()),
                (None, Some(group)) => Some(format!("0:{group}")),
                (None, None) => None,
            },
            groups: pod.supplemental_groups.unwrap_or_default().iter().map(ToString::to_string).collect(),
            security: Security {
                cap_add: capabilities.add.unwrap_or_default(),
                cap_drop: capabilities.drop.unwrap_or_default(),
                read_only: own.read_only_root_filesystem == Some(true),
                no_new_privileges: own.allow_privilege_escalation == Some(false),
                privileged: own.privileged == Some(true),
                sysctls: BTreeMap::new(),
            },
            chosen: Chosen {
                pids_limit: Some(PIDS),
                no_new_privileges: own.allow_privilege_escalation != Some(true) && own.privileged != Some(true),
                ..Default::default()
            },
            ..limits(&resources)
        }
    }

    fn sysctls(&self) -> BTreeMap<String, String> {
        let context = self.spec.security_context.as_ref();
        let all = context.and_then(|context| context.sysctls.as_ref()).into_iter().flatten();
        all.map(|sysctl| (sysctl.name.clone(), sysctl.value.clone())).collect()
    }

    /// The values that `fieldRef` can name.
    fn fields(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            ("metadata.name", self.pod.name.clone()),
            ("metadata.namespace", self.object.namespace().to_owned()),
            ("metadata.uid", self.object.metadata.uid.clone().unwrap_or_default()),
            ("spec.nodeName", self.pod.host.clone()),
        ])
    }

    fn mount(&self, volume: &Volume, path: &str, read_only: bool) -> Option<Mount> {
        let source = if let Some((name, options)) = self.own_volume(volume) {
            MountSource::Volume { name, options, labels: self.labels("") }
        } else if let Some(host) = &volume.host_path {
            MountSource::Bind(host.path.clone())
        } else if let Some(nfs) = &volume.nfs {
            let address = if nfs.read_only == Some(true) { "ro" } else { "rw" };
            let options = BTreeMap::from([
                ("type".to_owned(), "nfs".to_owned()),
                ("device".to_owned(), format!(":{}", nfs.path)),
                ("o".to_owned(), format!("addr={},{address}", nfs.server)),
            ]);
            // The options of a Docker volume cannot change, so other options need another volume.
            let name = format!("evenkeel-nfs-{}", short_hash_of_json(&options, 10));
            MountSource::Volume { name, options, labels: BTreeMap::new() }
        } else {
            let claim = &volume.persistent_volume_claim.as_ref()?.claim_name;
            if self.exact.contains(claim) {
                MountSource::Volume { name: claim.clone(), options: BTreeMap::new(), labels: BTreeMap::new() }
            } else {
                let namespace = self.object.namespace();
                let labels = claims::owner(namespace, claim).labels();
                MountSource::Kept { name: claims::volume(namespace, claim), labels }
            }
        };
        Some(Mount { source, path: path.to_owned(), read_only })
    }

    /// Name and driver options of a volume that is removed with the pod.
    fn own_volume(&self, volume: &Volume) -> Option<(String, BTreeMap<String, String>)> {
        let name = format!("{}.{}", docker_name(self.object, &self.pod.name, ""), volume.name);
        let memory = |options: String| {
            let option = |name: &str, value: String| (name.to_owned(), value);
            BTreeMap::from([option("type", "tmpfs".into()), option("device", "tmpfs".into()), option("o", options)])
        };
        if let Some(empty) = &volume.empty_dir {
            if empty.medium.as_deref() != Some("Memory") {
                return Some((name, BTreeMap::new()));
            }
            let size = empty.size_limit.as_ref().and_then(|limit| quantity::whole(&limit.0).ok());
            let size = size.map(|bytes| format!(",size={bytes}")).unwrap_or_default();
            return Some((name, memory(format!("mode=1777{size}"))));
        }
        if volume.secret.is_some() {
            return Some((name, memory("mode=0755,size=8m".into())));
        }
        volume.config_map.as_ref().map(|_| (name, BTreeMap::new()))
    }
}

/// Whether the volume holds files of a Secret or ConfigMap.
fn is_files(volume: &Volume) -> bool {
    volume.secret.is_some() || volume.config_map.is_some()
}

/// Whether the volume must be prepared before use: filled with files, or opened to every user.
fn holds(volume: &Volume) -> bool {
    is_files(volume) || volume.empty_dir.is_some() && !in_memory(volume)
}

/// Whether the volume exists only while a container mounts it; then the sandbox must mount it.
fn in_memory(volume: &Volume) -> bool {
    let empty = volume.empty_dir.as_ref();
    volume.secret.is_some() || empty.is_some_and(|empty| empty.medium.as_deref() == Some("Memory"))
}

fn pre_stop(container: &Container) -> PreStop {
    let handler = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
    let Some(handler) = handler else { return PreStop::None };
    if let Some(command) = handler.exec.as_ref().and_then(|exec| exec.command.clone()) {
        return PreStop::Exec(command);
    }
    let seconds = handler.sleep.as_ref().and_then(|sleep| u64::try_from(sleep.seconds).ok());
    seconds.map_or(PreStop::None, |seconds| PreStop::Sleep(Duration::from_secs(seconds)))
}

/// The environment in order: `envFrom` first, as in Kubernetes, so that `env` wins.
fn env_sources(container: &Container, fields: &BTreeMap<&str, String>) -> Vec<EnvSource> {
    let mut sources = Vec::new();
    for from in container.env_from.iter().flatten() {
        let map = from.config_map_ref.iter().map(|map| (config_map(&map.name), map.optional));
        let secret = from.secret_ref.iter().map(|from| (secret(&from.name), from.optional));
        sources.extend(map.chain(secret).map(|(input, optional)| {
            let (prefix, optional) = (from.prefix.clone().unwrap_or_default(), optional == Some(true));
            EnvSource::All { prefix, input, optional }
        }));
    }
    for variable in container.env.iter().flatten() {
        let name = variable.name.clone();
        let from = variable.value_from.as_ref();
        let of_secret = from.and_then(|from| from.secret_key_ref.as_ref());
        let of_secret = of_secret.map(|from| (secret(&from.name), &from.key, from.optional));
        let of_map = from.and_then(|from| from.config_map_key_ref.as_ref());
        let of_map = of_map.map(|from| (config_map(&from.name), &from.key, from.optional));
        sources.push(match (of_secret.or(of_map), from.and_then(|from| from.field_ref.as_ref())) {
            (Some((input, key, optional)), _) => {
                EnvSource::Key { name, input, key: key.clone(), optional: optional == Some(true) }
            }
            (None, Some(field)) => {
                EnvSource::Value { name, value: fields.get(field.field_path.as_str()).cloned().unwrap_or_default() }
            }
            (None, None) => EnvSource::Value { name, value: variable.value.clone().unwrap_or_default() },
        });
    }
    sources
}

/// Keys that must exist: (Secret or ConfigMap, key).
pub fn keys(spec: &PodSpec) -> BTreeSet<(InputRef, String)> {
    let needed = all_env_sources(spec).filter_map(|source| match source {
        EnvSource::Key { input, key, optional: false, .. } => Some((input, key)),
        _ => None,
    });
    needed.collect()
}

/// The sources of the environment of all containers of a template. They are the same for every pod.
fn all_env_sources(spec: &PodSpec) -> impl Iterator<Item = EnvSource> {
    containers(spec).flat_map(|container| env_sources(container, &BTreeMap::new()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn deployment(pod: Value) -> Deployment {
        let spec = json!({"selector": {}, "template": {"spec": pod}});
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "team"}, "spec": spec})).unwrap()
    }

    fn blueprint_of(pod: Value) -> Blueprint {
        let object = deployment(pod);
        let revision = Revision { template: object.spec.template.clone(), ..Default::default() };
        let outside = Outside { networks: &BTreeSet::new(), exact: &BTreeSet::new(), binary: Some("evenkeel-bin-1") };
        blueprint(&object, &Pod { name: "web-1".into(), ..Default::default() }, &revision, &outside)
    }

    /// Regression 197: a pod had every capability of Docker's default set, setuid programs, and as many processes as the host.
    #[test]
    fn a_container_gets_less_unless_its_template_says_more_and_its_hash_stays() {
        let told = |security: Value| {
            let part =
                blueprint_of(json!({"containers": [{"name": "web", "securityContext": security}]})).main.remove(0);
            let spec = ContainerSpec { chosen: Chosen::default(), ..part.spec.clone() };
            assert_eq!(spec.hash(), part.spec.hash(), "what is chosen recreates no container");
            let nnp = part.spec.security.no_new_privileges || part.spec.chosen.no_new_privileges;
            format!("{} nnp={nnp} pids={:?}", part.spec.drops().join(","), part.spec.chosen.pids_limit.unwrap())
        };
        assert_eq!(told(json!({})), "AUDIT_WRITE,MKNOD,NET_RAW,SETFCAP nnp=true pids=4096");
        let more = json!({"allowPrivilegeEscalation": true, "capabilities": {"add": ["NET_RAW"]}});
        assert_eq!(told(more), "AUDIT_WRITE,MKNOD,SETFCAP nnp=false pids=4096");
        assert_eq!(told(json!({"privileged": true})), "AUDIT_WRITE,MKNOD,NET_RAW,SETFCAP nnp=false pids=4096");
        let less = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
        assert_eq!(told(less), "ALL nnp=true pids=4096");
        let sandbox = blueprint_of(json!({"containers": [{"name": "a"}, {"name": "b"}]})).sandbox.unwrap().spec;
        let chosen = &sandbox.chosen;
        assert_eq!((chosen.user.as_deref(), chosen.read_only), (Some("65534:65534"), true));
        assert_eq!((sandbox.drops().join(","), sandbox.security.no_new_privileges), ("ALL".into(), true));
    }

    /// Regression 337: on another host an HTTP probe runs Evenkeel's binary in the container. A pod without a sandbox did not have
    /// it, so it never became ready there.
    #[test]
    fn a_container_that_is_probed_on_another_host_has_the_binary() {
        let get = json!({"httpGet": {"path": "/", "port": 80}});
        let object = deployment(json!({"containers": [{"name": "web", "readinessProbe": get}]}));
        let revision = Revision { template: object.spec.template.clone(), ..Default::default() };
        let outside = Outside { networks: &BTreeSet::new(), exact: &BTreeSet::new(), binary: Some("evenkeel-bin-1") };
        let volumes = |host: &str| {
            let pod = Pod { name: "web-1".into(), host: host.into(), ..Default::default() };
            let spec = blueprint(&object, &pod, &revision, &outside).main.remove(0).spec;
            (needs_binary(&pod_spec(&revision), host), spec.volumes.len())
        };
        assert_eq!((volumes(LOCAL), volumes("h2")), ((false, 0), (true, 1)));
    }

    /// Regression 198: `runAsNonRoot: true` was accepted and meant nothing.
    #[test]
    fn a_container_that_must_not_run_as_root_is_not_made_if_it_would() {
        let told = |pod: Value, own: Value, image: &str| {
            let pod = json!({"securityContext": pod, "containers": [{"name": "web", "securityContext": own}]});
            let spec = deployment(pod).spec.template.spec.unwrap();
            breaks_non_root(&spec, &spec.containers[0], image).unwrap_or_default()
        };
        let wanted = || json!({"runAsNonRoot": true});
        for root in ["", "0", "0:0", "root:root"] {
            assert!(told(wanted(), json!({}), root).contains("will run as root"), "{root}");
            assert_eq!(told(json!({}), json!({}), root), "");
            assert_eq!(told(wanted(), json!({"runAsUser": 1000}), root), "");
            assert_eq!(told(wanted(), json!({"runAsNonRoot": false}), root), "");
        }
        assert!(told(wanted(), json!({}), "nginx").contains("non-numeric user nginx"));
        assert_eq!(told(json!({}), wanted(), "101:101"), "");
        assert!(told(wanted(), json!({"runAsUser": 0}), "101").contains("runAsUser is 0"));
    }
}
