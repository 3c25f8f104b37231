//! The verbs about pods and rollouts, as typed; the test plays the controller and the containers.
#![allow(clippy::unwrap_used)]

use evenkeel::store::Key;
use evenkeel::store::objects::Part;
use expect_test::expect;
use serde_json::{Value, json};

use super::cli_bench::CliBench;

const WEB: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: web, annotations: {kubernetes.io/change-cause: second}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: main, image: 'web:2'}, {name: cache, image: 'redis:7'}]}
";

fn web() -> Key {
    Key { resource: "deployments.apps".into(), namespace: "default".into(), name: "web".into() }
}

/// A Deployment with two pods and two revisions; the rollout is done if `available` is 2.
async fn with_pods(available: u64) -> CliBench {
    let bench = CliBench::new().await;
    bench.file(WEB);
    bench.run("apply -f FILE").await;
    report(&bench, available).await;
    bench
}

async fn report(bench: &CliBench, available: u64) {
    let pod = |ordinal: u8| {
        let containers: Vec<Value> = ["main", "cache"]
            .iter()
            .map(|name| json!({"name": name, "container": format!("default.web-bb-{ordinal}.{name}"), "image": "x", "state": "running", "ready": true}))
            .collect();
        json!({"name": format!("web-bb-{ordinal}"), "host": "local", "phase": "Running", "ready": true, "revision": 2, "containers": containers})
    };
    let change = |mut object: Value| {
        let mut first = object["spec"]["template"].clone();
        first["spec"]["containers"][0]["image"] = "web:1".into();
        object["status"] = json!({
            "observedGeneration": object["metadata"]["generation"],
            "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2, "availableReplicas": available,
            "pods": [pod(1), pod(2)],
            "decisions": {"target": "bb", "revisions": [
                {"revision": 1, "hash": "aa", "template": first, "changeCause": "first"},
                {"revision": 2, "hash": "bb", "template": object["spec"]["template"], "changeCause": "second"},
            ]},
        });
        Ok::<_, evenkeel::store::Error>(object)
    };
    bench.objects.modify(&web(), Part::Status, change).await.unwrap();
}

#[tokio::test]
async fn logs_are_of_one_pod_or_of_all_of_an_object() {
    let bench = with_pods(2).await;
    let one = expect![[r#"
        last of default.web-bb-1.cache
    "#]];
    bench.check("logs web-bb-1 -c cache --tail 1", one).await;
    let all = expect![[r#"
        [web-bb-1 main] last of default.web-bb-1.main
        [web-bb-2 main] last of default.web-bb-2.main
        container "main" is taken; there are main, cache (-c names one)
    "#]];
    bench.check("logs deployment/web --tail 1", all).await;
    let none = expect![[r#"
        error: pod "x" not found
        exit code 3
    "#]];
    bench.check("logs x", none).await;
}

#[tokio::test]
async fn a_command_ends_here_as_it_ended_there() {
    let bench = with_pods(2).await;
    let done = expect![[r#"
        default.web-bb-1.main on local: echo hello world
        oh
    "#]];
    bench.check("exec web-bb-1 -c main -- echo hello world", done).await;
    let failed = expect![[r#"
        default.web-bb-1.main on local: exit 42
        oh
        error: command terminated with non-zero exit code: exit status 42
        exit code 42
    "#]];
    bench.check("exec deploy/web -c main -- exit 42", failed).await;
}

#[tokio::test]
async fn a_rollout_is_followed_to_its_end() {
    let bench = with_pods(2).await;
    let done = expect![[r#"
        deployment.apps/web rolled out
    "#]];
    bench.check("rollout status deployment/web", done).await;
    report(&bench, 1).await;
    let not_yet = expect![[r#"
        deployment.apps/web: 1 of 2 new pods are available
    "#]];
    bench.check("rollout status deploy web --no-wait", not_yet).await;
    bench.run("rollout restart deployment/web").await;
    let seen = expect![[r#"
        deployment.apps/web: waiting for the operator to see the change
    "#]];
    bench.check("rollout status deployment/web --no-wait", seen).await;
}

#[tokio::test]
async fn an_earlier_revision_is_taken_back_with_its_cause() {
    let bench = with_pods(2).await;
    let history = bench.run("rollout history deployment/web").await;
    assert!(
        history.lines().nth(1).is_some_and(|line| line.starts_with("1 ") && line.ends_with("web:1,redis:7   first")),
        "{history}"
    );
    let back = expect![[r#"
        deployment.apps/web rolled back to revision 1
    "#]];
    bench.check("rollout undo deployment/web", back).await;
    let object: Value = bench.objects.get(&web()).await.unwrap().unwrap();
    assert_eq!(object["spec"]["template"]["spec"]["containers"][0]["image"], "web:1");
    assert_eq!(object["metadata"]["annotations"]["kubernetes.io/change-cause"], "first");
    let there = expect![[r#"
        deployment.apps/web is already at revision 1
    "#]];
    bench.check("rollout undo deployment/web --to-revision 1", there).await;
    let unknown = expect![[r#"
        error: there is no revision 7; there are 1, 2
        exit code 3
    "#]];
    bench.check("rollout undo deployment/web --to-revision 7", unknown).await;
    bench.run("rollout pause deployment/web").await;
    let paused = expect![[r#"
        error: deployment.apps/web is paused; resume it first
        exit code 1
    "#]];
    bench.check("rollout undo deployment/web", paused).await;
}

#[tokio::test]
async fn replicas_are_set_where_there_is_a_scale() {
    let bench = with_pods(2).await;
    let scaled = expect![[r#"
        deployment.apps/web scaled
    "#]];
    bench.check("scale deployment/web --replicas 5", scaled).await;
    let object: Value = bench.objects.get(&web()).await.unwrap().unwrap();
    assert_eq!(object["spec"]["replicas"], 5);
    let none = expect![[r#"
        error: dockerhost.evenkeel.dev has no scale subresource; change its spec and apply it
        exit code 1
    "#]];
    bench.check("scale dh/local --replicas 2", none).await;
}
