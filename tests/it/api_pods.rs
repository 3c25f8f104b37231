//! Pods, revisions and scaling over real TLS: what the API shows of a Deployment, and which requests it takes.
#![allow(clippy::unwrap_used)]

use std::net::IpAddr;
use std::sync::Arc;

use evenkeel::api::failure::{Class, Failure};
use evenkeel::api::websocket::{self, Message, Role};
use evenkeel::server::containers::{Command, Connection, Containers, LogOptions, Output, Outputs, Place, Session};
use evenkeel::store::{Key, MemoryStore};
use futures::{SinkExt as _, StreamExt as _, stream};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio_util::io::ReaderStream;

use super::api_server::{Api, answer};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
pub const WEB: &str = "/apis/apps/v1/namespaces/default/deployments/web";
pub const PODS: &str = "/api/v1/namespaces/default/pods";
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

/// A server with a Deployment of two pods, whose status is written as its controller would.
pub async fn with_pods() -> Api {
    let api = Api::with(MemoryStore::new(), Some(Arc::new(Echo))).await;
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
    api.objects.update_status(&key(), made).await.unwrap();
    api
}

/// The key of the Deployment.
pub fn key() -> Key {
    Key { resource: "deployments.apps".into(), namespace: "default".into(), name: "web".into() }
}

#[tokio::test]
async fn pods_are_listed_selected_and_shown_as_a_table() {
    let api = with_pods().await;
    let table =
        answer(api.request(Method::GET, PODS).header("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")).await;
    let rows = table.body["rows"].as_array().unwrap().iter().map(|row| row["cells"].as_array().unwrap()[..4].to_vec());
    let rows: Vec<String> = rows.map(|cells| Value::from(cells).to_string()).collect();
    assert_eq!(rows, [r#"["web-aa-1","2/2","Running",0]"#, r#"["web-aa-2","0/2","Running",0]"#]);
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
    api.objects.update_status(&key(), object).await.unwrap();
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

/// Containers that log their names and the request, and run a command that repeats its input.
struct Echo;

#[async_trait::async_trait]
impl Containers for Echo {
    async fn logs(&self, place: &Place, options: LogOptions) -> Result<Outputs, Failure> {
        if place.container.ends_with("cache") || options.previous {
            return Err(Failure::new(Class::NotFound, "no such container"));
        }
        let line = format!("{} {} {:?}\n", place.host, place.container, options.tail);
        Ok(stream::iter([Ok(Output::Stdout(line.into())), Ok(Output::Stderr("warning\n".into()))]).boxed())
    }

    async fn exec(&self, _: &Place, command: &Command) -> Result<Session, Failure> {
        let (ours, theirs) = tokio::io::duplex(1 << 10);
        let (read, _) = tokio::io::split(theirs);
        let said = stream::iter([Ok(Output::Stderr(command.words.join(" ").into()))]);
        let echoed = ReaderStream::new(read).map(|piece| Ok(Output::Stdout(piece.unwrap())));
        Ok(Session { id: "it".into(), output: said.chain(echoed).boxed(), input: Box::pin(ours) })
    }

    async fn resize(&self, _: &Place, _: &str, size: (u16, u16)) -> Result<(), Failure> {
        assert_eq!(size, (24, 80));
        Ok(())
    }

    async fn code(&self, _: &Place, id: &str) -> Result<Option<i64>, Failure> {
        assert_eq!(id, "it");
        Ok(Some(3))
    }

    async fn connect(&self, _: &Place, _: Option<IpAddr>, port: u16) -> Result<Connection, Failure> {
        if port != 80 {
            return Err(Failure::new(Class::Transient, format!("nothing listens on port {port}")));
        }
        let (ours, theirs) = tokio::io::duplex(1 << 10);
        let (mut from, mut back) = tokio::io::split(theirs);
        tokio::spawn(async move {
            let _ = tokio::io::copy(&mut from, &mut back).await;
            let _ = back.shutdown().await;
        });
        let (read, write) = tokio::io::split(ours);
        Ok(Connection { read: Box::pin(read), write: Box::pin(write) })
    }
}

#[tokio::test]
async fn the_log_of_a_container_is_plain_text_and_ends_where_asked() {
    let api = with_pods().await;
    let log = |query: &str| {
        let path = format!("{PODS}/web-aa-1/log?{query}");
        let api = &api;
        async move { api.get(&path).await }
    };
    let whole = log("container=main&tailLines=5").await;
    assert_eq!((whole.code, whole.body), (200, json!("local default.web-aa-1.main Some(5)\nwarning\n")));
    assert_eq!(log("container=main&limitBytes=5").await.body, json!("local"));
    for (query, words) in [
        ("", "choose one of: [main cache]"),
        ("container=other", "not valid for pod web-aa-1"),
        ("container=cache", "is waiting to start"),
        ("container=main&previous=true", "previous terminated container"),
        ("container=main&tailLines=x", "tailLines"),
    ] {
        let refused = log(query).await;
        assert_eq!(refused.code, 400, "{query}");
        assert!(refused.body["message"].as_str().unwrap().contains(words), "{}", refused.body);
    }
    assert_eq!(api.get(&format!("{PODS}/web-aa-9/log")).await.code, 404, "only what is shown can be reached");
    api.stop().await;
}

#[tokio::test]
async fn a_command_is_talked_to_over_a_websocket_and_its_exit_status_told() {
    let api = with_pods().await;
    let path = format!("{PODS}/web-aa-1/exec?container=main&command=cat&command=-u&stdin=true&stdout=true");
    let asked = |upgrade: &'static str| {
        api.request(Method::GET, &path)
            .header("Connection", "Upgrade")
            .header("Upgrade", upgrade)
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
            .header("Sec-WebSocket-Protocol", "v5.channel.k8s.io")
    };
    assert_eq!(answer(asked("SPDY/3.1")).await.code, 400);
    let response = asked("websocket").send().await.unwrap();
    assert_eq!(response.status(), 101);
    assert_eq!(response.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    assert_eq!(response.headers()["sec-websocket-protocol"], "v5.channel.k8s.io");
    let mut talk = websocket::talk(response.upgrade().await.unwrap(), Role::Client).await;
    let data = websocket::data;
    talk.send(Message::Ping("still there?".into())).await.unwrap();
    talk.send(data(websocket::RESIZE, br#"{"Width":80,"Height":24}"#)).await.unwrap();
    talk.send(data(websocket::STDIN, b"hello")).await.unwrap();
    talk.send(data(websocket::CLOSED, &[websocket::STDIN])).await.unwrap();
    let mut told = Vec::new();
    while let Some(Ok(message)) = talk.next().await {
        told.push(message);
    }
    for expected in
        [Message::Pong("still there?".into()), data(websocket::STDERR, b"cat -u"), data(websocket::STDOUT, b"hello")]
    {
        assert!(told.contains(&expected), "{expected:?} in {told:?}");
    }
    let [.., status, end] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(*end, websocket::close());
    let (channel, status) = websocket::channel(status).unwrap();
    assert_eq!(channel, websocket::ENDED);
    let status: Value = serde_json::from_slice(&status).unwrap();
    assert_eq!(status["details"]["causes"][0], json!({"reason": "ExitCode", "message": "3"}));
    api.stop().await;
}
