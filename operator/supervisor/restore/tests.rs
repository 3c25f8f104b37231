//! A base backup and restores of it, by PostgreSQL in a container in which this test runs as the supervisor would. Needs
//! EVENKEEL_TEST_DOCKER=1.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::io::{BufRead as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command as Process;

use bytes::Bytes;

use super::*;
use crate::api::postgres_settings::SOCKETS;
use crate::archive::access::{Store as Where, StoreAccess};
use crate::archive::names::{Segment, WalFile};
use crate::archive::target::Target;
use crate::supervisor::backup::Backup;
use crate::supervisor::place::Place;
use crate::supervisor::process::Reaper;
use crate::supervisor::wire::{BackupOrder, BackupPhase, BackupState, Init};

/// Set in the container.
const INSIDE: &str = "EVENKEEL_TEST_INSIDE";
const ARCHIVE: &str = "/archive/default.db";
const ID: &str = "20261128T010000";
/// Puts a WAL file where the archive has it.
const PUSH: &str = r#"#!/bin/sh
set -e
case $2 in
*.history) target=/archive/default.db/wals/$2 ;;
*.*) exit 0 ;;
*) target=/archive/default.db/wals/$(echo "$2" | cut -c1-16)/$2.zst ;;
esac
mkdir -p "$(dirname "$target")"
case $target in *.zst) zstd -q -1 "$1" -o "$target.new" ;; *) cp "$1" "$target.new" ;; esac
mv "$target.new" "$target"
"#;
/// Asks this process for a WAL file, by two pipes.
const ASK: &str = "echo '%f %p' >/tmp/ask && read code </tmp/answer && exit $code";

#[test]
fn the_servers_lines_tell_how_far_it_is_and_why_it_ended() {
    let line = "LOG:  restored log file \"000000010000000000000016\" from archive";
    assert_eq!((restored(line), restored("LOG:  redo starts at 0/28")), (Some("000000010000000000000016"), None));
    let lines = ["LOG:  a", "FATAL:  could not restore file \"00000002.history\"", "LOG:  shutting down"];
    let lines = lines.map(str::to_owned);
    assert_eq!(last(&lines), "FATAL:  could not restore file \"00000002.history\"");
    assert_eq!(last(&lines[..1]), "LOG:  a");
}

#[test]
fn the_major_version_of_the_image_is_read() {
    assert_eq!(major("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"), Some(15));
    assert_eq!(major("postgres (PostgreSQL) 18beta1\n"), Some(18));
    assert_eq!(major("postgres"), None);
}

#[test]
fn a_backup_is_restored_exactly_up_to_what_was_asked_for() {
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(inside());
        return;
    }
    if std::env::var("EVENKEEL_TEST_DOCKER").as_deref() != Ok("1") {
        println!("a_backup_is_restored: skipped, EVENKEEL_TEST_DOCKER=1 is not set");
        return;
    }
    // The test is a static program, as the supervisor is.
    let this = format!("{}:/test:ro", std::env::current_exe().unwrap().display());
    let name = "supervisor::restore::tests::a_backup_is_restored_exactly_up_to_what_was_asked_for";
    let run = Process::new("docker")
        .args(["run", "--rm", "-v", &this, "-e", &format!("{INSIDE}=1"), "--entrypoint", "/test", "postgres:15"])
        .args(["--exact", name, "--nocapture"])
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success() && said.contains("restores are right"), "{said}");
}

struct Inside {
    site: Site,
    store: Store,
}

/// A commit: its number, transaction, the position after it and its time.
struct Commit {
    number: u32,
    xid: u64,
    lsn: Lsn,
    time: jiff::Timestamp,
}

async fn inside() {
    let reaper = Reaper::default();
    tokio::spawn(reaper.clone().run());
    let place = Place::find().unwrap();
    place.prepare().unwrap();
    std::fs::create_dir_all(ARCHIVE).unwrap();
    std::os::unix::fs::chown(ARCHIVE, Some(place.uid.as_raw()), None).unwrap();
    std::fs::write("/tmp/push.sh", PUSH).unwrap();
    std::fs::set_permissions("/tmp/push.sh", std::fs::Permissions::from_mode(0o755)).unwrap();
    for pipe in ["/tmp/ask", "/tmp/answer"] {
        assert!(Process::new("mkfifo").args(["-m", "666", pipe]).status().is_ok());
    }
    let access = StoreAccess { hash: String::new(), store: Where::Directory { path: "/archive".into() } };
    let inside = Inside { site: Site { place, reaper }, store: Store::open(&access).unwrap().at("default.db") };
    let init = Init { encoding: "UTF8".into(), locale: "C.UTF-8".into(), data_checksums: true };
    inside.site.clone().init(init).await.unwrap();
    let server = inside.serve().await;
    inside.sql("CREATE TABLE commits (number int)").await;
    let mut commits = Vec::new();
    for number in 1..=3 {
        commits.push(inside.commit(number).await);
    }
    let state = inside.back_up().await;
    assert_eq!((state.phase, state.span.as_ref().map(|span| span.timeline)), (BackupPhase::Completed, Some(1)));
    for number in 4..=20 {
        commits.push(inside.commit(number).await);
        if number % 4 == 0 {
            inside.sql("SELECT pg_switch_wal()").await;
        }
    }
    inside.sql("SELECT pg_create_restore_point('here')").await;
    commits.push(inside.commit(21).await);
    // It archives everything before it ends.
    inside.stop(server).await;

    let at = |number: u32| commits.iter().find(|commit| commit.number == number).unwrap();
    let none = Recovery::default();
    for (target, exclusive, expected) in [
        (Target::Xid(at(9).xid), false, 9),
        (Target::Xid(at(9).xid), true, 8),
        (Target::Lsn(at(12).lsn), false, 12),
        (Target::Time(at(15).time), false, 15),
        (Target::Name("here".into()), false, 20),
        (Target::Immediate, false, 3),
        (Target::Latest, false, 21),
    ] {
        let recovery = Recovery { target: target.clone(), exclusive, ..none.clone() };
        let restored = inside.restore(recovery, &Answer::Honest).await.unwrap();
        assert_eq!(inside.rows().await, expected, "{target:?} {restored:?}");
        assert_eq!((restored.backup.as_str(), restored.left.0, restored.timeline), (ID, 1, 2), "{target:?}");
    }

    // A server that was restored goes on, on a timeline of its own in the same archive.
    let back = Recovery { target: Target::Xid(at(9).xid), ..none.clone() };
    inside.restore(back, &Answer::Honest).await.unwrap();
    // A recovery does not archive, so PostgreSQL does not offer the history of the timeline that it began.
    let history = inside.site.place.theirs().read(&inside.site.place.pgdata().join("pg_wal/00000002.history")).unwrap();
    inside.store.put("wals/00000002.history", history.into()).await.unwrap();
    let server = inside.serve().await;
    inside.commit(30).await;
    inside.stop(server).await;
    for (timeline, expected, left) in [(None, 10, 2), (Some(1), 21, 1)] {
        let restored = inside.restore(Recovery { timeline, ..none.clone() }, &Answer::Honest).await.unwrap();
        assert_eq!((inside.rows().await, restored.left.0, restored.timeline), (expected, left, 3), "{restored:?}");
    }

    let none = Recovery { timeline: Some(1), ..none };
    let refused = async |recovery: Recovery, answer: &Answer| inside.restore(recovery, answer).await.unwrap_err().words;
    let before = Recovery { target: Target::Time(at(3).time), ..none.clone() };
    let words = refused(before, &Answer::Honest).await;
    assert!(words.starts_with("no base backup ended before the target"), "{words}");
    // An outage of the store is not the end of the WAL.
    let words = refused(none.clone(), &Answer::Outage).await;
    assert!(words.contains("could not restore file") && words.contains("command not executable"), "{words}");
    // Nor is a segment that is hidden from PostgreSQL, though it does not complain.
    let words = refused(none.clone(), &Answer::Hides(at(20).lsn)).await;
    assert!(words.contains("recovery ended on timeline 1") && words.contains("it did not get to"), "{words}");
    let words = refused(Recovery { target: Target::Xid(99_999), ..none.clone() }, &Answer::Honest).await;
    assert!(words.contains("recovery ended before configured recovery target was reached"), "{words}");
    // One changed bit in the store.
    let path = format!("{ARCHIVE}/base/{ID}/{DATA}");
    let mut data = std::fs::read(&path).unwrap();
    let middle = data.len() / 2;
    data[middle] ^= 1;
    std::fs::write(&path, data).unwrap();
    let words = refused(none, &Answer::Honest).await;
    assert!(words.contains("has another content than was written"), "{words}");
    assert_eq!(inside.rows().await, 21, "what was there stays until a restore is complete");
    println!("restores are right");
}

/// How `restore_command` is answered.
enum Answer {
    Honest,
    /// The store is not reached.
    Outage,
    /// The segment with this position, and what follows it, does not exist.
    Hides(Lsn),
}

impl Inside {
    async fn serve(&self) -> Child {
        let Site { place, reaper } = &self.site;
        place.write_configuration("test_hba.conf", "local all,replication all trust\n").unwrap();
        let mut command = place.tool("postgres");
        command.arg("-D").arg(place.pgdata());
        let hba = place.configuration().join("test_hba.conf").display().to_string();
        for (name, value) in [
            ("hba_file", hba.as_str()),
            ("listen_addresses", ""),
            ("unix_socket_directories", SOCKETS),
            ("archive_mode", "on"),
            ("archive_command", "/tmp/push.sh %p %f"),
        ] {
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

    async fn stop(&self, server: Child) {
        kill(server.pid, Signal::SIGINT).unwrap();
        assert!(matches!(server.exit.await, Ok(WaitStatus::Exited(_, 0))));
    }

    async fn sql(&self, statement: &str) -> String {
        let mut command = self.site.place.tool("psql");
        command.args(["-h", SOCKETS, "-U", "postgres", "-XAtqc", statement]);
        tools::run(&self.site.reaper, command).await.unwrap().trim().to_owned()
    }

    async fn commit(&self, number: u32) -> Commit {
        let xid = self.sql(&format!("INSERT INTO commits VALUES ({number}) RETURNING pg_current_xact_id()")).await;
        // A position of PostgreSQL is the beginning of a record: the one after the commit.
        let lsn = self.sql("SELECT pg_current_wal_insert_lsn()").await;
        let time = self
            .sql("SELECT pg_logical_emit_message(true, 'x', ''); SELECT clock_timestamp() AT TIME ZONE 'UTC'")
            .await;
        let time = time.lines().last().unwrap().replace(' ', "T") + "Z";
        Commit { number, xid: xid.parse().unwrap(), lsn: lsn.parse().unwrap(), time: time.parse().unwrap() }
    }

    async fn back_up(&self) -> BackupState {
        let backup = Backup {
            store: self.store.clone(),
            order: BackupOrder { id: ID.into(), attempt: 1, max_rate: None },
            archive: "default.db".into(),
            member: "db-1".into(),
            socket: sql::socket(),
            now: jiff::Timestamp::now,
        };
        let (progress, _) = watch::channel(BackupState::default());
        backup.take(&progress).await.unwrap()
    }

    /// Rows of the table in the data directory, which no server uses.
    async fn rows(&self) -> u64 {
        std::fs::write("/tmp/count.sql", "SELECT count(*) AS n FROM commits\n").unwrap();
        let statement = Stdio::from(File::open("/tmp/count.sql").unwrap());
        let said = self.site.single(&self.site.place.pgdata(), "postgres", statement, None).await.unwrap();
        said.split_once("n = \"").unwrap().1.split_once('"').unwrap().0.parse().unwrap()
    }

    async fn restore(&self, recovery: Recovery, answer: &Answer) -> Result<Restored, Failure> {
        let restore = Restore { store: self.store.clone(), recovery, command: ASK.to_owned(), configuration: None };
        let (progress, _) = watch::channel(Progress::default());
        let (given, mut taken) = tokio::sync::mpsc::unbounded_channel();
        let answering = async {
            let fetcher: Fetcher = taken.recv().await.unwrap();
            loop {
                let asked = tokio::task::spawn_blocking(|| {
                    let mut line = String::new();
                    std::io::BufReader::new(File::open("/tmp/ask").unwrap()).read_line(&mut line).unwrap();
                    line
                });
                let asked = asked.await.unwrap();
                let Some((name, path)) = asked.trim().split_once(' ') else { return };
                let code = self.answer(&fetcher, answer, name, path).await;
                std::fs::OpenOptions::new()
                    .write(true)
                    .open("/tmp/answer")
                    .unwrap()
                    .write_all(code.as_bytes())
                    .unwrap();
            }
        };
        let serve = move |fetcher| drop(given.send(fetcher));
        let site = self.site.clone();
        let restored = tokio::select! {
            biased;
            restored = site.restore(restore, &serve, &progress) => restored,
            () = answering => panic!("nobody asks"),
        };
        // Ends the reader of the pipe.
        let _ =
            std::fs::OpenOptions::new().read(true).write(true).open("/tmp/ask").map(|mut pipe| pipe.write_all(b"\n"));
        restored
    }

    /// The exit code of the command.
    async fn answer(&self, fetcher: &Fetcher, answer: &Answer, name: &str, path: &str) -> &'static str {
        let file: WalFile = name.parse().unwrap();
        match (answer, file) {
            (Answer::Outage, _) => return "126\n",
            (Answer::Hides(lsn), WalFile::Segment(segment)) if segment >= Segment::at(1, *lsn, 4 << 20) => return "1\n",
            _ => {}
        }
        let found: Option<Bytes> = fetcher.fetch(file).await.unwrap();
        let Some(content) = found else { return "1\n" };
        let path = self.site.place.pgdata_new().join(path);
        std::fs::write(&path, content).unwrap();
        std::os::unix::fs::chown(&path, Some(self.site.place.uid.as_raw()), None).unwrap();
        "0\n"
    }
}
