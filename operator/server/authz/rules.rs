//! The roles and bindings in force, and which rules a user has in a namespace. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::api::rbac::{self, RoleRef, Rule, Subject};
use crate::server::authn::user::User;
use crate::store::Key;

/// The resources that decide who may do what.
pub const RESOURCES: [&str; 4] = [
    "roles.rbac.authorization.k8s.io",
    "clusterroles.rbac.authorization.k8s.io",
    "rolebindings.rbac.authorization.k8s.io",
    "clusterrolebindings.rbac.authorization.k8s.io",
];

/// Roles and bindings.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// By namespace, which is empty for a ClusterRole, and name.
    roles: BTreeMap<(String, String), Vec<Rule>>,
    /// By namespace, which is empty for a ClusterRoleBinding.
    bindings: BTreeMap<String, Vec<Binding>>,
}

#[derive(Debug, Clone)]
struct Binding {
    name: String,
    subjects: Vec<Subject>,
    role: RoleRef,
}

/// A rule that a user has.
pub struct Granted<'a> {
    /// The rule.
    pub rule: &'a Rule,
    binding: &'a Binding,
    namespace: &'a str,
}

impl Granted<'_> {
    /// Where it comes from.
    pub fn why(&self) -> String {
        let Binding { name, role, .. } = self.binding;
        let kind = if self.namespace.is_empty() { "ClusterRoleBinding" } else { "RoleBinding" };
        format!("{kind} {name:?} to {} {:?}", role.kind, role.name)
    }
}

impl Rules {
    /// The roles and bindings among these objects. One that cannot be understood grants nothing.
    pub fn new(objects: &[(Key, Arc<Value>)]) -> Self {
        let mut rules = Self::default();
        for (key, value) in objects {
            match RESOURCES.iter().position(|resource| *resource == key.resource) {
                Some(0 | 1) => {
                    rules.roles.insert((key.namespace.clone(), key.name.clone()), rbac::rules_of(value));
                }
                Some(_) => {
                    let read = |field: &str| value[field].clone();
                    let subjects = serde_json::from_value(read("subjects"));
                    if let (Ok(role), Ok(subjects)) = (serde_json::from_value(read("roleRef")), subjects) {
                        let binding = Binding { name: key.name.clone(), subjects, role };
                        rules.bindings.entry(key.namespace.clone()).or_default().push(binding);
                    }
                }
                None => {}
            }
        }
        rules
    }

    /// The rules that the user has in this namespace; it is empty for what is in none, or in all.
    pub fn of<'a>(&'a self, user: &'a User, namespace: &'a str) -> impl Iterator<Item = Granted<'a>> {
        let everywhere = self.bindings.get("").into_iter().flatten().map(|binding| ("", binding));
        let here = self.bindings.get(namespace).filter(|_| !namespace.is_empty()).into_iter().flatten();
        let bindings = everywhere.chain(here.map(move |binding| (namespace, binding)));
        bindings.filter(|(_, binding)| binding.subjects.iter().any(|subject| names(subject, user))).flat_map(
            |(namespace, binding)| {
                let rules = self.role(namespace, &binding.role).unwrap_or_default();
                rules.iter().map(move |rule| Granted { rule, binding, namespace })
            },
        )
    }

    /// The rules of a role that a binding in this namespace refers to; `None` if there is no such role.
    pub fn role(&self, namespace: &str, role: &RoleRef) -> Option<&[Rule]> {
        let namespace = if role.kind == "ClusterRole" { "" } else { namespace };
        self.roles.get(&(namespace.to_owned(), role.name.clone())).map(Vec::as_slice)
    }
}

fn names(subject: &Subject, user: &User) -> bool {
    match subject.kind.as_str() {
        "User" => subject.name == user.name,
        "Group" => user.groups.contains(&subject.name),
        _ => false,
    }
}
