//! DockerHost: a Docker engine that managed containers may run on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use super::docker_endpoint::Endpoint;
use super::invalid::Invalid;
pub use super::port_range::PortRange;
use super::reach::Reach;

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
    printcolumn = r#"{"name":"Containers","type":"integer","jsonPath":".status.containers"}"#,
    printcolumn = r#"{"name":"Address","type":"string","jsonPath":".spec.address","priority":1}"#,
    printcolumn = r#"{"name":"Drained","type":"string","jsonPath":".status.conditions[?(@.type==\"Drained\")].status","priority":1}"#,
    printcolumn = r#"{"name":"PeersUnreachable","type":"string","jsonPath":".status.conditions[?(@.type==\"PeersUnreachable\")].status","priority":1}"#,
    printcolumn = r#"{"name":"Unschedulable","type":"boolean","jsonPath":".spec.unschedulable","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DockerHostSpec {
    /// Address of its API: `unix:///var/run/docker.sock`, `tcp://host:port` or `ssh://user@host:port/path/of/docker.sock`.
    pub endpoint: String,
    /// Client certificate for a `tcp://` endpoint with mutual TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsReference>,
    /// Key and known hosts of an `ssh://` endpoint, which needs them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh: Option<SshReference>,
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
    /// The IPv4 address by which other hosts and clients reach this host. Members of a database that lives on several hosts
    /// listen there, and the ports of pods are published there. Without it the host takes no part in objects that span hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "ipv4"))]
    pub address: Option<Ipv4Addr>,
    /// The ports of `address` that Evenkeel may reserve, as `FIRST-LAST`. Default: `20000-29999`, which is below the ports that
    /// Linux gives to outgoing connections.
    #[serde(default)]
    #[schemars(with = "String")]
    pub port_range: PortRange,
    /// Name of the machine that this host is. A `unix://` endpoint means the engine of that machine only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// `true`: move everything away that can live elsewhere, so that the host can be taken out of service. Condition `Drained`
    /// tells when nothing is left.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drain: bool,
    /// `true`: the host is restarted soon. Primaries and masters switch over and pods move; members keep their data and stay.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub maintenance: bool,
    /// `true`: a person says that this host is off and stays off until this is taken back. Nothing on it runs any more, so what
    /// it had may be replaced at once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub out_of_service: bool,
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

/// A Secret with what ssh needs to reach a host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SshReference {
    /// Secret with the keys `ssh-privatekey` (without a passphrase) and `known_hosts` (lines as `ssh-keyscan` prints them).
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
    /// The ID of another engine that answers at the endpoint, while there is one.
    #[serde(default, rename = "foundEngineID", skip_serializing_if = "Option::is_none")]
    pub found_engine_id: Option<String>,
    /// When it last answered. While the host answers, this is up to five minutes old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_heard: Option<Time>,
    /// Seconds by which the host's clock is ahead of the operator's, as last measured; below zero: behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_offset: Option<f64>,
    /// Managed containers on it, running or not, as last observed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub containers: Option<usize>,
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
    /// The kernel's boot id, as its agent last told; another one after each boot.
    #[serde(default, rename = "bootID", skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// Whether it can connect to the other hosts, by host: `ok`, `refused` or `timeout`, as its agent last found. A host that is
    /// not here is not known.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reach: BTreeMap<String, Reach>,
    /// Ports of `portRange` at which something listens that has no PortReservation, as its agent last found. They are not
    /// reserved.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub foreign_ports: BTreeSet<u16>,
    /// `Ready`: the engine answers, is the one that was here before, and its version is supported. `IdentityChanged`: another
    /// engine answers. `ClockSkewed`: its clock differs by more than a second. `Drained`: what `drain` or `maintenance` asked
    /// for is done. `PeersUnreachable`: it cannot connect to other hosts. `ForeignListeners`: something without a reservation
    /// has ports of its range. `AgentUnavailable`: its agent does not report.
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

/// Annotation by which a person accepts that another engine is at the endpoint; its value is the new engine's ID.
pub const ACCEPT_ANNOTATION: &str = "evenkeel.dev/accept-engine";

impl DockerHostSpec {
    /// Whether new containers may be placed here, as far as people say.
    pub fn takes_new(&self) -> bool {
        !(self.unschedulable || self.drain || self.maintenance || self.out_of_service)
    }

    /// Every problem with this spec.
    pub fn validate(&self) -> Vec<Invalid> {
        let mut problems = Vec::new();
        self.check_way(&mut problems);
        self.check_place(&mut problems);
        self.check_wishes(&mut problems);
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

    /// How it is reached.
    fn check_way(&self, problems: &mut Vec<Invalid>) {
        let mut wrong = |path: &str, message: &str| problems.push(Invalid::new(path, message));
        let endpoint = self.endpoint.parse::<Endpoint>();
        match &endpoint {
            Err(message) => wrong("spec.endpoint", message),
            Ok(Endpoint::Unix { .. }) if self.tls.is_some() => {
                wrong("spec.tls", "a unix:// endpoint takes no TLS; remove it or use tcp://");
            }
            Ok(Endpoint::Ssh { .. }) if self.tls.is_some() => {
                wrong("spec.tls", "an ssh:// endpoint is encrypted by ssh; remove it or use tcp://");
            }
            Ok(Endpoint::Ssh { .. }) if self.ssh.is_none() => wrong(
                "spec.ssh",
                "an ssh:// endpoint needs a Secret with the keys ssh-privatekey and known_hosts: name it in spec.ssh.secretName",
            ),
            Ok(_) => {}
        }
        if self.ssh.is_some() && matches!(endpoint, Ok(Endpoint::Unix { .. } | Endpoint::Tcp { .. })) {
            wrong("spec.ssh", "only an ssh:// endpoint takes this; remove it or use ssh://");
        }
        if self.tls.as_ref().is_some_and(|tls| tls.secret_name.is_empty()) {
            wrong("spec.tls.secretName", "must not be empty");
        }
        if self.ssh.as_ref().is_some_and(|ssh| ssh.secret_name.is_empty()) {
            wrong("spec.ssh.secretName", "must not be empty");
        }
    }

    /// Where others reach what runs on it.
    fn check_place(&self, problems: &mut Vec<Invalid>) {
        if let Some(why) = self.address.and_then(useless) {
            let message = format!("{why}; name the IPv4 address by which other hosts and clients reach this host");
            problems.push(Invalid::new("spec.address", message));
        }
        if self.port_range.first > self.port_range.last {
            let message = "must be two ports from 1024 to 65535, the lower one first, such as 20000-29999";
            problems.push(Invalid::new("spec.portRange", message));
        }
        if self.node.as_deref() == Some("") {
            problems.push(Invalid::new("spec.node", "must not be empty; leave it out if the host has no node"));
        }
    }

    /// What people want of it: at most one of three wishes that contradict each other.
    fn check_wishes(&self, problems: &mut Vec<Invalid>) {
        let mut wrong = |path: &str, message: &str| problems.push(Invalid::new(path, message));
        if self.out_of_service && self.drain {
            let message = "nothing can be moved off a host that is off: outOfService lets everything be replaced already; \
                           remove drain or outOfService";
            wrong("spec.drain", message);
        }
        if self.out_of_service && self.maintenance {
            let message =
                "maintenance keeps the data of a host that comes back, outOfService gives it up; remove one of them";
            wrong("spec.maintenance", message);
        }
        if self.drain && self.maintenance {
            let message = "drain moves the data away, maintenance keeps it on the host; remove one of them";
            wrong("spec.maintenance", message);
        }
    }
}

/// Why no other host can reach this address.
fn useless(address: Ipv4Addr) -> Option<String> {
    let kind = match address.octets() {
        [0, ..] => "no address of a host",
        [127, ..] => "a loopback address, which every host has for itself",
        [224..=239, ..] => "a multicast address",
        [240..=255, ..] => "a broadcast or reserved address",
        _ => return None,
    };
    Some(format!("{address} is {kind}"))
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn problems(endpoint: &str, tls: Option<&str>) -> String {
        let tls = tls.map(|name| TlsReference { secret_name: name.to_owned(), secret_namespace: default_namespace() });
        let spec = DockerHostSpec { endpoint: endpoint.to_owned(), tls, ..Default::default() };
        spec.validate().iter().map(|problem| format!("{problem}\n")).collect()
    }

    fn spec_problems(spec: &Value) -> String {
        let spec: DockerHostSpec = serde_json::from_value(spec.clone()).unwrap();
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
            ("ssh://root@db", Some("x")),
            ("ssh://root@db", None),
        ]
        .map(|(endpoint, tls)| problems(endpoint, tls));
        expect_test::expect![[r#"
            spec.endpoint: `/var/run/docker.sock` is not a Docker endpoint; write unix:///path, tcp://host:port or ssh://user@host
            spec.endpoint: `unix://` names no socket; write unix:///var/run/docker.sock
            spec.tls.secretName: must not be empty
            spec.endpoint: `tcp://db` needs a host and a port: tcp://host:port
            spec.endpoint: `tcp://a:0` needs a host and a port: tcp://host:port
            spec.tls: a unix:// endpoint takes no TLS; remove it or use tcp://
            spec.tls: an ssh:// endpoint is encrypted by ssh; remove it or use tcp://
            spec.ssh: an ssh:// endpoint needs a Secret with the keys ssh-privatekey and known_hosts: name it in spec.ssh.secretName
        "#]].assert_eq(&told.concat());
    }

    #[test]
    fn an_address_that_no_other_host_reaches_is_refused() {
        let told =
            ["10.0.0.7", "169.254.3.4", "0.0.0.0", "0.1.2.3", "127.0.0.1", "127.9.9.9", "224.0.0.1", "255.255.255.255"]
                .map(|address| spec_problems(&serde_json::json!({"endpoint": "tcp://a:1", "address": address})));
        expect_test::expect![[r#"
            spec.address: 0.0.0.0 is no address of a host; name the IPv4 address by which other hosts and clients reach this host
            spec.address: 0.1.2.3 is no address of a host; name the IPv4 address by which other hosts and clients reach this host
            spec.address: 127.0.0.1 is a loopback address, which every host has for itself; name the IPv4 address by which other hosts and clients reach this host
            spec.address: 127.9.9.9 is a loopback address, which every host has for itself; name the IPv4 address by which other hosts and clients reach this host
            spec.address: 224.0.0.1 is a multicast address; name the IPv4 address by which other hosts and clients reach this host
            spec.address: 255.255.255.255 is a broadcast or reserved address; name the IPv4 address by which other hosts and clients reach this host
        "#]].assert_eq(&told.concat());
    }

    #[test]
    fn wishes_that_contradict_each_other_are_refused() {
        let of = |wishes: &[&str]| {
            let mut spec = serde_json::json!({"endpoint": "tcp://a:1"});
            wishes.iter().for_each(|wish| spec[wish] = true.into());
            spec_problems(&spec)
        };
        for wish in ["drain", "maintenance", "outOfService"] {
            assert_eq!(of(&[wish, "unschedulable"]), "");
        }
        expect_test::expect![[r#"
            spec.drain: nothing can be moved off a host that is off: outOfService lets everything be replaced already; remove drain or outOfService
            spec.maintenance: maintenance keeps the data of a host that comes back, outOfService gives it up; remove one of them
            spec.maintenance: drain moves the data away, maintenance keeps it on the host; remove one of them
        "#]].assert_eq(&(of(&["drain", "outOfService"]) + &of(&["maintenance", "outOfService"]) + &of(&["drain", "maintenance"])));
    }

    #[test]
    fn a_range_of_ports_is_two_ports_in_order_that_need_no_privilege() {
        let of = |range: &str| spec_problems(&serde_json::json!({"endpoint": "tcp://a:1", "portRange": range}));
        for range in ["20000-29999", "1024-1024", "20000 - 20001"] {
            assert_eq!(of(range), "");
        }
        let refused =
            "spec.portRange: must be two ports from 1024 to 65535, the lower one first, such as 20000-29999\n";
        for range in ["20000", "30000-20000", "80-90", "1-99999", "a-b", "", "-"] {
            assert_eq!(of(range), refused);
        }
        assert!(!PortRange::from("80-90".to_owned()).has(0));
    }

    #[test]
    fn only_an_ssh_endpoint_has_a_key() {
        let of = |endpoint: &str| {
            let ssh = Some(SshReference { secret_name: "key".into(), secret_namespace: default_namespace() });
            DockerHostSpec { endpoint: endpoint.into(), ssh, ..Default::default() }.validate()
        };
        assert_eq!(of("ssh://ops@db"), []);
        let told = of("tcp://db:1");
        assert_eq!(told[0].to_string(), "spec.ssh: only an ssh:// endpoint takes this; remove it or use ssh://");
        assert_eq!(of("unix:///d.sock"), told);
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
