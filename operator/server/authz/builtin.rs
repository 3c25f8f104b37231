//! The roles and bindings that always exist, as Kubernetes has them: nobody can change them. Pure.

use serde_json::{Value, json};

use super::rules::RESOURCES;
use crate::api::rbac::{GROUP, Rule};
use crate::server::authn::user::{AUTHENTICATED, MASTERS};
use crate::store::Key;

const READ: &[&str] = &["get", "list", "watch"];
const CHANGE: &[&str] = &["create", "update", "patch", "delete", "deletecollection"];
const CREATE: &[&str] = &["create"];
const CORE: &[&str] = &[""];
const APPS: &[&str] = &["apps"];
const OURS: &[&str] = &["evenkeel.dev"];

/// What `view` reads: all but Secrets, and what shows how to reach them.
const SEEN: &[&str] = &["configmaps", "events", "namespaces", "nodes", "pods", "pods/log", "pods/status", "services"];
/// What `view` reads of applications.
const SEEN_APPS: &[&str] = &[
    "deployments",
    "deployments/scale",
    "deployments/status",
    "replicasets",
    "replicasets/scale",
    "replicasets/status",
];
/// What `view` reads of Evenkeel's kinds.
const SEEN_OURS: &[&str] = &[
    "backups",
    "backups/status",
    "databaserestores",
    "databaserestores/status",
    "volumerestores",
    "volumerestores/status",
    "dockerhosts",
    "dockerhosts/status",
    "loadbalancers",
    "loadbalancers/status",
    "postgresclusters",
    "postgresclusters/status",
    "redisclusters",
    "redisclusters/status",
    "redissentinels",
    "redissentinels/status",
    "scheduledbackups",
    "scheduledbackups/status",
];

fn rule(verbs: &[&str], groups: &[&str], resources: &[&str]) -> Rule {
    let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    Rule { verbs: texts(verbs), api_groups: texts(groups), resources: texts(resources), ..Rule::default() }
}

fn paths(verbs: &[&str], paths: &[&str]) -> Rule {
    Rule { non_resource_urls: rule(&[], &[], paths).resources, ..rule(verbs, &[], &[]) }
}

fn view() -> Vec<Rule> {
    vec![
        rule(READ, CORE, SEEN),
        rule(READ, APPS, SEEN_APPS),
        rule(READ, OURS, SEEN_OURS),
        rule(READ, &["coordination.k8s.io"], &["leases"]),
    ]
}

/// Who may run containers in a namespace can read its Secrets there, so `edit` may read them anyway. Hosts, namespaces and
/// Tokens are not in it: who writes a DockerHost is told every password.
fn edit() -> Vec<Rule> {
    let mut rules = view();
    rules.extend([
        rule(READ, CORE, &["secrets"]),
        rule(CHANGE, CORE, &["configmaps", "events", "pods", "secrets", "services"]),
        rule(CREATE, CORE, &["pods/attach", "pods/eviction", "pods/exec", "pods/portforward"]),
        rule(CHANGE, APPS, &["deployments", "deployments/scale", "replicasets", "replicasets/scale"]),
        rule(
            CHANGE,
            OURS,
            &[
                "backups",
                "databaserestores",
                "volumerestores",
                "loadbalancers",
                "postgresclusters",
                "redisclusters",
                "redissentinels",
                "scheduledbackups",
            ],
        ),
        rule(CHANGE, &["coordination.k8s.io"], &["leases"]),
    ]);
    rules
}

fn admin() -> Vec<Rule> {
    let mut rules = edit();
    rules.extend([
        rule(READ, &[GROUP], &["roles", "rolebindings"]),
        rule(CHANGE, &[GROUP], &["roles", "rolebindings"]),
        rule(CREATE, &["authorization.k8s.io"], &["localsubjectaccessreviews"]),
    ]);
    rules
}

/// The ClusterRoles.
pub fn roles() -> [(&'static str, Vec<Rule>); 6] {
    let open =
        ["/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz", "/version"];
    let reviews = ["selfsubjectaccessreviews", "selfsubjectrulesreviews"];
    [
        ("cluster-admin", vec![rule(&["*"], &["*"], &["*"]), paths(&["*"], &["*"])]),
        ("admin", admin()),
        ("edit", edit()),
        ("view", view()),
        (
            "system:basic-user",
            vec![
                rule(CREATE, &["authorization.k8s.io"], &reviews),
                rule(CREATE, &["authentication.k8s.io"], &["selfsubjectreviews"]),
            ],
        ),
        ("system:discovery", vec![paths(&["get"], &open)]),
    ]
}

/// The ClusterRoleBindings: the name, which is that of the role, and the group.
const BINDINGS: [(&str, &str); 3] =
    [("cluster-admin", MASTERS), ("system:basic-user", AUTHENTICATED), ("system:discovery", AUTHENTICATED)];

/// Everything that always exists, as it is stored.
pub fn objects() -> Vec<(Key, Value)> {
    let object = |kind: &str, name: &str| {
        json!({
            "apiVersion": format!("{GROUP}/v1"), "kind": kind,
            "metadata": {"name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}},
        })
    };
    let roles = roles().into_iter().map(|(name, rules)| {
        let mut role = object("ClusterRole", name);
        role["rules"] = json!(rules);
        (Key::new(RESOURCES[1], "", name), role)
    });
    let bindings = BINDINGS.into_iter().map(|(name, group)| {
        let mut binding = object("ClusterRoleBinding", name);
        binding["roleRef"] = json!({"apiGroup": GROUP, "kind": "ClusterRole", "name": name});
        binding["subjects"] = json!([{"apiGroup": GROUP, "kind": "Group", "name": group}]);
        (Key::new(RESOURCES[3], "", name), binding)
    });
    roles.chain(bindings).collect()
}

/// Whether it always exists, and so cannot be written.
pub fn is_builtin(key: &Key) -> bool {
    match key.resource.as_str() {
        resource if resource == RESOURCES[1] => roles().iter().any(|(name, _)| *name == key.name),
        resource if resource == RESOURCES[3] => BINDINGS.iter().any(|(name, _)| *name == key.name),
        _ => false,
    }
}
