//! The kinds that are read and never stored, Pod and ReplicaSet: what the status of a Deployment, LoadBalancer or PostgresCluster shows as such. Pure.

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::deployment::{CHANGE_CAUSE_ANNOTATION, EVICT_ANNOTATION};
use super::resource::{Resource, Source, View, age_column, of, open, plain, wide};

/// The label that tells the pods of one revision of a template from those of another.
const TEMPLATE_HASH: &str = "pod-template-hash";
/// The annotation by which clients know the number of a revision.
const REVISION: &str = "deployment.kubernetes.io/revision";
/// Annotations of a Deployment that are its own and not its revisions'.
const KEPT_BACK: [&str; 2] = ["kubectl.kubernetes.io/last-applied-configuration", CHANGE_CAUSE_ANNOTATION];

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
                Source { resource: "deployments.apps", show: pods_of_deployment, evict: Some(EVICT_ANNOTATION) },
                Source { resource: "loadbalancers.evenkeel.dev", show: pods_of_balancer, evict: None },
                Source { resource: "postgresclusters.evenkeel.dev", show: pods_of_cluster, evict: None },
            ],
            instead: "a Pod is a view of what its owner runs; change, scale or delete the owner. The pods of a \
                      Deployment can be deleted (they are replaced) or made anew (`kubectl rollout restart`)",
            containers: true,
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
            sources: &[Source { resource: "deployments.apps", show: replica_sets_of, evict: None }],
            instead: "a ReplicaSet is a view of one revision of its Deployment; change, scale or roll back the \
                      Deployment (`kubectl rollout undo`)",
            containers: false,
        }),
        ..plain("ReplicaSet", "replicasets", json!({"spec": open(), "status": open()}), &[])
    }
}

/// The pods of a Deployment, each owned by the ReplicaSet of its revision.
pub fn pods_of_deployment(deployment: &Value) -> Vec<Value> {
    let decisions = &deployment["status"]["decisions"];
    // Those that were asked for and are not taken up yet.
    let asked = Some(&deployment["metadata"]["annotations"][EVICT_ANNOTATION]);
    let evicted = text(asked.filter(|asked| **asked != decisions["evicted"]).unwrap_or(&Value::Null));
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
        .pod(seen, going(seen, decisions, evicted))
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
    list(&balancer["status"]["pods"]).map(|seen| shape.pod(seen, going(seen, &Value::Null, ""))).collect()
}

/// The pods of a PostgresCluster: its instances.
pub fn pods_of_cluster(cluster: &Value) -> Vec<Value> {
    let one = |instance: &Value| {
        let name = text(&instance["name"]);
        let state = text(&instance["state"]);
        let ready = matches!(state, "running" | "streaming");
        let runs = !matches!(state, "stopped" | "unknown" | "absent" | "");
        let mut labels = app_labels("postgresql", cluster);
        labels.insert("evenkeel.dev/role".to_owned(), instance["role"].clone());
        let seen = json!({
            "name": name,
            "host": instance["host"],
            "address": instance["address"],
            "phase": if runs { "Running" } else { "Pending" },
            "ready": ready,
            "createdAt": cluster["metadata"]["creationTimestamp"],
            "message": instance.get("message").cloned().unwrap_or_else(|| state.into()),
            "containers": [{
                "name": "postgres",
                "container": format!("{}.{name}", text(&cluster["metadata"]["namespace"])),
                "image": cluster["spec"]["image"],
                "state": if runs { "running" } else { "waiting" },
                "reason": if runs { None } else { Some(format!("{}{}", state[..state.len().min(1)].to_uppercase(), state.get(1..).unwrap_or_default())) },
                "ready": ready,
            }],
        });
        let (annotations, spec) = (Map::new(), Map::new());
        Shape { owner: cluster, parent: own_reference(cluster), labels, annotations, spec, images: &Value::Null }
            .pod(&seen, None)
    };
    list(&cluster["status"]["instances"]).map(one).collect()
}

/// The revisions of a Deployment as the ReplicaSets that clients look for them in.
pub fn replica_sets_of(deployment: &Value) -> Vec<Value> {
    let target = &deployment["status"]["decisions"]["target"];
    let one = |revision: &Value| {
        let pods: Vec<&Value> = list(&deployment["status"]["pods"])
            .filter(|pod| pod["revision"] == revision["revision"] && pod["terminating"] != true)
            .collect();
        let current = revision["hash"] == *target;
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
        annotations.retain(|key, _| !KEPT_BACK.contains(&key.as_str()));
        annotations
            .extend(revision.get("changeCause").map(|cause| (CHANGE_CAUSE_ANNOTATION.to_owned(), cause.clone())));
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
                "creationTimestamp": seconds(&revision["createdAt"]),
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
    /// A group of containers, as its owner's status has it, as a Pod; `going` is since when it is on its way out.
    fn pod(&self, seen: &Value, going: Option<&Value>) -> Value {
        let name = text(&seen["name"]);
        let containers: Vec<&Value> = list(&seen["containers"]).collect();
        let mut spec = self.spec.clone();
        if !spec.contains_key("containers") {
            let plain = containers.iter().map(|c| json!({"name": c["name"], "image": c["image"]}));
            spec.insert("containers".to_owned(), plain.collect());
        }
        spec.insert("nodeName".to_owned(), seen["host"].clone());
        let statuses = |init: bool| -> Vec<Value> {
            let some = containers.iter().filter(|c| (c["init"] == true) == init);
            some.map(|c| self.container(seen, c)).collect()
        };
        let (init, main) = (statuses(true), statuses(false));
        let running = main.iter().any(|status| status["state"].get("running").is_some());
        let address = seen.get("address").filter(|address| address.is_string());
        let mut metadata = json!({
            "name": name,
            "namespace": self.owner["metadata"]["namespace"],
            "uid": derived_uid(self.owner, "Pod", name),
            "resourceVersion": self.owner["metadata"]["resourceVersion"],
            "creationTimestamp": seconds(&seen["createdAt"]),
            "labels": self.labels,
            "ownerReferences": [self.parent],
        });
        if !self.annotations.is_empty() {
            metadata["annotations"] = self.annotations.clone().into();
        }
        if let Some(since) = going {
            let known = seconds(since);
            let known = if known.is_null() { self.owner["metadata"]["creationTimestamp"].clone() } else { known };
            metadata["deletionTimestamp"] = known;
        }
        let word = text(&seen["phase"]);
        let phase = match word {
            "Unknown" | "Failed" | "Succeeded" => word,
            _ if running => "Running",
            _ => "Pending",
        };
        let mut status = json!({
            "phase": phase,
            "conditions": conditions(seen, &main),
            "startTime": seconds(&seen["createdAt"]),
            "containerStatuses": main,
        });
        if !init.is_empty() {
            status["initContainerStatuses"] = init.into();
        }
        if let Some(address) = address {
            status["podIP"] = address.clone();
            status["podIPs"] = json!([{"ip": address}]);
        }
        if going.is_none() && !word.is_empty() && word != phase {
            status["reason"] = word.into();
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
        json!({
            "name": name,
            "image": image,
            "imageID": resolved,
            // Docker takes a name wherever it takes an id.
            "containerID": format!("docker://{}", seen["id"].as_str().unwrap_or(text(&seen["container"]))),
            "ready": seen["ready"] == true,
            "started": seen["state"] == "running",
            "restartCount": number(&seen["restarts"]),
            "state": container_state(pod, seen),
        })
    }
}

/// Running, terminated, or waiting and for what.
fn container_state(pod: &Value, container: &Value) -> Value {
    let reason = |otherwise: &str| container["reason"].as_str().unwrap_or(otherwise).to_owned();
    match text(&container["state"]) {
        "running" => json!({"running": {"startedAt": seconds(&pod["createdAt"])}}),
        "terminated" => {
            let code = number(&container["exitCode"]);
            let word = reason(if code == 0 { "Completed" } else { "Error" });
            json!({"terminated": {"exitCode": code, "reason": word}})
        }
        _ => {
            // What keeps the pod back keeps back all of it that does not run.
            let phase = text(&pod["phase"]);
            let of_all = phase.starts_with("Err") || phase.ends_with("BackOff") || phase.ends_with("Error");
            let word = if of_all { phase.to_owned() } else { reason("ContainerCreating") };
            json!({"waiting": {"reason": word, "message": pod["message"].as_str().unwrap_or_default()}})
        }
    }
}

/// Since when the pod is on its way out, if it is.
fn going<'a>(seen: &'a Value, decisions: &'a Value, evicted: &str) -> Option<&'a Value> {
    let asked = evicted.split(',').any(|name| name.trim() == text(&seen["name"]));
    (asked || seen["terminating"] == true).then(|| {
        let decided = list(&decisions["pods"]).find(|pod| pod["name"] == seen["name"]);
        let since = decided.map(|pod| &pod["stop"]["since"]).filter(|since| since.is_string());
        since.unwrap_or(&seen["createdAt"])
    })
}

/// A time in whole seconds, as Kubernetes writes them.
fn seconds(time: &Value) -> Value {
    let parsed = time.as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    let whole = parsed.and_then(|time| jiff::Timestamp::from_second(time.as_second()).ok());
    whole.map_or(Value::Null, |time| time.to_string().into())
}

fn conditions(seen: &Value, containers: &[Value]) -> Value {
    let all_ready = !containers.is_empty() && containers.iter().all(|container| container["ready"] == true);
    let since = seen.get("readySince").filter(|time| time.is_string()).unwrap_or(&seen["createdAt"]);
    let condition = |kind: &str, holds: bool, since: &Value| {
        let status = if holds { "True" } else { "False" };
        json!({"type": kind, "status": status, "lastProbeTime": null, "lastTransitionTime": seconds(since)})
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
    let status = &pod["status"];
    let reason = |container: &Value| {
        let state = &container["state"];
        let word = state["waiting"]["reason"].as_str().or(state["terminated"]["reason"].as_str());
        word.map(Value::from)
    };
    let word = status.get("reason").cloned().or_else(|| list(&status["containerStatuses"]).find_map(reason));
    word.unwrap_or_else(|| status["phase"].clone())
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
    let labels =
        [("app.kubernetes.io/name", app.into()), ("app.kubernetes.io/instance", owner["metadata"]["name"].clone())];
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn deployment(pod: Value) -> Value {
        let mut seen = json!({
            "name": "web-aa-1", "host": "local", "address": "10.0.0.2", "phase": "Running", "ready": true, "revision": 1,
            "createdAt": "2026-01-02T03:04:05.678Z",
            "containers": [
                {"name": "prepare", "container": "n.web-aa-1.prepare", "image": "i", "state": "terminated", "exitCode": 0,
                 "reason": "Completed", "init": true},
                {"name": "main", "container": "n.web-aa-1.main", "id": "abc", "image": "sha256:1", "state": "running", "ready": true},
            ],
        });
        json_patch::merge(&mut seen, &pod);
        let template = json!({
            "metadata": {"labels": {"app": "web"}},
            "spec": {"initContainers": [{"name": "prepare", "image": "i"}], "containers": [{"name": "main", "image": "web:1"}]},
        });
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web", "namespace": "n", "uid": "u", "resourceVersion": "7", "annotations": {"mine": "x"}},
            "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "template": template},
            "status": {"pods": [seen], "decisions": {"target": "aa", "revisions": [
                {"revision": 1, "hash": "aa", "template": template, "changeCause": "because", "createdAt": "2026-01-02T03:04:05Z",
                 "images": {"main": "sha256:1"}}]}},
        })
    }

    fn row(pod_seen: Value) -> String {
        let pod = pods_of_deployment(&deployment(pod_seen)).remove(0);
        let (ready, status) = (ready_containers(&pod), pod_status(&pod));
        format!("{} {} {} {}", text(&ready), text(&status), restarts(&pod), text(&pod["status"]["phase"]))
    }

    #[test]
    fn the_table_says_in_one_word_how_a_pod_is() {
        assert_eq!(row(json!({})), "1/1 Running 0 Running");
        let waiting = json!([{"name": "main", "container": "c", "image": "i", "state": "waiting", "restarts": 3}]);
        let crashing =
            json!({"phase": "CrashLoopBackOff", "ready": false, "containers": waiting, "message": "it ended"});
        assert_eq!(row(crashing), "0/1 CrashLoopBackOff 3 Pending");
        assert_eq!(
            row(json!({"phase": "ContainerCreating", "ready": false, "containers": []})),
            "0/1 ContainerCreating 0 Pending"
        );
        assert_eq!(row(json!({"phase": "Unknown"})), "1/1 Unknown 0 Unknown");
        assert_eq!(row(json!({"phase": "Terminating", "terminating": true})), "1/1 Terminating 0 Running");
    }

    #[test]
    fn a_pod_tells_its_owner_its_containers_and_where_it_is() {
        let object = deployment(json!({}));
        let (pod, set) = (pods_of_deployment(&object).remove(0), replica_sets_of(&object).remove(0));
        assert_eq!(pod["metadata"]["ownerReferences"][0]["uid"], set["metadata"]["uid"]);
        assert_eq!(set["metadata"]["ownerReferences"][0]["uid"], "u");
        assert_eq!(pod["metadata"]["labels"], json!({"app": "web", "pod-template-hash": "aa"}));
        assert_eq!(pod["metadata"]["creationTimestamp"], "2026-01-02T03:04:05Z");
        assert_eq!((&pod["spec"]["nodeName"], &pod["status"]["podIP"]), (&json!("local"), &json!("10.0.0.2")));
        let [main] = pod["status"]["containerStatuses"].as_array().unwrap().as_slice() else { panic!("one container") };
        assert_eq!(
            (&main["containerID"], &main["image"], &main["imageID"]),
            (&json!("docker://abc"), &json!("web:1"), &json!("sha256:1"))
        );
        assert_eq!(pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["reason"], "Completed");
    }

    #[test]
    fn a_revision_is_a_replica_set_that_clients_can_take_back() {
        let set = replica_sets_of(&deployment(json!({}))).remove(0);
        let annotations =
            json!({"mine": "x", "deployment.kubernetes.io/revision": "1", "kubernetes.io/change-cause": "because"});
        assert_eq!(set["metadata"]["annotations"], annotations);
        assert_eq!(set["metadata"]["name"], "web-aa");
        assert_eq!(set["spec"]["template"]["metadata"]["labels"]["pod-template-hash"], "aa");
        assert_eq!((&set["spec"]["replicas"], &set["status"]["readyReplicas"]), (&json!(1), &json!(1)));
    }

    #[test]
    fn what_owners_show_is_the_same_each_time_and_every_form_of_it_is_a_pod() {
        for object in [deployment(json!({})), deployment(json!({"address": null, "containers": null}))] {
            assert_eq!(pods_of_deployment(&object), pods_of_deployment(&object));
            let typed: Vec<k8s_openapi::api::core::v1::Pod> =
                pods_of_deployment(&object).into_iter().map(|pod| serde_json::from_value(pod).unwrap()).collect();
            assert_eq!(typed.len(), 1);
            serde_json::from_value::<k8s_openapi::api::apps::v1::ReplicaSet>(replica_sets_of(&object).remove(0))
                .unwrap();
        }
        let cluster = json!({
            "apiVersion": "evenkeel.dev/v1alpha1", "kind": "PostgresCluster",
            "metadata": {"name": "db", "namespace": "n", "uid": "u", "creationTimestamp": "2026-01-02T03:04:05Z"},
            "spec": {"image": "postgres:15"},
            "status": {"instances": [{"name": "db-1", "host": "local", "role": "primary", "state": "running"},
                                     {"name": "db-2", "host": "local", "role": "replica", "state": "stopped"}]},
        });
        let pods = pods_of_cluster(&cluster);
        assert_eq!(pods.iter().map(pod_status).collect::<Vec<_>>(), ["Running", "Stopped"]);
        serde_json::from_value::<k8s_openapi::api::core::v1::Pod>(pods[0].clone()).unwrap();
    }
}
