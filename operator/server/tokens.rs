//! Making Tokens: the secret is drawn here, shown once in the answer, and kept only as a hash.

use axum::http::{Method, StatusCode};
use axum::response::Response;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::authn::tokens::{HASHES, hash, secret, shown, token};
use super::authn::user::JOINING;
use super::params::Effect;
use super::request::Request;
use super::status::{Cause, Refusal};
use super::{Server, body};
use crate::api::object::Object as _;
use crate::api::resource::Resource;
use crate::api::token::Token;
use crate::store::objects::Preconditions;
use crate::store::{self, Key, rules};

/// Longest life of a token or certificate.
pub const LONGEST: SignedDuration = SignedDuration::from_hours(366 * 24);

/// Whether a kind is that of Tokens.
pub fn are(resource: &Resource) -> bool {
    resource.qualified() == Token::RESOURCE
}

/// Serves a write of a Token: it can be created only.
pub async fn serve(request: Request<'_>, method: &Method) -> Result<Response, Refusal> {
    if method != Method::POST {
        return Err(Refusal::not_allowed(
            "a Token cannot be changed; create another, and delete this one to revoke it",
        ));
    }
    let sent = body::object(&request.headers, &request.body)?.value;
    let expires = sent["spec"]["expires"].as_str().and_then(|text| text.parse::<Timestamp>().ok());
    if let Some(problem) = expires.and_then(|expires| life_problem(expires, request.server.clock.now())) {
        let name = sent["metadata"]["name"].as_str().unwrap_or_default();
        return Err(Refusal::invalid(request.target.resource, name, vec![Cause::invalid("spec.expires", problem)]));
    }
    let (mut object, warnings) = request.created().await?;
    if request.params.effect()? == Effect::Store {
        let made = bearer(request.server, &object).await.map_err(|error| request.store_refusal(&error))?;
        object["status"] = json!({"token": made});
    }
    Ok(request.object(StatusCode::CREATED, object, &warnings))
}

/// Draws the secret of a new Token and keeps its hash; returns the bearer token.
pub async fn bearer(server: &Server, object: &Value) -> Result<String, store::Error> {
    let secret = secret(&*server.clock);
    let uid = rules::uid_of(object).unwrap_or_default();
    let owner = json!({
        "apiVersion": object["apiVersion"], "kind": Token::KIND, "name": object["metadata"]["name"], "uid": uid,
    });
    let kept = json!({"metadata": {"ownerReferences": [owner]}, "sha256": shown(&hash(&secret))});
    server.objects.create(&Key::new(HASHES, "", uid), kept).await?;
    Ok(token(uid, &secret))
}

/// Revokes every token that nodes join with; their names.
pub async fn revoke_joining(server: &Server) -> Result<Vec<String>, store::Error> {
    let (tokens, _) = server.objects.list::<Token>(Token::RESOURCE, None).await?;
    let joining = tokens.into_iter().filter(|token| token.spec.groups.iter().any(|group| group == JOINING));
    let mut revoked = Vec::new();
    for name in joining.filter_map(|token| token.metadata.name) {
        match server.objects.delete(&Key::new(Token::RESOURCE, "", &name), &Preconditions::default()).await {
            Ok(_) => revoked.push(name),
            Err(store::Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    server.access.refresh().await?;
    Ok(revoked)
}

/// What is wrong with a life that ends then, if anything is.
pub fn life_problem(expires: Timestamp, now: Timestamp) -> Option<&'static str> {
    match expires.duration_since(now) {
        left if left <= SignedDuration::ZERO => Some("Invalid value: must be in the future"),
        left if left > LONGEST => Some("Invalid value: must be within a year"),
        _ => None,
    }
}
