//! Lists over HTTP: pieces, revisions, and what a list of the past shows.
#![allow(clippy::unwrap_used)]

use evenkeel::store::MemoryStore;
use serde_json::{Value, json};

use crate::api_server::Api;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn create(api: &Api, name: &str) {
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"app": name}}});
    assert_eq!(api.post(MAPS, &map).await.code, 201);
}

fn names(list: &Value) -> String {
    let items = list["items"].as_array().unwrap();
    items.iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect::<Vec<_>>().join(" ")
}

fn next(list: &Value) -> String {
    format!("{MAPS}?limit=2&continue={}", list["metadata"]["continue"].as_str().unwrap())
}

/// Regression 60: `limit` and `continue` were ignored: `limit=10` was answered with 1,000 objects. A list comes in pieces
/// now, and each shows the objects as they were for the first.
#[tokio::test]
async fn the_pieces_of_a_list_are_of_one_revision_whatever_is_written_meanwhile() {
    let api = Api::start().await;
    for name in ["a", "b", "c", "d", "e"] {
        create(&api, name).await;
    }
    let first = api.get(&format!("{MAPS}?limit=2")).await.body;
    assert_eq!((names(&first).as_str(), &first["metadata"]["remainingItemCount"]), ("a b", &json!(3)));
    api.delete(&format!("{MAPS}/c")).await;
    api.delete(&format!("{MAPS}/a")).await;
    api.patch("merge", &format!("{MAPS}/d"), &json!({"data": {"new": "yes"}})).await;
    create(&api, "cc").await;
    let second = api.get(&next(&first)).await.body;
    assert_eq!(names(&second), "c d");
    assert_eq!(second["items"][1]["data"], Value::Null);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let last = api.get(&next(&second)).await.body;
    assert_eq!((names(&last).as_str(), last["metadata"].get("continue")), ("e", None));
    assert_eq!(names(&api.get(MAPS).await.body), "b cc d e");
    let exact = format!("{MAPS}?resourceVersionMatch=Exact&resourceVersion=");
    let exact = api.get(&(exact + first["metadata"]["resourceVersion"].as_str().unwrap())).await.body;
    assert_eq!(names(&exact), "a b c d e");
    let chosen = api.get(&format!("{MAPS}?limit=1&labelSelector=app%20in%20(b,d)")).await.body;
    assert_eq!((names(&chosen).as_str(), chosen["metadata"].get("remainingItemCount")), ("b", None));
    api.stop().await;
}

#[tokio::test]
async fn a_piece_whose_revision_is_forgotten_is_answered_410_with_a_token_that_goes_on_now() {
    let api = Api::with_store(MemoryStore::with_window(4)).await;
    for name in ["a", "b", "c", "d"] {
        create(&api, name).await;
    }
    let first = api.get(&format!("{MAPS}?limit=2")).await.body;
    for n in 0..5 {
        api.patch("merge", &format!("{MAPS}/a"), &json!({"data": {"n": n.to_string()}})).await;
    }
    api.delete(&format!("{MAPS}/c")).await;
    let gone = api.get(&next(&first)).await;
    assert_eq!((gone.code, &gone.body["reason"]), (410, &json!("Expired")));
    assert_eq!(names(&api.get(&next(&gone.body)).await.body), "d");
    api.stop().await;
}

#[tokio::test]
async fn a_table_of_hundreds_comes_whole_and_in_order() {
    let api = Api::start().await;
    let all: Vec<String> = (0..200).map(|n| format!("map-{n:03}")).collect();
    for name in &all {
        create(&api, name).await;
    }
    let table =
        api.request(reqwest::Method::GET, MAPS).header("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io");
    let table: Value = table.send().await.unwrap().json().await.unwrap();
    let rows = table["rows"].as_array().unwrap().iter().map(|row| row["cells"][0].as_str().unwrap());
    assert_eq!(rows.collect::<Vec<_>>(), all);
    assert_eq!(names(&api.get(MAPS).await.body), all.join(" "));
    let pods = api.get("/api/v1/namespaces/default/pods?limit=5").await.body;
    assert_eq!((&pods["kind"], &pods["items"]), (&json!("PodList"), &json!([])));
    api.stop().await;
}

/// Regression 66: a manifest with a Service failed with "failed to list CRDs", nothing after it in the file was applied, and
/// `cluster-info` failed. Services are listed (there are none), and one that is created is refused with what to use.
#[tokio::test]
async fn services_are_listed_and_refused_with_what_to_use_instead() {
    let api = Api::start().await;
    let path = "/api/v1/namespaces/default/services";
    let list = api.get(path).await;
    assert_eq!((list.code, &list.body["items"]), (200, &json!([])));
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {}});
    let refused = api.post(path, &service).await;
    assert_eq!(refused.code, 405);
    assert!(refused.body["message"].as_str().unwrap().contains("LoadBalancer"), "{}", refused.body);
    let documents = api.get("/openapi/v3/api/v1").await.body;
    assert!(documents["components"]["schemas"].get("io.k8s.api.core.v1.Service").is_some());
    api.stop().await;
}
