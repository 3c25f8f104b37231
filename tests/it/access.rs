//! Who may do what, over real TLS: tokens, certificates, roles, and streams that end with them.
#![allow(clippy::unwrap_used)]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use evenkeel::api::cluster::REMOVE_STOLEN;
use evenkeel::api::registry;
use evenkeel::runtime::clock::{Clock as _, SystemClock};
use evenkeel::store::Key;
use reqwest::Method;
use serde_json::{Value, json};

use super::api_pods::{PODS, with_pods};
use super::api_server::{Answer, Api, answer};

const TOKENS: &str = "/apis/evenkeel.dev/v1alpha1/tokens";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";

/// In an hour.
fn soon() -> String {
    (SystemClock.now() + jiff::SignedDuration::from_hours(1)).to_string()
}

fn token(name: &str, groups: &[&str]) -> Value {
    json!({
        "apiVersion": "evenkeel.dev/v1alpha1", "kind": "Token", "metadata": {"name": name},
        "spec": {"user": name, "groups": groups, "expires": soon()},
    })
}

/// A new token of the user with this name.
async fn bearer(api: &Api, name: &str, groups: &[&str]) -> String {
    let made = api.post(TOKENS, &token(name, groups)).await;
    assert_eq!(made.code, 201, "{}", made.body);
    made.body["status"]["token"].as_str().unwrap().to_owned()
}

/// Binds a ClusterRole to a user, everywhere.
async fn bind(api: &Api, role: &str, user: &str) {
    let binding = json!({
        "metadata": {"name": format!("{user}-{role}")},
        "roleRef": {"kind": "ClusterRole", "name": role}, "subjects": [{"kind": "User", "name": user}],
    });
    let made = api.post(&format!("{RBAC}/clusterrolebindings"), &binding).await;
    assert_eq!(made.code, 201, "{}", made.body);
}

async fn ask(api: &Api, token: &str, method: Method, path: &str, body: &Value) -> Answer {
    let request = api.http.request(method.clone(), format!("{}{path}", api.url)).bearer_auth(token);
    answer(if method == Method::GET { request } else { request.json(body) }).await
}

async fn get(api: &Api, token: &str, path: &str) -> Answer {
    ask(api, token, Method::GET, path, &json!({})).await
}

/// Regression 170, over the wire: `view` reads no Secret by any route of the registry, in any format.
#[tokio::test]
async fn a_viewer_learns_no_secret_by_any_route() {
    let api = with_pods().await;
    let viewer = bearer(&api, "eve", &[]).await;
    bind(&api, "view", "eve").await;
    let canary = "CANARY-9f3c";
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"password": canary}});
    assert_eq!(api.post(SECRETS, &secret).await.code, 201);
    let formats = [
        "application/json",
        "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
        "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json",
        "application/vnd.kubernetes.protobuf,application/json",
    ];
    let looks = registry::resources().iter().map(async |resource| {
        let mut seen = 0;
        let root = if resource.group.is_empty() { "api" } else { "apis" };
        let start = format!("/{root}/{}", resource.api_version());
        let one = if resource.namespaced { "/namespaces/default" } else { "" };
        for path in [
            format!("{start}/{}", resource.plural),
            format!("{start}{one}/{}", resource.plural),
            format!("{start}{one}/{}/s", resource.plural),
            format!("{start}/{}?watch=true&timeoutSeconds=1", resource.plural),
            format!("{start}{one}/{}/s/status", resource.plural),
        ] {
            for format in formats {
                let request = api.http.get(format!("{}{path}", api.url)).bearer_auth(&viewer).header("Accept", format);
                let found = answer(request).await;
                let text = found.body.to_string();
                assert!(!text.contains(canary) && !text.contains(&STANDARD.encode(canary)), "{path} {format}");
                assert!(resource.plural != "secrets" || matches!(found.code, 403 | 404), "{path}: {}", found.code);
                seen += usize::from(found.code == 200);
            }
        }
        seen
    });
    let seen: usize = futures::future::join_all(looks).await.into_iter().sum();
    assert!(seen > 50, "a viewer sees the rest: {seen}");
    for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
        let path = if method == Method::POST { SECRETS.to_owned() } else { format!("{SECRETS}/s") };
        let refused = ask(&api, &viewer, method, &format!("{path}?dryRun=All"), &secret).await;
        assert_eq!((refused.code, &refused.body["reason"]), (403, &json!("Forbidden")));
    }
    let refused = get(&api, &viewer, &format!("{SECRETS}/s")).await.body;
    let words = "secrets \"s\" is forbidden: User \"eve\" cannot get resource \"secrets\" in API group \"\" in the \
                 namespace \"default\"";
    assert_eq!(refused["message"], words);
    for part in ["exec?command=id", "attach", "portforward?ports=80"] {
        assert_eq!(get(&api, &viewer, &format!("{PODS}/web-aa-1/{part}")).await.code, 403, "{part}");
    }
    assert_eq!(get(&api, &viewer, &format!("{PODS}/web-aa-1/log?container=main")).await.code, 200);
}

/// Regression 171: a token could not be taken back (S11). A revoked one is out at once, and so is each watch that it opened;
/// a watch ends, too, when the rule that allowed it is gone.
#[tokio::test]
async fn a_revoked_token_is_out_and_its_watches_with_it() {
    let api = Api::start().await;
    let (first, second) = (bearer(&api, "ann", &[]).await, bearer(&api, "ann2", &[]).await);
    bind(&api, "view", "ann").await;
    bind(&api, "view", "ann2").await;
    let watch = format!("{MAPS}?watch=true");
    let (mut of_first, mut of_second) = (api.watch_as(&first, &watch).await, api.watch_as(&second, &watch).await);
    assert_eq!(api.post(MAPS, &json!({"metadata": {"name": "a"}})).await.code, 201);
    assert_eq!((of_first.told().await, of_second.told().await), ("ADDED a".to_owned(), "ADDED a".to_owned()));

    assert_eq!(api.delete(&format!("{TOKENS}/ann")).await.code, 200);
    assert_eq!(get(&api, &first, MAPS).await.code, 401);
    assert_eq!(of_first.next().await, None, "the watch has ended");
    // The other one goes on, until its rule is gone.
    assert_eq!(api.post(MAPS, &json!({"metadata": {"name": "b"}})).await.code, 201);
    assert_eq!(of_second.told().await, "ADDED b");
    assert_eq!(api.delete(&format!("{RBAC}/clusterrolebindings/ann2-view")).await.code, 200);
    assert_eq!(get(&api, &second, MAPS).await.code, 403);
    assert_eq!(of_second.next().await, None);
}

/// Regression 171, for those who delete the Token without a request: the janitor, another part of the operator.
#[tokio::test]
async fn a_token_that_is_deleted_in_the_store_is_out_too() {
    let api = Api::start().await;
    let bearer = bearer(&api, "ann", &[]).await;
    bind(&api, "view", "ann").await;
    let mut watch = api.watch_as(&bearer, &format!("{MAPS}?watch=true")).await;
    let key = Key::new("tokens.evenkeel.dev", "", "ann");
    api.objects.delete(&key, &evenkeel::store::objects::Preconditions::default()).await.unwrap();
    assert_eq!(watch.next().await, None);
    assert_eq!(get(&api, &bearer, MAPS).await.code, 401);
}

/// Regression 177: a Token's secret is shown once, and only its hash is kept, where no route leads.
#[tokio::test]
async fn a_token_is_shown_once_and_made_only_by_who_may_do_everything() {
    let api = Api::start().await;
    let secret = bearer(&api, "ann", &["ops"]).await;
    assert!(secret.starts_with("evk_") && secret.len() == 4 + 32 + 1 + 43, "{}", secret.len());
    for path in [TOKENS.to_owned(), format!("{TOKENS}/ann"), format!("{TOKENS}?watch=true&timeoutSeconds=1")] {
        let text = api.get(&path).await.body.to_string();
        assert!(!text.contains("sha256") && !text.contains(&secret[37..]), "{text}");
    }
    let everything = api.objects.store().all().await.unwrap();
    let text: String = everything.iter().map(|(_, value)| value.to_string()).collect();
    assert!(!text.contains(&secret[37..]) && text.contains("sha256"), "the store has the hash alone");

    let rule = json!({"verbs": ["*"], "apiGroups": ["evenkeel.dev"], "resources": ["*"]});
    let role = json!({"metadata": {"name": "maker"}, "rules": [rule]});
    assert_eq!(api.post(&format!("{RBAC}/clusterroles"), &role).await.code, 201);
    bind(&api, "maker", "ann").await;
    assert_eq!(get(&api, &secret, TOKENS).await.code, 200);
    for (path, body) in [
        (TOKENS, token("more", &["system:masters"])),
        (TOKENS, token("same", &[])),
        ("/evenkeel/v1/clientcertificates", json!({"user": "x", "seconds": 60})),
        ("/evenkeel/v1/admintoken", json!({})),
        (REMOVE_STOLEN, json!({"node": "x"})),
    ] {
        assert_eq!(ask(&api, &secret, Method::POST, path, &body).await.code, 403, "{path}");
    }
    assert_eq!(ask(&api, &secret, Method::DELETE, &format!("{TOKENS}/ann"), &json!({})).await.code, 403);
    // Who may do everything by a rule may make tokens, too.
    bind(&api, "cluster-admin", "ann").await;
    assert_eq!(ask(&api, &secret, Method::POST, TOKENS, &token("same", &[])).await.code, 201);

    let mut bad = token("bad", &["system:nodes"]);
    bad["spec"]["user"] = "system:admin".into();
    let refused = api.post(TOKENS, &bad).await;
    let fields: Vec<&Value> =
        refused.body["details"]["causes"].as_array().unwrap().iter().map(|cause| &cause["field"]).collect();
    assert_eq!((refused.code, fields), (422, vec![&json!("spec.user"), &json!("spec.groups[0]")]));
    for expires in ["2020-01-01T00:00:00Z", "2999-01-01T00:00:00Z", "tomorrow"] {
        let mut bad = token("bad", &[]);
        bad["spec"]["expires"] = expires.into();
        assert_eq!(api.post(TOKENS, &bad).await.code, 422, "{expires}");
    }
    assert_eq!(api.patch("merge", &format!("{TOKENS}/ann"), &json!({"spec": {"user": "root"}})).await.code, 405);
    let dry = api.post(&format!("{TOKENS}?dryRun=All"), &token("dry", &[])).await;
    assert_eq!((dry.code, dry.body.get("status")), (201, None));
}

/// Regression 178: what `kubectl auth can-i` and `whoami` were told was true for one user only (S11). The function that judges
/// requests answers now.
#[tokio::test]
async fn reviews_tell_the_truth() {
    let api = Api::start().await;
    let ann = bearer(&api, "ann", &["ops"]).await;
    bind(&api, "edit", "ann").await;
    let review = |plural: &str| match plural {
        "selfsubjectreviews" => "/apis/authentication.k8s.io/v1/selfsubjectreviews".to_owned(),
        other => format!("/apis/authorization.k8s.io/v1/{other}"),
    };
    let who = ask(&api, &ann, Method::POST, &review("selfsubjectreviews"), &json!({})).await.body;
    let groups = json!(["ops", "system:authenticated"]);
    assert_eq!(who["status"]["userInfo"], json!({"username": "ann", "groups": groups}));
    for (verb, method, path, group, resource) in [
        ("list", Method::GET, SECRETS, "", "secrets"),
        ("list", Method::GET, "/api/v1/nodes", "", "nodes"),
        ("list", Method::GET, TOKENS, "evenkeel.dev", "tokens"),
        ("create", Method::POST, MAPS, "", "configmaps"),
        ("create", Method::POST, "/api/v1/namespaces", "", "namespaces"),
        (
            "list",
            Method::GET,
            "/apis/rbac.authorization.k8s.io/v1/clusterroles",
            "rbac.authorization.k8s.io",
            "clusterroles",
        ),
    ] {
        let body = json!({"metadata": {"name": "x"}});
        let served = ask(&api, &ann, method, path, &body).await.code != 403;
        let namespace = if path.contains("/namespaces/default") { "default" } else { "" };
        let attributes = json!({"verb": verb, "group": group, "resource": resource, "namespace": namespace});
        let spec = json!({"spec": {"resourceAttributes": attributes}});
        let own = ask(&api, &ann, Method::POST, &review("selfsubjectaccessreviews"), &spec).await.body;
        assert_eq!(own["status"]["allowed"], served, "{verb} {resource}");
        let mut of_other = spec.clone();
        of_other["spec"]["user"] = "ann".into();
        let other = api.post(&review("subjectaccessreviews"), &of_other).await.body;
        assert_eq!(other["status"]["allowed"], served, "{verb} {resource}");
        assert_eq!(ask(&api, &ann, Method::POST, &review("subjectaccessreviews"), &of_other).await.code, 403);
    }
    // What is in no namespace is not allowed by a binding in one, also if the question names it.
    let binding = json!({
        "metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "Group", "name": "guests"}],
    });
    assert_eq!(api.post(&format!("{RBAC}/namespaces/default/rolebindings"), &binding).await.code, 201);
    for (resource, allowed) in [("nodes", false), ("pods", true)] {
        let attributes = json!({"verb": "list", "resource": resource, "namespace": "default"});
        let guest = json!({"spec": {"groups": ["guests"], "resourceAttributes": attributes}});
        let answer = api.post(&review("subjectaccessreviews"), &guest).await.body;
        assert_eq!(answer["status"]["allowed"], allowed, "{resource}");
    }
    let rules = json!({"spec": {"namespace": "default"}});
    let rules = ask(&api, &ann, Method::POST, &review("selfsubjectrulesreviews"), &rules).await.body;
    let rules = rules["status"]["resourceRules"].as_array().unwrap().clone();
    let has = |verb: &str, resource: &str| {
        let lists = |rule: &Value, field: &str, word: &str| rule[field].as_array().unwrap().contains(&json!(word));
        rules.iter().any(|rule| lists(rule, "verbs", verb) && lists(rule, "resources", resource))
    };
    assert!(has("delete", "secrets") && has("create", "selfsubjectreviews") && !has("create", "tokens"));
    let local = format!("/apis/authorization.k8s.io/v1/namespaces/{}/localsubjectaccessreviews", "default");
    let attributes = json!({"verb": "get", "resource": "pods", "namespace": "other"});
    let elsewhere = json!({"spec": {"user": "ann", "resourceAttributes": attributes}});
    assert_eq!(api.post(&local, &elsewhere).await.code, 422);
}

#[tokio::test]
async fn a_client_certificate_names_its_user() {
    let api = Api::start().await;
    let wanted = json!({"user": "jane", "groups": ["ops", "db"], "seconds": 3600});
    let made = api.post("/evenkeel/v1/clientcertificates", &wanted).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let part = |name: &str| STANDARD.decode(made.body["users"][0]["user"][name].as_str().unwrap()).unwrap();
    let ca = made.body["clusters"][0]["cluster"]["certificate-authority-data"].as_str().unwrap();
    let client = |pem: &[u8]| {
        let identity = reqwest::Identity::from_pem(pem).unwrap();
        let ca = reqwest::Certificate::from_pem(&STANDARD.decode(ca).unwrap()).unwrap();
        reqwest::Client::builder().no_proxy().tls_certs_only([ca]).identity(identity).build().unwrap()
    };
    let pem = [part("client-certificate-data"), part("client-key-data")].concat();
    let reviews = format!("{}/apis/authentication.k8s.io/v1/selfsubjectreviews", api.url);
    let who = answer(client(&pem).post(&reviews).json(&json!({}))).await.body;
    let groups = json!(["ops", "db", "system:authenticated"]);
    assert_eq!(who["status"]["userInfo"], json!({"username": "jane", "groups": groups}));
    assert_eq!(answer(client(&pem).get(format!("{}{SECRETS}", api.url))).await.code, 403);
    // What is sent explicitly counts, also if it is wrong.
    assert_eq!(answer(client(&pem).get(format!("{}{SECRETS}", api.url)).bearer_auth("wrong")).await.code, 401);
    let own = answer(client(&pem).get(format!("{}{SECRETS}", api.url)).bearer_auth(&api.token)).await;
    assert_eq!(own.code, 200);
    for bad in [json!({"user": "system:admin", "seconds": 60}), json!({"user": "x", "seconds": 40_000_000}), json!({})]
    {
        assert!(matches!(api.post("/evenkeel/v1/clientcertificates", &bad).await.code, 400 | 422), "{bad}");
    }
}

/// Regression 179: the administrator's token was for ever (S11). It is replaced while everybody works: the one before is
/// valid for an hour.
#[tokio::test]
async fn the_administrators_token_is_replaced_while_the_old_one_is_still_good() {
    let api = Api::start().await;
    let mut watch = api.watch(&format!("{MAPS}?watch=true")).await;
    let answered = api.post("/evenkeel/v1/admintoken", &json!({})).await;
    assert_eq!(answered.code, 201, "{}", answered.body);
    let text = std::fs::read_to_string(answered.body["kubeconfig"].as_str().unwrap()).unwrap();
    let kubeconfig: Value = serde_saphyr::from_str(&text).unwrap();
    let new = kubeconfig["users"][0]["user"]["token"].as_str().unwrap();
    assert_ne!(new, api.token);
    assert_eq!((get(&api, new, SECRETS).await.code, api.get(SECRETS).await.code), (200, 200));
    assert_eq!(api.post(MAPS, &json!({"metadata": {"name": "a"}})).await.code, 201);
    assert_eq!(watch.told().await, "ADDED a", "the watch goes on");
}

/// Regression 176, over the wire: an admin of a namespace cannot become more, and what always exists stays as it is.
#[tokio::test]
async fn nobody_becomes_more_than_they_are() {
    let api = Api::start().await;
    let ann = bearer(&api, "ann", &[]).await;
    let binding = |role: &str, name: &str| {
        json!({
            "metadata": {"name": name}, "roleRef": {"kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "User", "name": "ann"}],
        })
    };
    let here = format!("{RBAC}/namespaces/default/rolebindings");
    assert_eq!(api.post(&here, &binding("admin", "ann")).await.code, 201);
    let post = |path: String, body: Value| {
        let (api, ann) = (&api, &ann);
        async move { ask(api, ann, Method::POST, &path, &body).await }
    };
    assert_eq!(post(here.clone(), binding("edit", "more")).await.code, 201);
    let refused = post(here.clone(), binding("cluster-admin", "all")).await;
    assert_eq!(refused.code, 403, "{}", refused.body);
    assert_eq!(post(format!("{RBAC}/clusterrolebindings"), binding("view", "all")).await.code, 403);
    let role = json!({"metadata": {"name": "r"}, "rules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]});
    assert_eq!(post(format!("{RBAC}/namespaces/default/roles"), role.clone()).await.code, 403);
    let apply =
        api.http.patch(format!("{}{RBAC}/namespaces/default/roles/r?fieldManager=a", api.url)).bearer_auth(&ann);
    let applied = answer(apply.header("Content-Type", "application/apply-patch+yaml").body(role.to_string())).await;
    assert_eq!(applied.code, 403);
    let again = json!({"roleRef": {"kind": "ClusterRole", "name": "cluster-admin"}});
    assert_eq!(api.patch("merge", &format!("{here}/ann"), &again).await.code, 422, "a binding stays what it is");

    for builtin in ["clusterroles/view", "clusterroles/system:discovery", "clusterrolebindings/cluster-admin"] {
        let path = format!("{RBAC}/{builtin}");
        assert_eq!((api.get(&path).await.code, api.delete(&path).await.code), (200, 403), "{builtin}");
        assert_eq!(api.patch("merge", &path, &json!({"rules": []})).await.code, 403);
    }
    assert_eq!(api.delete(&format!("{RBAC}/clusterroles")).await.code, 200);
    assert_eq!(api.get(&format!("{RBAC}/clusterroles")).await.body["items"].as_array().unwrap().len(), 6);
}

/// An apply of something that is not there yet needs what a create needs.
#[tokio::test]
async fn who_may_only_patch_does_not_create_by_an_apply() {
    let api = Api::start().await;
    let rule = json!({"verbs": ["get", "patch"], "apiGroups": [""], "resources": ["configmaps"]});
    let role = json!({"metadata": {"name": "patcher"}, "rules": [rule]});
    assert_eq!(api.post(&format!("{RBAC}/clusterroles"), &role).await.code, 201);
    bind(&api, "patcher", "ann").await;
    let ann = bearer(&api, "ann", &[]).await;
    let apply = async |name: &str| {
        let request = api.http.patch(format!("{}{MAPS}/{name}?fieldManager=a", api.url)).bearer_auth(&ann);
        let body = json!({"data": {"k": "v"}}).to_string();
        answer(request.header("Content-Type", "application/apply-patch+yaml").body(body)).await.code
    };
    assert_eq!(apply("new").await, 403);
    assert_eq!(api.post(MAPS, &json!({"metadata": {"name": "there"}})).await.code, 201);
    assert_eq!(apply("there").await, 200);
}

#[tokio::test]
async fn the_example_is_accepted_and_does_what_it_says() {
    let api = Api::start().await;
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/examples/rbac.yaml")).unwrap();
    for document in text.split("\n---\n") {
        let object: Value = serde_saphyr::from_str(document).unwrap();
        let resource = registry::resources().iter().find(|resource| object["kind"] == resource.kind).unwrap();
        let root = if resource.group.is_empty() { "api" } else { "apis" };
        let place = if resource.namespaced { "namespaces/web/" } else { "" };
        let path = format!("/{root}/{}/{place}{}?fieldValidation=Strict", resource.api_version(), resource.plural);
        let made = api.post(&path, &object).await;
        assert_eq!(made.code, 201, "{path}: {}", made.body);
    }
    let team = bearer(&api, "bot", &["team-web"]).await;
    let auditor = bearer(&api, "auditor", &["auditors"]).await;
    let secrets = "/api/v1/namespaces/web/secrets";
    assert_eq!((get(&api, &team, secrets).await.code, get(&api, &auditor, secrets).await.code), (200, 403));
    assert_eq!((get(&api, &team, MAPS).await.code, get(&api, &auditor, MAPS).await.code), (403, 200));
}
