//! The CLI from outside: manifests, kinds, output, and the verbs against a server in this process.
#![allow(clippy::unwrap_used)]

use evenkeel::cli::error::Error;
use evenkeel::cli::manifest;
use expect_test::{Expect, expect};
use serde_json::{Value, json};

mod pages {
    //! The output for people, as pure functions produce it.
    use super::*;
    use evenkeel::cli::error::Refusal;
    use evenkeel::cli::{describe, preview, switchover};

    const NOW: &str = "2026-11-24T05:45:00Z";

    fn page(object: &Value, events: &[Value], expected: Expect) {
        expected.assert_eq(&describe::page(object, events, NOW.parse().unwrap()).unwrap());
    }

    fn cluster() -> Value {
        json!({
            "apiVersion": "evenkeel.dev/v1alpha1", "kind": "PostgresCluster",
            "metadata": {"name": "awx-db", "namespace": "default", "creationTimestamp": "2026-11-24T05:00:00Z",
                "generation": 2, "labels": {"app": "awx"}},
            "spec": {"image": "postgres:15", "instances": 3, "parameters": {"max_connections": "500"}},
            "status": {
                "observedGeneration": 2, "phase": "Healthy", "term": 4, "primary": "awx-db-2", "timeline": 3,
                "readyInstances": 3,
                "instances": [
                    {"name": "awx-db-1", "host": "local", "role": "standby", "state": "streaming", "synchronous": true,
                     "lag": 0, "address": "10.1.0.2"},
                    {"name": "awx-db-2", "host": "local", "role": "primary", "state": "running", "synchronous": false,
                     "address": "10.1.0.3", "pendingRestart": ["max_connections"]},
                ],
                "endpoints": {"readWrite": ["10.1.0.3:5432"], "readOnly": ["10.1.0.2:5432"]},
                "lastFailover": {"cause": "container awx-db-1 died (exit code 137)", "from": "awx-db-1", "to": "awx-db-2",
                    "detectedAt": "2026-11-24T05:41:03.120Z", "outage": 0.412,
                    "steps": [{"step": "ask for promises of term 4", "took": 0.1}, {"step": "promote awx-db-2", "took": 0.25}]},
                "conditions": [
                    {"type": "Ready", "status": "True", "reason": "Streaming", "message": "3 of 3 instances serve",
                     "observedGeneration": 2, "lastTransitionTime": "2026-11-24T05:41:04Z"},
                    {"type": "Degraded", "status": "False", "reason": "AllStream", "message": "", "observedGeneration": 1,
                     "lastTransitionTime": "2026-11-24T05:42:00Z"}],
            },
        })
    }

    #[test]
    fn a_cluster_is_one_page_with_its_last_failover_as_a_timeline() {
        let happened = json!({"type": "Warning", "reason": "FailedOver", "message": "awx-db-1 -> awx-db-2", "count": 2,
            "involvedObject": {"kind": "PostgresCluster", "name": "awx-db"}, "lastTimestamp": "2026-11-24T05:41:04Z"});
        page(
            &cluster(),
            &[happened],
            expect![[r#"
            Name:         awx-db
            Namespace:    default
            Kind:         PostgresCluster (evenkeel.dev/v1alpha1)
            Labels:       app=awx
            Created:      2026-11-24T05:00:00Z (45m ago)
            Generation:   2
            Phase:        Healthy

            Spec:
              image: postgres:15
              instances: 3
              parameters:
                max_connections: "500"

            Instances:
              NAME       HOST    ROLE      STATE       SYNC   LAG     ADDRESS    NOTE
              awx-db-1   local   standby   streaming   yes    0 MiB   10.1.0.2
              awx-db-2   local   primary   running                    10.1.0.3   waits for a restart: max_connections

            Endpoints:
              read-write  10.1.0.3:5432
              read-only   10.1.0.2:5432

            Leadership:
              term      4
              timeline  3

            Last failover:
              when    2026-11-24T05:41:03.120Z (3m56s ago)
              from    awx-db-1
              to      awx-db-2
              cause   container awx-db-1 died (exit code 137)
              outage  0.412 s
              AT         TOOK      STEP
              +0.000 s   0.100 s   ask for promises of term 4
              +0.100 s   0.250 s   promote awx-db-2
              +0.350 s             writes again

            Conditions:
              TYPE       STATUS   REASON      AGE     MESSAGE
              Ready      True     Streaming   3m56s   3 of 3 instances serve
              Degraded   False    AllStream   3m      (of an older spec)

            Events:
              LAST SEEN    TYPE      REASON       MESSAGE
              3m56s (x2)   Warning   FailedOver   awx-db-1 -> awx-db-2
        "#]],
        );
    }

    #[test]
    fn a_redis_cluster_is_a_table_of_its_nodes_with_slots_and_endpoints() {
        let object = json!({
            "apiVersion": "evenkeel.dev/v1alpha1", "kind": "RedisCluster",
            "metadata": {"name": "shop", "namespace": "default", "creationTimestamp": "2026-11-24T05:00:00Z", "generation": 1},
            "spec": {"image": "redis:7"},
            "status": {
                "observedGeneration": 1, "phase": "Degraded", "slotsServed": 16384,
                "members": [
                    {"name": "shop-1", "host": "local", "role": "master", "state": "running", "slots": 16384, "keys": 7,
                        "offset": 90, "usedMemory": 2097152, "address": "10.1.0.11:6379"},
                    {"name": "shop-2", "host": "local", "role": "replica", "state": "copying", "master": "shop-1",
                        "address": "10.1.0.12:6379", "message": "it copies"},
                ],
                "migration": {"total": 4096, "left": 1024, "since": "2026-11-24T05:41:00Z"},
                "staleNodes": ["8ea28c5d"],
                "endpoints": ["10.1.0.11:6379", "10.1.0.12:6379"],
                "lastFailover": {"cause": "its server ended", "from": "shop-2", "to": "shop-1",
                    "detectedAt": "2026-11-24T05:41:03.120Z", "outage": 0.412},
            },
        });
        page(
            &object,
            &[],
            expect![[r#"
            Name:         shop
            Namespace:    default
            Kind:         RedisCluster (evenkeel.dev/v1alpha1)
            Created:      2026-11-24T05:00:00Z (45m ago)
            Generation:   1
            Phase:        Degraded

            Spec:
              image: redis:7

            Members:
              NAME     HOST    ROLE      STATE     MASTER   SLOTS   KEYS   OFFSET   MEMORY   ADDRESS          NOTE
              shop-1   local   master    running            16384   7      90       2 MiB    10.1.0.11:6379
              shop-2   local   replica   copying   shop-1   0       0      0        0 MiB    10.1.0.12:6379   it copies

            Slots:
              served  16384 of 16384
              moving  1024 of 4096 are left
              stale   8ea28c5d

            Endpoints:
              nodes  10.1.0.11:6379, 10.1.0.12:6379

            Last failover:
              when    2026-11-24T05:41:03.120Z (3m56s ago)
              from    shop-2
              to      shop-1
              cause   its server ended
              outage  0.412 s

            Events:
              none
        "#]],
        );
    }

    #[test]
    fn a_secret_shows_how_long_its_values_are_and_never_the_values() {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "metadata": {"name": "awx-db-app", "namespace": "default", "creationTimestamp": "2026-11-24T05:00:00Z"},
            "data": {"password": "c2VjcmV0", "port": "NTQzMg=="}});
        page(
            &secret,
            &[],
            expect![[r#"
            Name:         awx-db-app
            Namespace:    default
            Kind:         Secret (v1)
            Created:      2026-11-24T05:00:00Z (45m ago)

            Type:
              Opaque

            Data:
              password: 6 bytes
              port: 4 bytes

            Events:
              none
        "#]],
        );
    }

    #[test]
    fn an_object_that_is_going_says_what_it_waits_for() {
        let host = json!({"apiVersion": "evenkeel.dev/v1alpha1", "kind": "DockerHost",
            "metadata": {"name": "local", "creationTimestamp": "2026-11-20T05:00:00Z", "generation": 3,
                "deletionTimestamp": "2026-11-24T05:44:00Z", "finalizers": ["evenkeel.dev/dockerhost"]},
            "spec": {"endpoint": "unix:///var/run/docker.sock"},
            "status": {"observedGeneration": 2, "reachable": true, "engineVersion": "20.10.24"}});
        page(
            &host,
            &[],
            expect![[r#"
            Name:         local
            Kind:         DockerHost (evenkeel.dev/v1alpha1)
            Created:      2026-11-20T05:00:00Z (4d ago)
            Generation:   3, the status is still of 2
            Deleting:     since 60s ago; waits for evenkeel.dev/dockerhost

            Spec:
              endpoint: unix:///var/run/docker.sock

            Status:
              engineVersion: "20.10.24"
              reachable: true

            Events:
              none
        "#]],
        );
    }

    #[test]
    fn every_cause_of_a_refusal_has_its_line_with_path_and_place_in_the_file() {
        let yaml = "apiVersion: v1\nkind: X\nmetadata: {name: db}\nspec:\n  instances: 0\n  parameters: {fsync: off}\n";
        let document = manifest::parse("db.yaml", yaml).unwrap().remove(0);
        let status = json!({"kind": "Status", "status": "Failure", "code": 422, "reason": "Invalid",
            "message": "PostgresCluster.evenkeel.dev \"db\" is invalid: [spec.instances: is 0, ...]",
            "details": {"causes": [
                {"reason": "FieldValueInvalid", "field": "spec.instances", "message": "is 0, must be from 1 to 9"},
                {"reason": "FieldValueInvalid", "field": "spec.parameters[fsync]", "message": "is set by Evenkeel"},
                {"reason": "FieldValueRequired", "field": "spec.image", "message": "is required"}]}});
        let refusal = Refusal::from_body(422, &status.to_string()).locate(|field| document.position(field));
        let error = Error::from(refusal);
        expect![[r#"
            error: PostgresCluster.evenkeel.dev "db" is invalid
              db.yaml:5:14: spec.instances: is 0, must be from 1 to 9
              db.yaml:6:23: spec.parameters[fsync]: is set by Evenkeel
              db.yaml:5:3: spec.image: is required
        "#]]
        .assert_eq(&error.report());
        assert_eq!(error.exit_code(), 4);
    }

    #[test]
    fn errors_say_what_to_do_next_and_have_their_own_exit_code() {
        let conflict = json!({"code": 409, "reason": "Conflict",
            "message": "Apply failed with 1 conflict: conflict with \"kubectl-edit\": .spec.instances",
            "details": {"causes": [{"field": ".spec.instances", "message": "conflict with \"kubectl-edit\""}]}});
        let unreachable = Error::Unreachable {
            address: "https://127.0.0.1:7443".to_owned(),
            kubeconfig: "/var/lib/evenkeel/kubeconfig".into(),
            source: "connection refused".into(),
        };
        let all = [
            Error::from(Refusal::from_body(409, &conflict.to_string())),
            Error::from(Refusal::from_body(401, "Unauthorized")),
            Error::from(Refusal::from_body(404, r#"{"message": "postgresclusters.evenkeel.dev \"x\" not found"}"#)),
            Error::TimedOut {
                what: "condition Ready=True of x".to_owned(),
                after: std::time::Duration::from_secs(300),
            },
            unreachable,
        ];
        let text: String =
            all.iter().map(|error| format!("{}exit code {}\n\n", error.report(), error.exit_code())).collect();
        expect![[r#"
            error: Apply failed with 1 conflict
              spec.instances: conflict with "kubectl-edit"
            another manager set these fields; --force-conflicts takes them over
            exit code 4

            error: the server answered 401: Unauthorized
            the credential in the kubeconfig is not valid here: it is expired or revoked, or of another server
            exit code 1

            error: postgresclusters.evenkeel.dev "x" not found
            exit code 3

            error: timed out after 5m waiting for condition Ready=True of x
            exit code 5

            error: cannot reach the server at https://127.0.0.1:7443 (kubeconfig /var/lib/evenkeel/kubeconfig): connection refused
            is `evenkeel operator` running?
            exit code 6

        "#]].assert_eq(&text);
    }

    #[test]
    fn a_plan_is_its_numbered_steps_or_nothing_to_do() {
        let plan_of = |plan: Value| preview::text("postgrescluster.evenkeel.dev/awx-db", &plan);
        let steps =
            json!({"status": {"phase": "Bootstrapping"}, "steps": ["make network awx-db", "make volume awx-db-1"]});
        let text = plan_of(steps) + &plan_of(json!({"status": {"phase": "Healthy"}, "steps": []}));
        expect![[r#"
            postgrescluster.evenkeel.dev/awx-db (Bootstrapping):
               1. make network awx-db
               2. make volume awx-db-1
            postgrescluster.evenkeel.dev/awx-db (Healthy): nothing to do
        "#]]
        .assert_eq(&text);
    }

    #[test]
    fn a_switchover_is_done_when_its_own_request_is_answered_and_the_cluster_is_healthy() {
        let object = |phase: &str, last: Value| json!({"status": {"phase": phase, "lastSwitchover": last}});
        let went = json!({"cause": "asked for", "from": "a-1", "to": "a-2", "detectedAt": NOW, "outage": 0.2});
        let seen = [
            object("Healthy", Value::Null),
            object("Healthy", json!({"request": "older/a-3", "result": went})),
            object("SwitchingOver", json!({"request": "now", "result": went})),
            object("Healthy", json!({"request": "now", "refused": "a-2 does not stream"})),
            object("Healthy", json!({"request": "now", "result": went})),
        ];
        let text: String = seen.iter().map(|object| format!("{:?}\n", switchover::progress(object, "now"))).collect();
        expect![[r#"
            UnderWay
            UnderWay
            UnderWay
            Refused("a-2 does not stream")
            Done("a-1 -> a-2, no writes for 0.200 s")
        "#]]
        .assert_eq(&text);
    }
}

mod manifests {
    //! Manifests as users write them, good and bad.
    use super::*;
    use std::path::PathBuf;

    fn check(yaml: &str, expected: Expect) {
        let text = match manifest::parse("db.yaml", yaml) {
            Ok(documents) => documents.iter().map(|document| format!("{}\n", document.value)).collect(),
            Err(error) => error.report(),
        };
        expected.assert_eq(&text);
    }

    #[test]
    fn documents_are_read_in_order_and_empty_ones_skipped() {
        check(
            "# a comment\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: a}\n---\n---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: b\n",
            expect![[r#"
                {"apiVersion":"v1","kind":"Secret","metadata":{"name":"a"}}
                {"apiVersion":"v1","kind":"Namespace","metadata":{"name":"b"}}
            "#]],
        );
    }

    #[test]
    fn the_words_on_and_off_stay_words_as_postgresql_wants_them() {
        check(
            "{apiVersion: v1, kind: X, metadata: {name: a}, spec: {parameters: {jit: on, a: off, b: yes}, c: true, d: 1.5, e: null}}",
            expect![[r#"
                {"apiVersion":"v1","kind":"X","metadata":{"name":"a"},"spec":{"c":true,"d":1.5,"e":null,"parameters":{"a":"off","b":"yes","jit":"on"}}}
            "#]],
        );
    }

    #[test]
    fn a_list_gives_its_items() {
        check(
            "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Secret, metadata: {name: a}}\n- {apiVersion: v1, kind: Secret, metadata: {}}\n",
            expect![[r#"
                error: db.yaml:5:44: metadata.name is missing or not a string
            "#]],
        );
    }

    #[test]
    fn a_syntax_error_names_file_line_and_column() {
        check(
            "apiVersion: v1\nkind: Secret\nmetadata:\n  name: a\n   labels: {}\n",
            expect![[r#"
            error: db.yaml:5:10: mapping values are not allowed in this context
        "#]],
        );
        check(
            "apiVersion: v1\nkind: Secret\nmetadata: {name: a\n",
            expect![[r#"
            error: db.yaml:3:11: unclosed bracket '{'
        "#]],
        );
        check(
            "apiVersion: v1\n\tkind: Secret\n",
            expect![[r#"
            error: db.yaml:1:13: while scanning a plain scalar, found a tab
        "#]],
        );
        check(
            "a: 1\nkind: X\na: 2\n",
            expect![[r#"
            error: db.yaml:3:1: duplicate mapping key `a` is not allowed here
        "#]],
        );
        check(
            "a: *nowhere\n",
            expect![[r#"
            error: db.yaml:1:4: reference to unknown value
        "#]],
        );
    }

    #[test]
    fn what_is_no_object_is_refused_with_its_place() {
        check(
            "just text\n",
            expect![[r#"
            error: db.yaml:1:1: apiVersion is missing or not a string
        "#]],
        );
        check(
            "kind: Secret\nmetadata: {name: a}\n",
            expect![[r#"
            error: db.yaml:1:1: apiVersion is missing or not a string
        "#]],
        );
        check(
            "apiVersion: v1\nkind: Secret\nmetadata:\n  name: 7\n",
            expect![[r#"
            error: db.yaml:4:9: metadata.name is missing or not a string
        "#]],
        );
        check(
            "apiVersion: v1\nkind: Secret\nmetadata: {generateName: a-}\n",
            expect![[r#"
            error: db.yaml:3:11: metadata.name is missing or not a string
        "#]],
        );
        check(
            "\n# nothing\n",
            expect![[r#"
            error: db.yaml: no objects in it
        "#]],
        );
    }

    #[test]
    fn a_directory_gives_its_manifests_in_order_and_all_problems_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("b.yml", "{apiVersion: v1, kind: X, metadata: {name: b}}");
        write("a.yaml", "{apiVersion: v1, kind: X, metadata: {name: a}}");
        write("c.json", "{\"apiVersion\": \"v1\", \"kind\": \"X\",\n\t\"metadata\": {\"name\": \"c\"}}");
        write("README.md", "# not a manifest: [");
        let paths = [folder.path().to_owned(), PathBuf::from("-")];
        let mut stdin = "{apiVersion: v1, kind: X, metadata: {name: d}}".as_bytes();
        let names: Vec<String> =
            manifest::read(&paths, &mut stdin).unwrap().iter().map(|document| document.name().to_owned()).collect();
        assert_eq!(names, ["a", "b", "c", "d"]);
        write("a.yaml", "a: [");
        write("b.yml", "b: ]");
        let refused = manifest::read(&paths, &mut "".as_bytes()).unwrap_err();
        assert_eq!(refused.report().lines().count(), 3, "{}", refused.report());
        assert_eq!(refused.exit_code(), 4);
        let missing = manifest::read(&[folder.path().join("no.yaml")], &mut "".as_bytes()).unwrap_err();
        assert_eq!(missing.exit_code(), 3, "{}", missing.report());
    }
}

mod kinds {
    //! Words and the kinds that they mean.
    use super::*;
    use evenkeel::cli::discovery::{Catalog, targets};

    fn catalog() -> Catalog {
        let core = json!({"groupVersion": "v1", "resources": [
            {"name": "events", "singularName": "event", "kind": "Event", "namespaced": true, "verbs": ["list"], "shortNames": ["ev"]},
            {"name": "secrets", "singularName": "", "kind": "Secret", "namespaced": true, "verbs": ["get"]}]});
        let other = json!({"groupVersion": "events.k8s.io/v1", "resources": [
            {"name": "events", "singularName": "event", "kind": "Event", "namespaced": true, "verbs": ["list"]}]});
        let ours = json!({"groupVersion": "evenkeel.dev/v1alpha1", "resources": [
            {"name": "postgresclusters", "singularName": "postgrescluster", "kind": "PostgresCluster", "namespaced": true,
             "verbs": ["get", "list"], "shortNames": ["pg"], "categories": ["all"]},
            {"name": "postgresclusters/status", "kind": "PostgresCluster", "namespaced": true, "verbs": ["get"]},
            {"name": "dockerhosts", "singularName": "dockerhost", "kind": "DockerHost", "namespaced": false,
             "verbs": ["get", "list"], "categories": ["all"]}]});
        Catalog::from_lists([&core, &other, &ours])
    }

    #[test]
    fn a_kind_goes_by_all_its_names() {
        let catalog = catalog();
        for word in [
            "postgresclusters",
            "postgrescluster",
            "PostgresCluster",
            "pg",
            "PG",
            "pg.evenkeel.dev",
            "postgresclusters.evenkeel.dev",
            "postgresclusters.v1alpha1.evenkeel.dev",
        ] {
            assert_eq!(catalog.resolve(word).unwrap().label(), "postgrescluster.evenkeel.dev", "{word}");
        }
        assert_eq!(catalog.resolve("events").unwrap().label(), "event", "core goes first");
        assert_eq!(catalog.resolve("events.events.k8s.io").unwrap().label(), "event.events.k8s.io");
        assert_eq!(catalog.resolve("secret").unwrap().label(), "secret");
        let all: Vec<String> = catalog.resolve_all("all,pg,ev").unwrap().iter().map(|kind| kind.label()).collect();
        assert_eq!(all, ["postgrescluster.evenkeel.dev", "dockerhost.evenkeel.dev", "event"]);
    }

    #[test]
    fn an_unknown_kind_is_answered_with_those_there_are() {
        let error = catalog().resolve("pods").unwrap_err();
        expect![[r#"
            error: the server has no kind "pods"; it has postgresclusters, dockerhosts, events, secrets, events
        "#]]
        .assert_eq(&error.report());
        assert_eq!(error.exit_code(), 3);
    }

    #[test]
    fn paths_hold_whatever_name_was_typed_in_one_segment() {
        let catalog = catalog();
        let paths = [
            catalog.resolve("pg").unwrap().path(Some("default"), Some("awx-db")),
            catalog.resolve("pg").unwrap().path(None, None),
            catalog.resolve("dockerhosts").unwrap().path(Some("default"), Some("h.1")),
            catalog.resolve("secrets").unwrap().path(Some("a/b?c"), Some("..")),
        ];
        expect![[r#"
            /apis/evenkeel.dev/v1alpha1/namespaces/default/postgresclusters/awx-db
            /apis/evenkeel.dev/v1alpha1/postgresclusters
            /apis/evenkeel.dev/v1alpha1/dockerhosts/h.1
            /api/v1/namespaces/a%2Fb%3Fc/secrets/%2E%2E"#]]
        .assert_eq(&paths.join("\n"));
    }

    #[test]
    fn kind_and_name_can_be_typed_both_ways_but_not_mixed() {
        let show = |text: &str| {
            let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
            targets(&words).map_or_else(|error| error.report(), |all| format!("{all:?}\n"))
        };
        let all = ["pg", "pg a b", "pg/a secret/b", "pg/a b", "pg/", ""].map(show);
        expect![[r#"
            [("pg", None)]
            [("pg", Some("a")), ("pg", Some("b"))]
            [("pg", Some("a")), ("secret", Some("b"))]
            error: use KIND NAME... or KIND/NAME..., not both at once
            error: "pg/" is not KIND/NAME
            error: say which kind, e.g. `postgrescluster awx-db`
        "#]]
        .assert_eq(&all.concat());
    }
}

mod kubeconfigs {
    //! The choice of the server.
    use evenkeel::cli::kubeconfig::{load, locate};
    use std::path::{Path, PathBuf};

    #[test]
    fn the_flag_goes_before_the_variables_and_ours_before_kubectls() {
        let folder = tempfile::tempdir().unwrap();
        let there = folder.path().join("there");
        std::fs::write(&there, "").unwrap();
        let list = format!("/nowhere/a:{}", there.display());
        let with = |flag: Option<&str>, set: &[(&str, &str)]| -> PathBuf {
            locate(flag.map(Path::new), |name| {
                set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            })
        };
        let both = [("EVENKEEL_KUBECONFIG", "/ours"), ("KUBECONFIG", list.as_str())];
        assert_eq!(with(Some("/flag"), &both), Path::new("/flag"));
        assert_eq!(with(None, &both), Path::new("/ours"));
        assert_eq!(with(None, &both[1..]), there, "the first of the list that exists");
        assert_eq!(with(None, &[("KUBECONFIG", "/no/a:/no/b")]), Path::new("/no/a"));
        let default = with(None, &[("XDG_DATA_HOME", "/home/u/.data"), ("KUBECONFIG", "")]);
        assert!(default.ends_with("evenkeel/kubeconfig"), "{}", default.display());
    }

    #[test]
    fn a_kubeconfig_gives_server_authority_token_and_namespace() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        std::fs::write(folder.path().join("ca.pem"), "PEM").unwrap();
        let text = "apiVersion: v1\nkind: Config\ncurrent-context: b\npreferences: {}\n\
            contexts:\n- {name: a, context: {cluster: x, user: x}}\n- {name: b, context: {cluster: c, user: u, namespace: team}}\n\
            clusters:\n- {name: c, cluster: {server: 'https://127.0.0.1:7443/', certificate-authority: ca.pem}}\n\
            users:\n- {name: u, user: {token: abc}}\n";
        std::fs::write(&path, text).unwrap();
        let config = load(&path).unwrap();
        assert_eq!(config.server, "https://127.0.0.1:7443");
        assert_eq!(config.certificate_authority.as_deref(), Some("PEM".as_bytes()));
        assert_eq!((config.token.as_deref(), config.namespace.as_str()), (Some("abc"), "team"));
        std::fs::write(&path, text.replace("current-context: b", "current-context: z")).unwrap();
        assert!(load(&path).unwrap_err().report().contains("has no current context"));
        std::fs::remove_file(&path).unwrap();
        let error = load(&path).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        assert!(error.report().contains("evenkeel operator"), "{}", error.report());
    }
}
