//! `evenkeel operator` as a process and as a part of one: start, refusals, signals, and the binary's own exit codes.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use evenkeel::cli::operator::{self, Args};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

/// Time-out of everything in these tests.
const PATIENCE: Duration = Duration::from_secs(30);

fn args(dir: &Path) -> Args {
    Args {
        data_dir: Some(dir.to_owned()),
        listen: "127.0.0.1:0".parse().unwrap(),
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

async fn run(words: &str) -> (i32, String, String) {
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
    let other = tempfile::tempdir().unwrap();
    let taken = Args { listen: running.address, ..args(other.path()) };
    let refused = operator::start(&taken).await.err().unwrap().report();
    assert!(refused.contains("is in use by another process"), "{refused}");
    timeout(PATIENCE, running.stop()).await.unwrap();
    // Everything is released: the same directory can be used again in the same process.
    timeout(PATIENCE, operator::start(&args(folder.path())).await.unwrap().stop()).await.unwrap();
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
    kill(Pid::from_raw(child.id().unwrap().try_into().unwrap()), Signal::SIGTERM).unwrap();
    let ended = timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
    assert_eq!(ended.code(), Some(0));
    let mut rest = String::new();
    while let Some(line) = log.next_line().await.unwrap() {
        rest.push_str(&line);
    }
    assert!(rest.contains("the containers keep running"), "{rest}");
    let (code, _, err) = run(&format!("--kubeconfig {dir}/kubeconfig get dockerhosts")).await;
    assert!(code == 6 && err.contains("is `evenkeel operator` running?"), "{code} {err}");
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
