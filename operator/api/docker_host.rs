//! DockerHost: a Docker engine that managed containers may run on.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::invalid::Invalid;

/// The name of the DockerHost for this machine's own engine.
pub const LOCAL: &str = "local";

/// A Docker engine that managed containers may run on.
#[derive(CustomResource, Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "evenkeel.dev",
    version = "v1alpha1",
    kind = "DockerHost",
    plural = "dockerhosts",
    shortname = "dh",
    category = "all",
    status = "DockerHostStatus",
    derive = "PartialEq",
    doc = "A Docker engine that managed containers may run on.",
    printcolumn = r#"{"name":"Endpoint","type":"string","jsonPath":".spec.endpoint"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Version","type":"string","jsonPath":".status.engineVersion"}"#,
    printcolumn = r#"{"name":"CPUs","type":"integer","jsonPath":".status.capacity.cpus"}"#,
    printcolumn = r#"{"name":"Unschedulable","type":"boolean","jsonPath":".spec.unschedulable","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DockerHostSpec {
    /// Address of its API: `unix:///var/run/docker.sock` or `tcp://host:port`.
    pub endpoint: String,
    /// Client certificate for a `tcp://` endpoint with mutual TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsReference>,
    /// `true`: accept a `tcp://` endpoint without TLS. Whoever is between reads every password and controls the engine.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insecure: bool,
    /// Docker volumes of this host that were not made by Evenkeel and that pods may claim by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub volumes: Vec<SharedVolume>,
    /// Labels that a nodeSelector can match.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Hosts that fail together (rack, zone) share this value; replicas are spread over it. Default: the host's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_domain: Option<String>,
    /// `true`: no new container is placed here; existing ones stay.
    #[serde(default)]
    pub unschedulable: bool,
}

/// A Docker volume that was not made by Evenkeel and that pods may claim by its name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SharedVolume {
    /// Its name in Docker, which is also the `claimName`.
    pub name: String,
    /// Namespaces whose pods may claim it.
    pub namespaces: Vec<String>,
}

/// A Secret with a client certificate.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TlsReference {
    /// Secret with the keys `ca.crt`, `tls.crt` and `tls.key` (PEM).
    pub secret_name: String,
    /// Namespace of that Secret.
    #[serde(default = "default_namespace")]
    pub secret_namespace: String,
}

fn default_namespace() -> String {
    "default".to_owned()
}

/// The last observed state of the host.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DockerHostStatus {
    /// The `metadata.generation` this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Whether the engine answered the last request.
    #[serde(default)]
    pub reachable: bool,
    /// The engine's own ID (`docker info --format '{{.ID}}'`), as last observed: another engine at the same
    /// endpoint has another ID.
    #[serde(default, rename = "engineID", skip_serializing_if = "Option::is_none")]
    pub engine_id: Option<String>,
    /// Engine version, e.g. `20.10.24`, as last observed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine_version: Option<String>,
    /// API version in use, e.g. `1.41`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    /// Operating system of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operating_system: Option<String>,
    /// Machine architecture, e.g. `x86_64`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// CPUs and memory of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Capacity>,
    /// `Ready`: the engine answers and its version is supported.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// CPUs and memory of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Capacity {
    /// CPUs.
    pub cpus: i64,
    /// Memory in bytes.
    pub memory: i64,
}

impl DockerHostSpec {
    /// Every problem with this spec.
    pub fn validate(&self) -> Vec<Invalid> {
        let mut problems = Vec::new();
        match self.endpoint.parse::<Endpoint>() {
            Err(message) => problems.push(Invalid::new("spec.endpoint", message)),
            Ok(Endpoint::Unix { .. }) if self.tls.is_some() => {
                problems.push(Invalid::new("spec.tls", "a unix:// endpoint takes no TLS; remove it or use tcp://"));
            }
            Ok(_) => {}
        }
        if self.tls.as_ref().is_some_and(|tls| tls.secret_name.is_empty()) {
            problems.push(Invalid::new("spec.tls.secretName", "must not be empty"));
        }
        for (at, volume) in self.volumes.iter().enumerate() {
            if volume.name.is_empty() || is_ours(&volume.name) {
                let message = format!("must not be empty or begin with {OURS}: those are volumes of Evenkeel");
                problems.push(Invalid::new(format!("spec.volumes[{at}].name"), message));
            }
        }
        if self.failure_domain.as_deref() == Some("") {
            problems
                .push(Invalid::new("spec.failureDomain", "must not be empty; leave it out to use the host's own name"));
        }
        problems
    }
}

/// The beginning of the names of volumes that Evenkeel makes for itself.
pub const OURS: &str = "evenkeel-";

/// Whether a Docker volume of this name can be Evenkeel's own, so that no pod may claim it.
pub fn is_ours(volume: &str) -> bool {
    volume.starts_with(OURS)
}

/// Whether everything that is sent to the engine can be read on the way.
pub fn is_plain(spec: &DockerHostSpec) -> bool {
    spec.tls.is_none() && matches!(spec.endpoint.parse(), Ok(Endpoint::Tcp { .. }))
}

/// The problem with a `tcp://` endpoint without TLS, unless the object says that it wants that, or was stored with it.
pub fn transport_problems(old: Option<&Value>, new: &Value) -> Vec<Invalid> {
    let spec = |object: &Value| serde_json::from_value::<DockerHostSpec>(object["spec"].clone()).ok();
    let old = old.and_then(spec);
    let stays =
        |new: &DockerHostSpec| old.is_some_and(|old| is_plain(&old) && old.endpoint == new.endpoint && !old.insecure);
    match spec(new) {
        Some(new) if is_plain(&new) && !new.insecure && !stays(&new) => {
            let message = "tcp:// without spec.tls: whoever is on the way reads every password and controls the engine. \
                           Name a client certificate in spec.tls, or say spec.insecure: true";
            vec![Invalid::new("spec.endpoint", message)]
        }
        _ => Vec::new(),
    }
}

/// The address of a Docker API.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Endpoint {
    /// A unix socket.
    Unix {
        /// Absolute path of the socket.
        path: String,
    },
    /// A TCP port, plain or with TLS.
    Tcp {
        /// Host name or address; an IPv6 address in brackets.
        host: String,
        /// Port.
        port: u16,
    },
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') && path.len() > 1 => Ok(Self::Unix { path: path.to_owned() }),
            Some(("unix", _)) => Err(format!("`{text}` names no socket; write unix:///var/run/docker.sock")),
            Some(("tcp", address)) => {
                tcp(address).ok_or_else(|| format!("`{text}` needs a host and a port: tcp://host:port"))
            }
            Some(("ssh", _)) => Err(format!(
                "`{text}`: ssh:// is not supported yet; use tcp:// with tls.secretName, or forward the socket with \
                 `ssh -L /run/evenkeel/HOST.sock:/var/run/docker.sock HOST` and use unix://"
            )),
            _ => Err(format!("`{text}` is not a Docker endpoint; write unix:///path or tcp://host:port")),
        }
    }
}

fn tcp(address: &str) -> Option<Endpoint> {
    let (host, port) = address.trim_end_matches('/').rsplit_once(':')?;
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let plain = host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    let port = port.parse().ok().filter(|port| *port != 0)?;
    (!host.is_empty() && (plain || bracketed)).then(|| Endpoint::Tcp { host: host.to_owned(), port })
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix { path } => write!(f, "unix://{path}"),
            Self::Tcp { host, port } => write!(f, "tcp://{host}:{port}"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn problems(endpoint: &str, tls: Option<&str>) -> String {
        let tls = tls.map(|name| TlsReference { secret_name: name.to_owned(), secret_namespace: default_namespace() });
        let spec = DockerHostSpec { endpoint: endpoint.to_owned(), tls, ..Default::default() };
        spec.validate().iter().map(|problem| format!("{problem}\n")).collect()
    }

    #[test]
    fn endpoints_that_work_have_no_problems() {
        for endpoint in [
            "unix:///var/run/docker.sock",
            "tcp://10.0.0.7:2376",
            "tcp://[fd00::7]:2376",
            "tcp://db-host.example:2376/",
        ] {
            assert_eq!(problems(endpoint, None), "", "{endpoint}");
        }
        assert_eq!(problems("tcp://10.0.0.7:2376", Some("host-cert")), "");
    }

    #[test]
    fn every_problem_is_told_with_its_path_and_a_way_out() {
        let told = [
            ("/var/run/docker.sock", None),
            ("unix://", Some("")),
            ("tcp://db", None),
            ("tcp://a:0", None),
            ("unix:///run/d.sock", Some("x")),
            ("ssh://root@db", None),
        ]
        .map(|(endpoint, tls)| problems(endpoint, tls));
        expect_test::expect![[r#"
            spec.endpoint: `/var/run/docker.sock` is not a Docker endpoint; write unix:///path or tcp://host:port
            spec.endpoint: `unix://` names no socket; write unix:///var/run/docker.sock
            spec.tls.secretName: must not be empty
            spec.endpoint: `tcp://db` needs a host and a port: tcp://host:port
            spec.endpoint: `tcp://a:0` needs a host and a port: tcp://host:port
            spec.tls: a unix:// endpoint takes no TLS; remove it or use tcp://
            spec.endpoint: `ssh://root@db`: ssh:// is not supported yet; use tcp:// with tls.secretName, or forward the socket with `ssh -L /run/evenkeel/HOST.sock:/var/run/docker.sock HOST` and use unix://
        "#]].assert_eq(&told.concat());
    }

    /// Regression 194: `tcp://` without TLS was accepted without a word, and the passwords of every database crossed it.
    #[test]
    fn a_plain_endpoint_needs_a_word_for_it_unless_it_was_stored_before() {
        let host = |endpoint: &str, insecure: bool| serde_json::json!({"spec": {"endpoint": endpoint, "insecure": insecure, "labels": {"disk": "ssd"}}});
        let refused = |old: Option<&Value>, new: &Value| !transport_problems(old, new).is_empty();
        let (plain, said) = (host("tcp://10.0.0.7:2375", false), host("tcp://10.0.0.7:2375", true));
        assert!(refused(None, &plain));
        assert!(!refused(None, &said));
        assert!(!refused(None, &host("unix:///run/docker.sock", false)));
        let tls = serde_json::json!({"spec": {"endpoint": "tcp://10.0.0.7:2376", "tls": {"secretName": "cert"}}});
        assert!(!refused(None, &tls));
        assert!(!refused(Some(&plain), &plain), "a stored host of an earlier version keeps working");
        assert!(refused(Some(&plain), &host("tcp://10.0.0.8:2375", false)));
        assert!(refused(Some(&said), &plain), "the word cannot be taken back while the endpoint is plain");
        assert!(refused(Some(&tls), &plain));
    }

    #[test]
    fn unknown_fields_are_refused_by_name() {
        let error = serde_json::from_str::<DockerHostSpec>(r#"{"endpoint":"unix:///d.sock","enpoint":1}"#).unwrap_err();
        assert!(error.to_string().starts_with("unknown field `enpoint`"), "{error}");
    }

    #[test]
    fn the_definition_names_its_scope_columns_and_list_type() {
        use kube::CustomResourceExt;
        let crd = serde_json::to_value(DockerHost::crd()).unwrap();
        assert_eq!(crd["spec"]["scope"], "Cluster");
        assert_eq!(crd["spec"]["names"]["shortNames"][0], "dh");
        let status = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"];
        assert_eq!(status["conditions"]["x-kubernetes-list-type"], "map");
    }
}
