//! Looks at a member's container, and performs the steps of a plan. Decides nothing.

use std::net::{IpAddr, TcpListener};
use std::time::Duration;

use futures::StreamExt as _;
use tokio::time::timeout;

use super::container::{self, CLUSTER, FOLDER, Files, NAME};
use super::member::{Member, owner};
use super::plan::{Seen, Step};
use crate::api::cluster::{CLIENT_PORT, PEER_PORT};
use crate::engine::log_bound::bounded;
use crate::engine::{ContainerSpec, Engine, Error, LogOptions, Output, ask};

/// Lines of etcd's log that are read when it does not start.
const LINES: u64 = 30;
/// Limit of reading them.
const READ: Duration = Duration::from_secs(2);
/// Most bytes of them.
const MOST: usize = 64 << 10;
/// Characters of a line that are shown.
const SHOWN: usize = 400;

/// What is there of a node's member.
pub async fn observe(engine: &dyn Engine, node: &str, image: &str) -> Result<Seen, Error> {
    let volume = engine.volume(NAME).await?.map(|found| found.labels.get(CLUSTER).cloned().unwrap_or_default());
    let found = engine.list_containers(&owner(node)).await?;
    let container = found.into_iter().find(|found| found.name == NAME);
    Ok(Seen { image: engine.image(image).await?.is_some(), volume, container })
}

/// Performs a step.
pub async fn act(
    engine: &dyn Engine,
    step: Step,
    member: &Member,
    want: &ContainerSpec,
    files: &Files<'_>,
) -> Result<(), Error> {
    tracing::info!("{step}");
    match step {
        Step::Pull => engine.pull_image(&member.image, None).await,
        Step::Volume => engine.ensure_volume(&container::volume(member)).await,
        Step::Remove => {
            stop(engine).await?;
            engine.remove_container(NAME).await
        }
        Step::Create => {
            // It tells which log driver it has.
            engine.info().await?;
            let bounded = engine.daemon().map_or_else(|| want.clone(), |daemon| bounded(want, &daemon));
            engine.create_container(&bounded).await
        }
        Step::Deliver => engine.put_files(NAME, FOLDER, &container::files(files)).await,
        Step::Start => engine.start_container(NAME).await,
        Step::Unpause => engine.unpause_container(NAME).await,
    }
}

/// What the image's etcd says of its version.
pub async fn version(engine: &dyn Engine, host: &str, node: &str, image: &str) -> Result<String, Error> {
    ask::said(engine, host, &owner(node), image, &["etcd", "--version"]).await
}

/// Ends the container, which is not started again by Docker. Success if there is none.
pub async fn stop(engine: &dyn Engine) -> Result<(), Error> {
    engine.stop_container(NAME, Duration::from_secs(10)).await
}

/// Whether this machine has an address.
pub fn is_here(address: IpAddr) -> bool {
    let bound = TcpListener::bind((address, 0));
    !bound.is_err_and(|error| error.kind() == std::io::ErrorKind::AddrNotAvailable)
}

/// Why etcd cannot listen on this address, if it cannot.
pub fn port_problem(address: IpAddr) -> Option<String> {
    [CLIENT_PORT, PEER_PORT].into_iter().find_map(|port| match TcpListener::bind((address, port)) {
        Ok(_) => None,
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Some(format!(
            "port {port} of {address} is taken, and etcd needs it; see who has it: ss -ltnp 'sport = :{port}'"
        )),
        Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable => {
            Some(format!("{address} is no address of this machine"))
        }
        Err(error) => Some(format!("etcd cannot listen on port {port} of {address}: {error}")),
    })
}

/// What etcd complained of last, if its log can be read.
pub async fn complaint(engine: &dyn Engine) -> Option<String> {
    let options = LogOptions { tail: Some(LINES), ..Default::default() };
    let read = async {
        let mut said = Vec::new();
        let mut output = engine.logs(NAME, &options).await.ok()?;
        while let Some(Ok(Output::Stdout(piece) | Output::Stderr(piece))) = output.next().await {
            said.extend_from_slice(&piece);
            // The last ones count.
            let over = said.len().saturating_sub(MOST);
            said.drain(..over);
        }
        Some(String::from_utf8_lossy(&said).into_owned())
    };
    let said = timeout(READ, read).await.ok()??;
    worst(&said).map(shown)
}

/// A line of a log as people see it: not too long, and nothing in it that a terminal would obey.
fn shown(line: &str) -> String {
    line.chars().filter(|letter| !letter.is_control()).take(SHOWN).collect()
}

/// The last line of a log that complains.
fn worst(said: &str) -> Option<&str> {
    let complains = |line: &&str| {
        [r#""level":"fatal""#, r#""level":"panic""#, r#""level":"error""#, " C | ", " E | "]
            .iter()
            .any(|mark| line.contains(mark))
    };
    said.lines().rev().find(complains)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::container::container;
    use super::super::plan::plan;
    use super::*;
    use crate::engine::ContainerState;
    use crate::engine::fake::FakeEngine;

    #[test]
    fn a_port_that_is_taken_is_told_with_the_way_to_see_by_whom() {
        let address: IpAddr = [127, 99, 0, 7].into();
        let _taken = TcpListener::bind((address, PEER_PORT)).unwrap();
        let told = port_problem(address).unwrap();
        assert!(
            told.contains("port 2380 of 127.99.0.7 is taken") && told.contains("ss -ltnp 'sport = :2380'"),
            "{told}"
        );
        assert_eq!(port_problem([127, 99, 0, 8].into()), None);
        assert!(port_problem([203, 0, 113, 7].into()).unwrap().contains("no address of this machine"));
        assert!(is_here(address) && !is_here([203, 0, 113, 7].into()));
    }

    /// Whatever step an operator was killed before, the next one finishes what it began, and then there is nothing to do.
    #[tokio::test]
    async fn what_was_interrupted_after_any_step_is_finished_by_the_next_look() {
        let member = Member::first("one", [10, 0, 0, 1].into(), "image", "c");
        let (want, files) = (container(&member, false), Files { ca: "a", certificate: "b", key: "c" });
        for interrupted in 0..5 {
            let engine = FakeEngine::new("local");
            let mut member = member.clone();
            for most in [interrupted, 9] {
                let seen = observe(&engine, "one", "image").await.unwrap();
                for step in plan(&member, &want, &seen, "x").unwrap().into_iter().take(most) {
                    act(&engine, step, &member, &want, &files).await.unwrap();
                    if step == Step::Deliver {
                        member.delivered = "x".into();
                    }
                }
            }
            let seen = observe(&engine, "one", "image").await.unwrap();
            assert_eq!(plan(&member, &want, &seen, "x").unwrap(), [], "after {interrupted} steps");
            engine.world(|world| {
                let made = &world.containers[NAME];
                assert_eq!((made.state, world.volumes.len()), (ContainerState::Running, 1));
                assert!(made.files.values().any(|file| file.path.ends_with("etcd.key") && file.mode == 0o600));
            });
        }
    }

    /// Regression 314: a line of etcd's log went to the terminal as it was, and whatever reached that log could steer the terminal.
    #[test]
    fn a_line_of_a_log_steers_no_terminal() {
        assert_eq!(shown("\u{1b}[2J\u{9b}31mred\u{7}\r"), "[2J31mred");
        assert_eq!(shown(&"x".repeat(SHOWN + 1)).len(), SHOWN);
    }

    #[test]
    fn of_a_log_the_last_complaint_is_shown() {
        let log = "{\"level\":\"info\",\"msg\":\"a\"}\n{\"level\":\"fatal\",\"msg\":\"b\"}\n{\"level\":\"info\",\"msg\":\"c\"}\n";
        assert_eq!(worst(log), Some("{\"level\":\"fatal\",\"msg\":\"b\"}"));
        assert_eq!(worst("{\"level\":\"info\"}"), None);
    }
}
