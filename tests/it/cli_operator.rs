//! `evenkeel operator` as a process and as a part of one: start, refusals, signals, and the binary's own exit codes.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use evenkeel::cli::operator::{self, Args, Home};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

/// Time-out of everything in these tests.
const PATIENCE: Duration = Duration::from_secs(30);

/// The options of an operator on a free port of loopback.
pub fn args(dir: &Path) -> Args {
    Args {
        home: Home { data_dir: Some(dir.to_owned()), encryption_key_file: None },
        listen: "127.0.0.1:0".parse().unwrap(),
        advertise: Vec::new(),
        shared: Default::default(),
        join: Default::default(),
        managed: Default::default(),
        snapshot_store: Default::default(),
        audit: Vec::new(),
        default_pod_security: Default::default(),
    }
}

/// The binary, without any settings of this machine.
fn evenkeel(words: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
    command.args(words.split_whitespace()).env_remove("KUBECONFIG").env_remove("EVENKEEL_KUBECONFIG");
    command.env_remove("EVENKEEL_LOG").kill_on_drop(true);
    command
}

/// Runs the binary: its exit code, and what it wrote on stdout and stderr.
pub async fn run(words: &str) -> (i32, String, String) {
    let output = timeout(PATIENCE, evenkeel(words).output()).await.unwrap().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_operator_owns_a_data_directory_and_a_second_is_told_who() {
    let folder = tempfile::tempdir().unwrap();
    let running = operator::start(&args(folder.path())).await.unwrap();
    assert!(running.kubeconfig.exists(), "written before the first request");
    let refused = operator::start(&args(folder.path())).await.err().unwrap().report();
    assert!(refused.contains(&format!("process {} is an operator on", std::process::id())), "{refused}");
    timeout(PATIENCE, running.stop()).await.unwrap();
    // Everything is released: the same directory can be used again in the same process. A process that another test starts
    // has the lock, too, until it has become that program.
    let again = async {
        loop {
            if let Ok(running) = operator::start(&args(folder.path())).await {
                return running.stop().await;
            }
        }
    };
    timeout(PATIENCE, again).await.unwrap();
}

/// One machine becomes the first of several: its objects are in etcd under their uids, and its own file is kept aside.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_objects_of_a_single_operator_are_taken_over_into_etcd() {
    let Some(bench) = crate::etcd::shared("the_objects_of_a_single_operator").await else { return };
    let folder = tempfile::tempdir().unwrap();
    let (dir, manifest) = (folder.path().join("data"), folder.path().join("map.yaml"));
    std::fs::write(&manifest, "{apiVersion: v1, kind: ConfigMap, metadata: {name: kept}, data: {a: b}}").unwrap();
    let running = operator::start(&args(&dir)).await.unwrap();
    let ask = |running: &operator::Running, words: &str| {
        let words = format!("--kubeconfig {} {words}", running.kubeconfig.display());
        async move { run(&words).await.1 }
    };
    ask(&running, &format!("apply -f {}", manifest.display())).await;
    let uid_of = |text: String| serde_json::from_str::<serde_json::Value>(&text).unwrap()["metadata"]["uid"].clone();
    let get = "get configmap kept -o json";
    let uid = uid_of(ask(&running, get).await);
    assert!(uid.is_string(), "{uid}");
    timeout(PATIENCE, running.stop()).await.unwrap();

    let (etcd_endpoints, etcd_prefix) = (bench.config(0).endpoints, bench.prefix().to_owned());
    let shared = evenkeel::cli::etcd::Args { etcd_endpoints, etcd_prefix, ..Default::default() };
    let several = Args { shared, ..args(&dir) };
    for _ in 0..2 {
        let running = operator::start(&several).await.unwrap();
        assert_eq!(uid_of(ask(&running, get).await), uid);
        timeout(PATIENCE, running.stop()).await.unwrap();
        assert!(!dir.join("store.db").exists() && dir.join("store.db.imported").exists());
    }
}

/// Regression 161: an operator whose port another process had bound ended at once, and so nobody failed over a database.
/// Everything else runs now, the unix socket serves, the port is opened when it is free, and an Event names the process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_whose_port_is_taken_does_its_work() {
    let squatter = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = squatter.local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("data");
    let running = operator::start(&Args { listen: address, ..args(&dir) }).await.unwrap();
    let told = format!("{address} is in use by process {}", std::process::id());
    assert!(running.closed.as_ref().is_some_and(|why| why.contains(&told)), "{:?}", running.closed);

    let by_socket = folder.path().join("by-socket");
    let socket = dir.join("api.sock");
    std::fs::write(&by_socket, format!(
        "clusters: [{{name: a, cluster: {{server: 'unix://{}'}}}}]\ncontexts: [{{name: a, context: {{cluster: a, user: a}}}}]\n",
        socket.display()
    ))
    .unwrap();
    let ask = |path: &Path, words: &str| {
        let words = format!("--kubeconfig {} {words}", path.display());
        async move { run(&words).await }
    };
    let told = async {
        loop {
            let (_, out, _) = ask(&by_socket, "get events -o yaml").await;
            if out.contains("PortClosed") {
                return out;
            }
        }
    };
    let events = timeout(PATIENCE, told).await.unwrap();
    assert!(events.contains("is in use by process"), "{events}");
    // A controller works: it says how the host is.
    let judged = async { while !ask(&by_socket, "get dh local -o yaml").await.1.contains("conditions:") {} };
    timeout(PATIENCE, judged).await.unwrap();

    drop(squatter);
    let opened =
        async { while ask(&dir.join("kubeconfig"), "get dh -o name").await.1 != "dockerhost.evenkeel.dev/local\n" {} };
    timeout(PATIENCE, opened).await.unwrap();
    timeout(PATIENCE, running.stop()).await.unwrap();
}

#[tokio::test]
async fn a_node_that_cannot_join_says_why_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let token = format!("EK1{}.CANARY", "0".repeat(64));
    let join = async |dir: &str, words: String| {
        run(&format!("operator --listen 127.0.0.1:0 --data-dir {}/{dir} --join {words}", folder.path().display())).await
    };
    let (code, _, err) = join("new", format!("127.0.0.1:1 --token {token}")).await;
    assert!(
        code == 1 && err.contains("cannot join 127.0.0.1:1; nothing was sent: it cannot be reached"),
        "{code} {err}"
    );
    let (code, _, err) = join("new", "127.0.0.1:1".to_owned()).await;
    assert!(code == 2 && err.contains("--join wants a token"), "{code} {err}");
    let (code, _, err) = join("new", "127.0.0.1:1 --token CANARY".to_owned()).await;
    assert!(code == 2 && err.contains("this is no join token") && !err.contains("CANARY"), "{code} {err}");
    let names = |dir: &str| {
        let names = std::fs::read_dir(folder.path().join(dir)).unwrap().map(|one| one.unwrap().file_name());
        names.collect::<Vec<_>>()
    };
    assert_eq!(names("new"), ["operator.lock"]);
    std::fs::create_dir(folder.path().join("old")).unwrap();
    for name in ["operator.lock", "store.db"] {
        std::fs::write(folder.path().join("old").join(name), "").unwrap();
    }
    let (code, _, err) = join("old", format!("127.0.0.1:1 --token {token}")).await;
    assert!(code == 1 && err.contains("has a store of its own (store.db)"), "{code} {err}");
    assert_eq!(names("old").len(), 2);
}

/// Regression 454: `secrets rotate-keys` on a data directory that had an old store.db beside the settings of etcd forgot the key
/// that sealed the Secrets in etcd.
#[tokio::test]
async fn a_store_in_a_file_beside_the_settings_of_etcd_is_not_taken_for_the_store() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("pki")).unwrap();
    let settings = r#"{"endpoints": ["http://127.0.0.1:1"], "prefix": "/a", "tls": null}"#;
    let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    for (name, text) in [("store.db", ""), ("operator.lock", ""), ("pki/etcd.json", settings), ("pki/secrets.key", key)]
    {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let (code, _, err) = run(&format!("secrets rotate-keys --data-dir {}", folder.path().display())).await;
    assert!(code == 1 && err.contains("no member of etcd answers here"), "{code} {err}");
    assert_eq!(std::fs::read_to_string(folder.path().join("pki/secrets.key")).unwrap(), key);
}

#[tokio::test]
async fn a_token_is_not_sent_without_tls() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kubeconfig");
    let text = "clusters: [{name: a, cluster: {server: 'http://127.0.0.1:1'}}]\nusers: [{name: a, user: {token: CANARY}}]\n\
                contexts: [{name: a, context: {cluster: a, user: a}}]\n";
    std::fs::write(&file, text).unwrap();
    let (code, _, err) = run(&format!("--kubeconfig {} get pg", file.display())).await;
    assert!(code == 1 && err.contains("others could read the token on its way"), "{code} {err}");
    assert!(!err.contains("CANARY"), "{err}");
}

#[tokio::test]
async fn the_process_serves_until_sigterm_and_ends_well() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().display();
    let mut child =
        evenkeel(&format!("operator --data-dir {dir} --listen 127.0.0.1:0")).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut said = String::new();
    let serving = async {
        while !said.contains("serving") {
            said.push_str(&log.next_line().await.unwrap().unwrap());
        }
    };
    timeout(PATIENCE, serving).await.unwrap();
    assert!(!said.contains('\u{1b}'), "no colours where there is no terminal: {said}");
    let (code, out, err) = run(&format!("--kubeconfig {dir}/kubeconfig get dockerhosts -o name")).await;
    assert_eq!((code, out.as_str(), err.as_str()), (0, "dockerhost.evenkeel.dev/local\n", ""));
    let (_, out, _) = run(&format!("--kubeconfig {dir}/kubeconfig version")).await;
    assert!(out.contains("server: v"), "{out}");
    a_bomb_is_refused(&folder.path().join("kubeconfig"), child.id().unwrap()).await;
    let (code, out, _) = run(&format!("--kubeconfig {dir}/kubeconfig get configmaps a -o name")).await;
    assert!(code == 0 && out.contains("configmap/a"), "{out}");
    kill(Pid::from_raw(child.id().unwrap().try_into().unwrap()), Signal::SIGTERM).unwrap();
    let ended = timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
    assert_eq!(ended.code(), Some(0));
    let mut rest = String::new();
    while let Some(line) = log.next_line().await.unwrap() {
        rest.push_str(&line);
    }
    assert!(rest.contains("the containers keep running"), "{rest}");
    let audit = std::fs::read_to_string(folder.path().join("audit.log")).unwrap();
    let lines: Vec<serde_json::Value> = audit.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told = |code: u16, verb: &str| {
        let here = |line: &&serde_json::Value| line["responseStatus"]["code"] == code && line["verb"] == verb;
        lines.iter().filter(here).filter(|line| line["objectRef"]["resource"] == "configmaps").count()
    };
    assert_eq!((told(201, "create"), told(413, "patch"), told(200, "get")), (1, 2, 0), "{audit}");
    let (code, _, err) = run(&format!("--kubeconfig {dir}/kubeconfig get dockerhosts")).await;
    assert!(code == 6 && err.contains("is `evenkeel operator` running?"), "{code} {err}");
}

/// Regression 162: a JSON patch of 1.8 kB whose copies each double a value took gigabytes of memory. The bytes that copies
/// carry are counted before they are carried, and the process does not grow.
async fn a_bomb_is_refused(kubeconfig: &Path, process: u32) {
    let text = std::fs::read_to_string(kubeconfig).unwrap();
    let config: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let (server, token) =
        (text(&config["clusters"][0]["cluster"]["server"]), text(&config["users"][0]["user"]["token"]));
    let _ = rustls::crypto::ring::default_provider().install_default();
    // The test of the certificate is elsewhere.
    let http = reqwest::Client::builder().tls_danger_accept_invalid_certs(true).no_proxy().build().unwrap();
    let maps = format!("{server}/api/v1/namespaces/default/configmaps");
    let map = serde_json::json!({"metadata": {"name": "a"}, "data": {"x": "y".repeat(1000)}});
    let made = http.post(&maps).bearer_auth(&token).json(&map).send().await.unwrap();
    assert_eq!(made.status(), 201);
    let peak = || -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let before = peak();
    for count in [24, 1_001] {
        let copy = |n| serde_json::json!({"op": "copy", "from": "/data", "path": format!("/data/c{n}")});
        let bomb: Vec<_> = (0..count).map(copy).collect();
        let request = http.patch(format!("{maps}/a")).bearer_auth(&token).body(serde_json::to_string(&bomb).unwrap());
        let refused = request.header("Content-Type", "application/json-patch+json").send().await.unwrap();
        assert_eq!(refused.status(), 413);
    }
    assert!(peak() - before < 16 * 1024, "{before} kB before, {} kB after", peak());
}

#[tokio::test]
async fn up_applies_shows_progress_and_stays_until_it_is_told_to_end() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("objects.yaml");
    std::fs::write(&file, "apiVersion: v1\nkind: Namespace\nmetadata: {name: team}\n").unwrap();
    let dir = folder.path().join("data");
    let words = format!("up -f {} --data-dir {} --listen 127.0.0.1:0", file.display(), dir.display());
    let mut child = evenkeel(&words).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut said = String::new();
    let ready = async {
        while !said.contains("Ctrl-C") {
            said.push_str(&out.next_line().await.unwrap().unwrap());
            said.push('\n');
        }
    };
    timeout(PATIENCE, ready).await.unwrap();
    assert!(said.contains("namespace/team created") && said.contains("everything is ready"), "{said}");
    kill(Pid::from_raw(child.id().unwrap().try_into().unwrap()), Signal::SIGINT).unwrap();
    assert_eq!(timeout(PATIENCE, child.wait()).await.unwrap().unwrap().code(), Some(0));
    std::fs::write(&file, "kind: [").unwrap();
    let (code, _, err) = run(&words).await;
    assert!(code == 4 && err.contains("objects.yaml:1:7"), "{code} {err}");
}

#[tokio::test]
async fn usage_and_missing_files_have_their_exit_codes() {
    let (code, _, err) = run("frobnicate").await;
    assert!(code == 2 && err.contains("frobnicate"), "{code} {err}");
    let (code, out, _) = run("--help").await;
    assert!(code == 0 && out.contains("6  the server cannot be reached"), "{out}");
    assert!(out.contains("switchover") && !out.contains("supervisor") && !out.contains("dial"), "{out}");
    let (code, _, err) = run("--kubeconfig /nowhere/kubeconfig get pg").await;
    assert!(code == 3 && err.starts_with("error: there is no kubeconfig at /nowhere/kubeconfig"), "{code} {err}");
    let (code, out, _) = run("--kubeconfig /nowhere/kubeconfig kubeconfig --path").await;
    assert_eq!((code, out.as_str()), (0, "/nowhere/kubeconfig\n"));
    let (code, out, _) = run("completion bash").await;
    assert!(code == 0 && out.contains("_evenkeel()"), "{out}");
    let (code, out, _) = run("crds").await;
    assert!(code == 0 && out.contains("postgresclusters.evenkeel.dev"), "{out}");
}
