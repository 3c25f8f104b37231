//! The API over real TLS, as clients see it.
#![allow(clippy::unwrap_used)]

use evenkeel::store::{Key, MemoryStore};
use reqwest::Method;
use serde_json::{Value, json};

use super::api_server::{Api, answer};

const CLUSTERS: &str = "/apis/evenkeel.dev/v1alpha1/namespaces/default/postgresclusters";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";

fn cluster(name: &str) -> Value {
    json!({
        "apiVersion": "evenkeel.dev/v1alpha1",
        "kind": "PostgresCluster",
        "metadata": {"name": name},
        "spec": {"image": "postgres:15", "instances": 3},
    })
}

fn secret(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"password": value}})
}

fn key(name: &str) -> Key {
    Key { resource: "postgresclusters.evenkeel.dev".into(), namespace: "default".into(), name: name.into() }
}

fn revision(object: &Value) -> &str {
    object["metadata"]["resourceVersion"].as_str().unwrap()
}

#[tokio::test]
async fn only_the_bearer_of_the_token_is_served() {
    let api = Api::start().await;
    for header in ["", "Bearer wrong", "Basic abc"] {
        let request = api.http.get(format!("{}{CLUSTERS}", api.url)).header("Authorization", header);
        let refused = answer(request).await;
        assert_eq!((refused.code, &refused.body["reason"]), (401, &json!("Unauthorized")), "{header:?}");
    }
    for open in ["/livez", "/readyz", "/healthz", "/version"] {
        assert_eq!(answer(api.http.get(format!("{}{open}", api.url))).await.code, 200, "{open}");
    }
    let secret_path = answer(api.http.get(format!("{}/nothing/here", api.url))).await;
    assert_eq!(secret_path.code, 401, "a stranger does not learn which paths there are");
    api.stop().await;
}

#[tokio::test]
async fn an_object_is_made_with_defaults_and_read_back() {
    let api = Api::start().await;
    let mut sent = cluster("db");
    sent["status"] = json!({"phase": "Forged"});
    sent["metadata"]["uid"] = "forged".into();
    let made = api.post(CLUSTERS, &sent).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let metadata = &made.body["metadata"];
    assert_eq!(metadata["generation"], 1);
    assert_eq!(metadata["namespace"], "default");
    assert_ne!(metadata["uid"], "forged");
    assert!(metadata["creationTimestamp"].as_str().unwrap().ends_with('Z'));
    assert_eq!(made.body.get("status"), None);
    assert_eq!(made.body["spec"]["durability"]["mode"], "required");

    assert_eq!(api.get(&format!("{CLUSTERS}/db")).await.body, made.body);
    let list = api.get(CLUSTERS).await.body;
    assert_eq!(list["kind"], "PostgresClusterList");
    assert_eq!(list["items"], json!([made.body]));
    assert_eq!(revision(&list), revision(&made.body));
    let everywhere = api.get("/apis/evenkeel.dev/v1alpha1/postgresclusters").await.body;
    assert_eq!(everywhere["items"].as_array().unwrap().len(), 1);

    let again = api.post(CLUSTERS, &cluster("db")).await;
    assert_eq!((again.code, &again.body["reason"]), (409, &json!("AlreadyExists")));
    assert_eq!(again.body["details"]["name"], "db");
    let missing = api.get(&format!("{CLUSTERS}/none")).await;
    assert_eq!(missing.code, 404);
    assert_eq!(missing.body["message"], "postgresclusters.evenkeel.dev \"none\" not found");
}

#[tokio::test]
async fn every_problem_is_told_at_once_with_its_path() {
    let api = Api::start().await;
    let mut bad = cluster("db");
    bad["spec"] =
        json!({"image": "postgres:15", "instances": 2, "instnces": 3, "durability": {"synchronousReplicas": 2}});
    let refused = api.post(&format!("{CLUSTERS}?fieldValidation=Strict"), &bad).await;
    assert_eq!((refused.code, &refused.body["reason"]), (400, &json!("BadRequest")));
    let fields: Vec<&Value> =
        refused.body["details"]["causes"].as_array().unwrap().iter().map(|cause| &cause["field"]).collect();
    assert_eq!(fields, ["spec.instnces", "spec.durability.synchronousReplicas"]);

    let refused = api.post(CLUSTERS, &bad).await;
    assert_eq!((refused.code, &refused.body["reason"]), (422, &json!("Invalid")));
    assert_eq!(refused.body["details"]["kind"], "PostgresCluster");
    bad["spec"] = json!({"instances": "three", "durability": {"mode": "perhaps"}});
    let refused = api.post(&format!("{CLUSTERS}?fieldValidation=Strict"), &bad).await;
    assert_eq!(
        refused.body["message"],
        "PostgresCluster.evenkeel.dev \"db\" is invalid: [spec.image: Required value, \
         spec.durability.mode: Unsupported value: \"perhaps\": must be one of \"required\", \"preferred\", \"async\", \
         spec.instances: Invalid value: \"three\": must be a whole number]"
    );
    assert_eq!(api.get(CLUSTERS).await.body["items"], json!([]), "nothing was stored");
}

#[tokio::test]
async fn a_lenient_writer_is_warned_of_unknown_fields() {
    let api = Api::start().await;
    let mut odd = cluster("db");
    odd["spec"]["color"] = "blue".into();
    let made = api.post(CLUSTERS, &odd).await;
    assert_eq!((made.code, made.warning.as_str()), (201, "299 - \"unknown field \\\"spec.color\\\"\""));
    assert_eq!(made.body["spec"].get("color"), None);
}

#[tokio::test]
async fn a_body_that_is_not_what_the_path_says_is_refused() {
    let api = Api::start().await;
    let mut other = cluster("db");
    other["kind"] = "DockerHost".into();
    assert_eq!(api.post(CLUSTERS, &other).await.code, 400);
    let mut elsewhere = cluster("db");
    elsewhere["metadata"]["namespace"] = "prod".into();
    assert_eq!(api.post(CLUSTERS, &elsewhere).await.code, 400);
    assert_eq!(answer(api.request(Method::POST, CLUSTERS).body("{")).await.code, 400);
    let html = api.request(Method::POST, CLUSTERS).header("Content-Type", "text/html").body("{}");
    assert_eq!(answer(html).await.code, 415);
    let large = "x".repeat(4 * 1024 * 1024);
    assert_eq!(answer(api.request(Method::POST, CLUSTERS).body(large)).await.code, 413);
    let nowhere = api.post("/apis/evenkeel.dev/v1alpha1/namespaces/nowhere/postgresclusters", &cluster("db")).await;
    assert_eq!((nowhere.code, &nowhere.body["message"]), (404, &json!("namespaces \"nowhere\" not found")));
    assert_eq!(api.put(CLUSTERS, &cluster("db")).await.code, 405);
}

#[tokio::test]
async fn a_stale_writer_is_told_of_the_conflict() {
    let api = Api::start().await;
    let path = format!("{CLUSTERS}/db");
    let first = api.post(CLUSTERS, &cluster("db")).await.body;
    let mut second = first.clone();
    second["spec"]["instances"] = 2.into();
    let second = api.put(&path, &second).await;
    assert_eq!((second.code, &second.body["metadata"]["generation"]), (200, &json!(2)));

    let stale = api.put(&path, &first).await;
    assert_eq!((stale.code, &stale.body["reason"]), (409, &json!("Conflict")));
    let mut unversioned = second.body.clone();
    unversioned["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    assert_eq!(api.put(&path, &unversioned).await.code, 422);

    let same = api.put(&path, &second.body).await.body;
    assert_eq!(same, second.body, "a write that changes nothing is none");
    assert_eq!(api.put(&format!("{CLUSTERS}/none"), &json!({"apiVersion": "evenkeel.dev/v1alpha1", "kind": "PostgresCluster", "metadata": {"resourceVersion": "1"}, "spec": {"image": "a"}})).await.code, 404);
}

#[tokio::test]
async fn patches_change_what_they_name() {
    let api = Api::start().await;
    let path = format!("{CLUSTERS}/db");
    let made = api.post(CLUSTERS, &cluster("db")).await.body;

    let merged =
        api.patch("merge", &path, &json!({"metadata": {"labels": {"a": "b"}}, "spec": {"instances": 5}})).await;
    assert_eq!((merged.code, &merged.body["spec"]["instances"]), (200, &json!(5)));
    let operations = json!([
        {"op": "test", "path": "/metadata/finalizers", "value": null},
        {"op": "replace", "path": "/spec/instances", "value": 4},
    ]);
    let patched = api.patch("json", &path, &operations).await;
    assert_eq!((patched.code, &patched.body["spec"]["instances"]), (200, &json!(4)));
    let wrong = api.patch("json", &path, &json!([{"op": "test", "path": "/spec/instances", "value": 9}])).await;
    assert_eq!(wrong.code, 422);
    let invalid = api.patch("merge", &path, &json!({"spec": {"instances": 0}})).await;
    assert_eq!((invalid.code, &invalid.body["details"]["causes"][0]["field"]), (422, &json!("spec.instances")));
    let stale = json!({"metadata": {"resourceVersion": revision(&made)}, "spec": {"instances": 1}});
    assert_eq!(api.patch("merge", &path, &stale).await.code, 409);
    assert_eq!(api.patch("strategic-merge", &path, &json!({"spec": {}})).await.code, 415);
    assert_eq!(api.patch("merge", &format!("{CLUSTERS}/none"), &json!({"spec": {}})).await.code, 404);
}

#[tokio::test]
async fn apply_makes_changes_and_prunes_what_its_manager_dropped() {
    let api = Api::start().await;
    let path = format!("{CLUSTERS}/db");
    let by = |manager: &str| format!("{path}?fieldManager={manager}");
    let mut wanted = cluster("db");
    wanted["spec"]["parameters"] = json!({"max_connections": "500", "work_mem": "8MB"});

    assert_eq!(api.patch("apply", &path, &wanted).await.code, 422, "a manager is required");
    let made = api.patch("apply", &by("ann"), &wanted).await;
    assert_eq!(made.code, 201, "{}", made.body);
    assert_eq!(made.body["metadata"]["managedFields"][0]["manager"], "ann");
    let again = api.patch("apply", &by("ann"), &wanted).await;
    assert_eq!((again.code, &again.body), (200, &made.body), "nothing changed, the resourceVersion neither");

    let theirs = json!({"apiVersion": "evenkeel.dev/v1alpha1", "kind": "PostgresCluster", "spec": {"instances": 5}});
    let conflict = api.patch("apply", &by("bob"), &theirs).await;
    assert_eq!(conflict.code, 409);
    assert_eq!(conflict.body["details"]["causes"][0]["reason"], "FieldManagerConflict");
    assert_eq!(conflict.body["details"]["causes"][0]["field"], ".spec.instances");
    let forced = api.patch("apply", &format!("{}&force=true", by("bob")), &theirs).await;
    assert_eq!((forced.code, &forced.body["spec"]["instances"]), (200, &json!(5)));

    wanted["spec"] = json!({"image": "postgres:15", "parameters": {"work_mem": "8MB"}});
    let pruned = api.patch("apply", &by("ann"), &wanted).await.body;
    assert_eq!(pruned["spec"]["parameters"], json!({"work_mem": "8MB"}));
    assert_eq!(pruned["spec"]["instances"], 5, "bob's");
    assert_eq!(pruned["metadata"]["generation"], 3);
}

/// Regression 48: any client could write the status, which the planner reads back: a patch of `status.decisions` could make
/// it act on facts that never were. Only the operator writes it.
#[tokio::test]
async fn only_the_operator_writes_the_status() {
    let api = Api::start().await;
    let (path, status) = (format!("{CLUSTERS}/db"), format!("{CLUSTERS}/db/status"));
    let mut object = api.post(CLUSTERS, &cluster("db")).await.body;
    object["status"] = json!({"phase": "Healthy"});
    api.objects.update_status(&key("db"), object.clone()).await.unwrap();

    let forged = json!({"spec": {"instances": 2}, "status": {"phase": "Forged"}});
    let changed = api.patch("merge", &path, &forged).await.body;
    assert_eq!((&changed["status"]["phase"], &changed["spec"]["instances"]), (&json!("Healthy"), &json!(2)));
    for refused in [
        api.put(&status, &object).await,
        api.patch("merge", &status, &forged).await,
        api.patch("json", &status, &json!([{"op": "remove", "path": "/status"}])).await,
        api.patch("apply", &format!("{status}?fieldManager=a"), &forged).await,
    ] {
        assert_eq!((refused.code, &refused.body["reason"]), (403, &json!("Forbidden")));
        let message = "the status is written by the operator alone; change the spec instead";
        assert_eq!(refused.body["message"], message);
    }
    assert_eq!(api.get(&status).await.body, changed);
}

/// Regression 47: bodies without `apiVersion` and `kind` were refused, and the typed clients of Python and others leave them
/// out. Both are taken from the path now. A patch that changed them, or the uid, was answered 200 and ignored.
#[tokio::test]
async fn the_path_says_the_kind_of_a_body_that_does_not() {
    let api = Api::start().await;
    let bare = |name: &str| json!({"metadata": {"name": name}, "spec": {"image": "postgres:15"}});
    let made = api.post(CLUSTERS, &bare("a")).await;
    assert_eq!(
        (made.code, &made.body["kind"], &made.body["apiVersion"]),
        (201, &cluster("a")["kind"], &cluster("a")["apiVersion"])
    );
    let mut again = bare("a");
    again["metadata"]["resourceVersion"] = revision(&made.body).into();
    assert_eq!(api.put(&format!("{CLUSTERS}/a"), &again).await.body, made.body);
    assert_eq!(api.patch("apply", &format!("{CLUSTERS}/b?fieldManager=m"), &bare("b")).await.code, 201);
    let mut other = bare("c");
    other["kind"] = "Pod".into();
    assert_eq!(api.post(CLUSTERS, &other).await.code, 400);

    let path = format!("{CLUSTERS}/a");
    for (change, field) in [
        (json!({"kind": "Pod"}), "kind"),
        (json!({"apiVersion": "v1"}), "apiVersion"),
        (json!({"metadata": {"name": "z"}}), "metadata.name"),
        (json!({"metadata": {"namespace": "z"}}), "metadata.namespace"),
        (json!({"metadata": {"uid": "z"}}), "metadata.uid"),
    ] {
        let refused = api.patch("merge", &path, &change).await;
        assert_eq!((refused.code, &refused.body["details"]["causes"][0]["field"]), (422, &json!(field)));
    }
    assert_eq!(api.patch("merge", &path, &json!({"kind": null, "metadata": {"uid": null}})).await.body, made.body);
}

#[tokio::test]
async fn a_finalizer_holds_a_deleted_object() {
    let api = Api::start().await;
    let path = format!("{CLUSTERS}/db");
    let mut object = cluster("db");
    object["metadata"]["finalizers"] = json!(["example.com/hold"]);
    let made = api.post(CLUSTERS, &object).await.body;

    let wrong = json!({"preconditions": {"uid": "other"}});
    assert_eq!(answer(api.request(Method::DELETE, &path).json(&wrong)).await.code, 409);
    let options = json!({"propagationPolicy": "Background", "preconditions": {"uid": made["metadata"]["uid"]}});
    let marked = answer(api.request(Method::DELETE, &path).json(&options)).await;
    assert_eq!(marked.code, 200);
    assert!(marked.body["metadata"]["deletionTimestamp"].is_string());
    let released = api.patch("merge", &path, &json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(released.code, 200, "{}", released.body);
    assert_eq!(api.get(&path).await.code, 404);

    let unheld = api.post(CLUSTERS, &cluster("db")).await.body;
    let gone = api.delete(&path).await;
    assert_eq!((gone.code, &gone.body["status"]), (200, &json!("Success")));
    assert_eq!(gone.body["details"]["uid"], unheld["metadata"]["uid"]);
    assert_eq!(api.delete(&path).await.code, 404);
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let api = Api::start().await;
    for (name, tier) in [("a", "gold"), ("b", "tin"), ("c", "gold")] {
        let mut object = cluster(name);
        object["metadata"]["labels"] = json!({"tier": tier});
        assert_eq!(api.post(CLUSTERS, &object).await.code, 201);
    }
    assert_eq!(api.delete(&format!("{CLUSTERS}?labelSelector=tier%3Dgold")).await.code, 200);
    let left = api.get(CLUSTERS).await.body;
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
    assert_eq!(left["items"][0]["metadata"]["name"], "b");
}

#[tokio::test]
async fn a_dry_run_judges_and_stores_nothing() {
    let api = Api::start().await;
    let path = format!("{CLUSTERS}/db");
    let tried = api.post(&format!("{CLUSTERS}?dryRun=All"), &cluster("db")).await;
    assert_eq!((tried.code, &tried.body["spec"]["durability"]["mode"]), (201, &json!("required")));
    assert_eq!(api.get(&path).await.code, 404);

    let made = api.post(CLUSTERS, &cluster("db")).await.body;
    assert_eq!(api.post(&format!("{CLUSTERS}?dryRun=All"), &cluster("db")).await.code, 409);
    let tried = api.patch("merge", &format!("{path}?dryRun=All"), &json!({"spec": {"instances": 5}})).await.body;
    assert_eq!((&tried["spec"]["instances"], &tried["metadata"]["generation"]), (&json!(5), &json!(2)));
    let tried = api.patch("apply", &format!("{path}?dryRun=All&fieldManager=a&force=true"), &cluster("db")).await;
    assert_eq!(tried.code, 200);
    assert_eq!(api.delete(&format!("{path}?dryRun=All")).await.code, 200);
    assert_eq!(api.get(&path).await.body, made);
    assert_eq!(api.delete(&format!("{path}?dryRun=Some")).await.code, 422);
}

#[tokio::test]
async fn a_watch_tells_all_changes_and_resumes_where_it_ended() {
    let api = Api::start().await;
    let path = format!("{CLUSTERS}/db");
    api.post(CLUSTERS, &cluster("old")).await;
    let mut events = api.watch(&format!("{CLUSTERS}?watch=true")).await;
    assert_eq!(events.told().await, "ADDED old");
    let made = api.post(CLUSTERS, &cluster("db")).await.body;
    assert_eq!(events.told().await, "ADDED db");
    api.patch("merge", &path, &json!({"spec": {"instances": 2}})).await;
    assert_eq!(events.told().await, "MODIFIED db");
    api.delete(&path).await;
    let gone = events.next().await.unwrap();
    assert_eq!(gone["type"], "DELETED");
    assert!(revision(&gone["object"]).parse::<u64>().unwrap() > revision(&made).parse().unwrap());

    let mut resumed = api.watch(&format!("{CLUSTERS}?watch=true&resourceVersion={}", revision(&made))).await;
    assert_eq!(resumed.told().await, "MODIFIED db");
    assert_eq!(resumed.told().await, "DELETED db");
    let future = api.get(&format!("{CLUSTERS}?watch=true&resourceVersion=99999")).await;
    assert_eq!((future.code, &future.body["details"]["causes"][0]["reason"]), (504, &json!("ResourceVersionTooLarge")));
}

#[tokio::test]
async fn a_watch_ends_in_time_with_a_bookmark() {
    let api = Api::start().await;
    let made = api.post(CLUSTERS, &cluster("db")).await.body;
    let path =
        format!("{CLUSTERS}?watch=1&timeoutSeconds=1&allowWatchBookmarks=true&resourceVersion={}", revision(&made));
    let mut events = api.watch(&path).await;
    let bookmark = events.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["kind"], "PostgresCluster");
    assert_eq!(revision(&bookmark["object"]), revision(&made));
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn a_streamed_list_says_where_its_snapshot_ends() {
    let api = Api::start().await;
    api.post(CLUSTERS, &cluster("db")).await;
    let asked = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut events = api.watch(&format!("{CLUSTERS}?watch=true&{asked}")).await;
    assert_eq!(events.told().await, "ADDED db");
    let mark = events.next().await.unwrap();
    assert_eq!(mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(api.get(&format!("{CLUSTERS}?watch=true&sendInitialEvents=true")).await.code, 422);
}

#[tokio::test]
async fn a_watch_from_a_forgotten_revision_is_answered_410() {
    let api = Api::with_store(MemoryStore::with_window(3)).await;
    let first = api.post(CLUSTERS, &cluster("a")).await.body;
    for name in ["b", "c", "d", "e"] {
        api.post(CLUSTERS, &cluster(name)).await;
    }
    let gone = api.get(&format!("{CLUSTERS}?watch=true&resourceVersion={}", revision(&first))).await;
    assert_eq!((gone.code, &gone.body["reason"]), (410, &json!("Expired")));
}

#[tokio::test]
async fn an_object_enters_and_leaves_a_watch_by_its_labels() {
    let api = Api::start().await;
    let path = format!("{CLUSTERS}/db");
    api.post(CLUSTERS, &cluster("db")).await;
    let mut events = api.watch(&format!("{CLUSTERS}?watch=true&labelSelector=tier%3Dgold")).await;
    for (tier, expected) in [("gold", "ADDED db"), ("tin", "DELETED db"), ("gold", "ADDED db")] {
        api.patch("merge", &path, &json!({"metadata": {"labels": {"tier": tier}}})).await;
        assert_eq!(events.told().await, expected);
    }
}

#[tokio::test]
async fn stopping_the_server_ends_open_watches_cleanly() {
    let api = Api::start().await;
    api.post(CLUSTERS, &cluster("db")).await;
    let mut events = api.watch(&format!("{CLUSTERS}?watch=true")).await;
    assert_eq!(events.told().await, "ADDED db");
    api.stop().await;
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn a_table_has_the_columns_of_its_kind() {
    let api = Api::start().await;
    api.post(CLUSTERS, &cluster("db")).await;
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let table = answer(api.request(Method::GET, CLUSTERS).header("Accept", accept)).await.body;
    let names: Vec<&Value> = table["columnDefinitions"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
    assert_eq!(names[..3], ["Name", "Instances", "Ready"]);
    assert_eq!(first_cells(&table)[..2], [json!("db"), json!(3)]);
    assert_eq!(table["rows"][0]["object"]["metadata"]["name"], "db");
    let unknown = api.request(Method::GET, CLUSTERS).header("Accept", "text/html");
    assert_eq!(answer(unknown).await.code, 406);
}

fn first_cells(table: &Value) -> &[Value] {
    table["rows"][0]["cells"].as_array().unwrap()
}

#[tokio::test]
async fn discovery_leads_to_every_kind() {
    let api = Api::start().await;
    assert_eq!(api.get("/api").await.body["versions"], json!(["v1"]));
    let groups = api.get("/apis/").await.body;
    let preferred = |index: usize| groups["groups"][index]["preferredVersion"]["groupVersion"].clone();
    assert_eq!([preferred(0), preferred(1)], ["apps/v1", "evenkeel.dev/v1alpha1"]);
    assert_eq!(api.get("/apis/evenkeel.dev").await.body["kind"], "APIGroup");
    let names = |list: Value| -> Vec<String> {
        list["resources"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap().to_owned()).collect()
    };
    let core = names(api.get("/api/v1").await.body);
    for name in ["namespaces", "namespaces/status", "secrets", "configmaps", "events", "pods", "pods/log", "pods/exec"]
    {
        assert!(core.contains(&name.to_owned()), "{name}");
    }
    assert!(names(api.get("/apis/apps/v1").await.body).contains(&"deployments/scale".to_owned()));
    let ours = api.get("/apis/evenkeel.dev/v1alpha1").await.body;
    let clusters = ours["resources"].as_array().unwrap().iter().find(|one| one["name"] == "postgresclusters");
    assert_eq!(clusters.unwrap()["shortNames"], json!(["pg"]));
    let ours = names(ours);
    for name in ["dockerhosts", "dockerhosts/status", "postgresclusters", "postgresclusters/status"] {
        assert!(ours.contains(&name.to_owned()), "{name}");
    }
    assert_eq!(api.get("/apis/none.dev").await.code, 404);
    assert!(api.get("/version").await.body["gitVersion"].as_str().unwrap().starts_with("v1."));
}

#[tokio::test]
async fn a_client_that_only_speaks_spdy_is_told_what_does_not() {
    let api = Api::start().await;
    let refused = api.post("/api/v1/namespaces/default/pods/x/exec?command=ls", &json!({})).await;
    assert_eq!(refused.code, 400);
    assert!(refused.body["message"].as_str().unwrap().contains("kubectl 1.31"), "{}", refused.body);
    api.stop().await;
}

#[tokio::test]
async fn openapi_documents_describe_every_kind() {
    let api = Api::start().await;
    let index = api.get("/openapi/v3").await.body;
    let url = index["paths"]["apis/evenkeel.dev/v1alpha1"]["serverRelativeURL"].as_str().unwrap();
    let document = api.get(url).await.body;
    let schema = &document["components"]["schemas"]["dev.evenkeel.v1alpha1.PostgresCluster"];
    assert_eq!(schema["x-kubernetes-group-version-kind"][0]["kind"], "PostgresCluster");
    assert!(schema["properties"]["metadata"].is_object());
    let path = "/apis/evenkeel.dev/v1alpha1/namespaces/{namespace}/postgresclusters/{name}";
    let types: Vec<&String> =
        document["paths"][path]["patch"]["requestBody"]["content"].as_object().unwrap().keys().collect();
    assert!(!types.contains(&&"application/strategic-merge-patch+json".to_owned()));
    assert_eq!(api.get("/openapi/v3/apis/none/v1").await.code, 404);
}

#[tokio::test]
async fn a_secret_keeps_its_plain_text_encoded() {
    let api = Api::start().await;
    let made = api.post(SECRETS, &secret("s", "hunter2")).await;
    assert_eq!((made.code, &made.body["data"]["password"]), (201, &json!("aHVudGVyMg==")));
    assert_eq!((&made.body["type"], made.body.get("stringData")), (&json!("Opaque"), None));
    let path = format!("{SECRETS}/s");
    let refused = api.patch("merge", &path, &json!({"data": {"password": "not base64!"}, "type": "other"})).await;
    assert_eq!(refused.code, 422);
    assert!(!refused.body.to_string().contains("not base64!"), "{}", refused.body);
    let fields = refused.body["details"]["causes"].as_array().unwrap();
    assert_eq!(fields.iter().map(|c| &c["field"]).collect::<Vec<_>>(), ["data[password]", "type"]);
    let kubectl = api.patch("strategic-merge", &path, &json!({"stringData": {"password": "new"}})).await;
    assert_eq!((kubectl.code, &kubectl.body["data"]["password"]), (200, &json!("bmV3")));
}

#[tokio::test]
async fn a_value_dropped_from_an_applied_secret_goes() {
    let api = Api::start().await;
    let path = format!("{SECRETS}/s?fieldManager=ann");
    let mut wanted = secret("s", "x");
    wanted["stringData"]["extra"] = "y".into();
    assert_eq!(api.patch("apply", &path, &wanted).await.code, 201);
    let pruned = api.patch("apply", &path, &secret("s", "x")).await.body;
    assert_eq!(pruned["data"], json!({"password": "eA=="}));
    let again = api.patch("apply", &path, &secret("s", "x")).await.body;
    assert_eq!(again, pruned);
}

#[tokio::test]
async fn events_are_found_by_what_they_are_about() {
    let api = Api::start().await;
    for about in ["db", "other"] {
        let event = json!({
            "apiVersion": "v1", "kind": "Event", "metadata": {"generateName": "e-"},
            "involvedObject": {"kind": "PostgresCluster", "name": about}, "reason": "Promoted", "type": "Normal",
        });
        assert_eq!(api.post("/api/v1/namespaces/default/events", &event).await.code, 201);
    }
    let path = "/api/v1/events?fieldSelector=involvedObject.name%3Ddb,involvedObject.kind%3DPostgresCluster";
    let found = api.get(path).await.body;
    assert_eq!(found["items"].as_array().unwrap().len(), 1);
    assert_eq!(api.get("/api/v1/events?fieldSelector=spec.x%3D1").await.code, 400);
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let table = answer(api.request(Method::GET, path).header("Accept", accept)).await.body;
    assert_eq!(first_cells(&table)[3], "postgrescluster/db");
}

#[tokio::test]
async fn a_deleted_namespace_takes_what_is_in_it_along() {
    let api = Api::start().await;
    let ns = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "prod"}});
    assert_eq!(api.post("/api/v1/namespaces", &ns).await.code, 201);
    let inside = "/apis/evenkeel.dev/v1alpha1/namespaces/prod/postgresclusters";
    let mut held = cluster("db");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    assert_eq!(api.post(inside, &held).await.code, 201);
    assert_eq!(api.post("/api/v1/namespaces/prod/secrets", &secret("s", "x")).await.code, 201);

    let mut namespaces = api.watch("/api/v1/namespaces?watch=true&fieldSelector=metadata.name%3Dprod").await;
    let mut clusters = api.watch(&format!("{inside}?watch=true")).await;
    assert_eq!(api.delete("/api/v1/namespaces/prod").await.code, 200);
    assert_eq!((clusters.told().await, clusters.told().await), ("ADDED db".into(), "MODIFIED db".into()));
    let refused = api.post("/api/v1/namespaces/prod/secrets", &secret("late", "x")).await;
    assert_eq!((refused.code, &refused.body["details"]["causes"][0]["reason"]), (403, &json!("NamespaceTerminating")));

    api.patch("merge", &format!("{inside}/db"), &json!({"metadata": {"finalizers": null}})).await;
    while namespaces.told().await != "DELETED prod" {}
    assert_eq!(api.get("/api/v1/secrets").await.body["items"], json!([]));
    assert_eq!(api.delete("/api/v1/namespaces/default").await.code, 403);
}

#[tokio::test]
async fn controllers_and_clients_write_the_same_objects() {
    let api = Api::start().await;
    let mut events = api.watch(&format!("{CLUSTERS}?watch=true")).await;
    let made = api.objects.create(&key("db"), cluster("db")).await.unwrap();
    assert_eq!(events.told().await, "ADDED db");
    assert_eq!(api.get(&format!("{CLUSTERS}/db")).await.body, made);
}

/// Regression 51: `managedFields` and the times of Events could be stored in forms that typed clients cannot read; a list of
/// the whole namespace then failed in them.
#[tokio::test]
async fn what_typed_clients_could_not_read_is_not_stored() {
    let api = Api::start().await;
    api.post(SECRETS, &secret("s", "x")).await;
    let path = format!("{SECRETS}/s");
    for entry in [
        json!({"manager": 1, "fieldsV1": "x"}),
        json!({"manager": "a", "operation": "Steal"}),
        json!({"manager": "a", "time": "yesterday"}),
        json!({"manager": "a", "fieldsType": "FieldsV2"}),
    ] {
        let refused = api.patch("merge", &path, &json!({"metadata": {"managedFields": [entry]}})).await;
        assert_eq!(refused.code, 422, "{entry}");
    }
    let event = json!({"metadata": {"generateName": "e-"}, "involvedObject": {}, "lastTimestamp": "soon"});
    assert_eq!(api.post("/api/v1/namespaces/default/events", &event).await.code, 422);
    let cleared = api.patch("merge", &path, &json!({"metadata": {"managedFields": [{}]}})).await;
    assert_eq!((cleared.code, cleared.body["metadata"].get("managedFields")), (200, None));
}

/// Regression 54: a Namespace had no `status.phase`: clients that wait for Active or select by it found nothing.
#[tokio::test]
async fn a_namespace_has_a_phase() {
    let api = Api::start().await;
    let made = api.post("/api/v1/namespaces", &json!({"metadata": {"name": "n"}})).await.body;
    assert_eq!(made["status"], json!({"phase": "Active"}));
    assert_eq!(api.get("/api/v1/namespaces/default").await.body["status"]["phase"], "Active");
    let held = json!({"metadata": {"name": "a", "finalizers": ["example.com/hold"]}});
    assert_eq!(api.post("/api/v1/namespaces/n/configmaps", &held).await.code, 201);
    let deleted = api.delete("/api/v1/namespaces/n").await.body;
    assert_eq!(deleted["status"], json!({"phase": "Terminating"}));
    for (phase, expected) in [("Active", json!(["default"])), ("Terminating", json!(["n"]))] {
        let found = api.get(&format!("/api/v1/namespaces?fieldSelector=status.phase%3D{phase}")).await.body;
        let names: Vec<&Value> =
            found["items"].as_array().unwrap().iter().map(|one| &one["metadata"]["name"]).collect();
        assert_eq!(json!(names), expected);
    }
    assert_eq!(api.delete("/api/v1/namespaces/default?dryRun=All").await.code, 403);
}

/// Regression 55: `delete --cascade=orphan` was refused for every kind, also for one that owns nothing.
#[tokio::test]
async fn what_a_deleted_object_owned_can_stay_without_it() {
    let api = Api::start().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    for (owner, options) in [("a", json!({"propagationPolicy": "Orphan"})), ("b", json!({"orphanDependents": true}))] {
        let made = api.post(maps, &json!({"metadata": {"name": owner}})).await.body;
        let mut owned = secret(&format!("of-{owner}"), "x");
        owned["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": owner, "uid": made["metadata"]["uid"]}]);
        assert_eq!(api.post(SECRETS, &owned).await.code, 201);
        let gone = answer(api.request(Method::DELETE, &format!("{maps}/{owner}")).json(&options)).await;
        assert_eq!(gone.code, 200, "{}", gone.body);
        let left = api.get(&format!("{SECRETS}/of-{owner}")).await;
        assert_eq!((left.code, left.body["metadata"]["ownerReferences"].as_array().map_or(0, Vec::len)), (200, 0));
    }
    api.post(CLUSTERS, &cluster("db")).await;
    let refused = api.delete(&format!("{CLUSTERS}/db?propagationPolicy=Orphan")).await;
    assert_eq!(refused.code, 422);
    assert!(refused.body["message"].as_str().unwrap().contains("the pods of a PostgresCluster"), "{}", refused.body);
}

/// Regression 56: `kubectl --as=nobody` was answered as the administrator.
#[tokio::test]
async fn nobody_acts_as_another_user() {
    let api = Api::start().await;
    let refused = answer(api.request(Method::GET, SECRETS).header("Impersonate-User", "nobody")).await;
    assert_eq!((refused.code, &refused.body["reason"]), (403, &json!("Forbidden")));
}

/// Regression 58: kubectl lists the CustomResourceDefinitions when it meets a kind that it does not know; they were not
/// served, so it applied nothing of a file that had a Service in it.
#[tokio::test]
async fn the_definitions_of_our_kinds_can_be_read() {
    let api = Api::start().await;
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let list = api.get(path).await.body;
    let names: Vec<&Value> = list["items"].as_array().unwrap().iter().map(|one| &one["metadata"]["name"]).collect();
    assert!(names.contains(&&json!("postgresclusters.evenkeel.dev")), "{names:?}");
    let one = api.get(&format!("{path}/dockerhosts.evenkeel.dev")).await.body;
    assert_eq!(one["status"]["conditions"][1]["type"], "Established");
    for refused in [api.post(path, &one).await, api.delete(&format!("{path}/dockerhosts.evenkeel.dev")).await] {
        assert_eq!((refused.code, &refused.body["reason"]), (405, &json!("MethodNotAllowed")));
    }
    assert!(api.get("/").await.body["paths"].as_array().unwrap().contains(&json!("/apis/apiextensions.k8s.io/v1")));
}

#[tokio::test]
async fn a_lease_is_plain_data() {
    let api = Api::start().await;
    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let spec = json!({"holderIdentity": "a", "leaseDurationSeconds": 15, "renewTime": "2026-01-02T03:04:05.000000Z"});
    let made = api.post(leases, &json!({"metadata": {"name": "l"}, "spec": spec})).await;
    assert_eq!((made.code, &made.body["spec"]), (201, &spec));
    let mut next = made.body.clone();
    next["spec"]["holderIdentity"] = "b".into();
    assert_eq!(api.put(&format!("{leases}/l"), &next).await.code, 200);
    assert_eq!(api.put(&format!("{leases}/l"), &next).await.code, 409, "another one was faster");
}
