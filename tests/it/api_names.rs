//! Names that are refused at the door: too long for what Docker makes of them, or taken there by another object.
#![allow(clippy::unwrap_used)]

use evenkeel::store::Key;
use serde_json::{Value, json};

use super::api_server::Api;

const CLUSTERS: &str = "/apis/evenkeel.dev/v1alpha1/namespaces/default/postgresclusters";
const BALANCERS: &str = "/apis/evenkeel.dev/v1alpha1/namespaces/default/loadbalancers";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn cluster(name: &str) -> Value {
    json!({
        "apiVersion": "evenkeel.dev/v1alpha1", "kind": "PostgresCluster",
        "metadata": {"name": name}, "spec": {"image": "postgres:15"},
    })
}

fn balancer(name: &str) -> Value {
    let frontend = json!({"name": "http", "port": 80, "backend": "web"});
    let backend = json!({"name": "web", "servers": ["10.0.0.1:80"]});
    json!({
        "apiVersion": "evenkeel.dev/v1alpha1", "kind": "LoadBalancer",
        "metadata": {"name": name}, "spec": {"frontends": [frontend], "backends": [backend]},
    })
}

fn deployment(name: &str) -> Value {
    let labels = json!({"app": "web"});
    let template = json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "web", "image": "web:1"}]}});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": labels}, "template": template},
    })
}

/// Regression 96: see `api/claims.rs`. Of two objects that are created at the same time one is refused too.
#[tokio::test]
async fn of_two_objects_with_the_same_names_in_docker_the_second_is_refused() {
    let api = Api::start().await;
    for round in 0..10 {
        let name = format!("db-{round}");
        let (cluster, balancer) = (cluster(&name), balancer(&name));
        let both = tokio::join!(api.post(CLUSTERS, &cluster), api.post(BALANCERS, &balancer));
        let mut codes = [both.0.code, both.1.code];
        codes.sort_unstable();
        assert_eq!(codes, [201, 422]);
    }
    assert_eq!(api.post(DEPLOYMENTS, &deployment("web")).await.code, 201);
    assert_eq!(api.post(BALANCERS, &balancer("web")).await.code, 201, "its pods have other names");
    let refused = api.post(&format!("{CLUSTERS}?dryRun=All"), &cluster("web")).await;
    assert_eq!(refused.body["details"]["causes"][0]["field"], "metadata.name");
    assert_eq!(
        refused.body["message"],
        "PostgresCluster.evenkeel.dev \"web\" is invalid: metadata.name: Invalid value: \"web\": LoadBalancer web of this \
         namespace has containers and volumes of the same names (web-1, web-2 ...); choose another name"
    );
    assert_eq!(api.post(CLUSTERS, &cluster("web-0123456789")).await.code, 422, "web may have such pods");
}

/// Regression 97: a name that had become too long by a later version could not be edited any more: every change of the
/// object was refused. And a generated name was not judged at all.
#[tokio::test]
async fn a_name_is_judged_when_the_object_is_created_and_never_again() {
    let api = Api::start().await;
    let long = "n".repeat(61);
    assert_eq!(api.post(CLUSTERS, &cluster(&long)).await.code, 422);
    let mut generated = cluster("");
    generated["metadata"] = json!({"generateName": "n".repeat(56)});
    let refused = api.post(CLUSTERS, &generated).await;
    assert_eq!((refused.code, &refused.body["details"]["causes"][0]["field"]), (422, &json!("metadata.name")));

    let key = |resource: &str, name: &str| Key::new(resource, "default", name);
    api.objects.create(&key("postgresclusters.evenkeel.dev", &long), cluster(&long)).await.unwrap();
    api.objects.create(&key("deployments.apps", "a.b"), deployment("a.b")).await.unwrap();
    let change = json!({"metadata": {"labels": {"team": "web"}}});
    for path in [format!("{CLUSTERS}/{long}"), format!("{DEPLOYMENTS}/a.b")] {
        assert_eq!(api.patch("merge", &path, &change).await.code, 200);
        assert_eq!(api.delete(&path).await.code, 200);
    }
}
