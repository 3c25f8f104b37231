//! Dumps and restores of them, by PostgreSQL in a container in which this test runs as the supervisor would. Needs
//! EVENKEEL_TEST_DOCKER=1.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::process::{Command, Stdio};

use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::archive::access::{ArchiveAccess, Store as Where, StoreAccess};
use crate::supervisor::dump::Dump;
use crate::supervisor::inside::{in_container, query, serve, site, stop};
use crate::supervisor::wire::{BackupOrder, Init};

const ARCHIVE: &str = "/archive/default.db";
const ID: &str = "20261128T010000";
/// Names of a database and a role that must be quoted everywhere.
const DATABASE: &str = "A 'b\\=c";

#[test]
fn a_database_is_dumped_and_restored_beside_itself_or_not_at_all() {
    let name = "supervisor::dump_restore::tests::a_database_is_dumped_and_restored_beside_itself_or_not_at_all";
    in_container(name, inside);
}

struct Inside {
    site: Site,
    access: ArchiveAccess,
}

async fn inside() {
    let site = site();
    std::fs::create_dir_all(ARCHIVE).unwrap();
    let store = Where::Directory { path: "/archive".into() };
    let access = ArchiveAccess {
        access: StoreAccess { hash: String::new(), store, encryption: None },
        path: "default.db".into(),
    };
    let inside = Inside { site, access };
    let init = Init { encoding: "UTF8".into(), locale: "C.UTF-8".into(), data_checksums: true };
    inside.site.clone().init(init).await.unwrap();
    // Clients' settings are not for dumps.
    let server = serve(&inside.site, &[("default_transaction_read_only", "on"), ("statement_timeout", "5s")]).await;
    inside.fill().await;

    let taken = inside.dump(ID, DATABASE).await.unwrap();
    let info = inside.info(ID);
    assert_eq!((info.database.as_str(), info.owner.as_str(), info.major()), (DATABASE, "the owner", 15));
    assert_eq!((info.roles.join(","), taken.bytes, taken.stored), ("reader,the owner".into(), info.size, info.stored));
    assert!(taken.snapshot.is_some_and(|of| of.lsn == info.lsn) && taken.total > 0);
    inside.by_hand().await;

    // What was done after the dump is not in it.
    inside.sql(DATABASE, "DROP TABLE rows; DROP MATERIALIZED VIEW IF EXISTS sums").await;
    inside.restore("app_old", None).await.unwrap();
    assert_eq!(inside.rows("app_old").await, "100000 large objects 1 of the owner, read by reader");
    let of = "SELECT pg_get_userbyid(datdba), datconnlimit, pg_encoding_to_char(encoding), datcollate FROM pg_database WHERE datname = 'app_old'";
    assert_eq!(inside.sql("postgres", of).await, "the owner|-1|UTF8|C.UTF-8");
    // The same restore, not heard of: done already. Another one: nothing is overwritten.
    inside.restore("app_old", None).await.unwrap();
    let again = inside.restore_as("11111111-x", "app_old", None).await.unwrap_err();
    assert!(again.lasting && again.words.starts_with("there is a database \"app_old\" already"), "{again:?}");
    // All of it to somebody else.
    inside.restore("app_theirs", Some("reader")).await.unwrap();
    assert_eq!(inside.rows("app_theirs").await, "100000 large objects 1 of reader, read by reader");

    inside.refusals().await;
    inside.a_cut_one_leaves_what_is_dropped_later().await;
    inside.dumps_that_fail().await;
    let left = inside.sql("postgres", "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database").await;
    assert_eq!(left, format!("{DATABASE} app_old app_theirs postgres template0 template1"));
    stop(server).await;
}

impl Inside {
    fn store(&self) -> Store {
        Store::open_archive(&self.access).unwrap()
    }

    fn info(&self, id: &str) -> DumpInfo {
        serde_json::from_slice(&std::fs::read(format!("{ARCHIVE}/dumps/{id}/dump.json")).unwrap()).unwrap()
    }

    async fn sql(&self, database: &str, statement: &str) -> String {
        query(&self.site, database, statement).await
    }

    async fn fill(&self) {
        for statement in [
            "CREATE ROLE \"the owner\" LOGIN PASSWORD 'hidden'",
            "CREATE ROLE reader",
            "CREATE DATABASE \"A 'b\\=c\" OWNER \"the owner\"",
        ] {
            self.sql("postgres", statement).await;
        }
        self.sql(
            DATABASE,
            "SET ROLE \"the owner\"; CREATE TABLE rows AS SELECT n, repeat(md5(n::text), 8) AS text FROM generate_series(1, 100000) n; \
             GRANT SELECT ON rows TO reader; SELECT lo_from_bytea(0, 'large')",
        )
        .await;
    }

    async fn rows(&self, database: &str) -> String {
        let sql = "SELECT count(*) || ' large objects ' || (SELECT count(*) FROM pg_largeobject_metadata) || ' of ' \
                   || (SELECT tableowner FROM pg_tables WHERE tablename = 'rows') \
                   || CASE WHEN has_table_privilege('reader', 'rows', 'SELECT') THEN ', read by reader' ELSE '' END FROM rows";
        self.sql(database, sql).await
    }

    async fn dump(&self, id: &str, database: &str) -> Result<BackupState, Trouble> {
        let (progress, _) = watch::channel(BackupState::default());
        self.dump_of(id, database, None).take(&progress).await?;
        Ok(progress.borrow().clone())
    }

    fn dump_of(&self, id: &str, database: &str, max_rate: Option<u64>) -> Dump {
        Dump {
            store: self.store(),
            site: self.site.clone(),
            database: database.into(),
            order: BackupOrder { id: id.into(), attempt: 1, max_rate, dump: Some(database.into()) },
            member: "db-1".into(),
            now: jiff::Timestamp::now,
        }
    }

    fn restore_of(&self, uid: &str, database: &str, owner: Option<&str>) -> DumpRestore {
        let order = RestoreOrder {
            id: uid.into(),
            attempt: 1,
            source: self.access.clone(),
            dump: ID.into(),
            database: database.into(),
            owner: owner.map(str::to_owned),
        };
        DumpRestore { store: self.store(), site: self.site.clone(), order }
    }

    async fn restore_as(&self, uid: &str, database: &str, owner: Option<&str>) -> Result<BackupState, Trouble> {
        let (progress, _) = watch::channel(BackupState::default());
        self.restore_of(uid, database, owner).take(&progress).await?;
        Ok(progress.borrow().clone())
    }

    async fn restore(&self, database: &str, owner: Option<&str>) -> Result<BackupState, Trouble> {
        self.restore_as("5f0c01aa-0000", database, owner).await
    }

    /// What the documentation says of a dump without this program.
    async fn by_hand(&self) {
        let data = data_file(DATABASE);
        let run = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]).current_dir(format!("{ARCHIVE}/dumps/{ID}")).stdin(Stdio::null());
            let done = command.output().unwrap();
            format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr))
        };
        let listed = run(&format!("zstd -dc '{data}' | pg_restore --list"));
        assert!(listed.contains("TABLE DATA public rows the owner"), "{listed}");
        let globals = run("zstd -dc globals.sql.zst");
        assert!(globals.contains("CREATE ROLE \"the owner\";") && !globals.contains("SCRAM"), "{globals}");
        let files = run("ls -A");
        assert_eq!(files, format!("{data}\ndump.json\nframes.json\nglobals.sql.zst\n"));
    }

    async fn refusals(&self) {
        let refused = async |restore: DumpRestore| {
            let (progress, _) = watch::channel(BackupState::default());
            let trouble = restore.take(&progress).await.unwrap_err();
            assert!(trouble.lasting, "{trouble:?}");
            trouble.words
        };
        let mut none = self.restore_of("1", "x", None);
        none.order.dump = "20260101T000000".into();
        assert_eq!(refused(none).await, "the archive has no complete dump 20260101T000000");
        let words = refused(self.restore_of("1", "x", Some("nobody"))).await;
        assert!(words.starts_with("the role \"nobody\" of spec.owner does not exist"), "{words}");
        self.sql("postgres", "ALTER ROLE reader RENAME TO gone").await;
        let words = refused(self.restore_of("1", "x", None)).await;
        assert!(words.starts_with("the dump needs roles that this cluster does not have: reader;"), "{words}");
        self.sql("postgres", "ALTER ROLE gone RENAME TO reader").await;
        // One changed bit of the data, and of what describes it.
        for (file, says) in [
            (data_file(DATABASE).as_str(), "has another content than was written"),
            (FRAMES_FILE, "it has another content than was written"),
        ] {
            let path = format!("{ARCHIVE}/dumps/{ID}/{file}");
            let good = std::fs::read(&path).unwrap();
            let mut bad = good.clone();
            let middle = bad.len() / 2;
            bad[middle] ^= 1;
            std::fs::write(&path, bad).unwrap();
            let words = refused(self.restore_of("1", "x", None)).await;
            assert!(words.contains(says), "{words}");
            std::fs::write(&path, good).unwrap();
        }
    }

    async fn a_cut_one_leaves_what_is_dropped_later(&self) {
        let (progress, mut seen) = watch::channel(BackupState::default());
        let restore = self.restore_of("ABCDEF01-2", "cut", None);
        let unfinished = restore.unfinished();
        let task = AbortOnDropHandle::new(tokio::spawn(async move { restore.take(&progress).await }));
        seen.wait_for(|state| state.bytes > 0).await.unwrap();
        drop(task);
        let there = format!("SELECT datconnlimit FROM pg_database WHERE datname = '{unfinished}'");
        assert_eq!(self.sql("postgres", &there).await, "0", "{unfinished}");
        // A database that people have made is none of ours, whatever its name is.
        let mut session = Session::open().await.unwrap();
        assert_eq!(session.drop_unfinished().await.unwrap(), [unfinished]);
        assert_eq!(session.drop_unfinished().await.unwrap(), Vec::<String>::new());
    }

    async fn dumps_that_fail(&self) {
        let missing = self.dump("20261128T020000", "nope").await.unwrap_err();
        assert!(missing.lasting && missing.words == "there is no database \"nope\" in this cluster", "{missing:?}");
        let taken = self.dump(ID, DATABASE).await.unwrap_err();
        assert!(taken.words.contains("another complete dump"), "{taken:?}");
        // The server ends the session, as it does when the replay of WAL needs what a dump on a standby still reads.
        let (progress, mut seen) = watch::channel(BackupState::default());
        let slow = self.dump_of("20261128T030000", "app_old", Some(1 << 20));
        let task = tokio::spawn(async move { slow.take(&progress).await });
        seen.wait_for(|state| state.bytes > 0).await.unwrap();
        let sql = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE application_name = 'pg_dump'";
        assert_eq!(self.sql("postgres", sql).await, "1");
        let trouble = task.await.unwrap().unwrap_err();
        assert!(!trouble.lasting && trouble.words.contains("canceling statement"), "{trouble:?}");
        // Nothing is left of either.
        let left = std::fs::read_dir(format!("{ARCHIVE}/dumps")).unwrap();
        let files = left.filter(|folder| std::fs::read_dir(folder.as_ref().unwrap().path()).unwrap().next().is_some());
        assert_eq!(files.count(), 1);
    }
}
