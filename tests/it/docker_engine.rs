//! The engine room against a real Docker Engine. Runs only with EVENKEEL_TEST_DOCKER=1.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use evenkeel::api::docker_host::Endpoint;
use evenkeel::api::labels::{self, Owner};
use evenkeel::engine::docker::{DockerEngine, OwnBinary};
use evenkeel::engine::hosts::local_endpoint;
use evenkeel::engine::mirror::{Mirror, REFRESH};
use evenkeel::engine::{
    Attachment, ConnectionSeen, ContainerSpec, ContainerState, Engine, Error, NetworkSpec, VolumeSpec,
};
use evenkeel::runtime::clock;
use futures::StreamExt as _;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

/// The number of running tests, and the volumes with Evenkeel's binary that they use.
static USERS: Mutex<(usize, BTreeSet<String>)> = Mutex::new((0, BTreeSet::new()));

pub(crate) const IMAGE: &str = "evenkeel-test/busybox:1";
/// Time-out of everything that a test waits for.
const LONG: Duration = Duration::from_secs(30);

/// An owner on the local engine; everything with its labels is removed when it is dropped.
pub(crate) struct DockerBench {
    pub(crate) engine: DockerEngine,
    pub(crate) owner: Owner,
}

/// `None`, and a line that says so, without EVENKEEL_TEST_DOCKER=1.
pub(crate) fn bench(test: &str) -> Option<DockerBench> {
    if std::env::var("EVENKEEL_TEST_DOCKER").as_deref() != Ok("1") {
        println!("{test}: skipped, EVENKEEL_TEST_DOCKER=1 is not set");
        return None;
    }
    static IMPORTED: OnceLock<()> = OnceLock::new();
    IMPORTED.get_or_init(import_image);
    USERS.lock().unwrap().0 += 1;
    let binary = Arc::new(OwnBinary::at(env!("CARGO_BIN_EXE_evenkeel"), evenkeel::CONTAINER_IDENTITY));
    let engine = DockerEngine::connect("local", &local_endpoint().unwrap(), None, binary).unwrap();
    let name = format!("it-{test}-{}", std::process::id());
    Some(DockerBench { engine, owner: Owner { kind: "EngineTest".into(), namespace: "default".into(), name } })
}

pub(crate) fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The smallest image with a shell, made from this machine's static busybox.
fn import_image() {
    if !docker(&["images", "-q", IMAGE]).is_empty() {
        return;
    }
    let busybox = static_busybox();
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(busybox.len() as u64);
    header.set_mode(0o755);
    archive.append_data(&mut header, "bin/busybox", busybox.as_slice()).unwrap();
    let mut import = Command::new("docker").args(["import", "-", IMAGE]).stdin(Stdio::piped()).spawn().unwrap();
    import.stdin.take().unwrap().write_all(&archive.into_inner().unwrap()).unwrap();
    assert!(import.wait().unwrap().success());
}

/// This machine's busybox if it is static, else the one in Debian's package, which is downloaded but not installed.
fn static_busybox() -> Vec<u8> {
    let needs_no_loader = |program: &Vec<u8>| !program[..4096].windows(5).any(|bytes| bytes == b"/ld-l");
    if let Some(busybox) = std::fs::read("/bin/busybox").ok().filter(needs_no_loader) {
        return busybox;
    }
    let dir = tempfile::tempdir().unwrap();
    for command in ["apt-get download -q busybox-static", "dpkg-deb -x busybox-static_*.deb ."] {
        let status = Command::new("sh").args(["-c", command]).current_dir(dir.path()).status().unwrap();
        assert!(status.success(), "{command}");
    }
    ["bin/busybox", "usr/bin/busybox"].iter().find_map(|path| std::fs::read(dir.path().join(path)).ok()).unwrap()
}

impl Drop for DockerBench {
    fn drop(&mut self) {
        let label = format!("label={}={}", labels::NAME, self.owner.name);
        for (list, remove) in [
            (vec!["ps", "-aq"], vec!["rm", "-fv"]),
            (vec!["network", "ls", "-q"], vec!["network", "rm"]),
            (vec!["volume", "ls", "-q"], vec!["volume", "rm"]),
        ] {
            let found = docker(&[&list[..], &["--filter", &label]].concat());
            for id in found.lines() {
                docker(&[&remove[..], &[id]].concat());
            }
        }
        let mut users = USERS.lock().unwrap_or_else(PoisonError::into_inner);
        users.0 -= 1;
        if users.0 == 0 {
            // The last test removes the shared volumes.
            for volume in std::mem::take(&mut users.1) {
                docker(&["volume", "rm", &volume]);
            }
        }
    }
}

impl DockerBench {
    pub(crate) fn name(&self, part: &str) -> String {
        format!("{}-{part}", self.owner.name)
    }

    pub(crate) async fn binary(&self) -> String {
        let volume = self.engine.ensure_binary(IMAGE).await.unwrap();
        USERS.lock().unwrap().1.insert(volume.clone());
        volume
    }

    pub(crate) fn network(&self) -> NetworkSpec {
        NetworkSpec { name: self.name("net"), labels: self.owner.labels(), internal: false }
    }

    /// A container that runs this shell script.
    pub(crate) fn container(&self, script: &str) -> ContainerSpec {
        ContainerSpec {
            name: self.name("1"),
            hostname: "one".into(),
            image: IMAGE.into(),
            entrypoint: ["/bin/busybox", "sh", "-c", script].map(str::to_owned).to_vec(),
            labels: self.owner.labels(),
            network: self.name("net"),
            stop_timeout_seconds: 1,
            ..Default::default()
        }
    }

    pub(crate) async fn run(&self, spec: &ContainerSpec) {
        self.engine.ensure_network(&self.network()).await.unwrap();
        self.engine.create_container(spec).await.unwrap();
        self.engine.start_container(&spec.name).await.unwrap();
    }

    pub(crate) async fn states(&self) -> Vec<ContainerState> {
        self.engine.list_containers(&self.owner).await.unwrap().into_iter().map(|found| found.state).collect()
    }

    /// The first line that the container logs.
    pub(crate) async fn says(&self, container: &str) -> String {
        let mut logs = tokio::process::Command::new("docker")
            .args(["logs", "-f", container])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(logs.stdout.take().unwrap()).lines();
        within(lines.next_line()).await.unwrap().unwrap_or_default()
    }
}

pub(crate) async fn within<T>(wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, wait).await.expect("it happens long before")
}

/// Sleeps until it gets SIGTERM.
pub(crate) const IDLE: &str = "trap exit TERM; while :; do /bin/busybox sleep 0.05; done";

#[tokio::test]
async fn the_engine_says_what_it_is() {
    let Some(bench) = bench("info") else { return };
    let info = bench.engine.info().await.unwrap();
    assert_eq!(info.engine_version, docker(&["version", "--format", "{{.Server.Version}}"]));
    assert!(info.api_version.starts_with("1."), "{info:?}");
    assert!(info.cpus > 0 && info.memory_bytes > 0, "{info:?}");
}

#[tokio::test]
async fn a_network_made_twice_is_one_and_takes_fixed_addresses() {
    let Some(bench) = bench("network") else { return };
    let network = bench.network();
    let (one, two) = tokio::join!(bench.engine.ensure_network(&network), bench.engine.ensure_network(&network));
    let seen = one.unwrap();
    assert_eq!(seen, two.unwrap());
    assert_eq!(bench.engine.network(&seen.name).await.unwrap(), Some(seen.clone()));
    let fixed = Ipv4Addr::from(u32::from(seen.subnet.0) + 10);
    let address = "/bin/busybox ip -4 -o addr show eth0 | /bin/busybox awk '{print $4}'; exec /bin/busybox sleep 60";
    bench.run(&ContainerSpec { address: Some(fixed), ..bench.container(address) }).await;
    assert_eq!(bench.says(&bench.name("1")).await, format!("{fixed}/{}", seen.subnet.1));
    // Automatic addresses come from the upper half, so they never take a fixed one.
    let automatic = ContainerSpec { name: bench.name("2"), ..bench.container(address) };
    bench.run(&automatic).await;
    let given = bench.says(&automatic.name).await;
    let given: Ipv4Addr = given.split('/').next().unwrap().parse().unwrap();
    assert!(u32::from(given) >= u32::from(seen.subnet.0) + (1 << (31 - seen.subnet.1)), "{given}");
    assert!(matches!(bench.engine.remove_network(&seen.name).await, Err(Error::Conflict { .. })));
    for part in ["1", "2"] {
        bench.engine.remove_container(&bench.name(part)).await.unwrap();
    }
    bench.engine.remove_network(&seen.name).await.unwrap();
    bench.engine.remove_network(&seen.name).await.unwrap();
    assert_eq!(bench.engine.network(&seen.name).await.unwrap(), None);
}

#[tokio::test]
async fn what_belongs_to_someone_else_is_not_taken_over() {
    let Some(bench) = bench("foreign") else { return };
    let foreign = format!("{}={}", labels::NAME, bench.owner.name);
    docker(&["network", "create", "--label", &foreign, &bench.name("net")]);
    docker(&["volume", "create", "--label", &foreign, &bench.name("data")]);
    let network = bench.engine.ensure_network(&bench.network()).await.unwrap_err();
    assert_eq!(
        network.to_string(),
        format!(
            "Docker host local: conflict while making network {0}: a network of that name is there already and it is not managed by evenkeel; \
             rename it or remove it",
            bench.name("net")
        )
    );
    let volume = VolumeSpec { name: bench.name("data"), labels: bench.owner.labels() };
    assert!(matches!(bench.engine.ensure_volume(&volume).await, Err(Error::Conflict { .. })));
}

#[tokio::test]
async fn a_volume_made_twice_is_one_and_keeps_what_is_in_it() {
    let Some(bench) = bench("volume") else { return };
    let volume = VolumeSpec { name: bench.name("data"), labels: bench.owner.labels() };
    bench.engine.ensure_volume(&volume).await.unwrap();
    bench.engine.ensure_volume(&volume).await.unwrap();
    assert_eq!(bench.engine.list_volumes(&bench.owner).await.unwrap(), std::slice::from_ref(&volume.name));
    let volumes = vec![(volume.name.clone(), "/data".to_owned(), false)];
    bench
        .run(&ContainerSpec { volumes: volumes.clone(), ..bench.container("echo kept > /data/file; echo done") })
        .await;
    assert_eq!(bench.says(&bench.name("1")).await, "done");
    assert!(matches!(bench.engine.remove_volume(&volume.name).await, Err(Error::Conflict { .. })));
    bench.engine.remove_container(&bench.name("1")).await.unwrap();
    bench.run(&ContainerSpec { volumes, ..bench.container("/bin/busybox cat /data/file") }).await;
    assert_eq!(bench.says(&bench.name("1")).await, "kept");
    bench.engine.remove_container(&bench.name("1")).await.unwrap();
    bench.engine.remove_volume(&volume.name).await.unwrap();
    bench.engine.remove_volume(&volume.name).await.unwrap();
    assert_eq!(bench.engine.list_volumes(&bench.owner).await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn a_container_made_twice_is_one_and_another_spec_is_a_conflict() {
    let Some(bench) = bench("create") else { return };
    bench.engine.ensure_network(&bench.network()).await.unwrap();
    let spec = bench.container(IDLE);
    bench.engine.create_container(&spec).await.unwrap();
    let first = bench.engine.list_containers(&bench.owner).await.unwrap();
    bench.engine.create_container(&spec).await.unwrap();
    assert_eq!(bench.engine.list_containers(&bench.owner).await.unwrap(), first);
    assert_eq!(first[0].labels[labels::SPEC_HASH], spec.hash());
    assert_eq!((first[0].name.as_str(), first[0].image.as_str()), (spec.name.as_str(), IMAGE));
    let error =
        bench.engine.create_container(&ContainerSpec { memory_bytes: Some(64 << 20), ..spec }).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "Docker host local: conflict while making container {}: a container of that name is there already (id {}): it belongs to EngineTest \
             default/{} and was made from another spec",
            first[0].name,
            &first[0].id[..12],
            bench.owner.name
        )
    );
}

#[tokio::test]
async fn start_stop_kill_and_remove_may_each_run_twice() {
    let Some(bench) = bench("twice") else { return };
    let spec = bench.container(IDLE);
    bench.run(&spec).await;
    let engine = &bench.engine;
    engine.start_container(&spec.name).await.unwrap();
    assert_eq!(bench.states().await, [ContainerState::Running]);
    for _ in 0..2 {
        engine.stop_container(&spec.name, Duration::from_secs(5)).await.unwrap();
        assert_eq!(bench.states().await, [ContainerState::Exited]);
    }
    engine.start_container(&spec.name).await.unwrap();
    for _ in 0..2 {
        engine.stop_container(&spec.name, Duration::ZERO).await.unwrap();
        assert_eq!(bench.states().await, [ContainerState::Exited]);
    }
    engine.start_container(&spec.name).await.unwrap();
    docker(&["pause", &spec.name]);
    assert_eq!(bench.states().await, [ContainerState::Paused]);
    for _ in 0..2 {
        engine.unpause_container(&spec.name).await.unwrap();
        assert_eq!(bench.states().await, [ContainerState::Running]);
    }
    docker(&["pause", &spec.name]);
    engine.stop_container(&spec.name, Duration::ZERO).await.unwrap();
    assert_eq!(bench.states().await, [ContainerState::Exited]);
    for _ in 0..2 {
        engine.remove_container(&spec.name).await.unwrap();
        assert_eq!(bench.states().await, []);
    }
    engine.stop_container(&spec.name, Duration::ZERO).await.unwrap();
    engine.stop_container(&spec.name, Duration::from_secs(1)).await.unwrap();
    assert!(matches!(engine.start_container(&spec.name).await, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn two_removals_at_once_both_end_with_the_container_gone() {
    let Some(bench) = bench("removals") else { return };
    let spec = bench.container(IDLE);
    bench.run(&spec).await;
    let (one, two) = tokio::join!(bench.engine.remove_container(&spec.name), bench.engine.remove_container(&spec.name));
    one.unwrap();
    two.unwrap();
    assert_eq!(bench.states().await, []);
}

#[tokio::test]
async fn a_taken_port_is_refused_in_dockers_words() {
    let Some(bench) = bench("port") else { return };
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let spec = ContainerSpec { ports: vec![([127, 0, 0, 1].into(), port, 80)], ..bench.container(IDLE) };
    bench.engine.ensure_network(&bench.network()).await.unwrap();
    bench.engine.create_container(&spec).await.unwrap();
    let error = bench.engine.start_container(&spec.name).await.unwrap_err();
    assert!(matches!(&error, Error::Refused { message, .. } if message.contains("address already in use")), "{error}");
}

#[tokio::test]
async fn an_image_that_is_nowhere_is_told_by_name() {
    let Some(bench) = bench("image") else { return };
    assert!(bench.engine.image(IMAGE).await.unwrap().is_some());
    bench.engine.ensure_network(&bench.network()).await.unwrap();
    // No registry listens there, so the answer is the same on every machine.
    let nowhere = "127.0.0.1:1/nosuch:1";
    assert!(bench.engine.image(nowhere).await.unwrap().is_none());
    let error = bench.engine.pull_image(nowhere, None).await.unwrap_err().to_string();
    let expected = "Docker host local refused pulling image 127.0.0.1:1/nosuch:1: the registry does not answer the host \
                    (check its network, or put the image on the host by hand): ";
    assert!(error.starts_with(expected) && error.contains("connection refused"), "{error}");
    let spec = ContainerSpec { image: nowhere.into(), ..bench.container(IDLE) };
    assert!(matches!(bench.engine.create_container(&spec).await, Err(Error::NotFound { .. })));
    assert!(matches!(bench.engine.pull_image("no such image", None).await, Err(Error::Refused { .. })));
}

#[tokio::test]
async fn the_binary_is_put_on_the_host_once_and_runs_in_any_image() {
    let Some(bench) = bench("binary") else { return };
    let (volume, again) = tokio::join!(bench.binary(), bench.binary());
    assert_eq!(volume, again);
    let volumes = vec![(volume, "/evenkeel".to_owned(), true)];
    let script = "/evenkeel/evenkeel dial nowhere 2>&1; /bin/busybox touch /evenkeel/x 2>&1";
    bench.run(&ContainerSpec { volumes, ..bench.container(script) }).await;
    docker(&["wait", &bench.name("1")]);
    assert_eq!(
        docker(&["logs", &bench.name("1")]),
        "nowhere: an address is unix:/path or tcp:host:port\ntouch: /evenkeel/x: Read-only file system"
    );
}

/// A binary of the bench's own, so that no other test's volume is touched: a script that says the bench's name. The
/// function makes an operator's engine with it.
pub(crate) fn own_binary(bench: &DockerBench) -> impl Fn() -> DockerEngine + use<> {
    let name = bench.owner.name.clone();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("#!/bin/busybox sh\necho {name}\n")).unwrap();
    move || {
        let binary = Arc::new(OwnBinary::at(file.path(), &name));
        DockerEngine::connect("local", &local_endpoint().unwrap(), None, binary).unwrap()
    }
}

#[tokio::test]
async fn a_binary_volume_that_was_left_half_filled_is_filled_again() {
    let Some(bench) = bench("half") else { return };
    let engine = own_binary(&bench);
    let volume = engine().ensure_binary(IMAGE).await.unwrap();
    // What a killed operator leaves behind: no marker, half a file, its helper container.
    let mount = format!("{volume}:/evenkeel");
    let halve = "rm /evenkeel/.complete; echo broken > /evenkeel/evenkeel";
    docker(&[
        "run",
        "--rm",
        "-v",
        &mount,
        "--entrypoint",
        "/bin/busybox",
        IMAGE,
        "sh",
        "-c",
        &halve.replace("rm ", "/bin/busybox rm "),
    ]);
    docker(&["create", "--name", &format!("{volume}-fill"), "-v", &mount, "--entrypoint", "/none", IMAGE]);
    assert_eq!(engine().ensure_binary(IMAGE).await.unwrap(), volume);
    bench
        .run(&ContainerSpec {
            volumes: vec![(volume.clone(), "/evenkeel".to_owned(), true)],
            ..bench.container("/evenkeel/evenkeel")
        })
        .await;
    assert_eq!(bench.says(&bench.name("1")).await, bench.owner.name);
    assert_eq!(docker(&["ps", "-aq", "--filter", &format!("name={volume}-fill")]), "");
    bench.engine.remove_container(&bench.name("1")).await.unwrap();
    bench.engine.remove_volume(&volume).await.unwrap();
}

/// Regression 491: two operators that filled the volume at the same moment left it with its marker and without the program. Both
/// had seen it complete, so for ever after they only made containers that could not start.
#[tokio::test]
async fn a_program_that_was_lost_from_its_volume_is_put_there_again_by_the_same_process() {
    let Some(bench) = bench("lost") else { return };
    let operator = own_binary(&bench);
    let engine = operator();
    let volume = engine.ensure_binary(IMAGE).await.unwrap();
    let (mount, lose) = (format!("{volume}:/evenkeel"), ["/bin/busybox", IMAGE, "rm", "/evenkeel/evenkeel"]);
    docker(&[&["run", "--rm", "-v", &mount, "--entrypoint"][..], &lose[..]].concat());
    let spec = ContainerSpec {
        volumes: vec![(volume.clone(), "/evenkeel".to_owned(), true)],
        entrypoint: vec!["/evenkeel/evenkeel".to_owned()],
        ..bench.container("")
    };
    engine.ensure_network(&bench.network()).await.unwrap();
    engine.create_container(&spec).await.unwrap();
    engine.start_container(&spec.name).await.unwrap_err();
    assert_eq!(engine.binary(), None);
    assert_eq!(engine.ensure_binary(IMAGE).await.unwrap(), volume);
    engine.start_container(&spec.name).await.unwrap();
    engine.remove_container(&spec.name).await.unwrap();
    engine.remove_volume(&volume).await.unwrap();
}

#[tokio::test]
async fn a_pruned_binary_volume_is_filled_again_by_the_same_process() {
    let Some(bench) = bench("pruned") else { return };
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("#!/bin/busybox sh\necho {}\n", bench.owner.name)).unwrap();
    let binary = Arc::new(OwnBinary::at(file.path(), &bench.owner.name));
    let engine = DockerEngine::connect("local", &local_endpoint().unwrap(), None, binary).unwrap();
    let volume = engine.ensure_binary(IMAGE).await.unwrap();
    engine.remove_volume(&volume).await.unwrap();
    assert_eq!(engine.ensure_binary(IMAGE).await.unwrap(), volume);
    bench
        .run(&ContainerSpec {
            volumes: vec![(volume.clone(), "/evenkeel".to_owned(), true)],
            ..bench.container("/evenkeel/evenkeel")
        })
        .await;
    assert_eq!(bench.says(&bench.name("1")).await, bench.owner.name);
    bench.engine.remove_container(&bench.name("1")).await.unwrap();
    bench.engine.remove_volume(&volume).await.unwrap();
}

/// Regression 33: a binary volume was pruned just before a container was created with it. Docker made it again by itself,
/// without labels, and every operator with this binary refused it as a stranger's for ever.
#[tokio::test]
async fn a_binary_volume_that_docker_made_by_itself_is_made_again() {
    let Some(bench) = bench("unlabelled") else { return };
    let engine = own_binary(&bench);
    let volume = engine().ensure_binary(IMAGE).await.unwrap();
    bench.engine.remove_volume(&volume).await.unwrap();
    let spec =
        ContainerSpec { volumes: vec![(volume.clone(), "/evenkeel".to_owned(), true)], ..bench.container("true") };
    bench.run(&spec).await;
    bench.engine.remove_container(&bench.name("1")).await.unwrap();
    assert_eq!(engine().ensure_binary(IMAGE).await.unwrap(), volume);
    bench.run(&ContainerSpec { volumes: spec.volumes, ..bench.container("/evenkeel/evenkeel") }).await;
    assert_eq!(bench.says(&bench.name("1")).await, bench.owner.name);
    bench.engine.remove_container(&bench.name("1")).await.unwrap();
    bench.engine.remove_volume(&volume).await.unwrap();
}

#[tokio::test]
async fn a_binary_of_the_same_identity_takes_the_same_volume_and_the_old_one_goes_with_its_last_container() {
    let Some(bench) = bench("identity") else { return };
    let family = &bench.owner.name;
    let program = |words: &str, identity: &str| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("#!/bin/busybox sh\necho {words}\nexec /bin/busybox sleep 100\n")).unwrap();
        let binary = Arc::new(OwnBinary::at(file.path(), &format!("{family}-{identity}")).in_family(family));
        (DockerEngine::connect("local", &local_endpoint().unwrap(), None, binary).unwrap(), file)
    };
    let volumes = || {
        let label = format!("label={}={family}", labels::NAMESPACE);
        docker(&["volume", "ls", "-q", "--filter", &label]).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let (first, _file) = program("one", "a");
    let old = first.ensure_binary(IMAGE).await.unwrap();
    let (second, _file) = program("two", "a");
    assert_eq!(second.ensure_binary(IMAGE).await.unwrap(), old);
    let mounts = vec![(old.clone(), "/evenkeel".to_owned(), true)];
    bench.run(&ContainerSpec { volumes: mounts, ..bench.container("exec /evenkeel/evenkeel") }).await;
    assert_eq!(bench.says(&bench.name("1")).await, "one", "not filled again");
    let (third, _file) = program("three", "b");
    let new = third.ensure_binary(IMAGE).await.unwrap();
    assert_eq!(volumes(), [old.clone(), new.clone()], "the old one is in use");
    third.remove_container(&bench.name("1")).await.unwrap();
    within(async {
        while volumes() != [new.clone()] {
            tokio::task::spawn_blocking(crate::poll::pause).await.unwrap();
            // Every removal of a container looks for unused volumes.
            third.remove_container(&bench.name("none")).await.unwrap();
        }
    })
    .await;
    bench.engine.remove_volume(&new).await.unwrap();
}

/// A running container with Evenkeel's binary in it.
async fn with_binary(bench: &DockerBench, script: &str) -> String {
    let volume = bench.binary().await;
    let mut spec = bench.container(script);
    spec.volumes.push((volume, "/evenkeel".to_owned(), true));
    bench.run(&spec).await;
    spec.name
}

/// Dials until the server in the container accepts.
async fn dial(bench: &DockerBench, container: &str, address: &str) -> Box<dyn evenkeel::engine::Conversation> {
    within(async {
        loop {
            if let Ok(stream) = bench.engine.dial(container, address).await {
                return stream;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_tcp_port_in_a_container_is_dialed_and_large_answers_come_whole() {
    let Some(bench) = bench("dial-tcp") else { return };
    let container = with_binary(&bench, "exec /bin/busybox nc -ll -p 7000 -e /bin/busybox cat").await;
    let mut one = dial(&bench, &container, "tcp:127.0.0.1:7000").await;
    let mut two = dial(&bench, &container, "tcp:localhost:7000").await;
    for word in ["one", "two", "three"] {
        for stream in [&mut one, &mut two] {
            stream.write_all(word.as_bytes()).await.unwrap();
            let mut echo = vec![0; word.len()];
            within(stream.read_exact(&mut echo)).await.unwrap();
            assert_eq!(echo, word.as_bytes());
        }
    }
    let sent: Vec<u8> = (0..300_000_u32).map(|number| (number % 251) as u8).collect();
    let (mut reader, mut writer) = tokio::io::split(one);
    let write = async {
        writer.write_all(&sent).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let mut received = Vec::new();
    within(async { tokio::join!(write, reader.read_to_end(&mut received)) }).await.1.unwrap();
    assert!(received == sent, "{} of {} bytes came back alike", received.len(), sent.len());
}

#[tokio::test]
async fn a_unix_socket_in_a_container_is_dialed() {
    let Some(bench) = bench("dial-unix") else { return };
    let data = VolumeSpec { name: bench.name("data"), labels: bench.owner.labels() };
    bench.engine.ensure_volume(&data).await.unwrap();
    let binary = bench.binary().await;
    let volumes = vec![(binary, "/evenkeel".to_owned(), true), (data.name.clone(), "/data".to_owned(), false)];
    bench.run(&ContainerSpec { volumes, ..bench.container(IDLE) }).await;
    // busybox has no server for unix sockets; the test's own socket gets into the container through the volume.
    let path = docker(&["volume", "inspect", "-f", "{{.Mountpoint}}", &data.name]);
    let listener = tokio::net::UnixListener::bind(format!("{path}/s.sock")).unwrap();
    let mut stream = bench.engine.dial(&bench.name("1"), "unix:/data/s.sock").await.unwrap();
    let (mut peer, _) = within(listener.accept()).await.unwrap();
    stream.write_all(b"ping").await.unwrap();
    let mut heard = [0; 4];
    within(peer.read_exact(&mut heard)).await.unwrap();
    peer.write_all(b"pong").await.unwrap();
    within(stream.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"pong");
    // A dropped stream ends the connection on the other side too.
    drop(stream);
    assert_eq!(within(peer.read(&mut heard)).await.unwrap(), 0);
}

#[tokio::test]
async fn a_dial_that_cannot_be_says_why() {
    let Some(bench) = bench("dial-fails") else { return };
    let container = with_binary(&bench, IDLE).await;
    let said = async |address: &str| match bench.engine.dial(&container, address).await {
        Ok(_) => "connected".to_owned(),
        Err(error) => error.to_string().replace(&container, "one"),
    };
    assert_eq!(
        said("unix:/none.sock").await,
        "Docker host local refused dialing unix:/none.sock in container one: cannot connect to unix:/none.sock: No such file or directory (os error 2)"
    );
    assert_eq!(
        said("tcp:127.0.0.1:1").await,
        "Docker host local refused dialing tcp:127.0.0.1:1 in container one: cannot connect to tcp:127.0.0.1:1: Connection refused (os error 111)"
    );
    bench.engine.stop_container(&container, Duration::ZERO).await.unwrap();
    assert!(matches!(bench.engine.dial(&container, "tcp:127.0.0.1:1").await, Err(Error::Conflict { .. })));
    bench.engine.remove_container(&container).await.unwrap();
    assert!(matches!(bench.engine.dial(&container, "tcp:127.0.0.1:1").await, Err(Error::NotFound { .. })));
    bench.run(&bench.container(IDLE)).await;
    let error = said("tcp:127.0.0.1:1").await;
    assert!(error.contains("/evenkeel/evenkeel") && error.contains("no such file"), "{error}");
}

#[tokio::test]
async fn a_conversation_ends_when_its_container_is_killed() {
    let Some(bench) = bench("dial-kill") else { return };
    let container = with_binary(&bench, "exec /bin/busybox nc -ll -p 7000 -e /bin/busybox cat").await;
    let mut stream = dial(&bench, &container, "tcp:127.0.0.1:7000").await;
    bench.engine.stop_container(&container, Duration::ZERO).await.unwrap();
    let mut rest = Vec::new();
    // An end or an error: both mean that the connection is over.
    let _ = within(stream.read_to_end(&mut rest)).await;
    assert_eq!(rest, b"");
}

#[tokio::test]
async fn a_killed_container_is_hinted_at_by_its_owner() {
    let Some(bench) = bench("events") else { return };
    let spec = bench.container(IDLE);
    bench.run(&spec).await;
    let mut events = bench.engine.events();
    assert_eq!(within(events.next()).await, Some(None));
    docker(&["kill", &spec.name]);
    let hint = within(async {
        loop {
            let hint = events.next().await.unwrap();
            // The events of other tests' containers arrive too.
            if hint.as_ref() == Some(&bench.owner) {
                return hint;
            }
        }
    });
    assert_eq!(hint.await, Some(bench.owner.clone()));
}

/// The time until `holds` is true.
async fn until<F: Future<Output = bool>>(holds: impl Fn() -> F) -> Duration {
    let began = clock::instant();
    within(async {
        while !holds().await {
            tokio::task::spawn_blocking(crate::poll::pause).await.unwrap();
        }
    })
    .await;
    clock::instant() - began
}

#[tokio::test]
async fn what_others_do_is_seen_in_the_mirror_by_an_event_or_at_the_next_refresh() {
    let Some(bench) = bench("mirror") else { return };
    let spec = bench.container(IDLE);
    bench.run(&spec).await;
    let volume = VolumeSpec { name: bench.name("v"), labels: bench.owner.labels() };
    bench.engine.ensure_volume(&volume).await.unwrap();
    let tag = format!("evenkeel-test/{}:1", bench.owner.name);
    docker(&["tag", IMAGE, &tag]);
    let mirror = Mirror::new("local", Arc::new(bench.engine.clone()));
    let mut events = mirror.events();
    // The object of the host itself is woken too.
    within(async { while events.next().await != Some(None) {} }).await;
    tokio::spawn(async move { while events.next().await.is_some() {} });
    let states = async || -> Vec<_> {
        mirror.list_containers(&bench.owner).await.unwrap().into_iter().map(|one| one.state).collect()
    };
    let (volumes, network) = (async || mirror.list_volumes(&bench.owner).await.unwrap(), bench.name("net"));
    assert_eq!((states().await, volumes().await), (vec![ContainerState::Running], vec![volume.name.clone()]));
    assert!(mirror.network(&network).await.unwrap().is_some() && mirror.image(&tag).await.unwrap().is_some());

    docker(&["kill", &spec.name]);
    let killed = until(async || states().await == [ContainerState::Exited]).await;
    docker(&["rm", "-f", &spec.name]);
    let removed = until(async || states().await.is_empty()).await;
    assert!(killed < Duration::from_secs(1) && removed < Duration::from_secs(1), "{killed:?} {removed:?}");

    docker(&["volume", "rm", &volume.name]);
    docker(&["network", "rm", &network]);
    docker(&["rmi", &tag]);
    let gone = until(async || {
        volumes().await.is_empty()
            && mirror.network(&network).await.unwrap().is_none()
            && mirror.image(&tag).await.unwrap().is_none()
    });
    let gone = gone.await;
    // Their events name no owner: everything is listed again, at most once a second. A busy Docker answers late.
    assert!(gone < REFRESH / 3, "{gone:?}");
    println!("killed {killed:?}, removed {removed:?}, what has no owner in its events {gone:?}");
}

/// What the engine says about the container's connection to its network.
async fn connection(engine: &dyn Engine, owner: &Owner, network: &str) -> Option<ConnectionSeen> {
    engine.list_containers(owner).await.unwrap().remove(0).networks.remove(network)
}

/// A disconnected container (also by force, or from a network that is made again with another subnet) is seen at once
/// in the mirror, and is connected again as its spec says while it runs.
#[tokio::test]
async fn a_network_that_is_taken_away_is_seen_by_an_event_and_given_back_to_the_running_container() {
    let Some(bench) = bench("networks") else { return };
    let network = bench.engine.ensure_network(&bench.network()).await.unwrap();
    let address = |subnet: Ipv4Addr, last: u32| Some(Ipv4Addr::from(u32::from(subnet) + last));
    let spec =
        ContainerSpec { address: address(network.subnet.0, 11), aliases: vec!["db-1".into()], ..bench.container(IDLE) };
    bench.run(&spec).await;
    let mirror = Mirror::new("local", Arc::new(bench.engine.clone()));
    let mut events = mirror.events();
    // The object of the host itself is woken too.
    within(async { while events.next().await != Some(None) {} }).await;
    tokio::spawn(async move { while events.next().await.is_some() {} });
    let seen = async || connection(&mirror, &bench.owner, &network.name).await;
    let whole = async |address: Option<Ipv4Addr>| seen().await.is_some_and(|seen| seen.address == address);
    assert!(whole(spec.address).await);
    let started = docker(&["inspect", "-f", "{{.State.StartedAt}}", &spec.name]);
    for force in [&[][..], &["-f"]] {
        docker(&[&["network", "disconnect"], force, &[&network.name, &spec.name]].concat());
        let lost = until(async || seen().await.is_none()).await;
        assert!(lost < REFRESH, "{lost:?}");
        mirror.connect_network(&spec.name, &spec.attachments()[0]).await.unwrap();
        assert!(whole(spec.address).await);
    }
    // By hand with another address and without its DNS name.
    docker(&["network", "disconnect", &network.name, &spec.name]);
    docker(&["network", "connect", &network.name, &spec.name]);
    let other = async || seen().await.is_some_and(|seen| seen.address != spec.address);
    until(other).await;
    until(async || seen().await.is_some_and(|seen| seen.aliases.is_some_and(|names| !names.contains(&"db-1".into()))))
        .await;
    mirror.connect_network(&spec.name, &spec.attachments()[0]).await.unwrap();
    until(async || seen().await.is_some_and(|seen| seen.aliases.is_some_and(|names| names.contains(&"db-1".into()))))
        .await;
    assert!(whole(spec.address).await);
    // Another network of the same name.
    docker(&["network", "disconnect", &network.name, &spec.name]);
    docker(&["network", "rm", &network.name]);
    let label = format!("{}={}", labels::NAME, bench.owner.name);
    docker(&["network", "create", "--subnet", "10.213.7.0/24", "--label", &label, &network.name]);
    let now = within(async {
        loop {
            if let Some(now) = bench.engine.network(&network.name).await.unwrap() {
                return now;
            }
        }
    })
    .await;
    assert_ne!(now.id, network.id);
    let to = Attachment { address: address(now.subnet.0, 11), ..spec.attachments()[0].clone() };
    mirror.connect_network(&spec.name, &to).await.unwrap();
    assert!(whole(to.address).await);
    // A container whose network was replaced while it was stopped can be started after it was connected.
    docker(&["stop", "-t", "0", &spec.name]);
    docker(&["network", "rm", &network.name]);
    docker(&["network", "create", "--subnet", "10.213.8.0/24", "--label", &label, &network.name]);
    assert!(bench.engine.start_container(&spec.name).await.is_err());
    let to = Attachment { address: Some(Ipv4Addr::new(10, 213, 8, 11)), ..to };
    mirror.connect_network(&spec.name, &to).await.unwrap();
    assert_eq!(docker(&["inspect", "-f", "{{.State.StartedAt}}", &spec.name]), started, "it was never restarted");
    mirror.start_container(&spec.name).await.unwrap();
    assert!(whole(to.address).await);
}

#[tokio::test]
async fn an_engine_that_is_away_is_unreachable_and_says_where_it_should_be() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("none.sock").to_str().unwrap().to_owned();
    let endpoint = Endpoint::Unix { path: path.clone() };
    let engine = DockerEngine::connect("away", &endpoint, None, Arc::new(OwnBinary::running())).unwrap();
    let failure = evenkeel::api::failure::Failure::from(engine.info().await.unwrap_err());
    assert_eq!(
        failure.message,
        format!(
            "Docker host away does not answer while asking for its status: there is no socket {path}; is Docker running?"
        )
    );
    // A socket without a listener.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let failure = evenkeel::api::failure::Failure::from(engine.info().await.unwrap_err());
    assert_eq!(
        failure.message,
        "Docker host away does not answer while asking for its status: Connection refused (os error 111)"
    );
}
