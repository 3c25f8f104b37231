//! Answers to reviews, by the function that judges requests. What nobody can do, writing a view, is answered with no.
//! Nothing is stored. Pure.

use serde_json::{Value, json};

use super::attributes::Attributes;
use super::rules::Rules;
use super::{Verdict, allowed};
use crate::api::registry;
use crate::api::resource::View;
use crate::server::authn::user::{User, Via};
use crate::server::reviews::{Review, VERSION};
use crate::server::status::Refusal;

/// The review in `asked` with its answer; `namespace` is that of the path.
pub fn answer(
    review: &Review,
    namespace: Option<&str>,
    asked: &Value,
    rules: &Rules,
    user: &User,
) -> Result<Value, Refusal> {
    let api_version = format!("{}/{VERSION}", review.group);
    for (field, expected) in [("apiVersion", api_version.as_str()), ("kind", review.kind)] {
        match asked[field].as_str() {
            Some(found) if !found.is_empty() && found != expected => {
                let message =
                    format!("the {field} in the data ({found:?}) does not match the expected one ({expected:?})");
                return Err(Refusal::bad_request(message));
            }
            _ => {}
        }
    }
    let spec = &asked["spec"];
    let status = match review.kind {
        "SelfSubjectReview" => json!({"userInfo": {"username": user.name, "groups": user.groups}}),
        "SelfSubjectAccessReview" => access(rules, user, attributes(spec)?),
        "SelfSubjectRulesReview" => own_rules(rules, user, text(&spec["namespace"])),
        _ => {
            let asked = attributes(spec)?;
            if namespace.is_some_and(|namespace| asked.namespace != namespace) {
                let message = "spec.resourceAttributes.namespace must be the namespace of the path";
                return Err(Refusal::unprocessable(message));
            }
            access(rules, &other(spec)?, asked)
        }
    };
    Ok(json!({"apiVersion": api_version, "kind": review.kind, "metadata": {}, "spec": spec, "status": status}))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// What a review asks for.
fn attributes(spec: &Value) -> Result<Attributes, Refusal> {
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    match (resource.is_object(), path.is_object()) {
        (true, false) => Ok(Attributes {
            verb: text(&resource["verb"]),
            group: text(&resource["group"]),
            version: text(&resource["version"]),
            resource: text(&resource["resource"]),
            subresource: text(&resource["subresource"]),
            namespace: text(&resource["namespace"]),
            name: text(&resource["name"]),
            path: String::new(),
        }),
        (false, true) => {
            Ok(Attributes { verb: text(&path["verb"]), path: text(&path["path"]), ..Attributes::default() })
        }
        _ => {
            let message = "spec must have exactly one of resourceAttributes and nonResourceAttributes";
            Err(Refusal::unprocessable(message))
        }
    }
}

/// The user that a review asks about.
fn other(spec: &Value) -> Result<User, Refusal> {
    let name = text(&spec["user"]);
    let groups: Vec<String> = spec["groups"].as_array().into_iter().flatten().map(text).collect();
    if name.is_empty() && groups.is_empty() {
        return Err(Refusal::unprocessable("spec: at least one of user and groups must be given"));
    }
    Ok(User { name, groups, via: Via::Socket, expires: None })
}

fn access(rules: &Rules, user: &User, asked: Attributes) -> Value {
    let why = match allowed(rules, user, &asked) {
        Verdict::Allow(why) => why,
        Verdict::Deny => return json!({"allowed": false}),
    };
    let resource = registry::resources().iter().find(|r| r.group == asked.group && r.plural == asked.resource);
    let refused = |view: &&View| match asked.verb.as_str() {
        "create" | "deletecollection" => true,
        "update" | "patch" => !view.is_writable(),
        _ => false,
    };
    let view = resource.and_then(|resource| resource.view.as_ref()).filter(refused);
    match view.filter(|_| asked.subresource.is_empty()) {
        Some(view) => json!({"allowed": false, "reason": view.instead}),
        None => json!({"allowed": true, "reason": format!("allowed by {why}")}),
    }
}

/// The rules of the user in a namespace.
fn own_rules(rules: &Rules, user: &User, namespace: String) -> Value {
    let own: Vec<_> = rules.of(user, &namespace).map(|granted| granted.rule).collect();
    let (objects, paths): (Vec<_>, Vec<_>) = own.into_iter().partition(|rule| rule.non_resource_urls.is_empty());
    json!({"resourceRules": objects, "nonResourceRules": paths, "incomplete": false})
}

/// Refuses a request that wants to act as somebody else.
pub fn impersonates(headers: &axum::http::HeaderMap) -> Result<(), Refusal> {
    if headers.keys().any(|name| name.as_str().starts_with("impersonate-")) {
        let message = "impersonation is forbidden: make a token for that user, or ask with a SubjectAccessReview";
        return Err(Refusal::forbidden(message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::server::authn::user::MASTERS;
    use crate::server::reviews::{REVIEWS, find};

    fn asked(plural: &str, body: &Value) -> Value {
        let review = REVIEWS.iter().find(|review| review.plural == plural).unwrap();
        let user = User::new("admin", vec![MASTERS.to_owned()], Via::Socket, None);
        answer(review, None, body, &Rules::default(), &user).unwrap()["status"].clone()
    }

    /// Regression 64: `kubectl auth can-i` and `auth whoami` failed with "could not find the requested resource", and
    /// scripts that ask first stopped. The three reviews of oneself are answered now.
    #[test]
    fn a_master_may_do_everything_except_what_nobody_can() {
        let may = |verb: &str, resource: &str, part: &str| {
            let attributes = json!({"verb": verb, "resource": resource, "subresource": part});
            asked("selfsubjectaccessreviews", &json!({"spec": {"resourceAttributes": attributes}}))["allowed"].clone()
        };
        assert_eq!(may("create", "secrets", ""), true);
        assert_eq!(may("delete", "pods", ""), true);
        assert_eq!(may("create", "pods", "exec"), true);
        assert_eq!((may("patch", "nodes", ""), may("patch", "pods", "")), (true.into(), false.into()));
        assert_eq!(may("create", "pods", ""), false);
        assert_eq!(asked("selfsubjectreviews", &json!({}))["userInfo"]["username"], "admin");
        assert_eq!(find("authorization.k8s.io", "v1beta1", "selfsubjectaccessreviews", false), None);
    }

    #[test]
    fn a_review_of_another_kind_or_of_nobody_is_refused() {
        let user = User::new("admin", Vec::new(), Via::Socket, None);
        let code = |review: usize, body: Value| {
            answer(&REVIEWS[review], None, &body, &Rules::default(), &user).unwrap_err().code.as_u16()
        };
        assert_eq!(code(0, json!({"kind": "Pod"})), 400);
        assert_eq!(code(1, json!({"spec": {}})), 422);
        assert_eq!(code(3, json!({"spec": {"resourceAttributes": {"verb": "get"}}})), 422);
    }
}
