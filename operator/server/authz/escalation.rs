//! Nobody grants more than they have: not in a role, and not by a binding to one. Pure.

use serde_json::Value;

use super::attributes::Attributes;
use super::rules::{RESOURCES, Rules};
use super::{Verdict, allowed, allows};
use crate::api::rbac::{GROUP, RoleRef, Rule, rules_of};
use crate::server::authn::user::User;
use crate::server::status::Refusal;

/// Judges the writing of a role or binding, which are `old` before it; other objects pass.
pub fn judge(rules: &Rules, user: &User, resource: &str, old: Option<&Value>, new: &Value) -> Result<(), Refusal> {
    let kind = RESOURCES.iter().position(|known| *known == resource);
    // A cluster-scoped object grants everywhere, whatever namespace its metadata names.
    let own = |kind: &usize| kind % 2 == 0;
    let namespace = kind.filter(own).and_then(|_| new["metadata"]["namespace"].as_str()).unwrap_or_default();
    let may = |verb: &str, resource: &str, name: &str| {
        let asked = Attributes {
            verb: verb.to_owned(),
            group: GROUP.to_owned(),
            resource: resource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..Attributes::default()
        };
        allowed(rules, user, &asked) != Verdict::Deny
    };
    let name = new["metadata"]["name"].as_str().unwrap_or_default();
    let granted = match kind {
        Some(kind @ (0 | 1)) => {
            let wanted = rules_of(new);
            let plural = ["roles", "clusterroles"][kind];
            if old.is_some_and(|old| rules_of(old) == wanted) || may("escalate", plural, name) {
                return Ok(());
            }
            wanted
        }
        Some(_) => {
            let role: RoleRef = serde_json::from_value(new["roleRef"].clone()).unwrap_or_default();
            let plural = if role.kind == "Role" { "roles" } else { "clusterroles" };
            if old.is_some_and(|old| old["subjects"] == new["subjects"]) || may("bind", plural, &role.name) {
                return Ok(());
            }
            let message = || format!("{resource} {name:?} is forbidden: there is no {} {:?}", role.kind, role.name);
            rules.role(namespace, &role).ok_or_else(|| Refusal::forbidden(message()))?.to_vec()
        }
        None => return Ok(()),
    };
    match missing(rules, user, namespace, &granted) {
        None => Ok(()),
        Some(what) => {
            let user = &user.name;
            let message =
                format!("{resource} {name:?} is forbidden: User {user:?} cannot grant what they do not have: {what}");
            Err(Refusal::forbidden(message))
        }
    }
}

/// The first thing that the rules would allow and the user may not do.
pub fn missing(rules: &Rules, user: &User, namespace: &str, wanted: &[Rule]) -> Option<String> {
    if user.is_master() {
        return None;
    }
    let own: Vec<&Rule> = rules.of(user, namespace).map(|granted| granted.rule).collect();
    wanted.iter().find_map(|rule| uncovered(&own, rule))
}

/// The first thing that a rule allows and none of the others does.
pub fn uncovered(own: &[&Rule], wanted: &Rule) -> Option<String> {
    let names: Vec<&str> = wanted.resource_names.iter().map(String::as_str).collect();
    let names = if names.is_empty() { vec![""] } else { names };
    let any = vec![String::new()];
    let or_any = |list: &'_ Vec<String>| if list.is_empty() { any.clone() } else { list.clone() };
    for verb in &wanted.verbs {
        for group in &or_any(&wanted.api_groups) {
            for resource in &wanted.resources {
                let (plain, subresource) = resource.split_once('/').unwrap_or((resource, ""));
                for name in &names {
                    let one = Attributes {
                        verb: verb.clone(),
                        group: group.clone(),
                        resource: plain.to_owned(),
                        subresource: subresource.to_owned(),
                        name: (*name).to_owned(),
                        ..Attributes::default()
                    };
                    let covers =
                        |rule: &&Rule| allows(rule, &one) && (!name.is_empty() || rule.resource_names.is_empty());
                    if !own.iter().any(covers) {
                        return Some(format!("{verb} {resource} in API group {group:?}"));
                    }
                }
            }
        }
        for path in &wanted.non_resource_urls {
            let one = Attributes { verb: verb.clone(), path: path.clone(), ..Attributes::default() };
            if !own.iter().any(|rule| allows(rule, &one)) {
                return Some(format!("{verb} {path}"));
            }
        }
    }
    None
}
