//! The verbs, as typed, against a server in this process with the memory store; the test plays the operator.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use evenkeel::cli::client::{Client, JSON};
use evenkeel::cli::follow::{Event, Follow};
use evenkeel::cli::session::Session;
use evenkeel::cli::{get, kubeconfig};
use evenkeel::runtime::clock::{Clock as _, SystemClock};
use evenkeel::store::Key;
use evenkeel::store::events::{NewEvent, Severity};
use evenkeel::store::objects::Part;
use expect_test::{Expect, expect};
use futures::StreamExt as _;
use serde_json::{Value, json};

use super::cli_bench::{CLUSTER, CliBench, PATIENCE, cluster, line};

fn ready(status: &str, generation: i64) -> Value {
    json!({"observedGeneration": generation, "phase": "Healthy", "conditions": [{"type": "Ready", "status": status,
        "reason": "Streaming", "message": "2 of 3 instances serve", "observedGeneration": generation,
        "lastTransitionTime": SystemClock.now()}]})
}

#[tokio::test]
async fn apply_says_what_became_of_each_document() {
    let bench = CliBench::new().await;
    bench.file(&format!("{CLUSTER}---\napiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\nstringData: {{a: b}}\n"));
    bench
        .session(expect![[r#"
        $ apply -f FILE --dry-run=server
        postgrescluster.evenkeel.dev/db created (server dry run)
        secret/s created (server dry run)
        $ get all
        no objects found in namespace default
        $ apply -f FILE
        postgrescluster.evenkeel.dev/db created
        secret/s created
        $ apply -f FILE
        postgrescluster.evenkeel.dev/db unchanged
        secret/s unchanged
        $ apply -f FILE --dry-run server
        postgrescluster.evenkeel.dev/db unchanged (server dry run)
        secret/s unchanged (server dry run)
    "#]])
        .await;
    bench.file(&CLUSTER.replace("instances: 3", "instances: 2"));
    bench
        .session(expect![[r#"
        $ apply -f FILE
        postgrescluster.evenkeel.dev/db configured
    "#]])
        .await;
}

#[tokio::test]
async fn one_bad_document_keeps_all_from_being_sent_if_it_cannot_be_read() {
    let bench = CliBench::new().await;
    bench.file(&format!("{CLUSTER}---\nkind: [\n"));
    bench
        .session(expect![[r#"
        $ apply -f FILE
        error: db.yaml:8:7: unclosed bracket '['
        exit code 4
    "#]])
        .await;
    bench.file(&format!("{CLUSTER}---\napiVersion: evenkeel.dev/v1\nkind: PostgresClutser\nmetadata: {{name: x}}\n"));
    bench.session(expect![[r#"
        $ apply -f FILE
        error: db.yaml:9:7: the server has no kind "evenkeel.dev/v1 PostgresClutser"; it has dockerhosts, portreservations, postgresclusters, backups, scheduledbackups, databaserestores, volumerestores, loadbalancers, redissentinels, redisclusters, tokens, namespaces, secrets, configmaps, events, nodes, services, pods, replicasets, deployments, leases, roles, rolebindings, clusterroles, clusterrolebindings, customresourcedefinitions
        exit code 4
        $ get pg
        no objects found in namespace default
    "#]]).await;
}

#[tokio::test]
async fn a_refused_document_has_every_problem_with_its_place_and_the_others_are_applied() {
    let bench = CliBench::new().await;
    let bad = CLUSTER
        .replace("name: db", "name: bad")
        .replace("instances: 3", "instances: 0\n  imagee: x\n  parameters: {port: '1'}");
    bench.file(&format!("{bad}---\n{CLUSTER}"));
    bench
        .session(expect![[r#"
        $ apply -f FILE
        postgrescluster.evenkeel.dev/db created
        error: PostgresCluster.evenkeel.dev "bad" is invalid
          db.yaml:7:11: spec.imagee: Invalid value: unknown field, did you mean "image"?
          db.yaml:6:14: spec.instances: Invalid value: 0: should be at least 1
          db.yaml:8:22: spec.parameters[port]: Invalid value: is set by Evenkeel and cannot be chosen
        exit code 4
    "#]])
        .await;
    let bad = bad.replace("  imagee: x\n", "");
    bench.file(&format!("{bad}---\n{CLUSTER}"));
    bench
        .session(expect![[r#"
        $ apply -f FILE
        postgrescluster.evenkeel.dev/db unchanged
        error: PostgresCluster.evenkeel.dev "bad" is invalid
          db.yaml:6:14: spec.instances: Invalid value: 0: should be at least 1
          db.yaml:7:22: spec.parameters[port]: Invalid value: is set by Evenkeel and cannot be chosen
        exit code 4
        $ get pg -o name
        postgrescluster.evenkeel.dev/db
    "#]])
        .await;
}

#[tokio::test]
async fn fields_of_another_manager_are_taken_over_only_by_force() {
    let bench = CliBench::new().await;
    bench.file(CLUSTER);
    bench.run("apply -f FILE").await;
    let config = kubeconfig::load(&bench.folder.path().join("kubeconfig")).unwrap();
    let path = "/apis/evenkeel.dev/v1alpha1/namespaces/default/postgresclusters/db";
    let grown = json!({"apiVersion": "evenkeel.dev/v1alpha1", "kind": "PostgresCluster", "spec": {"instances": 5}});
    let client = Client::new(config).unwrap();
    let scale = [("fieldManager", "evenkeel-scale")];
    client.patch(path, &scale, "application/merge-patch+json", &json!({"spec": {"instances": 4}})).await.unwrap();
    let wish = expect![[r#"
        $ apply -f FILE
        postgrescluster.evenkeel.dev/db configured
    "#]];
    bench.session(wish).await; // what another verb of the same program changed needs no force
    let query = [("fieldManager", "somebody"), ("force", "true")];
    client.patch(path, &query, "application/apply-patch+yaml", &grown).await.unwrap();
    bench
        .session(expect![[r#"
        $ apply -f FILE
        error: Apply failed with 1 conflict
          db.yaml:6:14: spec.instances: conflict with "somebody"
        another manager set these fields; --force-conflicts takes them over
        exit code 4
        $ apply -f FILE --force-conflicts
        postgrescluster.evenkeel.dev/db configured
    "#]])
        .await;
}

#[tokio::test]
async fn get_prints_tables_names_and_whole_objects() {
    let bench = CliBench::new().await;
    bench.file(&format!("{CLUSTER}---\n{}", CLUSTER.replace("name: db", "name: web-db, labels: {tier: web}")));
    bench.run("apply -f FILE").await;
    let aged = |text: String| ageless(&text);
    let show = async |command: &str, expected: Expect| expected.assert_eq(&aged(bench.run(command).await));
    show(
        "get pg",
        expect![[r#"
            NAME INSTANCES READY STATUS PRIMARY AGE
            db 3 AGE
            web-db 3 AGE
        "#]],
    )
    .await;
    show(
        "get postgrescluster db web-db -o wide",
        expect![[r#"
            NAME INSTANCES READY STATUS PRIMARY TERM READ-WRITE AGE
            db 3 AGE
            web-db 3 AGE
        "#]],
    )
    .await;
    show(
        "get pg,ns -A",
        expect![[r#"
            NAMESPACE NAME INSTANCES READY STATUS PRIMARY AGE
            default postgrescluster.evenkeel.dev/db 3 AGE
            default postgrescluster.evenkeel.dev/web-db 3 AGE

            NAME STATUS AGE
            namespace/default Active AGE
        "#]],
    )
    .await;
    show(
        "get pg -l tier=web -o name",
        expect![[r#"
        postgrescluster.evenkeel.dev/web-db
    "#]],
    )
    .await;
    show(
        "get pg/db pg/nope",
        expect![[r#"
            NAME INSTANCES READY STATUS PRIMARY AGE
            db 3 AGE
            error: postgresclusters.evenkeel.dev "nope" not found
            exit code 3
        "#]],
    )
    .await;
    show(
        "get pigs",
        expect![[r#"
            error: the server has no kind "pigs"; it has dockerhosts, portreservations, postgresclusters, backups, scheduledbackups, databaserestores, volumerestores, loadbalancers, redissentinels, redisclusters, tokens, namespaces, secrets, configmaps, events, nodes, services, pods, replicasets, deployments, leases, roles, rolebindings, clusterroles, clusterrolebindings, customresourcedefinitions
            exit code 3
        "#]],
    )
    .await;
    show(
        "get secrets",
        expect![[r#"
        no objects found in namespace default
    "#]],
    )
    .await;
    let whole: Value = serde_json::from_str(&bench.run("get pg db -o json").await).unwrap();
    assert_eq!(whole["spec"]["instances"], 3);
    assert!(whole["metadata"]["managedFields"].is_null(), "bookkeeping is not for people");
    let list: Value = serde_saphyr::from_str(&bench.run("get pg -o yaml").await).unwrap();
    assert_eq!((list["kind"].as_str(), list["items"].as_array().unwrap().len()), (Some("List"), 2));
}

/// Replaces ages in seconds by `AGE` and separates columns by one blank, so that a slow machine prints the same.
fn ageless(text: &str) -> String {
    let word = |word: &str| {
        let seconds = word.strip_suffix('s').is_some_and(|digits| digits.parse::<u32>().is_ok());
        if seconds { "AGE".to_owned() } else { word.to_owned() }
    };
    let line = |line: &str| line.split_whitespace().map(word).collect::<Vec<_>>().join(" ") + "\n";
    text.lines().map(line).collect()
}

#[tokio::test]
async fn what_get_printed_can_be_applied_again() {
    let bench = CliBench::new().await;
    bench.file(CLUSTER);
    bench.run("apply -f FILE").await;
    let printed = bench.run("get pg db -o yaml").await;
    bench.file(&printed);
    let again = bench.run("apply -f FILE").await;
    assert!(!again.contains("error"), "{again}\n{printed}");
}

#[tokio::test]
async fn wait_returns_when_the_condition_is_met_and_shows_the_conditions_if_it_is_not() {
    let bench = CliBench::new().await;
    bench.file(CLUSTER);
    bench.run("apply -f FILE").await;
    let (met, ()) = tokio::join!(bench.run("wait pg/db --for condition=Ready"), bench.report("db", ready("True", 1)));
    expect![[r#"
        postgrescluster.evenkeel.dev/db condition met
    "#]]
    .assert_eq(&met);
    bench.file(&CLUSTER.replace("instances: 3", "instances: 2"));
    bench.run("apply -f FILE").await;
    let late = bench.run("wait pg db --for condition=Ready --timeout 50ms").await;
    expect![[r#"
        phase: Healthy
        TYPE STATUS REASON AGE MESSAGE
        Ready True Streaming AGE (of an older spec) 2 of 3 instances serve
        error: timed out after 50ms waiting for condition Ready=True of postgrescluster.evenkeel.dev/db
        exit code 5
    "#]]
    .assert_eq(&ageless(&late));
    bench
        .session(expect![[r#"
        $ wait pg/nope --for condition=Ready
        error: postgrescluster.evenkeel.dev "nope" not found
        exit code 3
        $ wait pg/nope --for delete
        postgrescluster.evenkeel.dev/nope deleted
    "#]])
        .await;
}

#[tokio::test]
async fn delete_waits_until_finalizers_have_done_their_work() {
    let bench = CliBench::new().await;
    bench.file(CLUSTER);
    bench.run("apply -f FILE").await;
    let keep = |keep: bool| {
        move |mut object: Value| {
            object["metadata"]["finalizers"] = if keep { json!(["evenkeel.dev/teardown"]) } else { json!([]) };
            Ok::<_, evenkeel::store::Error>(object)
        }
    };
    bench.objects.modify(&cluster("db"), Part::Main, keep(true)).await.unwrap();
    let late = bench.run("delete pg db --timeout 50ms").await;
    expect![[r#"
        postgrescluster.evenkeel.dev "db" deleted
        error: timed out after 50ms waiting for postgrescluster.evenkeel.dev/db to be deleted; its finalizers are evenkeel.dev/teardown
        exit code 5
    "#]].assert_eq(&late);
    bench.objects.modify(&cluster("db"), Part::Main, keep(false)).await.unwrap();
    bench.run("apply -f FILE").await;
    bench.objects.modify(&cluster("db"), Part::Main, keep(true)).await.unwrap();
    let now = bench.objects.store().revision().await.unwrap();
    let operator = async {
        let mut watch = bench.objects.watch("postgresclusters.evenkeel.dev", None, now).await.unwrap();
        let marked = watch.next().await.unwrap().unwrap().new.unwrap();
        assert!(marked["metadata"]["deletionTimestamp"].is_string());
        bench.objects.modify(&cluster("db"), Part::Main, keep(false)).await.unwrap();
    };
    let (gone, ()) = tokio::join!(bench.run("delete -f FILE"), operator);
    expect![[r#"
        postgrescluster.evenkeel.dev "db" deleted
    "#]]
    .assert_eq(&gone);
    bench
        .session(expect![[r#"
        $ delete pg db
        error: postgresclusters.evenkeel.dev "db" not found
        exit code 3
        $ delete pg db --ignore-not-found
    "#]])
        .await;
}

#[tokio::test]
async fn switchover_asks_by_annotation_and_says_how_it_went() {
    let bench = CliBench::new().await;
    bench.file(CLUSTER);
    bench.run("apply -f FILE").await;
    // Answers every request, the first one with an error.
    let operator = async {
        let mut watch = bench.objects.watch("postgresclusters.evenkeel.dev", None, 0).await.unwrap();
        let mut answered = String::new();
        while let Some(change) = watch.next().await {
            let object = change.unwrap().new.unwrap();
            let Some(request) = object["metadata"]["annotations"]["evenkeel.dev/switchover"].as_str() else { continue };
            if request == answered {
                continue;
            }
            let last = match request.ends_with("/db-2") {
                true => json!({"request": request, "result": {"cause": "asked for", "from": "db-1", "to": "db-2",
                    "detectedAt": SystemClock.now(), "outage": 0.123}}),
                false => json!({"request": request, "refused": "db-9 is no instance of db"}),
            };
            bench.report("db", json!({"phase": "Healthy", "lastSwitchover": last})).await;
            answered = request.to_owned();
        }
    };
    let verbs = async {
        bench
            .session(expect![[r#"
            $ switchover db --to db-9
            error: db: not switched over: db-9 is no instance of db
            exit code 1
            $ switchover db --to db-2
            db switched over: db-1 -> db-2, no writes for 0.123 s
        "#]])
            .await;
    };
    tokio::select! {
        () = operator => panic!("the watch ended"),
        () = verbs => {}
    }
    let late = bench.run("switchover db --timeout 50ms").await;
    assert!(
        late.contains("the request stays until the operator answers it") && late.ends_with("exit code 5\n"),
        "{late}"
    );
    bench
        .session(expect![[r#"
        $ switchover nope
        error: no PostgresCluster or RedisSentinel "nope" in namespace default
        exit code 3
    "#]])
        .await;
}

#[tokio::test]
async fn backup_creates_a_backup_and_follows_it_to_its_end() {
    let bench = CliBench::new().await;
    bench.file(CLUSTER);
    bench.run("apply -f FILE").await;
    // Ends each Backup: one that is called `bad` without success.
    let operator = async {
        let mut watch = bench.objects.watch("backups.evenkeel.dev", None, 0).await.unwrap();
        while let Some(change) = watch.next().await {
            let change = change.unwrap();
            let object = change.new.unwrap();
            if object["status"]["phase"].is_string() {
                continue;
            }
            let status = match change.key.name.as_str() {
                "bad" => json!({"phase": "Failed", "message": "3 attempts failed", "progress": "3%"}),
                _ => json!({"phase": "Completed", "message": "400Mi, stored as 100Mi in 4 s", "progress": "100%"}),
            };
            let with = |mut object: Value| {
                object["status"] = status.clone();
                Ok::<_, evenkeel::store::Error>(object)
            };
            bench.objects.modify(&change.key, Part::Status, with).await.unwrap();
        }
    };
    let verbs = async {
        let good = bench.run("backup db --wait --name good").await;
        let expected = "backup/good created\nbackup/good: 400Mi, stored as 100Mi in 4 s\n";
        assert!(good.starts_with(expected), "{good}");
        let bad = bench.run("backup db --wait --name bad").await;
        assert!(bad.ends_with("error: backup/bad failed: 3 attempts failed\nexit code 1\n"), "{bad}");
        bench
            .session(expect![[r#"
                $ backup db --name good
                error: backups.evenkeel.dev "good" already exists
                exit code 4
                $ backup nope
                error: no PostgresCluster "nope" in namespace default
                exit code 3
            "#]])
            .await;
        expect![[r#"
            NAME CLUSTER STATUS PROGRESS VERIFIED AGE
            bad db Failed 3% <unknown> AGE
            good db Completed 100% <unknown> AGE
        "#]]
        .assert_eq(&ageless(&bench.run("get backups").await));
        assert!(bench.run("backup db").await.starts_with("backup/db-20"));
        bench.run("backup db --database app --name dump").await;
        let key = Key { resource: "backups.evenkeel.dev".into(), namespace: "default".into(), name: "dump".into() };
        let spec = bench.objects.get::<Value>(&key).await.unwrap().unwrap()["spec"].clone();
        assert_eq!(spec, json!({"cluster": {"name": "db"}, "method": "dump", "database": "app"}));
        bench
            .session(expect![[r#"
                $ restore-dump db --dump dump --database app_old --owner app --name back
                databaserestore/back created
                $ restore-dump db --dump good
                error: backup/good is a base backup: a new cluster with spec.bootstrap.recovery begins with its data
                exit code 2
                $ restore-dump db --dump nope
                error: no Backup "nope" in namespace default
                exit code 3
                $ restore-dump db --dump dump --database template0 --name wrong
                error: DatabaseRestore.evenkeel.dev "wrong" is invalid
                  spec.database: Invalid value: must not be a template
                exit code 4
            "#]])
            .await;
        let key = Key { resource: "databaserestores.evenkeel.dev".into(), name: "back".into(), ..key };
        let spec = bench.objects.get::<Value>(&key).await.unwrap().unwrap()["spec"].clone();
        let wanted =
            json!({"cluster": {"name": "db"}, "from": {"backup": "dump"}, "database": "app_old", "owner": "app"});
        assert_eq!(spec, wanted);
    };
    tokio::select! {
        () = operator => panic!("the watch ended"),
        () = verbs => {}
    }
}

/// Regression 346: `switchover` found no RedisSentinel.
#[tokio::test]
async fn switchover_finds_a_redis_by_its_name_alone() {
    let bench = CliBench::new().await;
    bench.file(
        "{apiVersion: evenkeel.dev/v1alpha1, kind: RedisSentinel, metadata: {name: cache}, spec: {image: 'redis:7'}}",
    );
    bench.run("apply -f FILE").await;
    let late = bench.run("switchover cache --to cache-2 --timeout 50ms").await;
    assert!(late.contains("the switchover of cache; the request stays until the operator answers it"), "{late}");
    let key = Key { resource: "redissentinels.evenkeel.dev".into(), namespace: "default".into(), name: "cache".into() };
    let object: Value = bench.objects.get(&key).await.unwrap().unwrap();
    let request = object["metadata"]["annotations"]["evenkeel.dev/switchover"].as_str().unwrap();
    assert!(request.ends_with("/cache-2"), "{request}");
}

#[tokio::test]
async fn events_are_those_of_the_object_oldest_first() {
    let bench = CliBench::new().await;
    bench.file(&format!("{CLUSTER}---\n{}", CLUSTER.replace("name: db", "name: other")));
    bench.run("apply -f FILE").await;
    let start = SystemClock.now();
    for (at, name, reason) in
        [(0, "db", "Created"), (60, "other", "Created"), (120, "db", "Promoted"), (121, "db", "Promoted")]
    {
        let about: Value = bench.objects.get(&cluster(name)).await.unwrap().unwrap();
        let at = start + Duration::from_secs(at);
        let new_event =
            NewEvent { severity: Severity::Normal, reason: reason.into(), message: format!("{name} {reason}"), at };
        bench.objects.record_event(&about, &new_event).await.unwrap();
    }
    expect![[r#"
        LAST SEEN TYPE REASON OBJECT MESSAGE
        AGE Normal Created postgrescluster/db db Created
        AGE (x2) Normal Promoted postgrescluster/db db Promoted
    "#]]
    .assert_eq(&ageless(&bench.run("events pg db").await));
    let all = bench.run("events ").await;
    assert_eq!(all.lines().count(), 4, "{all}");
    let page = bench.run("describe pg/db").await;
    assert!(page.contains("Promoted") && !page.contains("other"), "{page}");
}

#[tokio::test]
async fn plan_shows_the_servers_answer_for_files_and_for_objects_and_changes_nothing() {
    let bench = CliBench::new().await;
    bench.file(CLUSTER);
    bench
        .session(expect![[r#"
        $ plan -f FILE
        postgrescluster.evenkeel.dev/db (Bootstrapping):
           1. make "postgres:15"
        $ plan pg db
        error: postgresclusters.evenkeel.dev "db" not found
        exit code 3
    "#]])
        .await;
    bench.run("apply -f FILE").await;
    bench
        .session(expect![[r#"
        $ plan pg/db
        postgrescluster.evenkeel.dev/db (Bootstrapping):
           1. make "postgres:15"
    "#]])
        .await;
    bench.file(&CLUSTER.replace("instances: 3", "instances: many"));
    bench
        .session(expect![[r#"
        $ plan -f FILE
        error: PostgresCluster.evenkeel.dev "db" is invalid
          db.yaml:6:14: spec.instances: Invalid value: "many": must be a whole number
        exit code 4
    "#]])
        .await;
}

#[tokio::test]
async fn a_server_that_is_not_there_and_a_token_that_is_wrong_are_told_apart() {
    let bench = CliBench::new().await;
    let path = bench.folder.path().join("kubeconfig");
    let text = std::fs::read_to_string(&path).unwrap();
    let token = kubeconfig::load(&path).unwrap().token.unwrap();
    std::fs::write(&path, text.replace(&token, "wrong")).unwrap();
    let refused = bench.run("get pg").await;
    assert!(refused.contains("is not valid here") && refused.ends_with("exit code 1\n"), "{refused}");
    let address = kubeconfig::load(&path).unwrap().server;
    // No process listens on port 1.
    std::fs::write(&path, text.replace(&address, "https://127.0.0.1:1")).unwrap();
    let away = bench.run("get pg").await;
    assert!(away.contains("cannot reach the server at https://127.0.0.1:1 (kubeconfig"), "{away}");
    assert!(away.ends_with("is `evenkeel operator` running?\nexit code 6\n"), "{away}");
}

/// Forwards what is written.
struct Told(tokio::sync::mpsc::UnboundedSender<u8>);

impl std::io::Write for Told {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        for byte in bytes {
            self.0.send(*byte).map_err(std::io::Error::other)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn get_watch_prints_a_row_for_each_change_after_the_table() {
    let bench = CliBench::new().await;
    bench.file(CLUSTER);
    bench.run("apply -f FILE").await;
    let config = kubeconfig::load(&bench.folder.path().join("kubeconfig")).unwrap();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let (mut out, mut err) = (Told(tell), Vec::new());
    let (client, now) = (Client::new(config).unwrap(), || SystemClock.now());
    let mut session = Session { client, namespace: "default".into(), now, out: &mut out, err: &mut err };
    let seen = async {
        let mut text = String::new();
        let mut reported = false;
        while !text.ends_with('\n') || !text.contains("Healthy") {
            text.push(char::from(told.recv().await.unwrap()));
            if !reported && text.lines().count() == 2 && text.ends_with('\n') {
                reported = true;
                bench.report("db", ready("True", 1)).await;
            }
        }
        text
    };
    let text = tokio::select! {
        ended = get::run(line("pg db -w"), &mut session) => panic!("a watch does not end: {ended:?}"),
        text = tokio::time::timeout(PATIENCE, seen) => text.unwrap(),
    };
    expect![[r#"
        NAME INSTANCES READY STATUS PRIMARY AGE
        db 3 AGE
        db 3 Healthy AGE
    "#]]
    .assert_eq(&ageless(&text));
}

#[tokio::test]
async fn a_watch_that_missed_too_much_says_so_and_begins_with_all_there_is() {
    let bench = CliBench::new().await;
    bench.file(CLUSTER);
    bench.run("apply -f FILE").await;
    let newest = bench.objects.store().revision().await.unwrap();
    bench.objects.store().compact(newest).await.unwrap();
    let client = Client::new(kubeconfig::load(&bench.folder.path().join("kubeconfig")).unwrap()).unwrap();
    let path = "/apis/evenkeel.dev/v1alpha1/postgresclusters".to_owned();
    let mut follow = Follow::new(&client, path, &[], JSON, "1");
    assert_eq!(follow.next().await.unwrap(), Event::Restarted);
    let Event::Changed(object) = follow.next().await.unwrap() else { panic!("not all there is") };
    assert_eq!(object["metadata"]["name"], "db");
}

#[tokio::test]
async fn the_verbs_about_hosts_change_one_field_each_and_say_what_happens_next() {
    let bench = CliBench::new().await;
    bench
        .session(expect![[r#"
            $ host list
            no objects found in namespace default
            $ host add east tcp://10.0.0.7:2375
            error: DockerHost.evenkeel.dev "east" is invalid
              spec.endpoint: Invalid value: tcp:// without spec.tls: whoever is on the way reads every password and controls the engine. Name a client certificate in spec.tls, or say spec.insecure: true
            exit code 4
            $ host add east unix:///run/east.sock --address 10.0.0.7 --label disk=ssd
            dockerhost.evenkeel.dev/east added; the operator connects to it now. To see how it is: evenkeel host check east
        "#]])
        .await;
}

#[tokio::test]
async fn a_host_behind_ssh_is_added_with_a_secret_of_its_keys() {
    let bench = CliBench::new().await;
    bench.file("KEY");
    let added = bench.run("host add far ssh://ops@far --ssh-key FILE --known-hosts FILE").await;
    assert!(added.starts_with("secret/dockerhost-far holds its keys\ndockerhost.evenkeel.dev/far added"), "{added}");
    let secret: Value =
        bench.objects.get(&Key::new("secrets", "default", "dockerhost-far")).await.unwrap().expect("a Secret");
    assert_eq!((&secret["data"]["ssh-privatekey"], &secret["data"]["known_hosts"]), (&json!("S0VZ"), &json!("S0VZ")));
    let host: Value =
        bench.objects.get(&Key::new("dockerhosts.evenkeel.dev", "", "far")).await.unwrap().expect("a host");
    assert_eq!(host["spec"]["ssh"], json!({"secretName": "dockerhost-far", "secretNamespace": "default"}));
    bench
        .session(expect![[r#"
            $ host add far ssh://ops@far --ssh-key FILE --known-hosts FILE
            error: there is a DockerHost far already; change it with apply, or delete it
            exit code 1
            $ host add near ssh://ops@near
            error: ssh:// needs --ssh-key FILE and --known-hosts FILE (what `ssh-keyscan HOST` prints, compared with the host itself)
            exit code 2
        "#]])
        .await;
}

#[tokio::test]
async fn a_host_that_is_another_engine_is_accepted_by_its_id() {
    let bench = CliBench::new().await;
    bench.run("host add east unix:///run/east.sock").await;
    let key = Key::new("dockerhosts.evenkeel.dev", "", "east");
    let report = async |status: Value| {
        let change = |mut object: Value| {
            object["status"] = status.clone();
            Ok::<_, evenkeel::store::Error>(object)
        };
        bench.objects.modify(&key, Part::Status, change).await.unwrap();
    };
    bench
        .session(expect![[r#"
            $ host accept east
            east is the engine that it was; there is nothing to accept
        "#]])
        .await;
    report(json!({"engineID": "A", "foundEngineID": "B"})).await;
    let operator = async {
        let mut watch = bench.objects.watch("dockerhosts.evenkeel.dev", None, 0).await.unwrap();
        while let Some(change) = watch.next().await {
            let object = change.unwrap().new.unwrap();
            if object["metadata"]["annotations"]["evenkeel.dev/accept-engine"] == "B" {
                report(json!({"engineID": "B"})).await;
                return std::future::pending().await;
            }
        }
    };
    let verbs = bench.session(expect![[r#"
        $ host accept east
        east is engine B now. What the old engine had counts as gone from here on, and is made again where its objects want it
    "#]]);
    tokio::select! {
        () = operator => panic!("the watch ended"),
        () = verbs => {}
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_host_is_told_with_an_exit_code() {
    let bench = CliBench::new().await;
    bench.run("host add east unix:///run/east.sock").await;
    let key = Key::new("dockerhosts.evenkeel.dev", "", "east");
    let change = |mut object: Value| {
        object["status"] = json!({"reachable": true, "containers": 3, "engineVersion": "29.0", "apiVersion": "1.52",
            "lastHeard": "2026-01-01T00:00:00Z", "conditions": [
            {"type": "Ready", "status": "False", "reason": "Unreachable", "message": "connection refused", "observedGeneration": 1,
                "lastTransitionTime": "2026-01-01T00:00:00Z"},
            {"type": "Drained", "status": "True", "reason": "Empty", "message": "nothing is left", "observedGeneration": 1,
                "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
        Ok::<_, evenkeel::store::Error>(object)
    };
    bench.objects.modify(&key, Part::Status, change).await.unwrap();
    bench
        .session(expect![[r#"
            $ host check east
            east at unix:///run/east.sock, Docker Engine 29.0 (API 1.52), 3 managed containers
            note: nothing is left
            note: it has no spec.address: objects that span several hosts do not use it
            note: unix:// means the engine of the machine that the operator runs on; spec.node says which one that is
            error: east: connection refused (Unreachable)
            exit code 1
            $ host check nowhere
            error: no DockerHost "nowhere"
            exit code 3
            $ host lost east
            You say that east is off and stays off: no process of it runs any more, and none will. Evenkeel believes you.
            It promotes standbys and starts replacements at once, also of pods and volumes that must never exist twice.
            If east still runs, two primaries may take writes, and the writes of one of them are lost.
            CAUTION: east answers at this moment. A host that answers is not lost; use drain.
            It had 3 managed containers and last answered at 2026-01-01T00:00:00Z.
            error: nobody can confirm it here: say --yes
            exit code 2
            $ host lost east --yes
            east counts as dead: what it had is replaced now, where there is another place. If it comes back, turn it off first or
            clean it, and then: evenkeel host found east
            You say that east is off and stays off: no process of it runs any more, and none will. Evenkeel believes you.
            It promotes standbys and starts replacements at once, also of pods and volumes that must never exist twice.
            If east still runs, two primaries may take writes, and the writes of one of them are lost.
            CAUTION: east answers at this moment. A host that answers is not lost; use drain.
            It had 3 managed containers and last answered at 2026-01-01T00:00:00Z.
            $ host found east
            east is a host like any other again. The operator reads what is there before it does anything; what was replaced meanwhile
            is not used again
            $ host drain nowhere
            error: no DockerHost "nowhere"
            exit code 3
        "#]])
        .await;
}
