//! Nodes: the DockerHosts in Kubernetes' own form. Labels and `unschedulable` can be changed (`kubectl label`, `cordon`).
//! Pure.

use serde_json::{Value, json};

use super::owner::{derived_uid, fields, text};

/// The label that each Node has besides those of its DockerHost.
const HOSTNAME: &str = "kubernetes.io/hostname";

/// The Node of a DockerHost.
pub fn node_of(host: &Value) -> Vec<Value> {
    let (name, seen) = (text(&host["metadata"]["name"]), &host["status"]);
    let mut labels = fields(&host["spec"]["labels"]);
    labels.insert(HOSTNAME.to_owned(), name.into());
    let mut spec = json!({});
    if host["spec"]["unschedulable"] == true {
        spec["unschedulable"] = true.into();
    }
    let mut status = json!({
        "addresses": [{"type": "Hostname", "address": name}],
        "conditions": host["status"]["conditions"].as_array().cloned().unwrap_or_default(),
        "nodeInfo": {
            "kubeletVersion": text(&seen["engineVersion"]),
            "containerRuntimeVersion": format!("docker://{}", text(&seen["engineVersion"])),
            "osImage": text(&seen["operatingSystem"]),
            "operatingSystem": "linux",
            "architecture": text(&seen["architecture"]),
        },
    });
    if let (Some(cpus), Some(memory)) = (seen["capacity"]["cpus"].as_i64(), seen["capacity"]["memory"].as_i64()) {
        let capacity = json!({"cpu": cpus.to_string(), "memory": format!("{}Ki", memory / 1024)});
        status["capacity"] = capacity.clone();
        status["allocatable"] = capacity;
    }
    let metadata = json!({
        "name": name,
        "uid": derived_uid(host, "Node", name),
        "resourceVersion": host["metadata"]["resourceVersion"],
        "creationTimestamp": host["metadata"]["creationTimestamp"],
        "labels": labels,
    });
    vec![json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": spec, "status": status})]
}

/// Changes a DockerHost as its Node was changed.
pub fn accept(host: &mut Value, node: &Value) {
    let mut labels = fields(&node["metadata"]["labels"]);
    labels.remove(HOSTNAME);
    if labels != fields(&host["spec"]["labels"]) {
        host["spec"]["labels"] = labels.into();
    }
    host["spec"]["unschedulable"] = (node["spec"]["unschedulable"] == true).into();
}

/// The status column, as in kubectl.
pub fn node_status(node: &Value) -> Value {
    let ready = node["status"]["conditions"].as_array().into_iter().flatten().find(|found| found["type"] == "Ready");
    let word = if ready.is_some_and(|ready| ready["status"] == "True") { "Ready" } else { "NotReady" };
    let cordoned = if node["spec"]["unschedulable"] == true { ",SchedulingDisabled" } else { "" };
    format!("{word}{cordoned}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_shown_as_a_node_and_changed_through_it() {
        let mut host = json!({
            "metadata": {"name": "a", "uid": "u", "resourceVersion": "7"},
            "spec": {"endpoint": "unix:///x", "labels": {"disk": "fast"}},
            "status": {"capacity": {"cpus": 2, "memory": 4096}, "conditions": [{"type": "Ready", "status": "True"}]},
        });
        let mut node = node_of(&host).remove(0);
        assert_eq!(node["metadata"]["labels"], json!({"disk": "fast", HOSTNAME: "a"}));
        assert_eq!(node["status"]["capacity"], json!({"cpu": "2", "memory": "4Ki"}));
        assert_eq!(node_status(&node), "Ready");
        node["spec"]["unschedulable"] = true.into();
        node["metadata"]["labels"]["rack"] = "1".into();
        accept(&mut host, &node);
        let spec = json!({"endpoint": "unix:///x", "labels": {"disk": "fast", "rack": "1"}, "unschedulable": true});
        assert_eq!(host["spec"], spec);
        assert_eq!(node_status(&node_of(&host).remove(0)), "Ready,SchedulingDisabled");
    }
}
