//! The kinds that are not stored: Pod, ReplicaSet and Node are computed from other objects, in Kubernetes' own form; there
//! are no Services. Pure.

mod definitions;
mod nodes;
mod owner;
mod pod;
mod pods;
mod replica_sets;

use serde_json::{Value, json};

use super::deployment::EVICT_ANNOTATION;
use super::resource::{Evict, Resource, Source, View, age_column, of, open, path, plain, wide};
pub use definitions::{definition, show_definition};
use nodes::{accept, node_of, node_status};
use pods::{pods_of_balancer, pods_of_cluster, pods_of_deployment, pods_of_redis, pods_of_redis_cluster, too_soon};
use replica_sets::replica_sets_of;

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
            sources: vec![
                Source {
                    resource: "deployments.apps",
                    show: pods_of_deployment,
                    evict: Some(Evict { annotation: EVICT_ANNOTATION, too_soon }),
                    accept: None,
                },
                Source { resource: "loadbalancers.evenkeel.dev", show: pods_of_balancer, evict: None, accept: None },
                Source { resource: "postgresclusters.evenkeel.dev", show: pods_of_cluster, evict: None, accept: None },
                Source { resource: "redissentinels.evenkeel.dev", show: pods_of_redis, evict: None, accept: None },
                Source {
                    resource: "redisclusters.evenkeel.dev",
                    show: pods_of_redis_cluster,
                    evict: None,
                    accept: None,
                },
            ],
            instead: "a Pod is a view of what its owner runs; to run containers, write a Deployment; to change what runs, \
                      change, scale or delete the owner. The pods of a Deployment can be deleted (they are replaced) or \
                      made anew (`kubectl rollout restart`)",
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
            sources: vec![Source { resource: "deployments.apps", show: replica_sets_of, evict: None, accept: None }],
            instead: "a ReplicaSet is a view of one revision of its Deployment; change, scale or roll back the \
                      Deployment (`kubectl rollout undo`)",
            containers: false,
        }),
        ..plain("ReplicaSet", "replicasets", json!({"spec": open(), "status": open()}), &[])
    }
}

/// Nodes: the DockerHosts.
pub fn node() -> Resource {
    Resource {
        short_names: vec!["no".into()],
        namespaced: false,
        columns: vec![
            of("Status", "string", node_status),
            of("Roles", "string", |_| "<none>".into()),
            age_column(),
            path("Version", "string", ".status.nodeInfo.kubeletVersion"),
            wide("OS-Image", ".status.nodeInfo.osImage"),
            wide("Container-Runtime", ".status.nodeInfo.containerRuntimeVersion"),
        ],
        selectable: &["spec.unschedulable"],
        view: Some(View {
            sources: vec![Source {
                resource: "dockerhosts.evenkeel.dev",
                show: node_of,
                evict: None,
                accept: Some(accept),
            }],
            instead: "a Node is a view of a DockerHost: only its labels and spec.unschedulable (`kubectl cordon`) can be \
                      changed; add, change or delete the DockerHost instead",
            containers: false,
        }),
        ..plain("Node", "nodes", json!({"spec": open(), "status": open()}), &[])
    }
}

/// Services: there are none. Tools list them, and one that is applied is refused with what to use.
pub fn service() -> Resource {
    Resource {
        short_names: vec!["svc".into()],
        view: Some(View {
            sources: vec![],
            instead: "there are no Services here: write a LoadBalancer (evenkeel.dev/v1alpha1) with the Deployment as \
                      its backend, or connect to the pods by their names in their Docker network",
            containers: false,
        }),
        ..plain("Service", "services", json!({"spec": open(), "status": open()}), &[])
    }
}

fn ready_containers(pod: &Value) -> Value {
    let ready = list(&pod["status"]["containerStatuses"]).filter(|status| status["ready"] == true).count();
    format!("{ready}/{}", list(&pod["spec"]["containers"]).count()).into()
}

/// One word for the status column, as in kubectl.
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
    list(&pod["status"]["containerStatuses"]).filter_map(|status| status["restartCount"].as_i64()).sum::<i64>().into()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn text(value: &Value) -> &str {
        value.as_str().unwrap_or_default()
    }

    fn deployment(pod: Value) -> Value {
        let mut seen = json!({
            "name": "web-aa-1", "host": "local", "address": "10.0.0.2", "phase": "Running", "ready": true, "revision": 1,
            "createdAt": "2026-01-02T03:04:05.678Z",
            "containers": [
                {"name": "prepare", "container": "n.web-aa-1.prepare", "image": "i", "state": "terminated", "exitCode": 0,
                 "reason": "Completed", "init": true, "ready": false},
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
        let waiting = json!([{"name": "main", "container": "c", "image": "i", "state": "waiting", "ready": false, "restarts": 3}]);
        let crashing =
            json!({"phase": "CrashLoopBackOff", "ready": false, "containers": waiting, "message": "it ended"});
        assert_eq!(row(crashing), "0/1 CrashLoopBackOff 3 Running");
        let init = json!([{"name": "prepare", "container": "c", "image": "i", "init": true, "state": "waiting", "ready": false}]);
        let crashing = json!({"phase": "CrashLoopBackOff", "ready": false, "containers": init});
        assert_eq!(row(crashing), "0/1 CrashLoopBackOff 0 Pending");
        assert_eq!(
            row(json!({"phase": "ContainerCreating", "ready": false, "containers": []})),
            "0/1 ContainerCreating 0 Pending"
        );
        assert_eq!(row(json!({"phase": "Unknown"})), "1/1 Unknown 0 Unknown");
        assert_eq!(row(json!({"phase": "Terminating", "terminating": true})), "1/1 Terminating 0 Running");
    }

    /// Regression 59: pods had no `securityContext`, `restartPolicy` and `qosClass`; `kubectl debug` reads the first without a
    /// look whether it is there, and ended with a fault of memory. And a pod that keeps crashing was Pending, not Running.
    #[test]
    fn a_pod_has_what_clients_read_without_a_look() {
        let pod = pods_of_deployment(&deployment(json!({}))).remove(0);
        let spec = &pod["spec"];
        assert_eq!(
            (&spec["securityContext"], &spec["restartPolicy"], &spec["dnsPolicy"], &pod["status"]["qosClass"]),
            (&json!({}), &json!("Always"), &json!("ClusterFirst"), &json!("BestEffort"))
        );
        let quality = |resources: Value| {
            let mut object = deployment(json!({}));
            let template = "/status/decisions/revisions/0/template/spec";
            *object.pointer_mut(template).unwrap() =
                json!({"containers": [{"name": "main", "image": "i", "resources": resources}]});
            text(&pods_of_deployment(&object)[0]["status"]["qosClass"]).to_owned()
        };
        assert_eq!(quality(json!({"requests": {"cpu": "1"}})), "Burstable");
        assert_eq!(quality(json!({"limits": {"cpu": "1", "memory": "1Gi"}})), "Guaranteed");
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
        for object in [deployment(json!({})), deployment(json!({"address": null, "containers": []}))] {
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
        let redis = json!({
            "apiVersion": "evenkeel.dev/v1alpha1", "kind": "RedisSentinel",
            "metadata": {"name": "cache", "namespace": "n", "uid": "u", "creationTimestamp": "2026-01-02T03:04:05Z"},
            "spec": {"image": "redis:7"},
            "status": {"members": [{"name": "cache-1", "role": "master", "state": "running", "address": "10.0.0.3:6379"},
                                   {"name": "cache-2", "role": "replica", "state": "paused"}],
                       "sentinels": [{"name": "cache-sentinel-1", "state": "running"}]},
        });
        let pods = pods_of_redis(&redis);
        let shown = pods.iter().map(|pod| {
            let container = &pod["status"]["containerStatuses"][0]["name"];
            let role = &pod["metadata"]["labels"]["evenkeel.dev/role"];
            format!("{} {} {} {}", text(&pod["metadata"]["name"]), text(container), text(role), text(&pod_status(pod)))
        });
        let shown: Vec<_> = shown.collect();
        assert_eq!(
            shown,
            [
                "cache-1 redis master Running",
                "cache-2 redis replica Paused",
                "cache-sentinel-1 sentinel sentinel Running"
            ]
        );
        assert_eq!(pods[0]["status"]["podIP"], "10.0.0.3");
    }
}
