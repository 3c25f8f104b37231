//! Authorization: may this user do this? One pure function answers, for requests and for reviews alike. Pure.

pub mod answers;
pub mod attributes;
pub mod builtin;
pub mod escalation;
pub mod rules;
#[cfg(test)]
mod tests;

use super::authn::user::{JOINING, User};
use crate::api::rbac::Rule;
use attributes::Attributes;
use rules::Rules;

/// Whether a request is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is, and why.
    Allow(String),
    /// No rule allows it.
    Deny,
}

/// Whether these rules allow the user to do this.
pub fn allowed(rules: &Rules, user: &User, asked: &Attributes) -> Verdict {
    if user.is_master() {
        return Verdict::Allow("group system:masters".to_owned());
    }
    if asked.joins() && user.may_join() {
        return Verdict::Allow(format!("group {JOINING}"));
    }
    let gives_identity = asked.gives_identity();
    let allows = |rule: &Rule| if gives_identity { is_everything(rule) } else { allows(rule, asked) };
    let found = rules.of(user, &asked.namespace).find(|granted| allows(granted.rule));
    found.map_or(Verdict::Deny, |granted| Verdict::Allow(granted.why()))
}

/// Whether a rule allows this.
pub fn allows(rule: &Rule, asked: &Attributes) -> bool {
    let has = |list: &[String], wanted: &str| list.iter().any(|one| one == "*" || one == wanted);
    if !has(&rule.verbs, &asked.verb) {
        return false;
    }
    if asked.resource.is_empty() {
        let fits = |known: &String| match known.strip_suffix('*') {
            Some(start) => asked.path.starts_with(start),
            None => *known == asked.path,
        };
        return rule.non_resource_urls.iter().any(fits);
    }
    let fits = |known: &String| {
        let (resource, subresource) = known.split_once('/').unwrap_or((known, ""));
        known == "*" || subresource == asked.subresource && (resource == "*" || resource == asked.resource)
    };
    has(&rule.api_groups, &asked.group)
        && rule.resources.iter().any(fits)
        && (rule.resource_names.is_empty() || rule.resource_names.contains(&asked.name))
}

/// Whether a rule allows everything with every object: then its holder may also say who somebody is.
fn is_everything(rule: &Rule) -> bool {
    let all = |list: &[String]| list.iter().any(|one| one == "*");
    all(&rule.verbs) && all(&rule.api_groups) && all(&rule.resources) && rule.resource_names.is_empty()
}
