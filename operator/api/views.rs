//! The kinds that are read and never stored, Pod and ReplicaSet: what the status of a Deployment, LoadBalancer or PostgresCluster shows as such. Pure.

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::core::{of, open, path, plain, wide};
use super::registry::{Resource, View, age_column};

/// The label that tells the pods of one revision of a template from those of another.
const TEMPLATE_HASH: &str = "pod-template-hash";
/// The annotation by which clients know the number of a revision.
const REVISION: &str = "deployment.kubernetes.io/revision";
/// Annotations of a Deployment that are its own and not its revisions'.
const KEPT_BACK: [&str; 2] = ["kubectl.kubernetes.io/last-applied-configuration", "kubernetes.io/change-cause"];

/// Pods: every managed group of containers.
pub fn pod() -> Resource {
    Resource {
        short_names: vec!["po".into()],
        categories: vec!["all".into()],
        columns: vec![
            of("Ready", "string", ready_containers),
            of("Status", "string", pod_status),
            of("Restarts", "integer", restarts),
            age_column(),
            wide("IP", ".status.podIP"),
            wide("Node", ".spec.nodeName"),
        ],
        selectable: &["spec.nodeName", "status.phase", "status.podIP"],
        view: Some(View {
            sources: &[
                ("deployments.apps", pods_of_deployment),
                ("loadbalancers.evenkeel.dev", pods_of_balancer),
                ("postgresclusters.evenkeel.dev", pods_of_cluster),
            ],
            instead: "a Pod is a view of what its owner runs; scale the owner (`kubectl scale`), make its pods anew \
                      (`kubectl rollout restart`), change its spec, or delete it",
        }),
        ..plain("Pod", "pods", json!({"spec": open(), "status": open()}), &[])
    }
}

/// ReplicaSets: the revisions of Deployments.
pub fn replica_set() -> Resource {
    Resource {
        group: "apps".into(),
        short_names: vec!["rs".into()],
        categories: vec!["all".into()],
        columns: vec![
            of("Desired", "integer", |set| set["spec"]["replicas"].clone()),
            of("Current", "integer", |set| set["status"]["replicas"].clone()),
            of("Ready", "integer", |set| set["status"]["readyReplicas"].clone()),
            age_column(),
        ],
        view: Some(View {
            sources: &[("deployments.apps", replica_sets_of)],
            instead: "a ReplicaSet is a view of one revision of its Deployment; change, scale or roll back the \
                      Deployment (`kubectl rollout undo`)",
        }),
        ..plain("ReplicaSet", "replicasets", json!({"spec": open(), "status": open()}), &[])
    }
}

/// The pods of a Deployment, each owned by the ReplicaSet of its revision.
pub fn pods_of_deployment(deployment: &Value) -> Vec<Value> {
    let one = |seen: &Value| {
        let revision = revisions(deployment).find(|revision| revision["revision"] == seen["revision"]);
        let template = revision.map_or(&deployment["spec"]["template"], |revision| &revision["template"]);
        let name = revision.map(|revision| set_name(deployment, revision));
        let parent = match &name {
            Some(name) => reference("apps/v1", "ReplicaSet", name, &derived_uid(deployment, "ReplicaSet", name)),
            None => own_reference(deployment),
        };
        let mut labels = object(&template["metadata"]["labels"]);
        if let Some(revision) = revision {
            labels.insert(TEMPLATE_HASH.to_owned(), revision["hash"].clone());
        }
        Shape {
            owner: deployment,
            parent,
            labels,
            annotations: object(&template["metadata"]["annotations"]),
            spec: object(&template["spec"]),
            images: revision.map_or(&Value::Null, |revision| &revision["images"]),
        }
        .pod(seen)
    };
    list(&deployment["status"]["pods"]).map(one).collect()
}

/// The pods of a LoadBalancer: its replicas.
pub fn pods_of_balancer(balancer: &Value) -> Vec<Value> {
    let app = balancer["spec"]["engine"].as_str().unwrap_or("loadbalancer");
    let shape = Shape {
        owner: balancer,
        parent: own_reference(balancer),
        labels: app_labels(app, balancer),
        annotations: Map::new(),
        spec: Map::new(),
        images: &Value::Null,
    };
    list(&balancer["status"]["pods"]).map(|seen| shape.pod(seen)).collect()
}

/// The pods of a PostgresCluster: its instances.
pub fn pods_of_cluster(cluster: &Value) -> Vec<Value> {
    let one = |instance: &Value| {
        let name = text(&instance["name"]);
        let state = text(&instance["state"]);
        let ready = matches!(state, "running" | "streaming");
        let docker_state = if matches!(state, "stopped" | "unknown" | "absent" | "") { "created" } else { "running" };
        let mut labels = app_labels("postgresql", cluster);
        labels.insert("evenkeel.dev/role".to_owned(), instance["role"].clone());
        let seen = json!({
            "name": name,
            "host": instance["host"],
            "address": instance["address"],
            "phase": if docker_state == "running" { "Running" } else { "Pending" },
            "ready": ready,
            "createdAt": cluster["metadata"]["creationTimestamp"],
            "message": instance.get("message").cloned().unwrap_or_else(|| state.into()),
            "containers": [{
                "name": "postgres",
                "container": format!("{}.{name}", text(&cluster["metadata"]["namespace"])),
                "image": cluster["spec"]["image"],
                "state": docker_state,
                "ready": ready,
            }],
        });
        let (annotations, spec) = (Map::new(), Map::new());
        Shape { owner: cluster, parent: own_reference(cluster), labels, annotations, spec, images: &Value::Null }
            .pod(&seen)
    };
    list(&cluster["status"]["instances"]).map(one).collect()
}

/// The revisions of a Deployment as the ReplicaSets that clients look for them in.
pub fn replica_sets_of(deployment: &Value) -> Vec<Value> {
    let newest = revisions(deployment).map(|revision| number(&revision["revision"])).max();
    let one = |revision: &Value| {
        let pods: Vec<&Value> = list(&deployment["status"]["pods"])
            .filter(|pod| pod["revision"] == revision["revision"] && pod["terminating"] != true)
            .collect();
        let current = Some(number(&revision["revision"])) == newest;
        let desired = if current { number(&deployment["spec"]["replicas"]) } else { pods.len() as i64 };
        let ready = pods.iter().filter(|pod| pod["ready"] == true).count();
        let name = set_name(deployment, revision);
        let hash = revision["hash"].clone();
        let mut template = revision["template"].clone();
        template["metadata"]["labels"][TEMPLATE_HASH] = hash.clone();
        let mut selector = deployment["spec"]["selector"].clone();
        selector["matchLabels"][TEMPLATE_HASH] = hash;
        // As in Kubernetes, so that an undo, which brings a revision's annotations back, loses none.
        let mut annotations = object(&deployment["metadata"]["annotations"]);
        annotations.retain(|key, _| !KEPT_BACK.contains(&key.as_str()) || current && key == KEPT_BACK[1]);
        annotations.insert(REVISION.to_owned(), number(&revision["revision"]).to_string().into());
        json!({
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "name": name,
                "namespace": deployment["metadata"]["namespace"],
                "uid": derived_uid(deployment, "ReplicaSet", &name),
                "resourceVersion": deployment["metadata"]["resourceVersion"],
                "generation": 1,
                "creationTimestamp": revision["createdAt"],
                "labels": template["metadata"]["labels"],
                "annotations": annotations,
                "ownerReferences": [own_reference(deployment)],
            },
            "spec": {"replicas": desired, "selector": selector, "template": template},
            "status": {
                "replicas": pods.len(),
                "fullyLabeledReplicas": pods.len(),
                "readyReplicas": ready,
                "availableReplicas": ready,
                "observedGeneration": 1,
            },
        })
    };
    revisions(deployment).map(one).collect()
}

/// What the pods of one owner have in common.
struct Shape<'a> {
    owner: &'a Value,
    parent: Value,
    labels: Map<String, Value>,
    annotations: Map<String, Value>,
    /// The spec of the template they were made from; empty if there is none.
    spec: Map<String, Value>,
    /// What image references were resolved to, by container.
    images: &'a Value,
}

impl Shape<'_> {
    /// A group of containers, as its owner's status has it, as a Pod.
    fn pod(&self, seen: &Value) -> Value {
        let name = text(&seen["name"]);
        let containers: Vec<&Value> = list(&seen["containers"]).collect();
        let mut spec = self.spec.clone();
        if !spec.contains_key("containers") {
            let plain = containers.iter().map(|c| json!({"name": c["name"], "image": c["image"]}));
            spec.insert("containers".to_owned(), plain.collect());
        }
        spec.insert("nodeName".to_owned(), seen["host"].clone());
        let is_init = |c: &&&Value| list(&spec["initContainers"]).any(|init| init["name"] == c["name"]);
        let main: Vec<Value> = containers.iter().filter(|c| !is_init(c)).map(|c| self.container(seen, c)).collect();
        let init: Vec<Value> = containers.iter().filter(is_init).map(|c| self.container(seen, c)).collect();
        let running = main.iter().any(|status| status["state"].get("running").is_some());
        let address = seen.get("address").filter(|address| address.is_string());
        let mut metadata = json!({
            "name": name,
            "namespace": self.owner["metadata"]["namespace"],
            "uid": derived_uid(self.owner, "Pod", name),
            "resourceVersion": self.owner["metadata"]["resourceVersion"],
            "creationTimestamp": seen["createdAt"],
            "labels": self.labels,
            "ownerReferences": [self.parent],
        });
        if !self.annotations.is_empty() {
            metadata["annotations"] = self.annotations.clone().into();
        }
        if seen["terminating"] == true {
            // When it began is not kept; that it is on its way is what clients look for.
            metadata["deletionTimestamp"] = seen["createdAt"].clone();
        }
        let mut status = json!({
            "phase": if running { "Running" } else { "Pending" },
            "conditions": conditions(seen, &main),
            "startTime": seen["createdAt"],
            "containerStatuses": main,
        });
        if !init.is_empty() {
            status["initContainerStatuses"] = init.into();
        }
        if let Some(address) = address {
            status["podIP"] = address.clone();
            status["podIPs"] = json!([{"ip": address}]);
        }
        if let Some(message) = seen["message"].as_str().filter(|message| !message.is_empty()) {
            status["message"] = message.into();
        }
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status})
    }

    fn container(&self, pod: &Value, seen: &Value) -> Value {
        let name = text(&seen["name"]);
        let resolved = self.images[name].as_str().unwrap_or_else(|| text(&seen["image"]));
        let declared = list(self.spec.get("containers").unwrap_or(&Value::Null)).find(|c| c["name"] == seen["name"]);
        let image = declared.map_or(&seen["image"], |declared| &declared["image"]);
        let state = text(&seen["state"]).to_lowercase();
        json!({
            "name": name,
            "image": image,
            "imageID": resolved,
            // Docker takes a name wherever it takes an id.
            "containerID": format!("docker://{}", text(&seen["container"])),
            "ready": seen["ready"] == true,
            "started": state == "running",
            "restartCount": number(&seen["restarts"]),
            "state": container_state(pod, &state),
        })
    }
}

/// Running, terminated, or waiting and for what.
fn container_state(pod: &Value, state: &str) -> Value {
    let phase = text(&pod["phase"]);
    let backing_off = phase.ends_with("BackOff");
    match state {
        "running" => json!({"running": {"startedAt": pod["createdAt"]}}),
        "exited" | "dead" if !backing_off => json!({"terminated": {"exitCode": 0, "reason": "Completed"}}),
        _ => {
            let reason = if backing_off || phase.starts_with("Err") { phase } else { "ContainerCreating" };
            let next = pod["nextTry"].as_str().map(|time| format!("next try at {time}"));
            let why = pod["message"].as_str().map(str::to_owned);
            let message: Vec<String> = why.into_iter().chain(next).collect();
            json!({"waiting": {"reason": reason, "message": message.join("; ")}})
        }
    }
}

fn conditions(seen: &Value, containers: &[Value]) -> Value {
    let all_ready = !containers.is_empty() && containers.iter().all(|container| container["ready"] == true);
    let since = seen.get("readySince").filter(|time| time.is_string()).unwrap_or(&seen["createdAt"]);
    let condition = |kind: &str, holds: bool, since: &Value| {
        let status = if holds { "True" } else { "False" };
        json!({"type": kind, "status": status, "lastProbeTime": null, "lastTransitionTime": since})
    };
    json!([
        condition("PodScheduled", seen["host"].is_string(), &seen["createdAt"]),
        condition("Initialized", !containers.is_empty(), &seen["createdAt"]),
        condition("ContainersReady", all_ready, since),
        condition("Ready", seen["ready"] == true, since),
    ])
}

fn ready_containers(pod: &Value) -> Value {
    let ready = list(&pod["status"]["containerStatuses"]).filter(|status| status["ready"] == true).count();
    format!("{ready}/{}", list(&pod["spec"]["containers"]).count()).into()
}

/// One word for people, as kubectl has it.
fn pod_status(pod: &Value) -> Value {
    if pod["metadata"]["deletionTimestamp"].is_string() {
        return "Terminating".into();
    }
    let reason = |status: &Value| {
        let state = &status["state"];
        let word = state["waiting"]["reason"].as_str().or(state["terminated"]["reason"].as_str());
        word.map(|word| Value::from(word))
    };
    list(&pod["status"]["containerStatuses"]).find_map(reason).unwrap_or_else(|| pod["status"]["phase"].clone())
}

fn restarts(pod: &Value) -> Value {
    list(&pod["status"]["containerStatuses"]).map(|status| number(&status["restartCount"])).sum::<i64>().into()
}

fn revisions(deployment: &Value) -> impl Iterator<Item = &Value> {
    list(&deployment["status"]["decisions"]["revisions"])
}

/// `web-5d9c7b`: Deployment and hash of the template.
fn set_name(deployment: &Value, revision: &Value) -> String {
    format!("{}-{}", text(&deployment["metadata"]["name"]), text(&revision["hash"]))
}

fn app_labels(app: &str, owner: &Value) -> Map<String, Value> {
    let labels = [("app.kubernetes.io/name", app.into()), ("app.kubernetes.io/instance", owner["metadata"]["name"].clone())];
    labels.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn own_reference(owner: &Value) -> Value {
    let metadata = &owner["metadata"];
    reference(text(&owner["apiVersion"]), text(&owner["kind"]), text(&metadata["name"]), text(&metadata["uid"]))
}

fn reference(api_version: &str, kind: &str, name: &str, uid: &str) -> Value {
    json!({
        "apiVersion": api_version, "kind": kind, "name": name, "uid": uid,
        "controller": true, "blockOwnerDeletion": true,
    })
}

/// A UUID that follows from the owner's, the kind and the name, so that it is the same each time.
fn derived_uid(owner: &Value, kind: &str, name: &str) -> String {
    let hash = Sha256::digest([text(&owner["metadata"]["uid"]), kind, name].join("/"));
    let bytes = std::array::from_fn(|at| hash[at]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn object(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or_default()
}
