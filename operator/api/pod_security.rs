//! Pod Security: the levels of a namespace and what each forbids to a pod, with the words of the Kubernetes standard. Pure.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, PodSpec, SecurityContext, Volume};
use serde_json::Value;

use super::host_ports::Ranges;
use super::invalid::Invalid;

/// What pods of a namespace may do, from most to least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Level {
    /// Everything.
    #[default]
    Privileged,
    /// Nothing that is known to give power over the host.
    Baseline,
    /// Only what a hardened pod needs.
    Restricted,
}

/// The label of a namespace with the level that pods must have.
pub const ENFORCE: &str = "pod-security.kubernetes.io/enforce";
/// The label with the level of which the writer is warned.
pub const WARN: &str = "pod-security.kubernetes.io/warn";
/// The label with the level of which the audit log tells.
pub const AUDIT: &str = "pod-security.kubernetes.io/audit";

impl Level {
    /// The word in a label.
    pub fn word(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }

    /// The level in a label of a namespace; `None` if it has no such label.
    pub fn labelled(namespace: Option<&Value>, label: &str) -> Option<Self> {
        namespace?["metadata"]["labels"][label].as_str()?.parse().ok()
    }

    /// The level that pods of the namespace must have: privileged without a label, as in Kubernetes.
    pub fn enforced(namespace: Option<&Value>) -> Self {
        Self::labelled(namespace, ENFORCE).unwrap_or_default()
    }
}

impl std::str::FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = [Self::Privileged, Self::Baseline, Self::Restricted];
        let level = known.into_iter().find(|level| level.word() == text);
        level.ok_or_else(|| format!("{text:?} is no level; it must be privileged, baseline or restricted"))
    }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}

/// The problems with the labels of a namespace.
pub fn label_problems(namespace: &Value) -> Vec<Invalid> {
    let labels = &namespace["metadata"]["labels"];
    let levels = [ENFORCE, WARN, AUDIT].into_iter().filter_map(|label| {
        let problem = labels[label].as_str()?.parse::<Level>().err()?;
        Some(Invalid::new(format!("metadata.labels[{label}]"), problem))
    });
    let versions = [ENFORCE, WARN, AUDIT].into_iter().filter_map(|label| {
        let label = format!("{label}-version");
        let version = labels[&label].as_str().filter(|version| *version != "latest")?;
        let message = format!("{version:?} is not supported; it can only be latest, or be left out");
        Some(Invalid::new(format!("metadata.labels[{label}]"), message))
    });
    levels.chain(versions).collect()
}

/// Capabilities that baseline lets a pod add: Docker's own set without NET_RAW.
const BASELINE_ADDS: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// The capability that restricted lets a pod add.
const RESTRICTED_ADDS: [&str; 1] = ["NET_BIND_SERVICE"];
/// Kernel parameters that only the pod itself notices.
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

/// What a pod does that its level forbids, in the words of the standard. `ports`: host ports that its namespace may use.
pub fn violations(pod: &PodSpec, level: Level, ports: &Ranges) -> Vec<String> {
    let mut found = Vec::new();
    if level >= Level::Baseline {
        baseline(pod, ports, &mut found);
    }
    if level >= Level::Restricted {
        restricted(pod, &mut found);
    }
    found
}

fn containers(pod: &PodSpec) -> impl Iterator<Item = &Container> {
    pod.init_containers.iter().flatten().chain(&pod.containers)
}

/// The names of the containers for which this holds, as `container "a"` or `containers "a", "b"`.
fn those(pod: &PodSpec, bad: impl Fn(&Container, &SecurityContext) -> bool) -> Option<String> {
    let none = SecurityContext::default();
    let bad = containers(pod).filter(|one| bad(one, one.security_context.as_ref().unwrap_or(&none)));
    named("container", bad.map(|one| one.name.as_str()))
}

/// `volume "a"`, or `volumes "a", "b"`.
fn named<'a>(what: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    let names: Vec<_> = names.map(|name| format!("{name:?}")).collect();
    let plural = if names.len() > 1 { "s" } else { "" };
    (!names.is_empty()).then(|| format!("{what}{plural} {}", names.join(", ")))
}

/// Capabilities that the container adds beyond these.
fn adds<'a>(context: &'a SecurityContext, allowed: &[&str]) -> impl Iterator<Item = &'a str> {
    let added = context.capabilities.iter().flat_map(|all| all.add.iter().flatten());
    added.map(|name| name.strip_prefix("CAP_").unwrap_or(name)).filter(|name| !allowed.contains(name))
}

fn capabilities(pod: &PodSpec, allowed: &[&str]) -> Option<String> {
    let who = those(pod, |_, context| adds(context, allowed).next().is_some())?;
    let contexts = containers(pod).filter_map(|one| one.security_context.as_ref());
    let which: BTreeSet<_> = contexts.flat_map(|context| adds(context, allowed)).collect();
    let which: Vec<_> = which.into_iter().map(|name| format!("{name:?}")).collect();
    Some(format!("{who} must not include {} in securityContext.capabilities.add", which.join(", ")))
}

fn baseline(pod: &PodSpec, allowed: &Ranges, found: &mut Vec<String>) {
    let host: Vec<_> = [("hostNetwork", pod.host_network), ("hostPID", pod.host_pid), ("hostIPC", pod.host_ipc)]
        .into_iter()
        .filter(|(_, value)| *value == Some(true))
        .map(|(name, _)| format!("{name}=true"))
        .collect();
    if !host.is_empty() {
        found.push(format!("host namespaces ({})", host.join(", ")));
    }
    if let Some(who) = those(pod, |_, context| context.privileged == Some(true)) {
        found.push(format!("privileged ({who} must not set securityContext.privileged=true)"));
    }
    if let Some(which) = capabilities(pod, &BASELINE_ADDS) {
        found.push(format!("non-default capabilities ({which})"));
    }
    let paths = pod.volumes.iter().flatten().filter(|volume| volume.host_path.is_some());
    if let Some(volumes) = named("volume", paths.map(|volume| volume.name.as_str())) {
        found.push(format!("hostPath volumes ({volumes})"));
    }
    let ports = |one: &Container| -> Vec<_> {
        let ports = one.ports.iter().flatten().filter_map(|port| port.host_port.filter(|port| *port != 0));
        ports
            .filter(|port| !allowed.has(u16::try_from(*port).unwrap_or_default()))
            .map(|port| port.to_string())
            .collect()
    };
    if let Some(who) = those(pod, |one, _| !ports(one).is_empty()) {
        let all: Vec<_> = containers(pod).flat_map(ports).collect();
        let plural = if all.len() > 1 { "s" } else { "" };
        found.push(format!("hostPort ({who} uses hostPort{plural} {})", all.join(", ")));
    }
    let sysctls = pod.security_context.iter().flat_map(|context| context.sysctls.iter().flatten());
    let unsafe_ones: Vec<_> =
        sysctls.map(|sysctl| sysctl.name.as_str()).filter(|name| !SAFE_SYSCTLS.contains(name)).collect();
    if !unsafe_ones.is_empty() {
        found.push(format!("forbidden sysctls ({})", unsafe_ones.join(", ")));
    }
}

fn restricted(pod: &PodSpec, found: &mut Vec<String>) {
    let shared = pod.security_context.clone().unwrap_or_default();
    if let Some(who) = those(pod, |_, context| context.allow_privilege_escalation != Some(false)) {
        found.push(format!(
            "allowPrivilegeEscalation != false ({who} must set securityContext.allowPrivilegeEscalation=false)"
        ));
    }
    let drops = |context: &SecurityContext| {
        context.capabilities.iter().flat_map(|all| all.drop.iter().flatten()).any(|name| name == "ALL")
    };
    let keeps = those(pod, |_, context| !drops(context))
        .map(|who| format!("{who} must set securityContext.capabilities.drop=[\"ALL\"]"));
    let unrestricted: Vec<_> = keeps.into_iter().chain(capabilities(pod, &RESTRICTED_ADDS)).collect();
    if !unrestricted.is_empty() {
        found.push(format!("unrestricted capabilities ({})", unrestricted.join("; ")));
    }
    let other = |volume: &&Volume| volume.host_path.is_some() || volume.nfs.is_some();
    let others = pod.volumes.iter().flatten().filter(other);
    if let Some(volumes) = named("volume", others.map(|volume| volume.name.as_str())) {
        found.push(format!("restricted volume types ({volumes} must not be hostPath or nfs)"));
    }
    let root = |context: &SecurityContext| context.run_as_non_root.or(shared.run_as_non_root) != Some(true);
    if let Some(who) = those(pod, |_, context| root(context)) {
        found.push(format!("runAsNonRoot != true (pod or {who} must set securityContext.runAsNonRoot=true)"));
    }
    if shared.run_as_user == Some(0) {
        found.push("runAsUser=0 (pod must not set runAsUser=0)".into());
    }
    if let Some(who) = those(pod, |_, context| context.run_as_user == Some(0)) {
        found.push(format!("runAsUser=0 ({who} must not set runAsUser=0)"));
    }
    let seccomp = |context: &SecurityContext| {
        let profile = context.seccomp_profile.as_ref().or(shared.seccomp_profile.as_ref());
        profile.is_some_and(|profile| profile.type_ == "RuntimeDefault")
    };
    if let Some(who) = those(pod, |_, context| !seccomp(context)) {
        found.push(format!(
            "seccompProfile (pod or {who} must set securityContext.seccompProfile.type to \"RuntimeDefault\")"
        ));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    fn told(pod: &Value, level: Level) -> String {
        let pod: PodSpec = serde_json::from_value(pod.clone()).unwrap();
        let ports = "15000-15999".parse().unwrap();
        violations(&pod, level, &ports).iter().map(|one| format!("{one}\n")).collect()
    }

    #[test]
    fn each_level_forbids_what_the_standard_says() {
        let pod = json!({
            "hostPID": true,
            "securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}, {"name": "net.ipv4.tcp_rmem", "value": "1"}]},
            "initContainers": [{"name": "first", "securityContext": {"privileged": true}}],
            "containers": [
                {"name": "web", "ports": [{"containerPort": 80, "hostPort": 80}, {"containerPort": 81, "hostPort": 15001}],
                 "securityContext": {"privileged": true, "runAsUser": 0, "capabilities": {"add": ["NET_RAW", "CHOWN"]}}},
                {"name": "log", "securityContext": {"capabilities": {"add": ["CAP_SYS_ADMIN"]}}},
            ],
            "volumes": [{"name": "a", "hostPath": {"path": "/"}}, {"name": "b", "nfs": {"server": "s", "path": "/"}}],
        });
        assert_eq!(told(&pod, Level::Privileged), "");
        expect![[r#"
            host namespaces (hostPID=true)
            privileged (containers "first", "web" must not set securityContext.privileged=true)
            non-default capabilities (containers "web", "log" must not include "NET_RAW", "SYS_ADMIN" in securityContext.capabilities.add)
            hostPath volumes (volume "a")
            hostPort (container "web" uses hostPort 80)
            forbidden sysctls (kernel.msgmax)
        "#]]
        .assert_eq(&told(&pod, Level::Baseline));
        expect![[r#"
            allowPrivilegeEscalation != false (containers "first", "web", "log" must set securityContext.allowPrivilegeEscalation=false)
            unrestricted capabilities (containers "first", "web", "log" must set securityContext.capabilities.drop=["ALL"]; containers "web", "log" must not include "CHOWN", "NET_RAW", "SYS_ADMIN" in securityContext.capabilities.add)
            restricted volume types (volumes "a", "b" must not be hostPath or nfs)
            runAsNonRoot != true (pod or containers "first", "web", "log" must set securityContext.runAsNonRoot=true)
            runAsUser=0 (container "web" must not set runAsUser=0)
            seccompProfile (pod or containers "first", "web", "log" must set securityContext.seccompProfile.type to "RuntimeDefault")
        "#]]
        .assert_eq(&told(&pod, Level::Restricted).replace(&told(&pod, Level::Baseline), ""));
    }

    #[test]
    fn a_hardened_pod_is_restricted() {
        let pod = json!({
            "securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "web", "ports": [{"containerPort": 80}], "securityContext": {
                "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
            }}],
            "volumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "persistentVolumeClaim": {"claimName": "b"}}],
        });
        assert_eq!(told(&pod, Level::Restricted), "");
    }

    #[test]
    fn labels_name_levels_and_the_latest_version() {
        let labels =
            json!({(ENFORCE): "strict", (WARN): "baseline", "pod-security.kubernetes.io/warn-version": "v1.30"});
        let namespace = json!({"metadata": {"labels": labels}});
        let paths: Vec<_> = label_problems(&namespace).into_iter().map(|one| one.path).collect();
        let path = |label: &str| format!("metadata.labels[pod-security.kubernetes.io/{label}]");
        assert_eq!(paths, [path("enforce"), path("warn-version")]);
        assert_eq!(Level::labelled(Some(&namespace), WARN), Some(Level::Baseline));
        assert_eq!((Level::enforced(Some(&namespace)), Level::enforced(None)), (Level::Privileged, Level::Privileged));
    }
}
