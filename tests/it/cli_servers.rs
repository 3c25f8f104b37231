//! The CLI with a kubeconfig of several operators: which server it asks, and what it never sends twice.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use evenkeel::cli::client::{Client, JSON};
use evenkeel::cli::error::Error;
use evenkeel::cli::kubeconfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::api_server::Api;
use super::cli_operator::run;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// The kubeconfig of an operator, with another server before its own.
fn with_first(api: &Api, first: &str) -> PathBuf {
    let text = std::fs::read_to_string(api.dir().join("kubeconfig")).unwrap();
    let mut config: Value = serde_saphyr::from_str(&text).unwrap();
    let (mut cluster, mut context) = (config["clusters"][0].clone(), config["contexts"][0].clone());
    cluster["name"] = "evenkeel-two".into();
    (context["name"], context["context"]["cluster"]) = ("evenkeel-two".into(), "evenkeel-two".into());
    config["clusters"].as_array_mut().unwrap().push(cluster);
    config["contexts"].as_array_mut().unwrap().push(context);
    config["clusters"][0]["cluster"]["server"] = first.into();
    let path = api.dir().join("of-both");
    std::fs::write(&path, serde_saphyr::to_string(&config).unwrap()).unwrap();
    path
}

/// An address where nobody listens.
async fn dead() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("https://{}", listener.local_addr().unwrap())
}

/// Regression 311: a kubeconfig had the server of one node, and with that node all verbs were lost although two other operators
/// served. The servers are asked in turn, and the one that answers is named.
#[tokio::test]
async fn when_the_first_server_is_dead_the_next_one_is_asked_and_named() {
    let api = Api::start().await;
    let (dead, manifest) = (dead().await, api.dir().join("map.yaml"));
    std::fs::write(&manifest, "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}").unwrap();
    let both = with_first(&api, &dead);
    // Nothing was sent to the first one, so a write may be sent to the second.
    let client = Client::new(kubeconfig::load(&both).unwrap()).unwrap();
    client.post(MAPS, &[], &json!({"metadata": {"name": "b"}})).await.unwrap();
    assert_eq!(client.kubeconfig().server, api.url);
    let (code, out, err) = run(&format!("--kubeconfig {} apply -f {}", both.display(), manifest.display())).await;
    assert_eq!((code, out.as_str()), (0, "configmap/a created\n"), "{err}");
    let told = err.lines().collect::<Vec<_>>();
    assert!(told.len() == 1 && told[0].starts_with(&format!("Warning: {dead} does not answer (")), "{err}");
    assert!(told[0].ends_with(&format!("; {} does", api.url)), "{err}");
    // Of several that are dead, the first one is named.
    let url = api.url.clone();
    let text = std::fs::read_to_string(&both).unwrap();
    api.stop().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kubeconfig");
    std::fs::write(&path, text).unwrap();
    let (code, _, err) = run(&format!("--kubeconfig {} get configmaps", path.display())).await;
    assert!(code == 6 && err.contains(&dead) && !err.contains(&url), "{code} {err}");
}

/// A server that lets a request in and ends the connection without an answer; the number of requests.
async fn mute(api: &Api) -> (String, Arc<AtomicUsize>) {
    let read = |name: &str| std::fs::read(api.dir().join("pki").join(name)).unwrap();
    let certificate = CertificateDer::from_pem_slice(&read("server.crt")).unwrap();
    let key = PrivateKeyDer::from_pem_slice(&read("server.key")).unwrap();
    let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key);
    let (acceptor, listener) =
        (TlsAcceptor::from(Arc::new(config.unwrap())), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let url = format!("https://{}", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            if stream.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    (url, count)
}

/// What was sent may have been done: sent again, a Token is made twice, a revision rolled back twice. Only reads are sent again.
#[tokio::test]
async fn a_write_that_was_sent_is_not_sent_to_another_server() {
    let api = Api::start().await;
    let (mute, count) = mute(&api).await;
    let client = || Client::new(kubeconfig::load(&with_first(&api, &mute)).unwrap()).unwrap();
    let lost = client().post(MAPS, &[], &json!({"metadata": {"name": "a"}})).await.unwrap_err();
    assert!(matches!(&lost, Error::Unreachable { address, .. } if *address == mute), "{lost:?}");
    let command = client().upgrade("/api/v1/namespaces/default/pods/p/exec", &[("command", "true")], &[]).await;
    assert!(matches!(command, Err(Error::Unreachable { .. })), "a command is no read");
    assert_eq!((count.load(Ordering::Relaxed), api.get(&format!("{MAPS}/a")).await.code), (2, 404));
    let read = client().get(MAPS, &[], JSON).await.unwrap();
    assert_eq!(read["items"].as_array().map(Vec::len), Some(0), "{read}");
    assert_eq!(count.load(Ordering::Relaxed), 3);
}

/// A credential goes to no server but those that its kubeconfig has for this user and this CA.
#[tokio::test]
async fn a_server_of_another_user_or_another_ca_is_not_asked() {
    let api = Api::start().await;
    let others = |change: &dyn Fn(&mut Value)| {
        let path = with_first(&api, "https://127.0.0.1:1");
        let mut config: Value = serde_saphyr::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        change(&mut config);
        std::fs::write(&path, serde_saphyr::to_string(&config).unwrap()).unwrap();
        kubeconfig::load(&path).unwrap().others.len()
    };
    assert_eq!(others(&|_| ()), 1);
    assert_eq!(others(&|config| config["contexts"][1]["context"]["user"] = "eve".into()), 0);
    assert_eq!(others(&|config| config["clusters"][1]["cluster"]["certificate-authority-data"] = "QQ==".into()), 0);
    assert_eq!(others(&|config| config["clusters"][1]["cluster"]["server"] = "http://127.0.0.1:2".into()), 0);
    let without_ca = |config: &mut Value| {
        for at in 0..2 {
            config["clusters"][at]["cluster"].as_object_mut().unwrap().remove("certificate-authority-data");
        }
    };
    assert_eq!(others(&without_ca), 0);
}
