//! Role, ClusterRole, RoleBinding, ClusterRoleBinding: who may do what. Their rules of form; `server/authz` applies them.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::invalid::Invalid;
use super::resource::{Resource, age_column, of, path, plain, strings, text};

/// The API group.
pub const GROUP: &str = "rbac.authorization.k8s.io";
/// Limit of the number of rules of a role, and of subjects of a binding.
const MOST: usize = 256;
/// Limit of the combinations of verb, group, resource and name in one rule: each is judged when a role is written.
const MOST_COMBINATIONS: usize = 4096;
/// A role that others refer to cannot become another one: bindings to it would grant what nobody has agreed to.
const FIXED: &str = "cannot be changed; delete the binding and create another";

/// What a role allows: each of these verbs on each of these resources, or on these paths.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    /// `get`, `list` ..., or `*`.
    pub verbs: Vec<String>,
    /// API groups, or `*`; empty for the core group.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    /// `pods`, `pods/log`, `*/scale`, or `*` for all with their subresources.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// The objects; empty for all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    /// Paths outside the objects, such as `/version`; `/apis/*` for all below it.
    #[serde(rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    pub non_resource_urls: Vec<String>,
}

/// Whom a binding is for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Subject {
    /// `User` or `Group`.
    pub kind: String,
    /// The name.
    pub name: String,
}

/// The role of a binding.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RoleRef {
    /// `Role` or `ClusterRole`.
    pub kind: String,
    /// The name.
    pub name: String,
}

/// The rules of a role.
pub fn rules_of(role: &Value) -> Vec<Rule> {
    serde_json::from_value(role["rules"].clone()).unwrap_or_default()
}

/// Roles of a namespace.
pub fn role() -> Resource {
    of_rules("Role", "roles", true)
}

/// Roles for all namespaces, for what is in none, and for paths.
pub fn cluster_role() -> Resource {
    of_rules("ClusterRole", "clusterroles", false)
}

/// Bindings in a namespace.
pub fn role_binding() -> Resource {
    of_subjects("RoleBinding", "rolebindings", true)
}

/// Bindings everywhere.
pub fn cluster_role_binding() -> Resource {
    of_subjects("ClusterRoleBinding", "clusterrolebindings", false)
}

fn of_rules(kind: &'static str, plural: &str, namespaced: bool) -> Resource {
    let rule = json!({"type": "object", "required": ["verbs"], "properties": {
        "verbs": strings(), "apiGroups": strings(), "resources": strings(), "resourceNames": strings(),
        "nonResourceURLs": strings(),
    }});
    Resource {
        group: GROUP.into(),
        namespaced,
        columns: vec![path("Created At", "string", ".metadata.creationTimestamp")],
        validate: Box::new(move |role| rule_problems(role, !namespaced)),
        ..plain(kind, plural, json!({"rules": {"type": "array", "items": rule, "nullable": true}}), &[])
    }
}

fn of_subjects(kind: &'static str, plural: &str, namespaced: bool) -> Resource {
    let subject = json!({"type": "object", "required": ["kind", "name"], "properties": {
        "kind": text(), "apiGroup": text(), "name": text(), "namespace": text(),
    }});
    let role = json!({"type": "object", "required": ["kind", "name"], "properties": {
        "apiGroup": text(), "kind": text(), "name": text(),
    }});
    let properties = json!({"subjects": {"type": "array", "items": subject, "nullable": true}, "roleRef": role});
    Resource {
        group: GROUP.into(),
        namespaced,
        columns: vec![of("Role", "string", role_cell), age_column(), of("Subjects", "string", subjects_cell)],
        fill_in: fill_in_groups,
        validate: Box::new(move |binding| binding_problems(binding, namespaced)),
        validate_change: |old, new| {
            let same = old["roleRef"] == new["roleRef"];
            (!same).then(|| Invalid::new("roleRef", FIXED)).into_iter().collect()
        },
        ..plain(kind, plural, properties, &["roleRef"])
    }
}

fn role_cell(binding: &Value) -> Value {
    let part = |name: &str| binding["roleRef"][name].as_str().unwrap_or_default();
    format!("{}/{}", part("kind"), part("name")).into()
}

fn subjects_cell(binding: &Value) -> Value {
    let subjects = binding["subjects"].as_array().into_iter().flatten();
    let part = |subject: &Value, name: &str| subject[name].as_str().unwrap_or_default().to_owned();
    let shown = subjects.map(|subject| format!("{}/{}", part(subject, "kind"), part(subject, "name")));
    shown.collect::<Vec<_>>().join(", ").into()
}

/// The API group of the role and of the subjects, which users may leave out.
fn fill_in_groups(binding: &mut Value) {
    let subjects = binding["subjects"].as_array_mut().map(|list| list.iter_mut().collect::<Vec<_>>());
    let mut each = subjects.unwrap_or_default();
    let fill = |reference: &mut Value| {
        if let Some(fields) = reference.as_object_mut().filter(|f| f.get("apiGroup").is_none_or(|group| group == "")) {
            fields.insert("apiGroup".into(), GROUP.into());
        }
    };
    each.drain(..).for_each(fill);
    if binding["roleRef"].is_object() {
        fill(&mut binding["roleRef"]);
    }
}

fn rule_problems(role: &Value, may_have_paths: bool) -> Vec<Invalid> {
    let rules = rules_of(role);
    let mut problems = Vec::new();
    if rules.len() > MOST {
        problems.push(Invalid::new("rules", format!("must be no more than {MOST}")));
    }
    for (index, rule) in rules.iter().enumerate().take(MOST) {
        let mut wrong = |field: &str, message: &str| {
            problems.push(Invalid::new(format!("rules[{index}]{field}"), message));
        };
        if rule.verbs.is_empty() {
            wrong(".verbs", "must contain at least one verb");
        }
        let sizes = [&rule.verbs, &rule.api_groups, &rule.resources, &rule.resource_names, &rule.non_resource_urls];
        let combinations = sizes.iter().map(|list| list.len().max(1)).fold(1, usize::saturating_mul);
        if combinations > MOST_COMBINATIONS {
            wrong(
                "",
                &format!("combines {combinations} verbs, groups, resources and names; {MOST_COMBINATIONS} are allowed"),
            );
        }
        match (rule.resources.is_empty(), rule.non_resource_urls.is_empty()) {
            (_, false) if !may_have_paths => wrong(".nonResourceURLs", "is for a ClusterRole; a Role is for objects"),
            (false, false) => wrong("", "must be for resources or for nonResourceURLs, not for both"),
            (true, true) => wrong(".resources", "must contain at least one resource"),
            (false, true) if rule.api_groups.is_empty() => {
                wrong(".apiGroups", "must contain at least one group; \"\" is the core group");
            }
            _ => {}
        }
        if rule.resource_names.iter().any(String::is_empty) {
            wrong(".resourceNames", "a name must not be empty; without resourceNames the rule is for all objects");
        }
        for path in &rule.non_resource_urls {
            let inner = path.strip_suffix('*').unwrap_or(path);
            if path != "*" && (!path.starts_with('/') || inner.contains('*')) {
                wrong(".nonResourceURLs", "a path must begin with '/', and may have '*' at its end only");
            }
        }
    }
    problems
}

fn binding_problems(binding: &Value, namespaced: bool) -> Vec<Invalid> {
    let mut problems = Vec::new();
    let subjects = binding["subjects"].as_array().map(Vec::as_slice).unwrap_or_default();
    if subjects.len() > MOST {
        problems.push(Invalid::new("subjects", format!("must be no more than {MOST}")));
    }
    for (index, subject) in subjects.iter().enumerate().take(MOST) {
        let at = |field: &str| format!("subjects[{index}].{field}");
        match subject["kind"].as_str().unwrap_or_default() {
            "User" | "Group" => {}
            "ServiceAccount" => problems.push(Invalid::new(
                at("kind"),
                "there are no ServiceAccounts here; name a User or a Group, and make it a Token",
            )),
            _ => problems.push(Invalid::new(at("kind"), "must be User or Group")),
        }
        if subject["name"].as_str().is_none_or(str::is_empty) {
            problems.push(Invalid::new(at("name"), "must not be empty"));
        }
        if subject.get("namespace").is_some() {
            problems.push(Invalid::new(at("namespace"), "a User or a Group is in no namespace"));
        }
        problems.extend(group_problem(&at("apiGroup"), subject));
    }
    let role = &binding["roleRef"];
    match role["kind"].as_str().unwrap_or_default() {
        "ClusterRole" => {}
        "Role" if namespaced => {}
        "Role" => problems.push(Invalid::new("roleRef.kind", "must be ClusterRole: a Role is for its namespace only")),
        _ => problems.push(Invalid::new("roleRef.kind", "must be ClusterRole or Role")),
    }
    if role["name"].as_str().is_none_or(str::is_empty) {
        problems.push(Invalid::new("roleRef.name", "must not be empty"));
    }
    problems.extend(group_problem("roleRef.apiGroup", role));
    problems
}

fn group_problem(path: &str, reference: &Value) -> Option<Invalid> {
    (reference["apiGroup"] != GROUP).then(|| Invalid::new(path, format!("must be {GROUP}")))
}
