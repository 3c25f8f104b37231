//! Two operators in this process over one real etcd: what each knows of the other, and what both accept. Runs only with
//! EVENKEEL_TEST_DOCKER=1.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use evenkeel::cli::etcd::Args as Shared;
use evenkeel::cli::operator::{self, Args, Running};

use crate::cli_operator::{args, run};
use crate::etcd::{self, Bench, until};

/// Two operators, each with a data directory.
struct Two {
    _folder: tempfile::TempDir,
    dirs: [PathBuf; 2],
    running: Vec<Running>,
}

fn of(bench: &Bench, dir: &Path, node: &str) -> Args {
    let (etcd_endpoints, etcd_prefix) = (bench.config(0).endpoints, bench.prefix().to_owned());
    let shared = Shared { etcd_endpoints, etcd_prefix, node: Some(node.to_owned()), ..Shared::default() };
    Args { shared, advertise: vec!["127.0.0.1".try_into().unwrap()], ..args(dir) }
}

impl Two {
    /// The second one has what a node gets that joins.
    async fn start(bench: &Bench) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dirs = ["one", "two"].map(|name| folder.path().join(name));
        let first = operator::start(&of(bench, &dirs[0], "one")).await.unwrap();
        std::fs::create_dir_all(dirs[1].join("pki")).unwrap();
        for name in ["ca.crt", "ca.key", "client-ca.crt", "client-ca.key", "token", "secrets.key"] {
            std::fs::copy(dirs[0].join("pki").join(name), dirs[1].join("pki").join(name)).unwrap();
        }
        let second = operator::start(&of(bench, &dirs[1], "two")).await.unwrap();
        Self { _folder: folder, dirs, running: vec![first, second] }
    }

    fn read(&self, at: usize, name: &str) -> String {
        std::fs::read_to_string(self.dirs[at].join(name)).unwrap()
    }

    async fn stop(self) {
        for running in self.running {
            running.stop().await;
        }
    }
}

/// Runs a verb with this kubeconfig: its exit code, and what it wrote.
async fn ask(kubeconfig: &Path, words: &str) -> (i32, String) {
    let (code, out, err) = run(&format!("--kubeconfig {} {words}", kubeconfig.display())).await;
    (code, out + &err)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kubeconfig_of_each_operator_names_all_of_them() {
    let Some(bench) = etcd::shared("the_kubeconfig_of_each_operator").await else { return };
    let mut two = Two::start(&bench).await;
    let addresses: Vec<_> = two.running.iter().map(|running| format!("https://{}", running.address)).collect();
    for at in 0..2 {
        until(async || addresses.iter().all(|address| two.read(at, "kubeconfig").contains(address.as_str()))).await;
    }
    assert!(two.read(0, "kubeconfig").contains("evenkeel-two"));
    // The first one ends, and its kubeconfig still works.
    let kubeconfig = two.dirs[0].join("kubeconfig");
    two.running.remove(0).stop().await;
    let (code, said) = ask(&kubeconfig, "get namespaces -o name").await;
    assert!(code == 0 && said.contains("namespace/default"), "{code} {said}");
    assert!(said.contains(&format!("{} does not answer", addresses[0])) && said.contains(&addresses[1]), "{said}");
    two.stop().await;
}

/// Regression 312: `token rotate` changed the files of the node that it asked. A token that was replaced because somebody had it was
/// valid at all other nodes for ever. The store has the token, and each operator follows it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_token_of_the_administrator_is_that_of_every_operator() {
    let Some(bench) = etcd::shared("a_new_token_of_the_administrator").await else { return };
    let two = Two::start(&bench).await;
    let stolen = two.dirs[0].join("stolen");
    std::fs::copy(two.dirs[1].join("kubeconfig"), &stolen).unwrap();
    let old = two.read(1, "pki/token");
    let (code, said) = ask(&two.dirs[0].join("kubeconfig"), "token rotate --revoke-old").await;
    assert!(code == 0 && said.contains("and in that of every other node; the one before is refused"), "{code} {said}");
    let new = two.read(0, "pki/token");
    assert!(new != old, "it is replaced when the answer comes");
    until(async || two.read(1, "pki/token") == new && two.read(1, "kubeconfig").contains(new.trim())).await;
    for at in 0..2 {
        assert_eq!(ask(&two.dirs[at].join("kubeconfig"), "get namespaces").await.0, 0, "operator {at}");
        let config = two.read(at, "kubeconfig").replace(new.trim(), old.trim());
        std::fs::write(&stolen, config).unwrap();
        let (code, said) = ask(&stolen, "get namespaces").await;
        assert!(code == 1 && said.contains("expired or revoked"), "operator {at}: {code} {said}");
    }
    assert!(!two.read(1, "pki/token.old").contains(char::is_alphanumeric), "what was revoked is not kept");
    // A node that was away meanwhile has the old one in its files, and takes the new one at its start.
    let dirs = two.dirs.clone();
    let folder = two._folder;
    for running in two.running {
        running.stop().await;
    }
    std::fs::write(dirs[1].join("pki/token"), &old).unwrap();
    let again = operator::start(&of(&bench, &dirs[1], "two")).await.unwrap();
    let text = || std::fs::read_to_string(dirs[1].join("kubeconfig")).unwrap();
    until(async || text().contains(new.trim())).await;
    again.stop().await;
    drop(folder);
}

/// Makes a Secret with the value `hidden`.
async fn make_secret(two: &Two) {
    let manifest = two.dirs[0].join("secret.yaml");
    std::fs::write(&manifest, "{apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {a: hidden}}").unwrap();
    let (code, said) = ask(&two.dirs[0].join("kubeconfig"), &format!("apply -f {}", manifest.display())).await;
    assert_eq!(code, 0, "{said}");
}

const GET: &str = "get secret s -o json";

/// Runs a verb on a data directory.
async fn local(dir: &Path, words: &str) -> (i32, String) {
    let (code, out, err) = run(&format!("{words} --data-dir {}", dir.display())).await;
    (code, out + &err)
}

/// The same as soon as nobody is known to run: the lease of the last leader goes on for a moment.
async fn when_none_runs(dir: &Path, words: &str) -> (i32, String) {
    let mut said = (1, String::new());
    until(async || {
        said = local(dir, words).await;
        !said.1.contains("operators run over this store")
    })
    .await;
    said
}

/// Regression 316: the key of the Secrets in a shared store could not be changed at all. It is when no operator runs, because one with
/// the old key alone would read no Secret that another one writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_of_the_secrets_in_a_shared_store_is_renewed_while_no_operator_runs() {
    let Some(bench) = etcd::shared("the_key_of_the_secrets_in_a_shared_store").await else { return };
    let mut two = Two::start(&bench).await;
    make_secret(&two).await;
    let old = two.read(0, "pki/secrets.key");
    two.running.remove(0).stop().await;
    let (code, said) = local(&two.dirs[0], "secrets rotate-keys").await;
    assert!(code == 1 && said.contains("operators run over this store: two"), "{code} {said}");
    assert_eq!(two.read(0, "pki/secrets.key"), old);
    two.running.remove(0).stop().await;
    let (code, said) = when_none_runs(&two.dirs[0], "secrets rotate-keys").await;
    assert!(code == 0 && said.contains("2 values were sealed anew"), "the Secret and the token: {code} {said}");
    let (code, said) = local(&two.dirs[0], "secrets status").await;
    assert!(code == 0 && said.lines().count() == 2 && !said.contains("missing"), "{code} {said}");
    // Another node is told which key it lacks, and goes on when it has it.
    for (copied, expected) in [(false, "is sealed with the key"), (true, "aGlkZGVu")] {
        if copied {
            std::fs::copy(two.dirs[0].join("pki/secrets.key"), two.dirs[1].join("pki/secrets.key")).unwrap();
        }
        let running = operator::start(&of(&bench, &two.dirs[1], "two")).await.unwrap();
        let (code, said) = ask(&two.dirs[1].join("kubeconfig"), GET).await;
        assert!(said.contains(expected), "{code} {said}");
        running.stop().await;
    }
}

/// What a thief can use without breaking anything ends at once: copies of the administrator's token, and tokens to join with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stolen_node_leaves_no_token_that_is_valid() {
    let Some(bench) = etcd::shared("a_stolen_node_leaves_no_token").await else { return };
    let two = Two::start(&bench).await;
    let (own, stolen) = (two.dirs[0].join("kubeconfig"), two.dirs[0].join("stolen"));
    std::fs::copy(&own, &stolen).unwrap();
    let (code, said) = ask(&own, "cluster token").await;
    assert_eq!(code, 0, "{said}");
    let (code, said) = ask(&own, "cluster remove one --stolen").await;
    assert!(code == 4 && said.contains("one is the node that is asked"), "{code} {said}");
    let (code, said) = ask(&own, "cluster remove two --stolen").await;
    assert!(code == 0 && said.contains("join tokens that were revoked: join-"), "{code} {said}");
    assert!(said.contains("Whoever has the files of two can still read and change everything"), "{said}");
    assert!(!ask(&own, "token list").await.1.contains("join-"));
    let (code, said) = ask(&stolen, "get namespaces").await;
    assert!(code == 1 && said.contains("expired or revoked"), "{code} {said}");
    // Again, after an interruption.
    assert_eq!(ask(&own, "cluster remove two --stolen").await.0, 0);
    two.stop().await;
}

/// Regression 317: nothing ended what a stolen node can do: it has the keys of the CAs. After `renew-keys`, neither its token nor a
/// certificate of its CA is accepted, and its key opens no Secret.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_new_keys_the_files_of_a_stolen_node_are_worth_nothing() {
    let Some(bench) = etcd::shared("after_new_keys_the_files").await else { return };
    let two = Two::start(&bench).await;
    make_secret(&two).await;
    let own = two.dirs[0].join("kubeconfig");
    let (code, jane) = ask(&own, "kubeconfig create --user jane --group system:masters").await;
    assert_eq!(code, 0, "{jane}");
    let dir = two.dirs[0].clone();
    let (token, key) = (two.read(1, "pki/token"), two.read(1, "pki/secrets.key"));
    let Two { _folder: folder, running, .. } = two;
    for running in running {
        running.stop().await;
    }
    let (code, said) = local(&dir, "cluster renew-keys").await;
    assert!(code == 2 && said.contains("nothing was done"), "{code} {said}");
    // Again, as after an interruption.
    for _ in 0..2 {
        let (code, said) = when_none_runs(&dir, "cluster renew-keys --yes").await;
        assert!(code == 0 && said.contains("every Secret is sealed with the new key"), "{code} {said}");
        assert!(said.contains("--cluster-init"), "{said}");
    }
    let mut again = of(&bench, &dir, "one");
    again.shared.etcd_prefix += "-new";
    let running = operator::start(&again).await.unwrap();
    let (code, said) = ask(&own, GET).await;
    assert!(code == 0 && said.contains("aGlkZGVu"), "{code} {said}");
    let now = std::fs::read_to_string(dir.join("pki/secrets.key")).unwrap();
    assert!(!now.contains(key.trim()) && now.lines().count() == 1, "the old key is forgotten");
    // Also by who does not mind the server's certificate.
    let jane: serde_json::Value = serde_saphyr::from_str(&jane).unwrap();
    let url = format!("https://{}/api/v1/namespaces", running.address);
    let client = || reqwest::Client::builder().no_proxy().tls_danger_accept_invalid_certs(true);
    let answer = client().build().unwrap().get(&url).bearer_auth(token.trim()).send().await.unwrap();
    assert_eq!(answer.status(), 401);
    let part = |name: &str| {
        use base64::Engine as _;
        let text = jane["users"][0]["user"][name].as_str().unwrap();
        base64::engine::general_purpose::STANDARD.decode(text).unwrap()
    };
    let pem = [part("client-certificate-data"), part("client-key-data")].concat();
    let with = client().identity(reqwest::Identity::from_pem(&pem).unwrap()).build().unwrap();
    let answer = with.get(&url).send().await;
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status() == 401), "its CA is trusted no more");
    running.stop().await;
    drop(folder);
}
