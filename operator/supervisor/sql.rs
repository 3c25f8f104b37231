//! Sessions with the local server: polls and the statements of acts, over the unix socket as role `evenkeel`.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{AssertSqlSafe, Connection, Executor, Row};

use super::listen::listen;
use super::secrets::{REPLICATION_ROLE, Secrets};
use crate::api::chain::chain;
use crate::api::lsn::Lsn;
use crate::api::postgres_settings::SOCKETS;

pub mod dumps;
pub mod points;

/// The supervisor's own role; it can connect only by the unix socket.
pub const ROLE: &str = "evenkeel";
/// Prefix of the slots that Evenkeel manages.
pub const SLOT_PREFIX: &str = "evenkeel_";

/// Time-out of a poll or a short statement; then the server counts as not answering.
const SHORT: Duration = Duration::from_secs(1);
/// Time-out of a statement that writes or creates files.
const LONG: Duration = Duration::from_secs(5);
/// Bytes of one record of [`Session::fill_segment`], and what it spares for the commits until the server is stopped.
const PIECE: u32 = 64 << 10;
const SPARED: u32 = 512 << 10;
/// Time-out of CREATE DATABASE, which copies the template.
const CREATE: Duration = Duration::from_secs(60);

/// A statement on the local server failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server refused it, or the session broke.
    #[error("{doing}")]
    Sql {
        /// The operation.
        doing: &'static str,
        /// The cause.
        #[source]
        source: sqlx::Error,
    },
    /// It took too long.
    #[error("{doing}: no answer within {limit:?}")]
    TooLong {
        /// The operation.
        doing: &'static str,
        /// The time-out.
        limit: Duration,
    },
    /// The result has an unexpected form.
    #[error("{doing}: the answer is not understood")]
    Answer {
        /// The operation.
        doing: &'static str,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
}

async fn within<T>(
    limit: Duration,
    doing: &'static str,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done.map_err(|source| Error::Sql { doing, source }),
        Err(_) => Err(Error::TooLong { doing, limit }),
    }
}

/// The result of one poll of the running server. One statement does not read everything at one instant; where that
/// matters the query keeps the order (`startup` and `receivers` are read before the positions).
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Poll {
    /// In recovery.
    pub recovery: bool,
    /// The application's roles and database were made in this cluster.
    #[serde(default)]
    pub app_made: Option<bool>,
    /// Primary: flushed here. Standby: the greater of received and replayed.
    pub lsn: Lsn,
    /// Primary: name of the current WAL segment; its first 8 digits are the current timeline.
    pub segment: Option<String>,
    /// Timeline in the control file.
    pub control_timeline: u32,
    /// Generation of the configuration file that this session has loaded.
    pub generation: Option<String>,
    /// synchronous_standby_names as loaded.
    pub names: String,
    /// primary_conninfo as loaded.
    pub conninfo: String,
    /// Number of WAL receiver processes.
    pub receivers: u32,
    /// Wait event of the startup process.
    pub startup: Option<String>,
    /// A process waits until every other one has noticed something, such as that a database was dropped.
    #[serde(default)]
    pub barrier: bool,
    /// The next transaction ID.
    #[serde(default)]
    pub next_xid: u64,
    /// Sessions of clients.
    pub sessions: u32,
    /// The session that proves that clients can write waits for standbys: its commit is on the disk here.
    #[serde(default)]
    pub proof_waits: bool,
    /// Standby: its WAL receiver.
    pub stream: Option<Stream>,
    /// Primary: the standbys that stream from it.
    pub replicas: Vec<Walsender>,
    /// Evenkeel's slots.
    pub slots: Vec<Slot>,
}

/// pg_stat_wal_receiver.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Stream {
    /// `streaming` or another state.
    pub status: String,
    /// Timeline of the WAL received last.
    pub timeline: u32,
    /// Sender's address.
    pub host: Option<String>,
}

/// A row of pg_stat_replication.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Walsender {
    /// Its process.
    pub pid: i32,
    /// application_name.
    pub name: String,
    /// state = 'streaming'.
    pub streaming: bool,
    /// Position flushed there.
    pub flushed: Option<Lsn>,
    /// Time of the standby's last reply by its clock; only used to detect a change.
    pub reply: Option<String>,
}

/// A row of pg_replication_slots.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// In use.
    pub active: bool,
    /// Its WAL is gone.
    pub lost: bool,
    /// It retains WAL.
    pub reserved: bool,
}

const POLL: &str = r"
SELECT json_build_object(
  'recovery', r.recovery,
  'appMade', (SELECT shobj_description(oid, 'pg_authid') = 'application made' FROM pg_authid WHERE rolname = 'evenkeel'),
  'lsn', CASE WHEN r.recovery THEN coalesce(greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()), '0/0')
              ELSE pg_current_wal_flush_lsn() END,
  'segment', CASE WHEN NOT r.recovery THEN pg_walfile_name(pg_current_wal_lsn()) END,
  'nextXid', pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
  'controlTimeline', (SELECT timeline_id FROM pg_control_checkpoint()),
  'generation', current_setting('evenkeel.generation', true),
  'names', current_setting('synchronous_standby_names'),
  'conninfo', current_setting('primary_conninfo'),
  'receivers', a.receivers, 'startup', a.startup, 'barrier', a.barrier, 'sessions', a.sessions, 'proofWaits', a.proof_waits,
  'stream', (SELECT json_build_object('status', status, 'timeline', coalesce(received_tli, 0), 'host', sender_host)
             FROM pg_stat_wal_receiver),
  'replicas', coalesce((SELECT json_agg(json_build_object('pid', pid, 'name', application_name,
                'streaming', state = 'streaming', 'flushed', flush_lsn, 'reply', reply_time) ORDER BY pid)
              FROM pg_stat_replication), '[]'),
  'slots', coalesce((SELECT json_agg(json_build_object('name', slot_name, 'active', active,
             'lost', coalesce(wal_status = 'lost', false), 'reserved', restart_lsn IS NOT NULL) ORDER BY slot_name)
           FROM pg_replication_slots WHERE slot_type = 'physical' AND starts_with(slot_name, 'evenkeel_')), '[]')
)::text
FROM (SELECT count(*) FILTER (WHERE backend_type = 'walreceiver') AS receivers,
             max(wait_event) FILTER (WHERE backend_type = 'startup') AS startup,
             count(*) FILTER (WHERE wait_event = 'ProcSignalBarrier') > 0 AS barrier,
             count(*) FILTER (WHERE wait_event = 'SyncRep' AND application_name = 'evenkeel proof') > 0 AS proof_waits,
             count(*) FILTER (WHERE backend_type = 'client backend'
               AND coalesce(usename, '') NOT IN ('evenkeel', 'evenkeel_replication')) AS sessions
      FROM pg_stat_activity) a,
     (SELECT pg_is_in_recovery() AS recovery) r";

/// Values that change rarely.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    /// System identifier.
    pub system_identifier: String,
    /// server_version.
    pub version: String,
    /// Settings that wait for a restart.
    pub pending_restart: Vec<String>,
    /// Refused settings, with the server's message.
    pub setting_errors: Vec<String>,
    /// Bytes of a WAL segment.
    #[serde(default)]
    pub segment_size: u64,
    /// Of a primary: its tablespaces outside the data volume, each with its directory.
    pub tablespaces: Vec<String>,
}

const DETAILS: &str = r"
SELECT json_build_object(
  'systemIdentifier', (SELECT system_identifier::text FROM pg_control_system()),
  'version', current_setting('server_version'),
  'segmentSize', (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_segment_size'),
  'pendingRestart', coalesce((SELECT json_agg(name ORDER BY name) FROM pg_settings WHERE pending_restart), '[]'),
  'settingErrors', coalesce((SELECT json_agg(coalesce(name || ': ', '') || error ORDER BY name)
                   FROM pg_file_settings WHERE error IS NOT NULL AND (name IS NULL
                   OR name NOT IN (SELECT name FROM pg_settings WHERE pending_restart))), '[]'),
  'tablespaces', coalesce((SELECT json_agg(format('%I in %s', spcname, pg_tablespace_location(oid)) ORDER BY spcname)
                 FROM pg_tablespace WHERE NOT pg_is_in_recovery() AND starts_with(pg_tablespace_location(oid), '/')
                 AND NOT starts_with(pg_tablespace_location(oid), '/var/lib/postgresql/data/')), '[]')
)::text";

/// A collation of provider `d` is the database's own; `datlocprovider` came with PostgreSQL 15.
const SORTED: &str = r"
SELECT count(DISTINCT thing) FILTER (WHERE provider = 'c' AND upper(replace(locale, '-', '')) NOT IN ('C', 'POSIX', 'C.UTF8')),
       count(DISTINCT thing) FILTER (WHERE provider = 'i')
FROM (SELECT s.thing, CASE c.collprovider WHEN 'd' THEN d.provider ELSE c.collprovider::text END AS provider,
             CASE c.collprovider WHEN 'd' THEN d.locale ELSE c.collcollate::text END AS locale
      FROM (SELECT indexrelid AS thing, unnest(indcollation::oid[]) AS collation FROM pg_index
            UNION ALL
            SELECT partrelid, unnest(partcollation::oid[]) FROM pg_partitioned_table WHERE partstrat = 'r') s
      JOIN pg_collation c ON c.oid = s.collation
      CROSS JOIN (SELECT coalesce(to_jsonb(p)->>'datlocprovider', 'c') AS provider, datcollate::text AS locale
                  FROM pg_database p WHERE datname = current_database()) d) k";

/// A session with the local server.
#[derive(Debug)]
pub struct Session(PgConnection);

impl Session {
    /// Opens a session. Its statements do not wait for standbys and are not written to the server's log (they
    /// contain verifiers).
    pub async fn open() -> Result<Self, Error> {
        Self::open_in("postgres").await
    }

    /// [`Session::open`] in this database.
    pub async fn open_in(database: &str) -> Result<Self, Error> {
        Self::open_at(Path::new(SOCKETS), ROLE, database).await
    }

    async fn open_at(sockets: &Path, role: &str, database: &str) -> Result<Self, Error> {
        let options = PgConnectOptions::new_without_pgpass()
            .socket(sockets)
            .port(listen().port)
            .username(role)
            .database(database)
            .application_name("evenkeel supervisor")
            .ssl_mode(PgSslMode::Disable)
            .statement_cache_capacity(8)
            .options([
                ("synchronous_commit", "local"),
                ("search_path", "pg_catalog"),
                ("log_statement", "none"),
                ("log_min_duration_statement", "-1"),
                ("log_min_error_statement", "panic"),
                ("log_duration", "off"),
                ("statement_timeout", "0"),
                ("idle_in_transaction_session_timeout", "0"),
                ("idle_session_timeout", "0"),
                ("default_transaction_read_only", "off"),
                ("jit", "off"),
            ]);
        within(SHORT, "opening a session", PgConnection::connect_with(&options)).await.map(Self)
    }

    async fn json<T: serde::de::DeserializeOwned>(
        &mut self,
        doing: &'static str,
        sql: &'static str,
    ) -> Result<T, Error> {
        let text: String = within(SHORT, doing, sqlx::query_scalar(sql).fetch_one(&mut self.0)).await?;
        serde_json::from_str(&text).map_err(|source| Error::Answer { doing, source })
    }

    /// Polls the server.
    pub async fn poll(&mut self) -> Result<Poll, Error> {
        self.json("polling", POLL).await
    }

    /// Reads the values that change rarely.
    pub async fn details(&mut self) -> Result<Details, Error> {
        self.json("reading settings", DETAILS).await
    }

    /// The databases that can have indexes of users.
    pub async fn databases(&mut self) -> Result<Vec<String>, Error> {
        let sql = "SELECT datname::text FROM pg_database WHERE datallowconn AND NOT datistemplate AND datconnlimit <> -2 ORDER BY datname";
        within(SHORT, "listing databases", sqlx::query_scalar(sql).fetch_all(&mut self.0)).await
    }

    /// The numbers of indexes in this database that sort by libc, and by ICU.
    pub async fn sorted(&mut self) -> Result<(i64, i64), Error> {
        let row = within(LONG, "counting indexes by collation", sqlx::query(SORTED).fetch_one(&mut self.0)).await?;
        Ok((row.get(0), row.get(1)))
    }

    async fn execute(&mut self, limit: Duration, doing: &'static str, sql: String) -> Result<(), Error> {
        within(limit, doing, self.0.execute(AssertSqlSafe(sql))).await.map(|_| ())
    }

    /// Writes a little WAL, so that voters see that the leader is alive.
    pub async fn heartbeat(&mut self) -> Result<(), Error> {
        self.execute(SHORT, "writing the heartbeat", "SELECT pg_logical_emit_message(false, 'evenkeel', '')".into())
            .await
    }

    /// Commits a record and returns a position after it, which voters must flush.
    pub async fn barrier(&mut self) -> Result<Lsn, Error> {
        let doing = "setting the barrier";
        // The transactional message assigns a transaction id, so that its commit is flushed before the statement ends.
        self.execute(LONG, doing, "SELECT pg_logical_emit_message(true, 'evenkeel', 'barrier')".into()).await?;
        let sql = "SELECT pg_current_wal_flush_lsn()::text";
        let text: String = within(SHORT, doing, sqlx::query_scalar(sql).fetch_one(&mut self.0)).await?;
        text.parse().map_err(|_| Error::Sql { doing, source: sqlx::Error::Protocol(text) })
    }

    /// Terminates all client sessions; returns their number.
    pub async fn end_sessions(&mut self) -> Result<i64, Error> {
        let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type = 'client backend'
                   AND coalesce(usename, '') NOT IN ('evenkeel', 'evenkeel_replication')";
        within(SHORT, "ending sessions", sqlx::query_scalar(sql).fetch_one(&mut self.0)).await
    }

    /// Requests the promotion without waiting: pg_promote(true) sleeps in steps of 100 ms.
    pub async fn promote(&mut self) -> Result<(), Error> {
        self.execute(SHORT, "promoting", "SELECT pg_promote(false)".into()).await
    }

    /// Ends a pause of the replay that people asked for.
    pub async fn resume_replay(&mut self) -> Result<(), Error> {
        self.execute(SHORT, "resuming the replay", "SELECT pg_wal_replay_resume()".into()).await
    }

    /// Whether it is still in recovery.
    pub async fn in_recovery(&mut self) -> Result<bool, Error> {
        within(SHORT, "asking for the role", sqlx::query_scalar("SELECT pg_is_in_recovery()").fetch_one(&mut self.0))
            .await
    }

    /// Ends the WAL segment that is being written.
    pub async fn switch_wal(&mut self) -> Result<(), Error> {
        self.execute(LONG, "ending a WAL segment", "SELECT pg_switch_wal()".into()).await
    }

    /// Fills the WAL segment that is being written, but for [`SPARED`], and flushes it. A server that archives ends its segment when
    /// it is stopped, and its standbys must receive all of it: what is filled before is not sent while nobody is served.
    pub async fn fill_segment(&mut self) -> Result<(), Error> {
        // A page of 8 KiB has a header, and a record, too.
        let sql = format!(
            "SELECT count(pg_logical_emit_message(false, 'evenkeel', repeat(' ', {PIECE}))) FROM pg_settings, \
             generate_series(1, (setting::bigint - pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0') % setting::bigint \
             - {SPARED})::bigint / ({PIECE} + {PIECE} / 128)) WHERE name = 'wal_segment_size'"
        );
        self.execute(LONG, "filling a WAL segment", sql).await?;
        let flush = "SELECT pg_logical_emit_message(true, 'evenkeel', '')";
        self.execute(LONG, "flushing a WAL segment", flush.into()).await
    }

    /// Runs a checkpoint with the time-out `limit`.
    pub async fn checkpoint(&mut self, limit: Duration) -> Result<(), Error> {
        self.execute(limit, "writing a checkpoint", "CHECKPOINT".into()).await
    }

    /// Whether a reload is enough for all of these settings.
    pub async fn reloadable(&mut self, names: &[String]) -> Result<bool, Error> {
        let sql = "SELECT count(*) = cardinality($1) FROM pg_settings WHERE name = ANY($1) AND context <> 'postmaster'";
        within(SHORT, "reading settings", sqlx::query_scalar(sql).bind(names).fetch_one(&mut self.0)).await
    }

    /// Creates, recreates and drops slots until Evenkeel's slots are `wanted`.
    ///
    /// On a standby they only wait for its promotion and must retain no WAL, because nothing advances them there. On a
    /// primary that is `settled` all retain WAL, also for a follower that has not connected yet.
    pub async fn ensure_slots(&mut self, wanted: &[String], settled: bool) -> Result<(), Error> {
        let doing = "making replication slots";
        let poll = self.poll().await?;
        let (there, standby) = (poll.slots, poll.recovery);
        let wrong = |slot: &Slot| if standby { slot.reserved } else { settled && !slot.reserved };
        let stale = |slot: &&Slot| slot.lost || wrong(slot) && !slot.active;
        for slot in there.iter().filter(|slot| stale(slot) || !wanted.contains(&slot.name)) {
            if slot.active {
                // Its standby is no longer a member; the slot is not needed again.
                let sql =
                    "SELECT count(pg_terminate_backend(active_pid)) FROM pg_replication_slots WHERE slot_name = $1";
                within(SHORT, doing, sqlx::query(sql).bind(&slot.name).execute(&mut self.0)).await?;
            }
            // If it is still in use, the next poll drops it.
            let sql = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1 AND NOT active";
            within(LONG, doing, sqlx::query(sql).bind(&slot.name).execute(&mut self.0)).await?;
        }
        let kept: BTreeSet<&str> = there.iter().filter(|slot| !stale(slot)).map(|slot| slot.name.as_str()).collect();
        for name in wanted.iter().filter(|name| !kept.contains(name.as_str())) {
            let sql = "SELECT pg_create_physical_replication_slot($1, $2)";
            within(LONG, doing, sqlx::query(sql).bind(name).bind(!standby).execute(&mut self.0)).await?;
        }
        Ok(())
    }

    /// Sets passwords that differ. In a cluster where this was never done, it first creates the owner and the database,
    /// and then records that; later it makes neither again, because people dropped or renamed them. Returns what the
    /// application lacks then. Costs one query if nothing is to do.
    pub async fn ensure_app(
        &mut self,
        database: &str,
        owner: &str,
        secrets: &Secrets,
    ) -> Result<Option<String>, Error> {
        let doing = "looking for the application's database";
        let sql = "SELECT (SELECT rolpassword FROM pg_authid WHERE rolname = $1), (SELECT rolpassword FROM pg_authid WHERE rolname = $2),
                   EXISTS (SELECT FROM pg_authid WHERE rolname = $1), EXISTS (SELECT FROM pg_database WHERE datname = $3)";
        let query = sqlx::query(sql).bind(owner).bind(REPLICATION_ROLE).bind(database);
        let row = within(SHORT, doing, query.fetch_one(&mut self.0)).await?;
        let (owner_verifier, replication_verifier): (Option<String>, Option<String>) = (row.get(0), row.get(1));
        let (owner_there, database_there): (bool, bool) = (row.get(2), row.get(3));
        let made = self.poll().await?.app_made == Some(true);
        let role = quoted(owner);
        if !owner_there && !made {
            self.execute(LONG, "making the owner role", format!("CREATE ROLE {role} LOGIN")).await?;
        }
        if owner_verifier.as_deref() != Some(&secrets.owner) && (owner_there || !made) {
            let sql = format!("ALTER ROLE {role} LOGIN PASSWORD '{}'", secrets.owner);
            self.execute(LONG, "setting the owner's password", sql).await?;
        }
        if replication_verifier.as_deref() != Some(&secrets.replication) {
            let sql = format!("ALTER ROLE {REPLICATION_ROLE} PASSWORD '{}'", secrets.replication);
            self.execute(LONG, "setting the replication password", sql).await?;
        }
        if !database_there && !made {
            let sql = format!("CREATE DATABASE {} OWNER {role}", quoted(database));
            self.execute(CREATE, "making the application's database", sql).await?;
        }
        if !made {
            let sql = format!("COMMENT ON ROLE {ROLE} IS 'application made'");
            return self.execute(LONG, "recording that the database was made", sql).await.map(|()| None);
        }
        Ok(match (owner_there, database_there) {
            (true, true) => None,
            (false, _) => Some(format!(
                "the role {role} does not exist any more and is not made again: CREATE ROLE it, or change spec.bootstrap"
            )),
            (true, false) => Some(format!(
                "the database {} does not exist any more and is not made again: CREATE DATABASE it, or restore it",
                quoted(database)
            )),
        })
    }
}

/// Opens a session with a server that starts in this folder, as soon as it admits one; the server's own words if it
/// refuses the session.
pub async fn first_session(sockets: &Path) -> Result<(), String> {
    loop {
        match Session::open_at(sockets, "postgres", "postgres").await {
            Ok(mut session) => return session.in_recovery().await.map(drop).map_err(|error| chain(&error)),
            Err(Error::Sql { source: sqlx::Error::Database(refused), .. })
                if refused.code().as_deref() != Some("57P03") =>
            {
                return Err(refused.message().to_owned());
            }
            // It starts, or is busy.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Statements for a new cluster before any client can connect. pg_rewind needs the four functions.
pub fn bootstrap() -> String {
    format!(
        "CREATE ROLE {ROLE} SUPERUSER LOGIN;\n\
         CREATE ROLE {REPLICATION_ROLE} REPLICATION LOGIN;\n\
         GRANT EXECUTE ON FUNCTION pg_ls_dir(text, boolean, boolean) TO {REPLICATION_ROLE};\n\
         GRANT EXECUTE ON FUNCTION pg_stat_file(text, boolean) TO {REPLICATION_ROLE};\n\
         GRANT EXECUTE ON FUNCTION pg_read_binary_file(text) TO {REPLICATION_ROLE};\n\
         GRANT EXECUTE ON FUNCTION pg_read_binary_file(text, bigint, bigint, boolean) TO {REPLICATION_ROLE};\n"
    )
}

/// Statements for a cluster that was restored: it may have these roles already, or others of their names. Each is tried, and what
/// exists already is no error. Their passwords are forgotten: they were those of another time.
pub fn bootstrap_again() -> String {
    format!(
        "{}ALTER ROLE {ROLE} SUPERUSER LOGIN PASSWORD NULL VALID UNTIL 'infinity' CONNECTION LIMIT -1;\n\
         ALTER ROLE {REPLICATION_ROLE} NOSUPERUSER REPLICATION LOGIN PASSWORD NULL VALID UNTIL 'infinity' CONNECTION LIMIT -1;\n\
         ALTER ROLE {ROLE} RESET ALL;\n\
         ALTER ROLE {REPLICATION_ROLE} RESET ALL;\n",
        bootstrap()
    )
}

/// Path of the server's unix socket.
pub fn socket() -> std::path::PathBuf {
    Path::new(SOCKETS).join(format!(".s.PGSQL.{}", listen().port))
}

/// An identifier in double quotes.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_with_quotes_stays_one_identifier() {
        assert_eq!(quoted(r#"a"; DROP ROLE b"#), r#""a""; DROP ROLE b""#);
    }

    #[test]
    fn a_poll_of_a_standby_is_understood() {
        let text = r#"{"recovery":true,"lsn":"0/3000148","segment":null,"controlTimeline":1,"generation":"2","names":"",
            "conninfo":"host=x","receivers":1,"startup":"RecoveryWalStream","sessions":0,
            "stream":{"status":"streaming","timeline":1,"host":"172.30.0.2"},"replicas":[],"slots":[]}"#;
        let poll: Poll = serde_json::from_str(text).expect("a poll");
        assert_eq!((poll.lsn, poll.stream.map(|stream| stream.timeline)), (Lsn(0x300_0148), Some(1)));
    }
}
