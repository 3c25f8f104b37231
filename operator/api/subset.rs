//! The supported fields of apps/v1 Deployment. All others are refused with their path and the reason; none is ignored.

use serde_json::Value;

use super::invalid::Invalid;

/// What a path may contain.
#[derive(Clone, Copy)]
enum Rule {
    /// Everything that the schema allows.
    Free,
    /// Only these values, which Kubernetes would fill in as defaults.
    Only(&'static [&'static str]),
    /// Nothing; with the reason.
    No(&'static str),
}

use Rule::{Free, No, Only};

/// Rules by path; `[]` is any index, `*` any key. A path that only contains others needs no rule of its own.
const DEPLOYMENT: &[(&str, Rule)] = &[
    ("spec.replicas", Free),
    ("spec.selector", Free),
    ("spec.strategy", Free),
    ("spec.minReadySeconds", Free),
    ("spec.progressDeadlineSeconds", Free),
    ("spec.revisionHistoryLimit", Free),
    ("spec.paused", Free),
    ("spec.template.metadata.labels", Free),
    ("spec.template.metadata.annotations", Free),
    ("spec.template.metadata.creationTimestamp", Free),
    ("spec.template.metadata.name", Free),
    ("spec.template.metadata.namespace", Free),
];

/// Rules below `spec.template.spec`.
const POD: &[(&str, Rule)] = &[
    ("nodeSelector", Free),
    ("terminationGracePeriodSeconds", Free),
    ("imagePullSecrets", Free),
    ("restartPolicy", Only(&["Always"])),
    ("dnsPolicy", Only(&["ClusterFirst", "Default"])),
    ("schedulerName", Only(&["default-scheduler"])),
    ("automountServiceAccountToken", Only(&["false"])),
    ("enableServiceLinks", Only(&["false"])),
    ("serviceAccountName", Only(&["default"])),
    ("serviceAccount", Only(&["default"])),
    ("hostNetwork", Only(&["false"])),
    ("hostPID", Only(&["false"])),
    ("hostIPC", Only(&["false"])),
    ("shareProcessNamespace", Only(&["false"])),
    ("hostAliases", No("names are resolved by Docker; use the names of objects in the namespace")),
    ("affinity", No("use nodeSelector; replicas are spread over failure domains and hosts by themselves")),
    ("topologySpreadConstraints", No("replicas are spread over failure domains and hosts by themselves")),
    ("tolerations", No("hosts have no taints; use spec.unschedulable of a DockerHost and nodeSelector")),
    ("priorityClassName", No("there is no preemption")),
    ("ephemeralContainers", No("use exec")),
    ("securityContext.runAsUser", Free),
    ("securityContext.runAsGroup", Free),
    ("securityContext.runAsNonRoot", Free),
    ("securityContext.supplementalGroups", Free),
    ("securityContext.sysctls", Free),
    ("securityContext.seccompProfile.type", Only(&["RuntimeDefault"])),
    (
        "securityContext.fsGroup",
        No("volumes keep their owner; give the user access by runAsUser or supplementalGroups"),
    ),
    ("volumes[].name", Free),
    ("volumes[].emptyDir", Free),
    ("volumes[].hostPath", Free),
    ("volumes[].nfs", Free),
    ("volumes[].configMap.name", Free),
    ("volumes[].configMap.items", Free),
    ("volumes[].configMap.optional", Free),
    ("volumes[].configMap.defaultMode", Free),
    ("volumes[].secret.secretName", Free),
    ("volumes[].secret.items", Free),
    ("volumes[].secret.optional", Free),
    ("volumes[].secret.defaultMode", Free),
    ("volumes[].persistentVolumeClaim", Free),
];

/// Rules below each container.
const CONTAINER: &[(&str, Rule)] = &[
    ("name", Free),
    ("image", Free),
    ("imagePullPolicy", Free),
    ("command", Free),
    ("args", Free),
    ("workingDir", Free),
    ("tty", Only(&["false"])),
    ("stdin", Only(&["false"])),
    ("terminationMessagePath", Only(&["/dev/termination-log"])),
    ("terminationMessagePolicy", Only(&["File"])),
    ("env[].name", Free),
    ("env[].value", Free),
    ("env[].valueFrom.secretKeyRef", Free),
    ("env[].valueFrom.configMapKeyRef", Free),
    ("env[].valueFrom.fieldRef.apiVersion", Only(&["v1"])),
    (
        "env[].valueFrom.fieldRef.fieldPath",
        Only(&["metadata.name", "metadata.namespace", "spec.nodeName", "metadata.uid"]),
    ),
    ("env[].valueFrom.resourceFieldRef", No("write the value")),
    ("envFrom", Free),
    ("ports[].name", Free),
    ("ports[].containerPort", Free),
    ("ports[].hostPort", Free),
    ("ports[].hostIP", Free),
    ("ports[].protocol", Only(&["TCP"])),
    ("resources.limits", Free),
    ("resources.requests", Free),
    ("volumeMounts[].name", Free),
    ("volumeMounts[].mountPath", Free),
    ("volumeMounts[].readOnly", Free),
    ("volumeMounts[].subPath", No("Docker cannot mount a part of a volume; mount it whole")),
    ("securityContext.runAsUser", Free),
    ("securityContext.runAsGroup", Free),
    ("securityContext.runAsNonRoot", Free),
    ("securityContext.privileged", Free),
    ("securityContext.readOnlyRootFilesystem", Free),
    ("securityContext.allowPrivilegeEscalation", Free),
    ("securityContext.capabilities", Free),
    ("securityContext.seccompProfile.type", Only(&["RuntimeDefault"])),
    ("lifecycle.preStop.exec", Free),
    ("lifecycle.preStop.sleep", Free),
    ("lifecycle.postStart", No("use an init container")),
];

/// Rules below each probe.
const PROBE: &[(&str, Rule)] = &[
    ("httpGet.path", Free),
    ("httpGet.port", Free),
    ("httpGet.scheme", Only(&["HTTP"])),
    ("httpGet.httpHeaders", Free),
    ("httpGet.host", No("the pod itself is asked; name a header Host in httpHeaders")),
    ("tcpSocket.port", Free),
    ("exec", Free),
    ("initialDelaySeconds", Free),
    ("periodSeconds", Free),
    ("timeoutSeconds", Free),
    ("successThreshold", Free),
    ("failureThreshold", Free),
    ("grpc", No("use httpGet, tcpSocket or exec")),
];

/// Every unsupported field in the spec.
pub fn unsupported(object: &Value) -> Vec<Invalid> {
    let mut problems = Vec::new();
    walk(&object["spec"], "spec", "spec", &mut problems);
    problems
}

/// `path` is for people, `pattern` is the same with `[]` for every index.
fn walk(value: &Value, path: &str, pattern: &str, problems: &mut Vec<Invalid>) {
    match rule(pattern) {
        Some(Free) => {}
        Some(Only(allowed)) => {
            let said = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            if !allowed.contains(&said.as_str()) {
                let message =
                    format!("{said:?} is not supported; it can only be {}, or be left out", allowed.join(" or "));
                problems.push(Invalid::new(path, message));
            }
        }
        Some(No(reason)) => problems.push(Invalid::new(path, format!("is not supported: {reason}"))),
        None => match value {
            Value::Object(fields) if leads(pattern) => {
                for (name, child) in fields {
                    walk(child, &format!("{path}.{name}"), &format!("{pattern}.{name}"), problems);
                }
            }
            Value::Array(items) if leads(pattern) => {
                for (index, child) in items.iter().enumerate() {
                    walk(child, &format!("{path}[{index}]"), &format!("{pattern}[]"), problems);
                }
            }
            // An empty value, as in `resources: {}`.
            Value::Object(fields) if fields.is_empty() => {}
            Value::Array(items) if items.is_empty() => {}
            _ => problems.push(Invalid::new(path, "is not supported")),
        },
    }
}

/// The table that a path belongs to, and the path within it.
fn place(pattern: &str) -> (&'static [(&'static str, Rule)], &str) {
    let Some(pod) = pattern.strip_prefix("spec.template.spec.") else { return (DEPLOYMENT, pattern) };
    let container = pod.strip_prefix("containers[].").or_else(|| pod.strip_prefix("initContainers[]."));
    let Some(container) = container else { return (POD, pod) };
    let probes = ["startupProbe.", "readinessProbe.", "livenessProbe."];
    match probes.iter().find_map(|probe| container.strip_prefix(probe)) {
        Some(probe) => (PROBE, probe),
        None => (CONTAINER, container),
    }
}

fn rule(pattern: &str) -> Option<Rule> {
    let (table, within) = place(pattern);
    table.iter().find(|(known, _)| *known == within).map(|(_, rule)| *rule)
}

/// Whether there are rules below this path.
fn leads(pattern: &str) -> bool {
    let roads = [
        "spec",
        "spec.template",
        "spec.template.spec",
        "spec.template.spec.containers",
        "spec.template.spec.containers[]",
        "spec.template.spec.initContainers",
        "spec.template.spec.initContainers[]",
    ];
    let (table, within) = place(pattern);
    let below = |known: &str| known.strip_prefix(within).is_some_and(|rest| rest.starts_with(['.', '[']));
    let probe =
        ["startupProbe", "readinessProbe", "livenessProbe"].contains(&within) && pattern.contains("ontainers[].");
    roads.contains(&pattern) || probe || table.iter().any(|(known, _)| below(known))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_supported_is_told_by_its_path_with_the_reason() {
        let object = json!({"spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}, "finalizers": ["x"]},
                "spec": {
                    "affinity": {"podAntiAffinity": {}},
                    "hostNetwork": true,
                    "restartPolicy": "Always",
                    "securityContext": {},
                    "containers": [{
                        "name": "web", "image": "web", "resources": {},
                        "ports": [{"containerPort": 80, "protocol": "UDP"}],
                        "volumeMounts": [{"name": "a", "mountPath": "/a", "subPath": "b"}],
                        "livenessProbe": {"grpc": {"port": 1}, "periodSeconds": 3},
                        "env": [{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}],
                        "lifecycle": {"postStart": {"exec": {"command": ["x"]}}, "preStop": {"exec": {"command": ["x"]}}},
                    }],
                    "volumes": [{"name": "a", "csi": {"driver": "x"}}, {"name": "b", "emptyDir": {"medium": "Memory"}}],
                },
            },
        }});
        let told: String = unsupported(&object).iter().map(|problem| format!("{problem}\n")).collect();
        expect![[r#"
            spec.template.metadata.finalizers: is not supported
            spec.template.spec.affinity: is not supported: use nodeSelector; replicas are spread over failure domains and hosts by themselves
            spec.template.spec.containers[0].env[0].valueFrom.resourceFieldRef: is not supported: write the value
            spec.template.spec.containers[0].lifecycle.postStart: is not supported: use an init container
            spec.template.spec.containers[0].livenessProbe.grpc: is not supported: use httpGet, tcpSocket or exec
            spec.template.spec.containers[0].ports[0].protocol: "UDP" is not supported; it can only be TCP, or be left out
            spec.template.spec.containers[0].volumeMounts[0].subPath: is not supported: Docker cannot mount a part of a volume; mount it whole
            spec.template.spec.hostNetwork: "true" is not supported; it can only be false, or be left out
            spec.template.spec.volumes[0].csi: is not supported
        "#]]
        .assert_eq(&told);
    }
}
