//! What a namespace lets its objects do, over HTTP: Pod Security levels, host ports, endpoints without TLS.
#![allow(clippy::unwrap_used)]

use evenkeel::store::Key;
use serde_json::{Value, json};

use super::api_server::Api;

const NAMESPACES: &str = "/api/v1/namespaces";
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

fn deployments(namespace: &str) -> String {
    format!("/apis/apps/v1/namespaces/{namespace}/deployments")
}

fn deployment(security: Value) -> Value {
    let labels = json!({"app": "web"});
    let container = json!({"name": "web", "image": "web:1", "securityContext": security});
    let template = json!({"metadata": {"labels": labels}, "spec": {"containers": [container]}});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"selector": {"matchLabels": labels}, "template": template},
    })
}

/// Regression 198: see `server/admission.rs`.
#[tokio::test]
async fn a_new_namespace_is_baseline_and_an_old_one_is_privileged_with_a_warning() {
    let api = Api::start().await;
    let made = api.post(NAMESPACES, &json!({"metadata": {"name": "team"}})).await;
    assert_eq!(made.body["metadata"]["labels"][ENFORCE], "baseline");
    let privileged = deployment(json!({"privileged": true}));
    let refused = api.post(&deployments("team"), &privileged).await;
    let why =
        "PodSecurity \"baseline:latest\": privileged (container \"web\" must not set securityContext.privileged=true)";
    let message = format!("deployments.apps \"web\" is forbidden: violates {why}");
    assert_eq!(
        (refused.code, &refused.body["message"], &refused.body["reason"]),
        (403, &json!(message), &json!("Forbidden"))
    );
    assert_eq!(api.post(&deployments("team"), &deployment(json!({}))).await.code, 201);
    let path = format!("{}/web", deployments("team"));
    let change = json!({"spec": {"template": {"spec": {"containers": [
        {"name": "web", "image": "web:1", "securityContext": {"privileged": true}},
    ]}}}});
    assert_eq!(api.patch("merge", &path, &change).await.code, 403);
    assert_eq!(api.patch("strategic-merge", &path, &change).await.code, 403);

    let warned = api.post(&deployments("default"), &privileged).await;
    assert_eq!(warned.code, 201);
    assert!(warned.warning.contains("would violate PodSecurity"), "{}", warned.warning);
    // Its level is raised: it keeps running and can be scaled, but its template is judged from now on.
    let raised = json!({"metadata": {"labels": {(ENFORCE): "restricted"}}});
    let raised = api.patch("merge", &format!("{NAMESPACES}/default"), &raised).await;
    assert!(raised.code == 200 && raised.warning.contains("existing pods violate"), "{}", raised.warning);
    let path = format!("{}/web", deployments("default"));
    let scaled = api.patch("merge", &path, &json!({"spec": {"replicas": 2}})).await;
    assert_eq!((scaled.code, scaled.warning.as_str()), (200, ""));
    let next = json!({"spec": {"template": {"metadata": {"annotations": {"a": "b"}}}}});
    assert_eq!(api.patch("merge", &path, &next).await.code, 200, "the pod itself is the same");
    assert_eq!(api.patch("merge", &path, &change).await.code, 200, "and so it is here");
    let next = json!({"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 3}}}});
    assert_eq!(api.patch("merge", &path, &next).await.code, 403);
    let bad = json!({"metadata": {"labels": {(ENFORCE): "strict"}}});
    assert_eq!(api.patch("merge", &format!("{NAMESPACES}/default"), &bad).await.code, 422);
}

#[tokio::test]
async fn a_port_is_published_only_by_the_namespace_that_has_it() {
    let api = Api::start().await;
    let annotations = json!({"evenkeel.dev/host-ports": "15000-15009", "evenkeel.dev/bind-addresses": "127.0.0.1"});
    let team = json!({"metadata": {"name": "team", "annotations": annotations}});
    assert_eq!(api.post(NAMESPACES, &team).await.code, 201);
    let cluster = |name: &str, port: u16| {
        let spec = json!({"image": "postgres:15", "instances": 2, "expose": {"hostPort": port}});
        json!({"apiVersion": "evenkeel.dev/v1alpha1", "kind": "PostgresCluster", "metadata": {"name": name}, "spec": spec})
    };
    let path = |namespace: &str| format!("/apis/evenkeel.dev/v1alpha1/namespaces/{namespace}/postgresclusters");
    assert_eq!(api.post(&path("team"), &cluster("a", 15008)).await.code, 201);
    let outside = api.post(&path("team"), &cluster("b", 15009)).await;
    let message = "postgresclusters.evenkeel.dev \"b\" is forbidden: spec.expose.hostPort: host port 15010 is not in \
                   annotation evenkeel.dev/host-ports";
    assert_eq!((outside.code, outside.body["message"].as_str()), (403, Some(message)));
    assert_eq!(api.post(&path("default"), &cluster("c", 15000)).await.code, 403);
    assert_eq!(api.post(&path("default"), &cluster("c", 16000)).await.code, 201);
}

/// Regression 194: see `api/docker_host.rs`.
#[tokio::test]
async fn an_endpoint_without_tls_needs_a_word_unless_it_was_stored_before() {
    let api = Api::start().await;
    let hosts = "/apis/evenkeel.dev/v1alpha1/dockerhosts";
    let host = |name: &str, spec: Value| json!({"apiVersion": "evenkeel.dev/v1alpha1", "kind": "DockerHost", "metadata": {"name": name}, "spec": spec});
    let plain = host("plain", json!({"endpoint": "tcp://10.0.0.7:2375"}));
    let refused = api.post(hosts, &plain).await;
    assert_eq!((refused.code, &refused.body["details"]["causes"][0]["field"]), (422, &json!("spec.endpoint")));
    let said = host("said", json!({"endpoint": "tcp://10.0.0.7:2375", "insecure": true}));
    assert_eq!(api.post(hosts, &said).await.code, 201);
    api.objects.create(&Key::new("dockerhosts.evenkeel.dev", "", "plain"), plain).await.unwrap();
    let (path, change) = (format!("{hosts}/plain"), |spec: Value| json!({"spec": spec}));
    assert_eq!(api.patch("merge", &path, &change(json!({"unschedulable": true}))).await.code, 200);
    assert_eq!(api.patch("merge", &path, &change(json!({"endpoint": "tcp://10.0.0.8:2375"}))).await.code, 422);
}
