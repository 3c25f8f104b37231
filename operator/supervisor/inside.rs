//! Tests that run in a container as the supervisor does, with a real PostgreSQL. They need EVENKEEL_TEST_DOCKER=1.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::path::Path;
use std::process::Command as Process;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::WaitStatus;
use tokio::net::unix::pipe;

use super::dump::{connection, program};
use super::jobs::Site;
use super::place::Place;
use super::process::{Child, Reaper};
use super::{sql, tools};
use crate::api::postgres_settings::SOCKETS;

/// Set in the container.
const INSIDE: &str = "EVENKEEL_TEST_INSIDE";

/// Runs this test in a container of `postgres:15`, where `work` is done; it must succeed. `test` is the full name of the test.
pub fn in_container<F: Future<Output = ()>>(test: &str, work: impl FnOnce() -> F) {
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work());
        println!("the work is done");
        return;
    }
    if std::env::var("EVENKEEL_TEST_DOCKER").as_deref() != Ok("1") {
        println!("{test}: skipped, EVENKEEL_TEST_DOCKER=1 is not set");
        return;
    }
    // The test is a static program, as the supervisor is.
    let this = format!("{}:/test:ro", std::env::current_exe().unwrap().display());
    let run = Process::new("docker")
        .args(["run", "--rm", "-v", &this, "-e", &format!("{INSIDE}=1"), "--entrypoint", "/test", "postgres:15"])
        .args(["--exact", test, "--nocapture"])
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success() && said.contains("the work is done"), "{said}");
}

/// What the supervisor has at its start.
pub fn site() -> Site {
    let reaper = Reaper::default();
    tokio::spawn(reaper.clone().run());
    let place = Place::find().unwrap();
    place.prepare().unwrap();
    Site { place, reaper }
}

/// A server on the data directory that admits everybody in the container, with these settings too.
pub async fn serve(site: &Site, settings: &[(&str, &str)]) -> Child {
    let Site { place, reaper } = site;
    place.write_configuration("test_hba.conf", "local all,replication all trust\n").unwrap();
    let mut command = place.tool("postgres");
    command.arg("-D").arg(place.pgdata());
    let hba = place.configuration().join("test_hba.conf").display().to_string();
    let ours = [("hba_file", hba.as_str()), ("listen_addresses", ""), ("unix_socket_directories", SOCKETS)];
    for (name, value) in ours.iter().chain(settings) {
        command.arg("-c").arg(format!("{name}={value}"));
    }
    let mut child = reaper.spawn(command, None).unwrap();
    let mut output = pipe::Receiver::from_owned_fd(child.output.try_clone().unwrap()).unwrap();
    tokio::spawn(async move { tokio::io::copy(&mut output, &mut tokio::io::stderr()).await });
    tokio::select! {
        biased;
        ended = &mut child.exit => panic!("{ended:?}"),
        opened = sql::first_session(Path::new(SOCKETS)) => opened.unwrap(),
    }
    child
}

/// Stops a server; it must end by itself.
pub async fn stop(server: Child) {
    kill(server.pid, Signal::SIGINT).unwrap();
    assert!(matches!(server.exit.await, Ok(WaitStatus::Exited(_, 0))));
}

/// What `psql` answers in a database; panics with the server's words.
pub async fn query(site: &Site, database: &str, statement: &str) -> String {
    let mut command = program(site, "psql");
    command.arg(connection(database)).args(["-v", "ON_ERROR_STOP=1", "-XAtqc", statement]);
    tools::run(&site.reaper, command).await.unwrap().trim().to_owned()
}
