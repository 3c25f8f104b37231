//! Containers with a supervisor and an open link to it, for the tests that play the operator on a real Docker Engine.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::fmt::Debug;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command as Process, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Time-out of everything that a test waits for.
pub const LONG: Duration = Duration::from_secs(60);
/// The capabilities of a supervisor; it has no other.
const RIGHTS: [&str; 6] = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID"];

/// What `docker` prints; it must succeed.
pub fn docker(arguments: &[&str]) -> String {
    let output = Process::new("docker").args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "docker {}: {said}", arguments.join(" "));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The address of a container.
pub fn address(container: &str) -> String {
    docker(&["inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", container])
}

/// The image for tests with Redis.
pub fn redis() -> String {
    std::env::var("EVENKEEL_TEST_REDIS").unwrap_or("redis:7".into())
}

/// A network with containers of one test; everything is removed when it is dropped.
pub struct Bench {
    name: String,
    image: String,
    /// Where each container has its volume.
    volume: &'static str,
    containers: Vec<String>,
    begun: Instant,
}

impl Bench {
    /// `None`, and a line that says so, without EVENKEEL_TEST_DOCKER=1.
    pub fn new(test: &str, image: &str, volume: &'static str) -> Option<Self> {
        if std::env::var("EVENKEEL_TEST_DOCKER").as_deref() != Ok("1") {
            println!("{test}: skipped, EVENKEEL_TEST_DOCKER=1 is not set");
            return None;
        }
        let name = format!("it-{test}-{}", std::process::id());
        docker(&["network", "create", &name]);
        Some(Self { name, image: image.into(), volume, containers: Vec::new(), begun: Instant::now() })
    }

    /// Starts a container and returns its name.
    pub fn run(&mut self, name: &str, options: &[&str], command: &[&str]) -> String {
        let container = format!("{}-{name}", self.name);
        let volume = format!("{container}:{}", self.volume);
        let common = ["run", "-d", "--name", &container, "--network", &self.name, "-v", &volume];
        docker(&[&common, options, &[&self.image], command].concat());
        self.containers.push(container.clone());
        container
    }

    /// Starts a container whose process 1 is the supervisor with this verb.
    pub fn supervised(&mut self, verb: &str, member: &str) -> String {
        let binary = format!("{}:/evenkeel/evenkeel:ro", env!("CARGO_BIN_EXE_evenkeel"));
        let rights = RIGHTS.map(|name| format!("--cap-add={name}"));
        let rights: Vec<&str> = rights.iter().map(String::as_str).collect();
        let options = [
            &["-v", &binary, "--cap-drop=ALL", "--security-opt=no-new-privileges:true", "--pids-limit=4096"],
            &rights[..],
            &["--tmpfs", "/run/evenkeel:mode=0700", "-e", "EVENKEEL_LOG=evenkeel=debug"],
            &["--entrypoint", "/evenkeel/evenkeel"],
        ];
        self.run(member, &options.concat(), &[verb, "--member", member])
    }

    /// Prints the time since the last mark, and returns it.
    pub fn mark(&mut self, step: &str) -> Duration {
        let took = self.begun.elapsed();
        println!("{:>9.1} ms  {step}", took.as_secs_f64() * 1e3);
        self.begun = Instant::now();
        took
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for container in &self.containers {
            if std::thread::panicking() || std::env::var_os("EVENKEEL_TEST_LOGS").is_some() {
                let logs = Process::new("docker").args(["logs", container]).output().unwrap();
                let [out, problems] = [logs.stdout, logs.stderr].map(|log| String::from_utf8_lossy(&log).into_owned());
                println!("== {container}\n{out}{problems}");
            }
            let _ = Process::new("docker").args(["rm", "-fv", container]).output();
            let _ = Process::new("docker").args(["volume", "rm", "-f", container]).output();
        }
        let _ = Process::new("docker").args(["network", "rm", &self.name]).output();
    }
}

/// An open link to the supervisor in a container, which tells reports.
pub struct Link<R> {
    pub container: String,
    /// The last report.
    pub last: R,
    dial: Child,
    commands: ChildStdin,
    reports: Receiver<R>,
}

impl<R> Drop for Link<R> {
    fn drop(&mut self) {
        let _ = self.dial.kill();
        let _ = self.dial.wait();
    }
}

impl<R: DeserializeOwned + Default + Clone + Debug + Send + 'static> Link<R> {
    /// Opens a link as soon as the supervisor listens.
    pub fn dial(container: String, socket: &str) -> Self {
        let begun = Instant::now();
        loop {
            let socket = format!("unix:{socket}");
            let arguments = ["exec", "-i", &container, "/evenkeel/evenkeel", "dial", &socket];
            let mut dial = Process::new("docker");
            dial.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
            let mut dial = dial.spawn().unwrap();
            let mut output = dial.stdout.take().unwrap();
            let mut first = [0];
            if output.read(&mut first).unwrap() == 1 && first == [0x06] {
                let commands = dial.stdin.take().unwrap();
                let (tell, reports) = channel();
                std::thread::spawn(move || {
                    for line in BufReader::new(output).lines().map_while(Result::ok) {
                        if tell.send(serde_json::from_str(&line).unwrap()).is_err() {
                            return;
                        }
                    }
                });
                return Self { container, last: R::default(), dial, commands, reports };
            }
            let _ = dial.wait();
            assert!(begun.elapsed() < LONG, "{container} does not listen");
            crate::poll::pause();
        }
    }

    pub fn say(&mut self, command: &impl Serialize) {
        let mut line = serde_json::to_string(command).unwrap();
        line.push('\n');
        self.commands.write_all(line.as_bytes()).unwrap();
    }

    /// Waits for a report that fulfils the condition.
    pub fn wait(&mut self, what: &str, holds: impl Fn(&R) -> bool) -> R {
        let begun = Instant::now();
        loop {
            match self.reports.recv_timeout(LONG.saturating_sub(begun.elapsed())) {
                Ok(report) => self.last = report,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("{}: {what} did not come; last report: {:#?}", self.container, self.last)
                }
                Err(RecvTimeoutError::Disconnected) => panic!("{}: the conversation ended", self.container),
            }
            if holds(&self.last) {
                return self.last.clone();
            }
        }
    }
}

/// Lets a test's member be used as its field `link`.
macro_rules! linked {
    ($member:ty, $report:ty) => {
        impl std::ops::Deref for $member {
            type Target = crate::supervised::Link<$report>;
            fn deref(&self) -> &Self::Target {
                &self.link
            }
        }
        impl std::ops::DerefMut for $member {
            fn deref_mut(&mut self) -> &mut Self::Target {
                &mut self.link
            }
        }
    };
}
pub(crate) use linked;
