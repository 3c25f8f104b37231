//! A node that joins, over real TLS: the token, the route that gives the files, and the joining side of it.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use evenkeel::api::join::{Bundle, CA, ETCD, FILES, JOIN, JOIN_TOKENS, JoinToken};
use evenkeel::cli::error::Error;
use evenkeel::cli::join::{self, Args};
use evenkeel::store::Key;
use evenkeel::store::objects::Part;
use reqwest::Method;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use super::api_server::{Answer, Api, answer};

const TOKENS: &str = "tokens.evenkeel.dev";

/// An operator that shares its store.
async fn shared() -> Api {
    let api = Api::start().await;
    fs::write(api.dir().join("pki").join(ETCD), "{}").unwrap();
    fs::write(api.dir().join("pki/secrets.key"), "k").unwrap();
    api
}

/// A new join token, and the name of its object.
async fn made(api: &Api) -> (JoinToken, String) {
    let made = api.post(JOIN_TOKENS, &json!({"seconds": 60})).await;
    assert_eq!(made.code, 201, "{}", made.body);
    (JoinToken::parse(made.body["token"].as_str().unwrap()).unwrap(), made.body["name"].as_str().unwrap().to_owned())
}

async fn ask(api: &Api, bearer: &str, path: &str) -> Answer {
    let request = api.http.request(Method::POST, format!("{}{path}", api.url)).bearer_auth(bearer);
    answer(request.json(&json!({"node": "b"}))).await
}

fn ca(dir: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(&fs::read(dir.join("pki").join(CA)).unwrap()).unwrap()
}

/// Regression 452: what a node joins with is worth all Secrets, so nobody gets it but the bearer of a token that was made for
/// that alone, is valid now and is not revoked; and that token opens nothing else.
#[tokio::test]
async fn only_a_valid_join_token_gives_the_files_and_it_gives_nothing_else() {
    let api = shared().await;
    let (token, name) = made(&api).await;
    assert!(token.trusts(&ca(api.dir())));
    let given = ask(&api, token.secret(), JOIN).await;
    let bundle: Bundle = serde_json::from_value(given.body).unwrap();
    assert_eq!((given.code, bundle.problem()), (201, None));
    assert_eq!(bundle.files.len(), FILES.len() - 3, "no token was replaced yet, and etcd is not managed");

    let wrong = format!("{}x", token.secret());
    assert_eq!((ask(&api, &wrong, JOIN).await.code, ask(&api, "", JOIN).await.code), (401, 401));
    for path in ["/api/v1/namespaces/default/secrets", "/apis/evenkeel.dev/v1alpha1/tokens", JOIN_TOKENS] {
        assert_eq!(ask(&api, token.secret(), path).await.code, 403, "{path}");
    }
    let viewer = json!({
        "apiVersion": "evenkeel.dev/v1alpha1", "kind": "Token", "metadata": {"name": "eve"},
        "spec": {"user": "eve", "expires": "2099-01-01T00:00:00Z"},
    });
    let mut soon = viewer;
    soon["spec"]["expires"] =
        api.objects.get::<Value>(&Key::new(TOKENS, "", &name)).await.unwrap().unwrap()["spec"]["expires"].clone();
    let eve = api.post("/apis/evenkeel.dev/v1alpha1/tokens", &soon).await.body["status"]["token"].clone();
    assert_eq!(ask(&api, eve.as_str().unwrap(), JOIN).await.code, 403);
    // Nobody makes such a token by another way.
    let mut forged = soon;
    forged["metadata"]["name"] = "mallory".into();
    forged["spec"]["groups"] = json!(["system:joining-nodes"]);
    assert_eq!(api.post("/apis/evenkeel.dev/v1alpha1/tokens", &forged).await.code, 422);

    let expire = |mut object: Value| {
        object["spec"]["expires"] = "2020-01-01T00:00:00Z".into();
        Ok::<_, evenkeel::store::Error>(object)
    };
    api.objects.modify(&Key::new(TOKENS, "", &name), Part::Main, expire).await.unwrap();
    let (revoked, name) = made(&api).await;
    assert_eq!(ask(&api, token.secret(), JOIN).await.code, 401, "expired");
    assert_eq!(api.delete(&format!("/apis/evenkeel.dev/v1alpha1/tokens/{name}")).await.code, 200);
    assert_eq!(ask(&api, revoked.secret(), JOIN).await.code, 401, "revoked");
}

#[tokio::test]
async fn an_operator_with_a_store_of_its_own_has_nothing_to_join() {
    let api = Api::start().await;
    let refused = api.post(JOIN_TOKENS, &json!({"seconds": 60})).await;
    assert_eq!(refused.code, 409);
    let words = refused.body["message"].as_str().unwrap();
    assert!(words.contains("start it with --cluster-init or --etcd-endpoints first"), "{words}");
    let bad = api.post(JOIN_TOKENS, &json!({"seconds": 0})).await;
    assert_eq!(bad.code, 422, "{}", bad.body);
}

/// The node joins; the error's text if it does not.
async fn join_with(api: &Api, token: &str, dir: &Path, works: bool) -> Result<(), String> {
    let address = api.url.trim_start_matches("https://").to_owned();
    let args = Args { join: Some(address), token: Some(token.into()), token_file: None };
    let tried = join::join(&args, dir, "b", |bundle, _| async move {
        if works { Ok(bundle) } else { Err(Error::Failed("etcd cannot be reached".to_owned())) }
    });
    tried.await.map_err(|error| error.report())
}

/// Regression 453: a node that is given the token of other operators must notice it before it sends the secret, and whatever
/// fails leaves the data directory as it was.
#[tokio::test]
async fn a_node_joins_once_and_whatever_fails_leaves_nothing_behind() {
    let (api, other) = (shared().await, shared().await);
    let (token, _) = made(&api).await;
    let node = tempfile::tempdir().unwrap();
    let join = async |token: &str, works| join_with(&api, token, node.path(), works).await;
    let of_other = JoinToken::new(&ca(other.dir()), token.secret().to_owned());
    let refused = join(&of_other.text(), true).await.unwrap_err();
    assert!(refused.contains("nothing was sent: the token is not of the operators there"), "{refused}");
    let wrong = JoinToken::new(&ca(api.dir()), "evk_wrong".to_owned());
    let refused = join(&wrong.text(), true).await.unwrap_err();
    assert!(refused.contains("it is wrong, expired or revoked"), "{refused}");
    let refused = join(&token.text(), false).await.unwrap_err();
    assert!(refused.contains("etcd cannot be reached"), "{refused}");
    assert_eq!(fs::read_dir(node.path()).unwrap().count(), 0);

    join(&token.text(), true).await.unwrap();
    let read = |dir: &Path, name: &str| fs::read_to_string(dir.join("pki").join(name)).unwrap();
    for name in [CA, "ca.key", "client-ca.key", "token", "secrets.key", ETCD] {
        assert_eq!(read(node.path(), name), read(api.dir(), name), "{name}");
    }
    // Once more, and without an operator there: nothing is asked.
    join(&token.text(), false).await.unwrap();
    let refused = join(&of_other.text(), true).await.unwrap_err();
    assert!(refused.contains("belongs to other operators than the token"), "{refused}");
}
