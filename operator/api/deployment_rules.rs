//! Admission of Deployments: schema, defaults, and validation beyond the schema.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::DeploymentSpec;
use k8s_openapi::api::core::v1::{Container, PodSpec, Probe, Volume};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::core::schema::StructuralSchemaRewriter;
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use super::asks::Asks;
use super::claims::Claim;
use super::deployment::Deployment;
use super::docker_host::{OURS, is_ours};
use super::invalid::Invalid;
use super::postgres_cluster::image_problem;
use super::resource::{Cell, Column, Resource, age_column, name_of, with_metadata};
use super::resources::Resources;
use super::{quantity, subset};

/// Limit of a name: pod names with hash and ordinal must be valid host names (63 letters).
const LONGEST_NAME: usize = 45;
/// Limit of the name of a volume: Docker makes a folder `NAMESPACE.POD.NAME` of it, and a folder has up to 255 characters.
const LONGEST_VOLUME_NAME: usize = 120;
/// Limit of the replicas of one Deployment: their status must fit into one object.
const MOST_REPLICAS: i32 = 500;

/// The lists that patches and server-side apply merge, by Kubernetes' own keys.
const MERGE_KEYS: [(&str, &[&str]); 11] = [
    ("containers", &["name"]),
    ("initContainers", &["name"]),
    ("env", &["name"]),
    ("ports", &["containerPort", "protocol"]),
    ("volumes", &["name"]),
    ("volumeMounts", &["mountPath"]),
    ("volumeDevices", &["devicePath"]),
    ("imagePullSecrets", &["name"]),
    ("hostAliases", &["ip"]),
    ("topologySpreadConstraints", &["topologyKey", "whenUnsatisfiable"]),
    ("conditions", &["type"]),
];

/// The served kind.
pub fn resource() -> Resource {
    let column = |name: &str, kind: &str, path: &str, priority| Column {
        name: name.into(),
        kind: kind.into(),
        priority,
        cell: Cell::Path(path.into()),
    };
    let ready = |object: &Value| {
        let of = |value: &Value| value.as_i64().unwrap_or_default();
        format!("{}/{}", of(&object["status"]["readyReplicas"]), of(&object["spec"]["replicas"])).into()
    };
    let images = |object: &Value| {
        let containers = object["spec"]["template"]["spec"]["containers"].as_array();
        let images = containers.into_iter().flatten().filter_map(|container| container["image"].as_str());
        images.collect::<Vec<_>>().join(",").into()
    };
    Resource {
        group: "apps".into(),
        version: "v1".into(),
        kind: "Deployment".into(),
        plural: "deployments".into(),
        singular: "deployment".into(),
        short_names: vec!["deploy".into()],
        categories: vec!["all".into()],
        namespaced: true,
        has_status: true,
        has_scale: true,
        merge_keys: &MERGE_KEYS,
        view: None,
        sensitive: false,
        schema: with_metadata(schema()),
        columns: vec![
            Column { name: "Ready".into(), kind: "string".into(), priority: 0, cell: Cell::Of(ready) },
            column("Up-to-date", "integer", ".status.updatedReplicas", 0),
            column("Available", "integer", ".status.availableReplicas", 0),
            column("Status", "string", ".status.phase", 0),
            age_column(),
            Column { name: "Images".into(), kind: "string".into(), priority: 1, cell: Cell::Of(images) },
            column("Selector", "string", ".status.selector", 1),
        ],
        selectable: &[],
        normalize,
        fill_in,
        validate: Box::new(problems),
        validate_new: name_problems,
        claim: Some(Claim::Pods),
        asks: |_| Asks::default(),
        validate_change: change_problems,
        definition: None,
    }
}

/// Kubernetes' own schema of the spec, inlined; the schema of the status is Evenkeel's.
fn schema() -> Value {
    let settings = SchemaSettings::openapi3().with(|settings| settings.inline_subschemas = true);
    let generator = settings.with_transform(StructuralSchemaRewriter).into_generator();
    let mut spec = json!(generator.into_root_schema_for::<DeploymentSpec>());
    if let Some(fields) = spec.as_object_mut() {
        fields.retain(|name, _| !matches!(name.as_str(), "$schema" | "title" | "definitions" | "$defs"));
    }
    merge_by_key(&mut spec);
    let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    json!({"type": "object", "required": ["spec"], "properties": {"spec": spec, "status": open}})
}

/// Says in a schema which lists are merged by which keys.
fn merge_by_key(schema: &mut Value) {
    for (name, child) in schema["properties"].as_object_mut().into_iter().flatten() {
        let keys = MERGE_KEYS.iter().find(|(list, _)| list == name).map(|(_, keys)| keys);
        if let Some(keys) = keys.filter(|_| child["type"] == "array") {
            child["x-kubernetes-list-type"] = "map".into();
            child["x-kubernetes-list-map-keys"] = json!(keys);
        }
        merge_by_key(child);
        if let Some(items) = child.get_mut("items") {
            merge_by_key(items);
        }
    }
}

/// Typed clients send an empty `resources`; with or without it the template must be equal.
fn normalize(object: &mut Value) {
    for list in ["containers", "initContainers"] {
        let containers = object.pointer_mut(&format!("/spec/template/spec/{list}")).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten().filter_map(Value::as_object_mut) {
            container.retain(|name, value| name != "resources" || *value != json!({}));
            let amounts = container.get_mut("resources").and_then(Value::as_object_mut);
            let amounts =
                amounts.into_iter().flat_map(|resources| resources.values_mut()).filter_map(Value::as_object_mut);
            for amount in amounts.flat_map(|amounts| amounts.values_mut()).filter(|amount| amount.is_f64()) {
                // `cpu: 0.5` without quotes, as Kubernetes takes it.
                *amount = amount.to_string().into();
            }
        }
    }
}

/// The defaults that Kubernetes fills in, outside the template.
fn fill_in(object: &mut Value) {
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let defaults =
        [("replicas", json!(1)), ("revisionHistoryLimit", json!(10)), ("progressDeadlineSeconds", json!(600))];
    for (name, default) in defaults {
        if spec.get(name).is_none_or(Value::is_null) {
            spec.insert(name.into(), default);
        }
    }
    let strategy = spec.entry("strategy").or_insert_with(|| json!({}));
    if strategy.as_object().is_some_and(|fields| !fields.contains_key("type")) {
        strategy["type"] = "RollingUpdate".into();
    }
    if strategy["type"] == "RollingUpdate" && !strategy["rollingUpdate"].is_object() {
        strategy["rollingUpdate"] = json!({});
    }
    if let Some(rolling) = strategy.get_mut("rollingUpdate").and_then(Value::as_object_mut) {
        for name in ["maxSurge", "maxUnavailable"] {
            rolling.entry(name).or_insert_with(|| "25%".into());
        }
    }
}

fn name_problems(object: &Value) -> Vec<Invalid> {
    let name = name_of(object);
    let message = || format!("must have at most {LONGEST_NAME} letters and no dot, for pods are named after it");
    let wrong = name.len() > LONGEST_NAME || name.contains('.');
    wrong.then(|| Invalid::new("metadata.name", message())).into_iter().collect()
}

fn problems(object: &Value) -> Vec<Invalid> {
    let mut problems = subset::unsupported(object);
    match serde_json::from_value::<Deployment>(object.clone()) {
        Ok(typed) => judge(&typed, &mut problems),
        // Without a path: shown only if the schema, which knows the path, found nothing.
        Err(error) => problems.push(Invalid::new("", error.to_string())),
    }
    problems
}

fn change_problems(old: &Value, new: &Value) -> Vec<Invalid> {
    if old["spec"]["selector"] == new["spec"]["selector"] {
        return Vec::new();
    }
    vec![Invalid::new("spec.selector", "cannot be changed; delete the Deployment and create it again")]
}

fn judge(object: &Deployment, problems: &mut Vec<Invalid>) {
    let mut say = |path: String, message: String| problems.push(Invalid { path, message });
    let spec = &object.spec;
    if spec.replicas.is_some_and(|replicas| !(0..=MOST_REPLICAS).contains(&replicas)) {
        say("spec.replicas".into(), format!("must be between 0 and {MOST_REPLICAS}"));
    }
    for (path, value) in [
        ("spec.minReadySeconds", spec.min_ready_seconds),
        ("spec.progressDeadlineSeconds", spec.progress_deadline_seconds),
        ("spec.revisionHistoryLimit", spec.revision_history_limit),
    ] {
        if value.is_some_and(|value| value < 0) {
            say(path.into(), "must not be negative".into());
        }
    }
    let labels = spec.template.metadata.as_ref().and_then(|metadata| metadata.labels.clone()).unwrap_or_default();
    let wanted = spec.selector.match_labels.clone().unwrap_or_default();
    if wanted.is_empty() {
        say("spec.selector.matchLabels".into(), "must name at least one label of spec.template".into());
    }
    if spec.selector.match_expressions.as_ref().is_some_and(|some| !some.is_empty()) {
        say("spec.selector.matchExpressions".into(), "is not supported: use matchLabels".into());
    }
    if wanted.iter().any(|(key, value)| labels.get(key) != Some(value)) {
        say("spec.template.metadata.labels".into(), "must have all labels of spec.selector.matchLabels".into());
    }
    strategy(spec, &mut say);
    match &spec.template.spec {
        Some(pod) => pod_spec(pod, &mut say),
        None => say("spec.template.spec".into(), "must be given".into()),
    }
}

fn strategy(spec: &DeploymentSpec, say: &mut impl FnMut(String, String)) {
    let Some(strategy) = &spec.strategy else { return };
    let kind = strategy.type_.as_deref().unwrap_or("RollingUpdate");
    if !["RollingUpdate", "Recreate"].contains(&kind) {
        say("spec.strategy.type".into(), format!("{kind:?} must be RollingUpdate or Recreate"));
    }
    let Some(rolling) = &strategy.rolling_update else { return };
    if kind == "Recreate" {
        say("spec.strategy.rollingUpdate".into(), "cannot be given with type Recreate".into());
    }
    for (name, value) in [("maxSurge", &rolling.max_surge), ("maxUnavailable", &rolling.max_unavailable)] {
        if value.as_ref().is_some_and(|value| share(value, 100).is_none()) {
            say(format!("spec.strategy.rollingUpdate.{name}"), "must be a number like 1 or a share like 25%".into());
        }
    }
    let none = |value: &Option<IntOrString>| value.as_ref().is_some_and(|value| share(value, 100) == Some(0));
    if none(&rolling.max_surge) && none(&rolling.max_unavailable) {
        say("spec.strategy.rollingUpdate".into(), "maxSurge and maxUnavailable cannot both be 0".into());
    }
}

/// A share of `whole`, in hundredths; `None` if the value is neither a number nor a percentage.
pub fn share(value: &IntOrString, whole: u32) -> Option<u64> {
    match value {
        IntOrString::Int(number) => u64::try_from(*number).ok().map(|number| number * 100),
        IntOrString::String(text) => {
            text.strip_suffix('%')?.parse::<u32>().ok().map(|percent| u64::from(percent) * u64::from(whole))
        }
    }
}

fn pod_spec(pod: &PodSpec, say: &mut impl FnMut(String, String)) {
    let root = "spec.template.spec";
    if pod.containers.is_empty() {
        say(format!("{root}.containers"), "must have at least one".into());
    }
    if pod.termination_grace_period_seconds.is_some_and(|seconds| seconds < 0) {
        say(format!("{root}.terminationGracePeriodSeconds"), "must not be negative".into());
    }
    let mut names = BTreeSet::new();
    let volumes = pod.volumes.as_deref().unwrap_or_default();
    for (index, volume) in volumes.iter().enumerate() {
        self::volume(volume, &format!("{root}.volumes[{index}]"), say);
        if !names.insert(&volume.name) {
            say(format!("{root}.volumes[{index}].name"), format!("{:?} is there twice", volume.name));
        }
    }
    let mut seen = BTreeSet::new();
    let mut ports = BTreeSet::new();
    let groups = [
        ("containers", pod.containers.as_slice()),
        ("initContainers", pod.init_containers.as_deref().unwrap_or_default()),
    ];
    for (group, containers) in groups {
        for (index, container) in containers.iter().enumerate() {
            let path = format!("{root}.{group}[{index}]");
            if !seen.insert(&container.name) {
                say(format!("{path}.name"), format!("{:?} is there twice", container.name));
            }
            let probes = container.startup_probe.is_some()
                || container.readiness_probe.is_some()
                || container.liveness_probe.is_some();
            if group == "initContainers" && probes {
                say(path.clone(), "an init container has no probes".into());
            }
            for (at, mount) in container.volume_mounts.iter().flatten().enumerate() {
                if !names.contains(&mount.name) {
                    say(
                        format!("{path}.volumeMounts[{at}].name"),
                        format!("there is no volume {:?} in {root}.volumes", mount.name),
                    );
                }
                if !mount.mount_path.starts_with('/') {
                    say(format!("{path}.volumeMounts[{at}].mountPath"), "must be absolute".into());
                }
            }
            for (at, port) in container.ports.iter().flatten().enumerate() {
                let valid = |port: i32| (1..=65535).contains(&port);
                if !valid(port.container_port) {
                    say(format!("{path}.ports[{at}].containerPort"), "must be between 1 and 65535".into());
                }
                let Some(host) = port.host_port.filter(|port| *port != 0) else { continue };
                if !valid(host) || !ports.insert((port.host_ip.clone().unwrap_or_default(), host)) {
                    say(format!("{path}.ports[{at}].hostPort"), "must be between 1 and 65535 and be there once".into());
                }
                if port.host_ip.as_ref().is_some_and(|ip| ip.parse::<std::net::IpAddr>().is_err()) {
                    say(format!("{path}.ports[{at}].hostIP"), "must be an IP address".into());
                }
            }
            self::container(container, &path, say);
        }
    }
}

fn container(container: &Container, path: &str, say: &mut impl FnMut(String, String)) {
    let word = |name: &str| {
        !name.is_empty()
            && name.len() <= 63
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    if !word(&container.name) {
        say(format!("{path}.name"), "must have lower-case letters, digits and '-' only".into());
    }
    match container.image.as_deref().unwrap_or_default() {
        "" => say(format!("{path}.image"), "must be given".into()),
        image => image_problem(image).into_iter().for_each(|problem| say(format!("{path}.image"), problem)),
    }
    for (at, variable) in container.env.iter().flatten().enumerate() {
        if variable.name.is_empty() || !fits_a_variable(&variable.name) {
            say(format!("{path}.env[{at}].name"), format!("must be given, and {VARIABLE}"));
        }
    }
    for (at, from) in container.env_from.iter().flatten().enumerate() {
        if !fits_a_variable(from.prefix.as_deref().unwrap_or_default()) {
            say(format!("{path}.envFrom[{at}].prefix"), VARIABLE.into());
        }
    }
    if container
        .image_pull_policy
        .as_deref()
        .is_some_and(|policy| !["Always", "IfNotPresent", "Never"].contains(&policy))
    {
        say(format!("{path}.imagePullPolicy"), "must be Always, IfNotPresent or Never".into());
    }
    let resources = container.resources.as_ref().map(Resources::from).unwrap_or_default();
    for problem in resources.problems(&format!("{path}.resources")) {
        say(problem.path, problem.message);
    }
    let probes = [
        ("startupProbe", &container.startup_probe),
        ("readinessProbe", &container.readiness_probe),
        ("livenessProbe", &container.liveness_probe),
    ];
    for (name, probe) in probes {
        if let Some(probe) = probe {
            self::probe(probe, container, &format!("{path}.{name}"), say);
        }
    }
}

/// The rule of a variable's name, as in Kubernetes.
const VARIABLE: &str = "must have printable ASCII characters only, and no '='";

fn fits_a_variable(name: &str) -> bool {
    name.chars().all(|c| (c.is_ascii_graphic() || c == ' ') && c != '=')
}

fn probe(probe: &Probe, container: &Container, path: &str, say: &mut impl FnMut(String, String)) {
    let ways = [probe.http_get.is_some(), probe.tcp_socket.is_some(), probe.exec.is_some()];
    if ways.iter().filter(|way| **way).count() != 1 {
        say(path.into(), "must have exactly one of httpGet, tcpSocket and exec".into());
    }
    let port = probe.http_get.as_ref().map(|get| &get.port).or(probe.tcp_socket.as_ref().map(|socket| &socket.port));
    if port.is_some_and(|port| port_number(port, container).is_none()) {
        say(format!("{path}.port"), "must be a port number or the name of a port of this container".into());
    }
    let headers = probe.http_get.iter().flat_map(|get| get.http_headers.iter().flatten());
    for (at, header) in headers.enumerate() {
        let path = format!("{path}.httpGet.httpHeaders[{at}]");
        if header.name.is_empty() || !header.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
            say(format!("{path}.name"), "must be the name of a header: letters, digits and '-'".into());
        }
        if header.value.chars().any(char::is_control) {
            say(format!("{path}.value"), "must have no control characters".into());
        }
    }
    for (name, value) in [
        ("periodSeconds", probe.period_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ] {
        if value.is_some_and(|value| value < 1) {
            say(format!("{path}.{name}"), "must be at least 1".into());
        }
    }
}

/// The number of a port that is given by number or name.
pub fn port_number(port: &IntOrString, container: &Container) -> Option<u16> {
    match port {
        IntOrString::Int(number) => u16::try_from(*number).ok().filter(|port| *port > 0),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_ref() == Some(name));
            named.and_then(|port| u16::try_from(port.container_port).ok()).or_else(|| name.parse().ok())
        }
    }
}

fn volume(volume: &Volume, path: &str, say: &mut impl FnMut(String, String)) {
    let ways = [
        volume.empty_dir.is_some(),
        volume.host_path.is_some(),
        volume.config_map.is_some(),
        volume.secret.is_some(),
        volume.nfs.is_some(),
        volume.persistent_volume_claim.is_some(),
    ];
    if ways.iter().filter(|way| **way).count() != 1 {
        say(
            path.into(),
            "must be exactly one of emptyDir, hostPath, configMap, secret, nfs and persistentVolumeClaim".into(),
        );
    }
    // Docker's rule: both become names of volumes there.
    let docker_takes = |name: &str| {
        name.len() <= LONGEST_VOLUME_NAME
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
    };
    let claim = volume.persistent_volume_claim.as_ref().map(|claim| claim.claim_name.as_str());
    for (field, name) in [("name", Some(volume.name.as_str())), ("persistentVolumeClaim.claimName", claim)] {
        if name.is_some_and(|name| !docker_takes(name)) {
            let rule = "letters, digits, '-', '_' and '.', and start with a letter or digit";
            say(format!("{path}.{field}"), format!("must have at most {LONGEST_VOLUME_NAME} {rule}"));
        }
    }
    if claim.is_some_and(is_ours) {
        let message = format!("must not begin with {OURS}: those are volumes of Evenkeel");
        say(format!("{path}.persistentVolumeClaim.claimName"), message);
    }
    if let Some(empty) = &volume.empty_dir {
        if empty.medium.as_deref().is_some_and(|medium| !["", "Memory"].contains(&medium)) {
            say(format!("{path}.emptyDir.medium"), "must be empty or Memory".into());
        }
        if let Some(Err(message)) = empty.size_limit.as_ref().map(|limit| quantity::whole(&limit.0)) {
            say(format!("{path}.emptyDir.sizeLimit"), message);
        }
    }
    if let Some(nfs) = &volume.nfs {
        // The server becomes one of several mount options, with commas between them.
        if nfs.server.is_empty() || !nfs.server.chars().all(|c| c.is_ascii_alphanumeric() || ".-_:[]".contains(c)) {
            say(format!("{path}.nfs.server"), "must be a host name or an IP address".into());
        }
        if !nfs.path.starts_with('/') || nfs.path.contains(char::is_control) {
            say(format!("{path}.nfs.path"), "must be absolute and have no control characters".into());
        }
    }
    let secret = volume.secret.as_ref().map(|one| ("secret", one.items.as_deref(), one.default_mode));
    let map = volume.config_map.as_ref().map(|one| ("configMap", one.items.as_deref(), one.default_mode));
    for (kind, items, mode) in secret.into_iter().chain(map) {
        let mut mode_fits = |field: String, mode: Option<i32>| {
            if mode.is_some_and(|mode| !(0..=0o777).contains(&mode)) {
                say(format!("{path}.{kind}.{field}"), "must be from 0 to 0777 (octal), which is 511".into());
            }
        };
        mode_fits("defaultMode".into(), mode);
        for (at, item) in items.unwrap_or_default().iter().enumerate() {
            mode_fits(format!("items[{at}].mode"), item.mode);
        }
        for (at, item) in items.unwrap_or_default().iter().enumerate().filter(|(_, item)| !stays_inside(&item.path)) {
            let rule = "must be a relative path in the volume, such as conf/app.ini, without `..`";
            say(format!("{path}.{kind}.items[{at}].path"), format!("{:?} {rule}", item.path));
        }
    }
    if volume.host_path.as_ref().is_some_and(|host| !host.path.starts_with('/')) {
        say(format!("{path}.hostPath.path"), "must be absolute".into());
    }
    let kinds = ["", "Directory", "File", "Socket"];
    if volume.host_path.as_ref().and_then(|host| host.type_.as_deref()).is_some_and(|kind| !kinds.contains(&kind)) {
        say(
            format!("{path}.hostPath.type"),
            "must be empty, Directory, File or Socket: nothing is made on a host".into(),
        );
    }
}

/// Whether a path names a file below the directory that it is relative to.
fn stays_inside(path: &str) -> bool {
    let inner = path.strip_prefix("./").unwrap_or(path);
    !inner.contains(char::is_control) && inner.split('/').all(|part| !["", ".", ".."].contains(&part))
}
