//! What pods and balancers need from a real Docker Engine: every field of a container, files, commands, logs, signals.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::time::Duration;

use evenkeel::api::labels;
use evenkeel::engine::{
    Attachment, ContainerSpec, Engine, Error, ExecRequest, ExecResult, File, LogOptions, Mount, MountSource,
    NetworkSpec, Output, Outputs, RegistryLogin, Security,
};
use futures::StreamExt as _;
use tokio::io::AsyncWriteExt as _;

use crate::docker_engine::{DockerBench, IDLE, IMAGE, bench, docker, within};

/// As [`IDLE`], with busybox' commands in the path; prints `up` once the trap is set.
const TRAPPED: &str = "trap 'echo hup' HUP; trap exit TERM; echo up; while :; do /bin/busybox sleep 0.05; done";

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

fn shell(script: &str) -> Vec<String> {
    ["/bin/busybox", "sh", "-c", script].map(str::to_owned).to_vec()
}

impl DockerBench {
    async fn exec(&self, container: &str, script: &str) -> String {
        let ended = self.engine.exec(container, &shell(script), Duration::from_secs(30)).await.unwrap();
        assert_eq!(ended.code, 0, "{}", ended.output);
        ended.output.trim().to_owned()
    }

    fn volume(&self, part: &str, path: &str, options: &[(&str, &str)]) -> Mount {
        let options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let source = MountSource::Volume { name: self.name(part), options, labels: self.owner.labels() };
        Mount { source, path: path.to_owned(), read_only: false }
    }
}

const TMPFS: &[(&str, &str)] = &[("type", "tmpfs"), ("device", "tmpfs"), ("o", "mode=0755,size=1m")];

fn file(path: &str, mode: u32, owner: (u64, u64), text: &str) -> File {
    File { path: path.to_owned(), mode, owner, bytes: text.as_bytes().to_vec() }
}

/// All output until the end: stdout, stderr.
async fn all(mut outputs: Outputs) -> (String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let Some(piece) = within(outputs.next()).await {
        match piece.unwrap() {
            Output::Stdout(piece) => out.extend_from_slice(&piece),
            Output::Stderr(piece) => err.extend_from_slice(&piece),
        }
    }
    (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

#[tokio::test]
async fn a_container_is_confined_as_its_spec_says() {
    let Some(bench) = bench("confined") else { return };
    let spec = ContainerSpec {
        user: Some("1000:1001".into()),
        groups: vec!["2000".into()],
        working_dir: Some("/work".into()),
        pids_limit: Some(50),
        cpu_shares: Some(512),
        tmpfs: BTreeMap::from([("/tmp".into(), "mode=1777".into())]),
        security: Security {
            cap_add: vec!["NET_RAW".into()],
            cap_drop: vec!["ALL".into()],
            read_only: true,
            no_new_privileges: true,
            privileged: false,
            sysctls: BTreeMap::from([("net.ipv4.ip_unprivileged_port_start".into(), "123".into())]),
        },
        ..bench.container(IDLE)
    };
    bench.run(&spec).await;
    let say = "b=/bin/busybox; $b id -u; $b id -g; $b id -G; pwd; $b touch /x 2>&1; $b touch /tmp/here && echo wrote; \
               $b grep -E 'NoNewPrivs|CapBnd' /proc/self/status; $b cat /proc/sys/net/ipv4/ip_unprivileged_port_start";
    expect_test::expect![[r#"
        1000
        1001
        1001 2000
        /work
        touch: /x: Read-only file system
        wrote
        CapBnd:	0000000000002000
        NoNewPrivs:	1
        123"#]]
    .assert_eq(&bench.exec(&spec.name, say).await);
    let limits = "{{.HostConfig.PidsLimit}} {{.HostConfig.CpuShares}} {{.HostConfig.Privileged}}";
    assert_eq!(docker(&["inspect", "-f", limits, &spec.name]), "50 512 false");
    // Not started: a Docker Engine that is confined itself cannot give all privileges.
    let privileged = Security { privileged: true, ..Default::default() };
    let free = ContainerSpec { name: bench.name("2"), security: privileged, ..bench.container(IDLE) };
    bench.engine.create_container(&free).await.unwrap();
    assert_eq!(docker(&["inspect", "-f", limits, &free.name]), "<no value> 0 true");
}

#[tokio::test]
async fn arguments_alone_keep_the_images_entrypoint() {
    let Some(bench) = bench("arguments") else { return };
    let image = format!("{IMAGE}-{}", bench.owner.name);
    let build = format!("FROM {IMAGE}\nENTRYPOINT [\"/bin/busybox\", \"echo\", \"image\"]\nCMD [\"default\"]\n");
    let mut child = std::process::Command::new("docker")
        .args(["build", "-q", "-t", &image, "-"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(build.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    for (number, (entrypoint, cmd, said)) in [
        (vec![], vec![], "image default"),
        (vec![], words("mine"), "image mine"),
        (words("/bin/busybox echo own"), vec![], "own"),
        (words("/bin/busybox echo own"), words("mine"), "own mine"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = bench.name(&number.to_string());
        bench
            .run(&ContainerSpec { name: name.clone(), image: image.clone(), entrypoint, cmd, ..bench.container("") })
            .await;
        assert_eq!(bench.says(&name).await, said);
        bench.engine.remove_container(&name).await.unwrap();
    }
    docker(&["rmi", &image]);
}

#[tokio::test]
async fn a_container_that_joins_another_shares_its_localhost_and_its_networks() {
    let Some(bench) = bench("joins") else { return };
    let more = NetworkSpec { name: bench.name("more"), labels: bench.owner.labels(), internal: true };
    bench.engine.ensure_network(&more).await.unwrap();
    let attachment = Attachment { network: more.name.clone(), aliases: vec!["known-as".into()], address: None };
    let holder = ContainerSpec { networks: vec![attachment.clone()], ..bench.container(IDLE) };
    bench.run(&holder).await;
    // A container that exists, or that was disconnected from the network by hand, is connected again.
    bench.engine.create_container(&holder).await.unwrap();
    docker(&["network", "disconnect", &more.name, &holder.name]);
    bench.engine.create_container(&holder).await.unwrap();
    let serve = "exec /bin/busybox nc -ll -p 7000 -e /bin/busybox echo hello";
    let joined = ContainerSpec {
        name: bench.name("2"),
        hostname: "ignored".into(),
        network: String::new(),
        joins: Some(holder.name.clone()),
        ..bench.container(serve)
    };
    bench.run(&joined).await;
    let ask = |host: &str| {
        format!("until /bin/busybox nc {host} 7000 </dev/null; do /bin/busybox sleep 0.05; done 2>/dev/null")
    };
    assert_eq!(bench.exec(&holder.name, &ask("localhost")).await, "hello");
    let other = ContainerSpec { name: bench.name("3"), network: more.name.clone(), ..bench.container(IDLE) };
    bench.run(&other).await;
    assert_eq!(bench.exec(&other.name, &ask("known-as")).await, "hello");
    let seen = bench.engine.list_containers(&bench.owner).await.unwrap();
    let networks = |name: &str| seen.iter().find(|found| found.name == name).unwrap().networks.len();
    assert_eq!((networks(&holder.name), networks(&joined.name), networks(&other.name)), (2, 0, 1));
    let nowhere = Attachment { network: bench.name("nowhere"), aliases: vec![], address: None };
    let lost = ContainerSpec { name: bench.name("4"), networks: vec![nowhere], ..bench.container(IDLE) };
    // As for its first network, Docker looks for the network at the start.
    bench.engine.create_container(&lost).await.unwrap();
    let error = bench.engine.start_container(&lost.name).await.unwrap_err();
    assert!(matches!(&error, Error::NotFound { message, .. } if message.contains("nowhere")), "{error}");
    // Docker keeps the id of the joined container: another container with its name is not joined.
    bench.engine.stop_container(&joined.name, Duration::ZERO).await.unwrap();
    bench.engine.stop_container(&holder.name, Duration::ZERO).await.unwrap();
    assert!(matches!(bench.engine.start_container(&joined.name).await, Err(Error::Conflict { .. })));
    bench.engine.remove_container(&holder.name).await.unwrap();
    bench.run(&holder).await;
    assert!(matches!(bench.engine.start_container(&joined.name).await, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn a_memory_volume_is_shared_by_those_who_run_and_empty_afterwards() {
    let Some(bench) = bench("memory") else { return };
    let mounts = vec![bench.volume("mem", "/mem", TMPFS)];
    let one = ContainerSpec { mounts: mounts.clone(), ..bench.container(IDLE) };
    let two = ContainerSpec { name: bench.name("2"), mounts, ..bench.container(IDLE) };
    bench.run(&one).await;
    bench.run(&two).await;
    bench.exec(&one.name, "echo shared > /mem/file").await;
    assert_eq!(
        bench
            .exec(&two.name, "/bin/busybox cat /mem/file; /bin/busybox df /mem | /bin/busybox awk 'NR==2{print $1,$2}'")
            .await,
        "shared\ntmpfs 1024"
    );
    assert_eq!(bench.engine.list_volumes(&bench.owner).await.unwrap(), [bench.name("mem")]);
    bench.engine.stop_container(&one.name, Duration::ZERO).await.unwrap();
    assert_eq!(bench.exec(&two.name, "/bin/busybox cat /mem/file").await, "shared");
    bench.engine.stop_container(&two.name, Duration::ZERO).await.unwrap();
    bench.engine.start_container(&two.name).await.unwrap();
    assert_eq!(bench.exec(&two.name, "/bin/busybox ls -A /mem").await, "");
}

#[tokio::test]
async fn a_volume_with_an_owner_starts_empty_and_is_not_taken_over() {
    let Some(bench) = bench("owned") else { return };
    // The image's /bin is not copied into the volume.
    let mounts = vec![bench.volume("data", "/copy/bin", &[])];
    bench.run(&ContainerSpec { mounts, ..bench.container(IDLE) }).await;
    assert_eq!(bench.exec(&bench.name("1"), "/bin/busybox ls -A /copy/bin").await, "");
    let foreign = format!("{}={}", labels::NAME, bench.owner.name);
    docker(&["volume", "create", "--label", &foreign, &bench.name("foreign")]);
    let mounts = vec![bench.volume("foreign", "/data", &[])];
    let spec = ContainerSpec { name: bench.name("2"), mounts, ..bench.container(IDLE) };
    assert_eq!(
        bench.engine.create_container(&spec).await.unwrap_err().to_string(),
        format!(
            "Docker host local: conflict while making container {0}-2: a volume of that name is there already and it is not managed by evenkeel; \
             rename it or remove it",
            bench.owner.name
        )
    );
    // A mount without labels uses a volume that somebody made by hand.
    docker(&["volume", "create", &bench.name("by-hand")]);
    let source = MountSource::Volume { name: bench.name("by-hand"), options: BTreeMap::new(), labels: BTreeMap::new() };
    let mounts = vec![Mount { source, path: "/data".into(), read_only: true }];
    bench.run(&ContainerSpec { name: bench.name("2"), mounts, ..bench.container(IDLE) }).await;
    assert_eq!(
        bench.exec(&bench.name("2"), "/bin/busybox touch /data/x 2>&1 || true").await,
        "touch: /data/x: Read-only file system"
    );
}

#[tokio::test]
async fn a_path_of_the_host_is_mounted_if_it_is_there() {
    let Some(bench) = bench("bind") else { return };
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "of the host").unwrap();
    let mount = |path: &std::path::Path| Mount {
        source: MountSource::Bind(path.to_str().unwrap().to_owned()),
        path: "/host".into(),
        read_only: true,
    };
    bench.run(&ContainerSpec { mounts: vec![mount(dir.path())], ..bench.container(IDLE) }).await;
    assert_eq!(
        bench.exec(&bench.name("1"), "/bin/busybox cat /host/file; /bin/busybox touch /host/x 2>&1 || true").await,
        "of the hosttouch: /host/x: Read-only file system"
    );
    let mounts = vec![mount(&dir.path().join("nowhere"))];
    let spec = ContainerSpec { name: bench.name("2"), mounts, ..bench.container(IDLE) };
    let error = bench.engine.create_container(&spec).await.unwrap_err();
    assert!(matches!(&error, Error::Refused { message, .. } if message.contains("does not exist")), "{error}");
}

#[tokio::test]
async fn files_are_put_into_the_volume_of_a_container_before_it_starts() {
    let Some(bench) = bench("files-made") else { return };
    bench.engine.ensure_network(&bench.network()).await.unwrap();
    let list = "cd /data; for f in . a a/secret; do /bin/busybox stat -c '%n %a %u:%g' $f; done; /bin/busybox cat a/secret; exec /bin/busybox sleep 60";
    let spec = ContainerSpec {
        mounts: vec![bench.volume("data", "/data", &[])],
        // Its root file system is read-only; its volumes can be written.
        security: Security { read_only: true, ..Default::default() },
        ..bench.container(list)
    };
    bench.engine.create_container(&spec).await.unwrap();
    let files = [file("./", 0o1777, (0, 0), ""), file("a/secret", 0o600, (1000, 1001), "old")];
    bench.engine.put_files(&spec.name, "/data", &files).await.unwrap();
    bench.engine.put_files(&spec.name, "/data", &[file("a/secret", 0o600, (1000, 1001), "new\n")]).await.unwrap();
    bench.engine.start_container(&spec.name).await.unwrap();
    let logs = bench.engine.logs(&spec.name, &LogOptions { follow: true, ..Default::default() }).await.unwrap();
    let lines: Vec<_> = within(
        logs.take(4)
            .map(|piece| match piece.unwrap() {
                Output::Stdout(text) | Output::Stderr(text) => String::from_utf8(text.to_vec()).unwrap(),
            })
            .collect(),
    )
    .await;
    assert_eq!(lines.concat(), ". 1777 0:0\na 755 0:0\na/secret 600 1000:1001\nnew\n");
    let nowhere = bench.engine.put_files(&spec.name, "/nowhere", &files).await.unwrap_err();
    assert!(matches!(nowhere, Error::NotFound { .. }), "{nowhere}");
    let root = bench.engine.put_files(&spec.name, "/", &[file("x", 0o600, (0, 0), "")]).await.unwrap_err();
    assert!(matches!(root, Error::Refused { .. }), "{root}");
}

#[tokio::test]
async fn files_put_into_memory_of_a_running_container_are_seen_by_its_neighbours_and_by_nobody_later() {
    let Some(bench) = bench("files-memory") else { return };
    let memory = |path: &str| vec![bench.volume("secrets", path, TMPFS)];
    let holder = ContainerSpec { mounts: memory("/held/secrets"), ..bench.container(IDLE) };
    bench.run(&holder).await;
    let files = [file("./", 0o750, (0, 1001), ""), file("tls/key", 0o400, (1000, 0), "secret\n")];
    bench.engine.put_files(&holder.name, "/held/secrets", &files).await.unwrap();
    let user = ContainerSpec {
        name: bench.name("2"),
        mounts: memory("/run/tls").into_iter().map(|mount| Mount { read_only: true, ..mount }).collect(),
        user: Some("1000:1001".into()),
        ..bench.container(IDLE)
    };
    bench.run(&user).await;
    let look = "/bin/busybox cat /run/tls/tls/key; /bin/busybox stat -c '%a %u:%g' /run/tls /run/tls/tls/key";
    assert_eq!(bench.exec(&user.name, look).await, "secret\n750 0:1001\n400 1000:0");
    // The file is replaced while both containers run.
    bench
        .engine
        .put_files(&holder.name, "/held/secrets", &[file("tls/key", 0o400, (1000, 0), "other\n")])
        .await
        .unwrap();
    assert_eq!(bench.exec(&user.name, "/bin/busybox cat /run/tls/tls/key").await, "other");
    let on_disk = docker(&["volume", "inspect", "-f", "{{.Mountpoint}}", &bench.name("secrets")]);
    for part in ["1", "2"] {
        bench.engine.remove_container(&bench.name(part)).await.unwrap();
    }
    assert_eq!(std::fs::read_dir(on_disk).unwrap().count(), 0);
    let gone = bench.engine.put_files(&holder.name, "/held/secrets", &files).await.unwrap_err();
    assert!(matches!(gone, Error::NotFound { .. }), "{gone}");
}

#[tokio::test]
async fn a_command_ends_with_its_code_and_what_it_said() {
    let Some(bench) = bench("exec") else { return };
    let spec = ContainerSpec { user: Some("1000".into()), ..bench.container(IDLE) };
    bench.run(&spec).await;
    let limit = Duration::from_secs(30);
    let run = async |script: &str| within(bench.engine.exec(&spec.name, &shell(script), limit)).await;
    let ended = run("echo out; echo err >&2; /bin/busybox id -u; exit 3").await.unwrap();
    assert_eq!(ended.code, 3);
    let mut lines: Vec<_> = ended.output.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["1000", "err", "out"]);
    assert_eq!(run("exit 0").await.unwrap(), ExecResult { code: 0, output: String::new() });
    assert_eq!(run("/bin/busybox yes | /bin/busybox head -c 100000").await.unwrap().output.len(), 16 * 1024);
    // The command closes its output long before it ends.
    assert_eq!(run("exec >&- 2>&-; /bin/busybox sleep 0.3; exit 4").await.unwrap().code, 4);
    let none = bench.engine.exec(&spec.name, &words("/none"), limit).await.unwrap();
    assert!([126, 127].contains(&none.code) && none.output.contains("no such file"), "{none:?}");
    let long = bench.engine.exec(&spec.name, &words("/bin/busybox sleep 200"), Duration::from_millis(500)).await;
    let long = long.unwrap_err();
    assert_eq!(
        long.to_string(),
        format!(
            "Docker host local refused running /bin/busybox in container {}: it did not end within 0.5 s",
            spec.name
        )
    );
    bench.engine.stop_container(&spec.name, Duration::ZERO).await.unwrap();
    assert!(matches!(run("exit 0").await, Err(Error::Conflict { .. })));
    bench.engine.remove_container(&spec.name).await.unwrap();
    assert!(matches!(run("exit 0").await, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn an_attached_command_reads_its_input_and_a_terminal_has_a_size() {
    let Some(bench) = bench("attached") else { return };
    let spec = bench.container(IDLE);
    bench.run(&spec).await;
    let command = shell("read line; echo heard $line; echo done >&2; exit 5");
    let request = ExecRequest { command, stdin: true, tty: false };
    let mut session = bench.engine.exec_attached(&spec.name, &request).await.unwrap();
    assert_eq!(bench.engine.exec_code(&session.id).await.unwrap(), None);
    session.input.write_all(b"hello\n").await.unwrap();
    assert_eq!(all(session.output).await, ("heard hello\n".to_owned(), "done\n".to_owned()));
    let code = async |id: &str| {
        within(async {
            loop {
                if let Some(code) = bench.engine.exec_code(id).await.unwrap() {
                    return code;
                }
            }
        })
        .await
    };
    assert_eq!(code(&session.id).await, 5);
    // The command sees the end of its input.
    let request = ExecRequest { command: words("/bin/busybox wc -c"), stdin: true, tty: false };
    let mut session = bench.engine.exec_attached(&spec.name, &request).await.unwrap();
    session.input.write_all(b"12345").await.unwrap();
    session.input.shutdown().await.unwrap();
    assert_eq!(all(session.output).await.0, "5\n");
    let command = shell("read x; /bin/busybox stty size; echo err >&2");
    let request = ExecRequest { command, stdin: true, tty: true };
    let mut session = bench.engine.exec_attached(&spec.name, &request).await.unwrap();
    bench.engine.exec_resize(&session.id, (24, 81)).await.unwrap();
    session.input.write_all(b"x\n").await.unwrap();
    let (out, err) = all(session.output).await;
    assert!(out.contains("24 81") && out.contains("err") && err.is_empty(), "{out:?} {err:?}");
    for error in [
        bench.engine.exec_code("0123").await.unwrap_err(),
        bench.engine.exec_resize("0123", (1, 1)).await.unwrap_err(),
        bench.engine.exec_attached(&bench.name("none"), &request).await.err().unwrap(),
    ] {
        assert!(matches!(error, Error::NotFound { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_log_is_read_whole_in_part_and_followed_to_the_end() {
    let Some(bench) = bench("logs") else { return };
    let script = "echo one; echo two; echo three >&2; while ! [ -e /go ]; do /bin/busybox sleep 0.05; done; echo four";
    let spec = bench.container(script);
    bench.run(&spec).await;
    let mut followed = bench.engine.logs(&spec.name, &LogOptions { follow: true, ..Default::default() }).await.unwrap();
    let mut first = Vec::new();
    for _ in 0..3 {
        first.push(within(followed.next()).await.unwrap().unwrap());
    }
    assert!(
        first.contains(&Output::Stdout("one\n".into())) && first.contains(&Output::Stderr("three\n".into())),
        "{first:?}"
    );
    // Its code says nothing: the container may end, and this with it, before the shell has.
    bench.engine.exec(&spec.name, &shell("> /go"), Duration::from_secs(30)).await.unwrap();
    assert_eq!(all(followed).await, ("four\n".to_owned(), String::new()));
    let read = async |options: LogOptions| all(bench.engine.logs(&spec.name, &options).await.unwrap()).await.0;
    assert_eq!(read(LogOptions::default()).await, "one\ntwo\nfour\n");
    assert_eq!(read(LogOptions { tail: Some(1), ..Default::default() }).await, "four\n");
    assert_eq!(read(LogOptions { tail: Some(0), ..Default::default() }).await, "");
    assert_eq!(read(LogOptions { since: Some(2_000_000_000), ..Default::default() }).await, "");
    assert_eq!(read(LogOptions { since: Some(1_000_000_000), ..Default::default() }).await, "one\ntwo\nfour\n");
    let timed = read(LogOptions { tail: Some(1), timestamps: true, ..Default::default() }).await;
    assert!(timed.starts_with("20") && timed.ends_with("Z four\n"), "{timed}");
    let none = bench.engine.logs(&bench.name("none"), &LogOptions::default()).await.err().unwrap();
    assert!(matches!(none, Error::NotFound { .. }), "{none}");
    // The log of a terminal has no frames.
    let tty = bench.name("tty");
    let label = format!("{}={}", labels::NAME, bench.owner.name);
    docker(&["run", "-t", "--name", &tty, "--label", &label, "--entrypoint", "/bin/busybox", IMAGE, "printf", "a\\nb"]);
    assert_eq!(all(bench.engine.logs(&tty, &LogOptions::default()).await.unwrap()).await.0, "a\r\nb");
}

#[tokio::test]
async fn a_signal_reaches_the_main_process() {
    let Some(bench) = bench("signal") else { return };
    let spec = bench.container(TRAPPED);
    bench.run(&spec).await;
    let mut logs = bench.engine.logs(&spec.name, &LogOptions { follow: true, ..Default::default() }).await.unwrap();
    assert_eq!(within(logs.next()).await.unwrap().unwrap(), Output::Stdout("up\n".into()));
    bench.engine.signal_container(&spec.name, "SIGHUP").await.unwrap();
    assert_eq!(within(logs.next()).await.unwrap().unwrap(), Output::Stdout("hup\n".into()));
    bench.engine.signal_container(&spec.name, "SIGTERM").await.unwrap();
    assert_eq!(within(logs.map(|_| ()).collect::<Vec<_>>()).await, []);
    let none = bench.engine.signal_container(&bench.name("none"), "SIGHUP").await.unwrap_err();
    assert!(matches!(none, Error::NotFound { .. }), "{none}");
}

#[tokio::test]
async fn an_image_is_known_by_its_id() {
    let Some(bench) = bench("image-id") else { return };
    let seen = bench.engine.image(IMAGE).await.unwrap().unwrap();
    assert_eq!((seen.id, seen.digests), (docker(&["image", "inspect", "-f", "{{.Id}}", IMAGE]), vec![]));
    assert_eq!(bench.engine.image("evenkeel-test/none:1").await.unwrap(), None);
}

/// A registry that refuses every request and records it.
fn registry(requests: std::sync::mpsc::Sender<String>) -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.unwrap());
            let (mut head, mut line) = (String::new(), String::new());
            while reader.read_line(&mut line).is_ok_and(|length| length > 2) {
                head += &std::mem::take(&mut line);
            }
            if requests.send(head).is_err() {
                return;
            }
            let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
            let answer = format!(
                "HTTP/1.1 401 Unauthorized\r\nDocker-Distribution-Api-Version: registry/2.0\r\nWWW-Authenticate: Basic realm=\"test\"\r\n\
                 Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            let _ = reader.get_mut().write_all(answer.as_bytes());
            let _ = reader.take(0).read(&mut []);
        }
    });
    port
}

/// bollard encodes the login in an alphabet that Docker silently treats as no login.
#[tokio::test]
async fn a_private_image_is_asked_for_with_the_login_whatever_its_letters() {
    let Some(bench) = bench("login") else { return };
    let (sender, requests) = std::sync::mpsc::channel();
    let server = format!("127.0.0.1:{}", registry(sender));
    let image = format!("{server}/private:1");
    // At any position, some of these letters become `+` and `/` in standard base64.
    let password = "???>>>~~~ß".to_owned();
    let login = RegistryLogin { server, username: "me".into(), password: password.clone() };
    let error = bench.engine.pull_image(&image, Some(&login)).await.unwrap_err().to_string();
    let expected = format!(
        "Docker host local refused pulling image {image}: its registry does not give the host image {image} (check the name and the tag; for a \
         private one name a Secret in imagePullSecrets, or put it on the host by hand): "
    );
    assert!(error.starts_with(&expected) && !error.contains(&password), "{error}");
    use base64::Engine as _;
    let sent = base64::engine::general_purpose::STANDARD.encode(format!("me:{password}"));
    assert!(requests.try_iter().any(|request| request.contains(&format!("Basic {sent}"))));
}
