//! Every role on every route: a kind, a subresource or a rule that is new changes the table, and somebody reads it.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use axum::http::Method;
use expect_test::expect;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::api::rbac::{GROUP, Rule};
use crate::api::registry;
use crate::server::authn::user::{MASTERS, Via};
use crate::server::params::Params;
use crate::server::routes;
use crate::store::Key;
use escalation::uncovered;

const ROLES: [&str; 4] = ["view", "edit", "admin", "cluster-admin"];

/// What always exists, and these objects.
fn rules(more: Vec<(&str, &str, Value)>) -> Rules {
    let more = more.into_iter().map(|(resource, namespace, value)| {
        let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        (Key::new(&format!("{resource}.{GROUP}"), namespace, &name), value)
    });
    let all: Vec<_> = builtin::objects().into_iter().chain(more).map(|(key, value)| (key, Arc::new(value))).collect();
    Rules::new(&all)
}

fn binding(role: &str, user: &str) -> Value {
    json!({
        "metadata": {"name": format!("{user}-{role}")},
        "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "User", "name": user}],
    })
}

fn user(name: &str) -> User {
    User::new(name, Vec::new(), Via::Certificate, None)
}

fn may(rules: &Rules, name: &str, method: &str, path: &str) -> bool {
    let uri: axum::http::Uri = path.parse().unwrap();
    let (route, params) = (routes::parse(uri.path()), Params::parse(&uri).unwrap());
    let asked = Attributes::of(&route, &method.parse::<Method>().unwrap(), &params, uri.path());
    allowed(rules, &user(name), &asked) != Verdict::Deny
}

/// A letter for it, the method, and the path.
type Try = (char, &'static str, String);

/// Every path of the registry below which there is something, with the methods that clients use.
fn routes() -> Vec<(String, Vec<Try>)> {
    let mut all = Vec::new();
    for resource in registry::resources() {
        let root = if resource.group.is_empty() { "api" } else { "apis" };
        let place = if resource.namespaced { "namespaces/n/" } else { "" };
        let main = format!("/{root}/{}/{place}{}", resource.api_version(), resource.plural);
        let one = format!("{main}/x");
        let on = |part: &str, letters: &str| {
            let each = letters.chars().map(|letter| match letter {
                'G' => ('G', "GET", format!("{one}{part}")),
                'L' => ('L', "GET", main.clone()),
                'W' => ('W', "GET", format!("{main}?watch=true")),
                'C' if part.is_empty() => ('C', "POST", main.clone()),
                'C' => ('C', "POST", format!("{one}{part}")),
                'U' => ('U', "PUT", format!("{one}{part}")),
                'P' => ('P', "PATCH", format!("{one}{part}")),
                'D' => ('D', "DELETE", one.clone()),
                _ => ('X', "DELETE", main.clone()),
            });
            (format!("{}{part}", resource.qualified()), each.collect())
        };
        all.push(on("", "GLWCUPDX"));
        for (part, letters) in [
            ("/status", "GUP"),
            ("/scale", "GUP"),
            ("/log", "G"),
            ("/exec", "GC"),
            ("/attach", "GC"),
            ("/portforward", "GC"),
            ("/eviction", "C"),
        ] {
            if routes::parse(&format!("{one}{part}")).is_ok() {
                all.push(on(part, letters));
            }
        }
    }
    for path in ["/", "/api", "/apis/apps/v1", "/openapi/v2", "/metrics"] {
        all.push((path.to_owned(), vec![('G', "GET", path.to_owned())]));
    }
    for review in &crate::server::reviews::REVIEWS {
        let place = if review.namespaced { "namespaces/n/" } else { "" };
        let path = format!("/apis/{}/v1/{place}{}", review.group, review.plural);
        all.push((review.plural.to_owned(), vec![('C', "POST", path)]));
    }
    all
}

/// Regression 170: there was one token, and whoever had it could do everything (S11). `view` reads no Secret and enters no
/// container; a new kind is in no role until somebody puts it there and changes this table.
#[test]
fn each_role_on_each_route() {
    let rules = rules(ROLES.map(|role| ("clusterrolebindings", "", binding(role, role))).into());
    let mut table = String::new();
    for (name, methods) in routes() {
        let shown = ROLES.map(|role| {
            let letter = |(letter, method, path): &Try| {
                if may(&rules, role, method, path) { *letter } else { '-' }
            };
            methods.iter().map(letter).collect::<String>()
        });
        let [view, edit, admin, all] = shown;
        table += format!("{name:<51} {view:<8} {edit:<8} {admin:<8} {all}").trim_end();
        table.push('\n');
    }
    expect![[r#"
        namespaces                                          GLW----- GLW----- GLW----- GLWCUPDX
        namespaces/status                                   ---      ---      ---      GUP
        secrets                                             -------- GLWCUPDX GLWCUPDX GLWCUPDX
        configmaps                                          GLW----- GLWCUPDX GLWCUPDX GLWCUPDX
        events                                              GLW----- GLWCUPDX GLWCUPDX GLWCUPDX
        nodes                                               GLW----- GLW----- GLW----- GLWCUPDX
        services                                            GLW----- GLWCUPDX GLWCUPDX GLWCUPDX
        pods                                                GLW----- GLWCUPDX GLWCUPDX GLWCUPDX
        pods/log                                            G        G        G        G
        pods/exec                                           --       GC       GC       GC
        pods/attach                                         --       GC       GC       GC
        pods/portforward                                    --       GC       GC       GC
        pods/eviction                                       -        C        C        C
        replicasets.apps                                    GLW----- GLWCUPDX GLWCUPDX GLWCUPDX
        deployments.apps                                    GLW----- GLWCUPDX GLWCUPDX GLWCUPDX
        deployments.apps/status                             G--      G--      G--      GUP
        deployments.apps/scale                              G--      GUP      GUP      GUP
        dockerhosts.evenkeel.dev                            GLW----- GLW----- GLW----- GLWCUPDX
        dockerhosts.evenkeel.dev/status                     G--      G--      G--      GUP
        portreservations.evenkeel.dev                       -------- -------- -------- GLWCUPDX
        portreservations.evenkeel.dev/status                ---      ---      ---      GUP
        postgresclusters.evenkeel.dev                       GLW----- GLWCUPDX GLWCUPDX GLWCUPDX
        postgresclusters.evenkeel.dev/status                G--      G--      G--      GUP
        backups.evenkeel.dev                                GLW----- GLWCUPDX GLWCUPDX GLWCUPDX
        backups.evenkeel.dev/status                         G--      G--      G--      GUP
        scheduledbackups.evenkeel.dev                       GLW----- GLWCUPDX GLWCUPDX GLWCUPDX
        scheduledbackups.evenkeel.dev/status                G--      G--      G--      GUP
        databaserestores.evenkeel.dev                       GLW----- GLWCUPDX GLWCUPDX GLWCUPDX
        databaserestores.evenkeel.dev/status                G--      G--      G--      GUP
        volumerestores.evenkeel.dev                         GLW----- GLWCUPDX GLWCUPDX GLWCUPDX
        volumerestores.evenkeel.dev/status                  G--      G--      G--      GUP
        loadbalancers.evenkeel.dev                          GLW----- GLWCUPDX GLWCUPDX GLWCUPDX
        loadbalancers.evenkeel.dev/status                   G--      G--      G--      GUP
        redissentinels.evenkeel.dev                         GLW----- GLWCUPDX GLWCUPDX GLWCUPDX
        redissentinels.evenkeel.dev/status                  G--      G--      G--      GUP
        redisclusters.evenkeel.dev                          GLW----- GLWCUPDX GLWCUPDX GLWCUPDX
        redisclusters.evenkeel.dev/status                   G--      G--      G--      GUP
        leases.coordination.k8s.io                          GLW----- GLWCUPDX GLWCUPDX GLWCUPDX
        roles.rbac.authorization.k8s.io                     -------- -------- GLWCUPDX GLWCUPDX
        rolebindings.rbac.authorization.k8s.io              -------- -------- GLWCUPDX GLWCUPDX
        clusterroles.rbac.authorization.k8s.io              -------- -------- -------- GLWCUPDX
        clusterrolebindings.rbac.authorization.k8s.io       -------- -------- -------- GLWCUPDX
        tokens.evenkeel.dev                                 -------- -------- -------- GLWCUPDX
        customresourcedefinitions.apiextensions.k8s.io      -------- -------- -------- GLWCUPDX
        /                                                   -        -        -        G
        /api                                                G        G        G        G
        /apis/apps/v1                                       G        G        G        G
        /openapi/v2                                         G        G        G        G
        /metrics                                            -        -        -        G
        selfsubjectreviews                                  C        C        C        C
        selfsubjectaccessreviews                            C        C        C        C
        selfsubjectrulesreviews                             C        C        C        C
        subjectaccessreviews                                -        -        -        C
        localsubjectaccessreviews                           -        -        C        C
    "#]]
    .assert_eq(&table);
}

/// Regression 172: exec comes by GET (S24). A role that may `get` everything must not enter a container by it.
#[test]
fn to_enter_a_container_is_to_create_whatever_the_method() {
    let look = json!({
        "metadata": {"name": "look"},
        "rules": [{"verbs": ["get", "list", "watch"], "apiGroups": ["*"], "resources": ["*"]}],
    });
    let rules = rules(vec![("clusterroles", "", look), ("clusterrolebindings", "", binding("look", "eve"))]);
    for (part, expected) in [("log", true), ("exec", false), ("attach", false), ("portforward", false)] {
        let path = format!("/api/v1/namespaces/n/pods/p/{part}");
        assert_eq!(may(&rules, "eve", "GET", &path), expected, "{part}");
    }
}

#[test]
fn a_role_counts_where_it_is_bound() {
    let names = json!({
        "metadata": {"name": "one"},
        "rules": [
            {"verbs": ["get", "list", "watch", "create"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"]},
            {"verbs": ["update"], "apiGroups": ["*"], "resources": ["*/scale"]},
        ],
    });
    let mut to_role = binding("one", "ann");
    to_role["roleRef"]["kind"] = "Role".into();
    let rules = rules(vec![
        ("roles", "n", names),
        ("rolebindings", "n", to_role),
        ("rolebindings", "n", binding("view", "ann")),
        ("rolebindings", "n", binding("cluster-admin", "boss")),
    ]);
    let at = |method: &str, path: &str| may(&rules, "ann", method, path);
    let (here, there) = ("/api/v1/namespaces/n", "/api/v1/namespaces/m");
    assert!(at("GET", &format!("{here}/pods")) && !at("GET", &format!("{there}/pods")) && !at("GET", "/api/v1/pods"));
    assert!(at("GET", &format!("{here}/secrets/a")) && !at("GET", &format!("{here}/secrets/b")));
    let one = format!("{here}/secrets?watch=1&fieldSelector=metadata.name");
    assert!(
        at("GET", &format!("{one}%3Da")) && !at("GET", &format!("{one}%3Db")) && !at("GET", &format!("{one}!%3Da"))
    );
    assert!(!at("GET", &format!("{one}%3Da,metadata.namespace%3Dn")), "only the plain form names one object");
    assert!(!at("POST", &format!("{here}/secrets")), "a name of something new is not known yet");
    let scale = "/apis/apps/v1/namespaces/n/deployments/web/scale";
    assert!(at("PUT", scale) && !at("PUT", scale.trim_end_matches("/scale")));
    assert!(
        at("GET", "/api/v1/namespaces/n") && !at("GET", "/api/v1/namespaces/m") && !at("GET", "/api/v1/namespaces")
    );
    let boss = |method: &str, path: &str| may(&rules, "boss", method, path);
    assert!(boss("DELETE", &format!("{here}/secrets/a")) && boss("PATCH", "/api/v1/namespaces/n"));
    assert!(!boss("GET", "/api/v1/nodes") && !boss("POST", "/apis/evenkeel.dev/v1alpha1/tokens"));
}

/// Regression 176: nobody grants more than they have, by any of the ways there are.
#[test]
fn nobody_grants_more_than_they_have() {
    let bind = json!({
        "metadata": {"name": "binder"},
        "rules": [{"verbs": ["bind"], "apiGroups": [GROUP], "resources": ["clusterroles"], "resourceNames": ["edit"]}],
    });
    let odd = json!({
        "metadata": {"name": "odd"},
        "rules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "resourceNames": [""]}],
    });
    let rules = rules(vec![
        ("clusterroles", "", bind),
        ("clusterroles", "", odd),
        ("rolebindings", "n", binding("admin", "ann")),
        ("clusterrolebindings", "", binding("binder", "bob")),
        ("clusterrolebindings", "", binding("odd", "odd")),
    ]);
    let role =
        |namespace: &str, rule: Value| json!({"metadata": {"name": "r", "namespace": namespace}, "rules": [rule]});
    let judge = |name: &str, resource: &str, old: Option<&Value>, new: &Value| {
        escalation::judge(&rules, &user(name), &format!("{resource}.{GROUP}"), old, new).is_ok()
    };
    let pods = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]});
    let nodes = json!({"verbs": ["patch"], "apiGroups": [""], "resources": ["nodes"]});
    let all = json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]});
    assert!(judge("ann", "roles", None, &role("n", pods.clone())));
    assert!(!judge("ann", "roles", None, &role("m", pods.clone())), "she has nothing there");
    assert!(!judge("ann", "clusterroles", None, &role("n", pods.clone())), "a namespace in it does not make it less");
    assert!(
        !judge("ann", "roles", None, &role("n", nodes.clone()))
            && !judge("ann", "roles", None, &role("n", all.clone()))
    );
    assert!(
        judge("ann", "roles", Some(&role("n", nodes.clone())), &role("n", nodes.clone())),
        "nothing is granted anew"
    );
    assert!(!judge("odd", "clusterroles", None, &role("", all)), "all objects are more than those without a name");

    let to = |role: &str, namespace: &str| {
        let mut binding = binding(role, "eve");
        binding["metadata"]["namespace"] = namespace.into();
        binding
    };
    assert!(
        judge("ann", "rolebindings", None, &to("view", "n")) && judge("ann", "rolebindings", None, &to("admin", "n"))
    );
    assert!(!judge("ann", "rolebindings", None, &to("view", "m")));
    assert!(!judge("ann", "clusterrolebindings", None, &to("view", "n")));
    assert!(!judge("ann", "rolebindings", None, &to("cluster-admin", "n")));
    assert!(!judge("ann", "rolebindings", None, &to("missing", "n")), "somebody may make it later");
    assert!(
        judge("bob", "rolebindings", None, &to("edit", "n")) && !judge("bob", "rolebindings", None, &to("admin", "n"))
    );
    let master = User::new("root", vec![MASTERS.to_owned()], Via::Socket, None);
    assert!(
        escalation::judge(&rules, &master, &format!("clusterrolebindings.{GROUP}"), None, &to("cluster-admin", ""))
            .is_ok()
    );
}

#[test]
fn a_role_is_refused_where_it_cannot_be_meant() {
    let resource = registry::find(GROUP, "v1", "roles").unwrap();
    let cluster = registry::find(GROUP, "v1", "clusterroles").unwrap();
    let paths = |resource: &crate::api::resource::Resource, rule: Value| {
        let problems = (resource.validate)(&json!({"metadata": {"name": "r"}, "rules": [rule]}));
        problems.into_iter().map(|one| one.path).collect::<Vec<_>>()
    };
    let many: Vec<String> = (0..65).map(|n| format!("r{n}")).collect();
    assert_eq!(paths(resource, json!({"verbs": [], "apiGroups": [""], "resources": ["pods"]})), ["rules[0].verbs"]);
    assert_eq!(paths(resource, json!({"verbs": ["get"], "resources": ["pods"]})), ["rules[0].apiGroups"]);
    assert_eq!(paths(resource, json!({"verbs": ["get"], "nonResourceURLs": ["/x"]})), ["rules[0].nonResourceURLs"]);
    assert_eq!(paths(cluster, json!({"verbs": ["get"], "nonResourceURLs": ["/x/*"]})), Vec::<String>::new());
    assert_eq!(paths(cluster, json!({"verbs": ["get"], "nonResourceURLs": ["x*y"]})), ["rules[0].nonResourceURLs"]);
    assert_eq!(paths(cluster, json!({"verbs": many, "apiGroups": [""], "resources": many})), ["rules[0]"]);
    let bindings = registry::find(GROUP, "v1", "rolebindings").unwrap();
    let mut binding = binding("view", "ann");
    binding["subjects"] = json!([{"kind": "ServiceAccount", "name": "x"}, {"kind": "User", "name": ""}]);
    (bindings.fill_in)(&mut binding);
    let problems: Vec<String> = (bindings.validate)(&binding).into_iter().map(|one| one.path).collect();
    assert_eq!(problems, ["subjects[0].kind", "subjects[1].name"]);
}

fn words(of: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(prop::sample::select(of).prop_map(str::to_owned), 1..3)
}

fn some_rule() -> impl Strategy<Value = Rule> {
    let names = prop::collection::vec(prop::sample::select(&["a", "b"][..]).prop_map(str::to_owned), 0..2);
    let resources = words(&["*", "pods", "pods/exec", "*/scale", "deployments/scale", "secrets"]);
    (words(&["*", "get", "create"]), words(&["*", "", "apps"]), resources, names).prop_map(
        |(verbs, api_groups, resources, resource_names)| Rule {
            verbs,
            api_groups,
            resources,
            resource_names,
            ..Rule::default()
        },
    )
}

fn something() -> impl Strategy<Value = Attributes> {
    let one = |of: &'static [&'static str]| prop::sample::select(of).prop_map(str::to_owned);
    let parts = (one(&["pods", "secrets", "deployments", "new"]), one(&["", "exec", "scale"]));
    (one(&["get", "create", "list"]), one(&["", "apps", "x"]), parts, one(&["", "a", "c"])).prop_map(
        |(verb, group, (resource, subresource), name)| Attributes {
            verb,
            group,
            resource,
            subresource,
            name,
            ..Attributes::default()
        },
    )
}

proptest! {
    /// If a role is covered by what its writer has, it allows nothing that the writer may not do.
    #[test]
    fn what_is_covered_allows_no_more(own in prop::collection::vec(some_rule(), 1..4), wanted in some_rule(), asked in something()) {
        let own: Vec<&Rule> = own.iter().collect();
        if uncovered(&own, &wanted).is_none() && allows(&wanted, &asked) {
            prop_assert!(own.iter().any(|rule| allows(rule, &asked)), "{asked:?}");
        }
    }
}

#[test]
fn each_role_has_all_of_the_one_before() {
    let roles = builtin::roles();
    let of = |name: &str| &roles.iter().find(|(found, _)| *found == name).unwrap().1;
    for pair in ROLES.windows(2) {
        let more: Vec<&Rule> = of(pair[1]).iter().collect();
        let missing: Vec<String> = of(pair[0]).iter().filter_map(|rule| uncovered(&more, rule)).collect();
        assert_eq!(missing, Vec::<String>::new(), "{pair:?}");
        let less: Vec<&Rule> = of(pair[0]).iter().collect();
        assert!(of(pair[1]).iter().any(|rule| uncovered(&less, rule).is_some()), "{pair:?} are not the same");
    }
}
