//! A base backup and restores of it, by PostgreSQL in a container in which this test runs as the supervisor would. Needs
//! EVENKEEL_TEST_DOCKER=1.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::io::{BufRead as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command as Process;

use bytes::Bytes;

use super::*;
use crate::archive::access::{Store as Where, StoreAccess};
use crate::archive::names::{Segment, WalFile};
use crate::archive::target::Target;
use crate::supervisor::backup::Backup;
use crate::supervisor::inside::{in_container, query, serve, site, stop};
use crate::supervisor::process::Child;
use crate::supervisor::wire::{BackupOrder, BackupState, Init};

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
    let line = "LOG:  last completed transaction was at log time 2026-11-28 03:14:15.123456+00";
    assert_eq!(committed(line), Some("2026-11-28T03:14:15.123456Z".parse().unwrap()));
    assert_eq!((committed("LOG:  redo done"), committed(&line.replace("+00", " CET"))), (None, None));
}

#[test]
fn the_major_version_of_the_image_is_read() {
    assert_eq!(major("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"), Some(15));
    assert_eq!(major("postgres (PostgreSQL) 18beta1\n"), Some(18));
    assert_eq!(major("postgres"), None);
}

#[test]
fn a_backup_is_restored_exactly_up_to_what_was_asked_for() {
    let name = "supervisor::restore::tests::a_backup_is_restored_exactly_up_to_what_was_asked_for";
    in_container(name, inside);
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
    let site = site();
    std::fs::create_dir_all(ARCHIVE).unwrap();
    std::os::unix::fs::chown(ARCHIVE, Some(site.place.uid.as_raw()), None).unwrap();
    std::fs::write("/tmp/push.sh", PUSH).unwrap();
    std::fs::set_permissions("/tmp/push.sh", std::fs::Permissions::from_mode(0o755)).unwrap();
    for pipe in ["/tmp/ask", "/tmp/answer"] {
        assert!(Process::new("mkfifo").args(["-m", "666", pipe]).status().is_ok());
    }
    let access =
        StoreAccess { hash: String::new(), store: Where::Directory { path: "/archive".into() }, encryption: None };
    let inside = Inside { site, store: Store::open(&access).unwrap().at("default.db") };
    let init = Init { encoding: "UTF8".into(), locale: "C.UTF-8".into(), data_checksums: true };
    inside.site.clone().init(init).await.unwrap();
    let server = inside.serve().await;
    inside.sql("CREATE TABLE commits (number int)").await;
    let mut commits = Vec::new();
    for number in 1..=3 {
        commits.push(inside.commit(number).await);
    }
    let state = inside.back_up().await;
    assert_eq!(state.span.as_ref().map(|span| span.timeline), Some(1));
    for number in 4..=20 {
        commits.push(inside.commit(number).await);
        if number % 4 == 0 {
            inside.sql("SELECT pg_switch_wal()").await;
        }
    }
    inside.sql("SELECT pg_create_restore_point('here')").await;
    commits.push(inside.commit(21).await);
    // It archives everything before it ends.
    stop(server).await;

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
        let reached = restored.reached.as_ref().unwrap();
        assert_eq!((restored.backup.as_str(), reached.timeline, inside.timeline().await), (ID, 1, 2), "{target:?}");
        assert_eq!((restored.bytes, &restored.path), (restored.total, &vec![1]), "{target:?}");
        if target == Target::Time(at(15).time) {
            assert!(reached.last_commit.is_some_and(|commit| commit <= at(15).time), "{reached:?}");
        }
        assert_eq!(restored.checks, Vec::<String>::new());
    }
    let verify = Recovery { verify: true, ..none.clone() };
    let restored = inside.restore(verify.clone(), &Answer::Honest).await.unwrap();
    assert_eq!(inside.rows().await, 21);
    assert_eq!(
        (restored.checks, restored.unchecked),
        (vec!["manifest", "checksums", "amcheck"].into_iter().map(str::to_owned).collect(), vec![])
    );
    inside.finds_damage().await;

    // A server that was restored goes on, on a timeline of its own in the same archive.
    let back = Recovery { target: Target::Xid(at(9).xid), ..none.clone() };
    inside.restore(back, &Answer::Honest).await.unwrap();
    // A recovery does not archive, so PostgreSQL does not offer the history of the timeline that it began.
    let history = inside.site.place.theirs().read(&inside.site.place.pgdata().join("pg_wal/00000002.history")).unwrap();
    inside.store.put("wals/00000002.history", history.into()).await.unwrap();
    let server = inside.serve().await;
    inside.commit(30).await;
    stop(server).await;
    for (timeline, expected, left) in [(None, 10, 2), (Some(1), 21, 1)] {
        let restored = inside.restore(Recovery { timeline, ..none.clone() }, &Answer::Honest).await.unwrap();
        let reached = restored.reached.as_ref().unwrap();
        assert_eq!(
            (inside.rows().await, reached.timeline, inside.timeline().await),
            (expected, left, 3),
            "{restored:?}"
        );
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
    let path = format!("{ARCHIVE}/base/{ID}/{DATA_FILE}");
    let mut data = std::fs::read(&path).unwrap();
    let middle = data.len() / 2;
    data[middle] ^= 1;
    std::fs::write(&path, data).unwrap();
    let words = refused(none, &Answer::Honest).await;
    assert!(words.contains("has another content than was written"), "{words}");
    assert_eq!(inside.rows().await, 21, "what was there stays until a restore is complete");
}

/// How `restore_command` is answered.
enum Answer {
    Honest,
    /// The store is not reached.
    Outage,
    /// The segment with this position, and what follows it, does not exist.
    Hides(Lsn),
}

impl Site {
    /// Statements in a single-user server, one a line; none of them may fail.
    async fn single_file(self, statements: File) -> String {
        let said = self.single(&self.place.pgdata(), "postgres", Stdio::from(statements), None).await.unwrap();
        assert!(!said.contains("ERROR:"), "{said}");
        said
    }
}

impl Inside {
    async fn serve(&self) -> Child {
        serve(&self.site, &[("archive_mode", "on"), ("archive_command", "/tmp/push.sh %p %f")]).await
    }

    async fn sql(&self, statement: &str) -> String {
        query(&self.site, "postgres", statement).await
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
            order: BackupOrder { id: ID.into(), attempt: 1, max_rate: None, dump: None },
            archive: "default.db".into(),
            member: "db-1".into(),
            socket: sql::socket(),
            now: jiff::Timestamp::now,
        };
        let (progress, _) = watch::channel(BackupState::default());
        backup.take(&progress).await.unwrap();
        progress.borrow().clone()
    }

    /// Rows of the table in the data directory, which no server uses.
    async fn rows(&self) -> u64 {
        std::fs::write("/tmp/count.sql", "SELECT count(*) AS n FROM commits\n").unwrap();
        let statement = Stdio::from(File::open("/tmp/count.sql").unwrap());
        let said = self.site.single(&self.site.place.pgdata(), "postgres", statement, None).await.unwrap();
        said.split_once("n = \"").unwrap().1.split_once('"').unwrap().0.parse().unwrap()
    }

    async fn timeline(&self) -> u32 {
        tools::control(&self.site.place, &self.site.reaper).await.unwrap().timeline
    }

    /// What each check finds in the data directory, which no server uses.
    async fn finds_damage(&self) {
        let (data, progress) = (self.site.place.pgdata(), watch::Sender::default());
        let statement = |text: &str| {
            std::fs::write("/tmp/damage.sql", text).unwrap();
            self.site.clone().single_file(File::open("/tmp/damage.sql").unwrap())
        };
        // A database whose name looks like an option, and settings of the users that would stop the checks.
        statement("CREATE DATABASE \"-x\"\nALTER DATABASE postgres SET default_transaction_read_only = on\n").await;
        statement("ALTER DATABASE postgres SET search_path = nowhere\nCREATE INDEX commits_n ON commits (number)\n")
            .await;
        self.site.check_structures(&data, None, &progress).await.unwrap();
        // Rows that an index does not have.
        let ready = |ready: bool| {
            format!("UPDATE pg_index SET indisready = {ready} WHERE indexrelid = 'public.commits_n'::regclass\n")
        };
        let rows = "INSERT INTO public.commits VALUES (1000)\n";
        statement(&format!("SET default_transaction_read_only = off\n{}{rows}{}", ready(false), ready(true))).await;
        let words = self.site.check_structures(&data, None, &progress).await.unwrap_err().words;
        assert!(words.starts_with("amcheck of database postgres: ERROR:  heap tuple"), "{words}");
        assert!(words.contains("lacks matching index tuple within index \"commits_n\""), "{words}");
        statement("SET default_transaction_read_only = off\nREINDEX INDEX public.commits_n\n").await;
        self.site.check_structures(&data, None, &progress).await.unwrap();
        self.site.check_pages(&data, &progress).await.unwrap();
        // One changed bit in a table, with the checksum and without it.
        let said = statement("SELECT pg_relation_filepath('public.commits') AS path\n").await;
        let path = said.split_once("path = \"").unwrap().1.split_once('"').unwrap().0.to_owned();
        let mut table = std::fs::read(data.join(&path)).unwrap();
        table[8191] ^= 1;
        std::fs::write(data.join(&path), &table).unwrap();
        let words = self.site.check_pages(&data, &progress).await.unwrap_err().words;
        assert!(words.starts_with("pages have wrong checksums: ") && words.contains(&path), "{words}");
        let words = self.site.check_structures(&data, None, &progress).await.unwrap_err().words;
        assert!(words.contains("invalid page in block 0 of relation"), "{words}");
    }

    async fn restore(&self, recovery: Recovery, answer: &Answer) -> Result<RecoveryState, Failure> {
        let restore = Restore { store: self.store.clone(), recovery, command: ASK.to_owned(), configuration: None };
        let (progress, _) = watch::channel(RecoveryState::default());
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
            restored = site.restore(restore, &serve, &progress) => restored.map(|()| progress.borrow().clone()),
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
