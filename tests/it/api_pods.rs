//! Pods, revisions and scaling over real TLS: what is shown of a Deployment, and what can be asked of it.
#![allow(clippy::unwrap_used)]

use reqwest::Method;
use serde_json::{Value, json};

use super::api_server::{Api, answer};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const WEB: &str = "/apis/apps/v1/namespaces/default/deployments/web";
const PODS: &str = "/api/v1/namespaces/default/pods";
const SETS: &str = "/apis/apps/v1/namespaces/default/replicasets";

fn web() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [
                {"name": "main", "image": "web:1", "env": [{"name": "A", "value": "1"}]},
                {"name": "cache", "image": "redis:7"},
            ]}},
        },
    })
}

/// A server with a Deployment that has two pods, as its controller would tell.
async fn with_pods() -> Api {
    let api = Api::start().await;
    let mut made = api.post(DEPLOYMENTS, &web()).await.body;
    let pod = |ordinal: u8, ready: bool| {
        let containers: Vec<Value> = ["main", "cache"]
            .iter()
            .map(|name| {
                json!({"name": name, "container": format!("default.web-aa-{ordinal}.{name}"), "image": "x",
                "state": "running", "ready": ready})
            })
            .collect();
        json!({"name": format!("web-aa-{ordinal}"), "host": "local", "phase": "Running", "ready": ready, "revision": 1,
            "createdAt": "2026-01-02T03:04:05Z", "containers": containers})
    };
    made["status"] = json!({
        "replicas": 2, "pods": [pod(1, true), pod(2, false)],
        "decisions": {"target": "aa", "revisions": [{"revision": 1, "hash": "aa", "template": web()["spec"]["template"]}]},
    });
    let told = api.put(&format!("{WEB}/status"), &made).await;
    assert_eq!(told.code, 200, "{}", told.body);
    api
}

#[tokio::test]
async fn pods_are_listed_selected_and_shown_as_a_table() {
    let api = with_pods().await;
    let table =
        answer(api.request(Method::GET, PODS).header("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")).await;
    let cells: Vec<&Value> = table.body["rows"].as_array().unwrap().iter().map(|row| &row["cells"]).collect();
    let first: Vec<&Value> = cells.iter().map(|cells| &cells[..4]).flat_map(|cells| cells.iter()).collect();
    assert_eq!(
        first,
        ["web-aa-1", "2/2", "Running", "0", "web-aa-2", "0/2", "Running", "0"]
            .map(|cell| { cell.parse::<i64>().map_or(json!(cell), |number| json!(number)) })
            .iter()
            .collect::<Vec<_>>()
    );
    let some =
        api.get(&format!("{PODS}?labelSelector=app=web,pod-template-hash=aa&fieldSelector=spec.nodeName=local")).await;
    assert_eq!(some.body["items"].as_array().unwrap().len(), 2);
    assert_eq!(api.get(&format!("{PODS}?labelSelector=app=db")).await.body["items"], json!([]));
    assert_eq!(api.get(&format!("{PODS}/web-aa-3")).await.code, 404);
    let sets = api.get(SETS).await.body;
    assert_eq!(sets["items"][0]["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "1");
    api.stop().await;
}

#[tokio::test]
async fn a_watch_of_pods_tells_what_its_owner_tells() {
    let api = with_pods().await;
    let listed = api.get(PODS).await.body;
    let mut events = api
        .watch(&format!("{PODS}?watch=1&resourceVersion={}", listed["metadata"]["resourceVersion"].as_str().unwrap()))
        .await;
    let mut object = api.get(WEB).await.body;
    object["status"]["pods"][1]["ready"] = true.into();
    object["status"]["pods"].as_array_mut().unwrap().remove(0);
    api.put(&format!("{WEB}/status"), &object).await;
    let mut told = Vec::new();
    for _ in 0..2 {
        let event = events.next().await.unwrap();
        told.push(format!(
            "{} {}",
            event["type"].as_str().unwrap(),
            event["object"]["metadata"]["name"].as_str().unwrap()
        ));
    }
    assert_eq!(told, ["DELETED web-aa-1", "MODIFIED web-aa-2"]);
    api.stop().await;
}

#[tokio::test]
async fn a_pod_cannot_be_written_but_its_deletion_asks_its_deployment_to_replace_it() {
    let api = with_pods().await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": []}});
    for refused in [
        api.post(PODS, &pod).await,
        api.put(&format!("{PODS}/web-aa-1"), &pod).await,
        api.patch("merge", &format!("{PODS}/web-aa-1"), &json!({})).await,
        api.delete(&format!("{SETS}/web-aa")).await,
    ] {
        assert_eq!((refused.code, &refused.body["reason"]), (405, &json!("MethodNotAllowed")));
        assert!(refused.body["message"].as_str().unwrap().contains("is a view of"), "{}", refused.body);
    }
    let gone = api.delete(&format!("{PODS}/web-aa-1")).await;
    assert_eq!((gone.code, &gone.body["kind"]), (200, &json!("Pod")), "{}", gone.body);
    assert!(gone.body["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(api.get(WEB).await.body["metadata"]["annotations"]["evenkeel.dev/evict"], "web-aa-1");
    api.stop().await;
}

#[tokio::test]
async fn replicas_are_scaled_by_their_own_door() {
    let api = with_pods().await;
    let path = format!("{WEB}/scale");
    let mut scale = api.get(&path).await.body;
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(2)));
    assert_eq!(scale["status"], json!({"replicas": 2, "selector": "app=web"}));
    scale["spec"]["replicas"] = 5.into();
    assert_eq!(api.put(&path, &scale).await.body["spec"]["replicas"], 5);
    assert_eq!(api.put(&path, &scale).await.code, 409, "the object has changed since");
    let patched = api.patch("merge", &path, &json!({"spec": {"replicas": 3}})).await;
    assert_eq!((patched.code, &patched.body["spec"]["replicas"]), (200, &json!(3)));
    assert_eq!(api.patch("merge", &path, &json!({"spec": {"replicas": -1}})).await.code, 422);
    assert_eq!(api.get(WEB).await.body["spec"]["replicas"], 3);
    api.stop().await;
}

#[tokio::test]
async fn a_strategic_patch_changes_one_container_and_leaves_the_other() {
    let api = with_pods().await;
    let patch = json!({"spec": {"template": {"spec": {
        "$setElementOrder/containers": [{"name": "main"}, {"name": "cache"}],
        "containers": [{"name": "main", "image": "web:2", "env": [{"name": "B", "value": "2"}]}],
    }}}});
    let patched = api.patch("strategic-merge", WEB, &patch).await;
    assert_eq!(patched.code, 200, "{}", patched.body);
    let containers = &patched.body["spec"]["template"]["spec"]["containers"];
    assert_eq!(containers[0]["image"], "web:2");
    assert_eq!(containers[0]["env"], json!([{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]));
    assert_eq!(containers[1], json!({"name": "cache", "image": "redis:7"}));
    api.stop().await;
}

#[tokio::test]
async fn older_clients_are_told_which_kinds_can_be_patched() {
    let api = Api::start().await;
    let response = api.request(Method::GET, "/openapi/v2").send().await.unwrap();
    assert_eq!(response.status(), 200);
    let document = response.bytes().await.unwrap();
    let has = |text: &str| document.windows(text.len()).any(|part| part == text.as_bytes());
    assert!(has("/apis/apps/v1/namespaces/{namespace}/deployments/{name}") && has("dryRun"));
    api.stop().await;
}
