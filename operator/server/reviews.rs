//! Reviews: a client asks who it is and what it may do. There is one token and it may do everything; only what nobody
//! can do, writing a view, is answered with no. Nothing is stored. Pure.

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::status::Refusal;
use crate::api::registry;
use crate::api::resource::View;

/// A kind of review.
#[derive(Debug, PartialEq, Eq)]
pub struct Review {
    /// Its group; the version is v1.
    pub group: &'static str,
    /// Its kind.
    pub kind: &'static str,
    /// Its name in paths.
    pub plural: &'static str,
}

/// The version of all reviews.
pub const VERSION: &str = "v1";

/// The reviews that are answered.
pub const REVIEWS: [Review; 3] = [
    Review { group: "authentication.k8s.io", kind: "SelfSubjectReview", plural: "selfsubjectreviews" },
    Review { group: "authorization.k8s.io", kind: "SelfSubjectAccessReview", plural: "selfsubjectaccessreviews" },
    Review { group: "authorization.k8s.io", kind: "SelfSubjectRulesReview", plural: "selfsubjectrulesreviews" },
];

/// The review at this path.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Review> {
    REVIEWS.iter().find(|review| (review.group, VERSION, review.plural) == (group, version, plural))
}

/// The review in `asked` with its answer.
pub fn answer(review: &Review, asked: &Value) -> Result<Value, Refusal> {
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
    let status = match review.kind {
        "SelfSubjectReview" => {
            json!({"userInfo": {"username": "admin", "groups": ["system:masters", "system:authenticated"]}})
        }
        "SelfSubjectAccessReview" => access(&asked["spec"]["resourceAttributes"]),
        _ => json!({
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
            "incomplete": false,
        }),
    };
    Ok(json!({
        "apiVersion": api_version, "kind": review.kind, "metadata": {}, "spec": asked["spec"], "status": status,
    }))
}

fn access(asked: &Value) -> Value {
    let field = |name: &str| asked[name].as_str().unwrap_or_default();
    let resource = registry::resources().iter().find(|r| r.group == field("group") && r.plural == field("resource"));
    let refused = |view: &&View| match field("verb") {
        "create" | "deletecollection" => true,
        "update" | "patch" => !view.is_writable(),
        _ => false,
    };
    let view = resource.and_then(|resource| resource.view.as_ref()).filter(refused);
    match view.filter(|_| field("subresource").is_empty()) {
        Some(view) => json!({"allowed": false, "reason": view.instead}),
        None => json!({"allowed": true}),
    }
}

/// Refuses a request that wants to act as somebody else: there is nobody else.
pub fn impersonates(headers: &axum::http::HeaderMap) -> Result<(), Refusal> {
    if headers.keys().any(|name| name.as_str().starts_with("impersonate-")) {
        let message = "impersonation is forbidden: this server has one user, admin, and no other to act as";
        return Err(Refusal::new(StatusCode::FORBIDDEN, "Forbidden", message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn asked(plural: &str, body: &Value) -> Value {
        let group = REVIEWS.iter().find(|review| review.plural == plural).unwrap().group;
        answer(find(group, "v1", plural).unwrap(), body).unwrap()["status"].clone()
    }

    /// Regression 64: `kubectl auth can-i` and `auth whoami` failed with "could not find the requested resource", and
    /// scripts that ask first stopped. The three reviews of oneself are answered now.
    #[test]
    fn the_one_token_may_do_everything_except_what_nobody_can() {
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
        assert_eq!(asked("selfsubjectrulesreviews", &json!({}))["resourceRules"][0]["verbs"], json!(["*"]));
        assert_eq!(find("authorization.k8s.io", "v1beta1", "selfsubjectaccessreviews"), None);
        assert_eq!(answer(&REVIEWS[0], &json!({"kind": "Pod"})).unwrap_err().code.as_u16(), 400);
    }
}
