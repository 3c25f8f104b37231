//! Statements about dumps: the snapshot that one is of, and the database that one is restored into.

use std::time::Duration;

use serde::Deserialize;
use sqlx::{AssertSqlSafe, Executor, Row};

use crate::api::backup_id::UNFINISHED;
use crate::api::lsn::Lsn;
use crate::archive::dumps::Locale;
use crate::supervisor::sql::{CREATE, Error, LONG, SHORT, Session, quoted, within};

/// Time-out of a commit that waits for standbys, and of DROP DATABASE, which writes a checkpoint.
const PATIENT: Duration = Duration::from_secs(600);
/// Attempts to rename a database, each of 5 s, while somebody looks into it.
const RENAMES: u32 = 12;

/// What a dump is of.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Exported {
    /// The snapshot, for other sessions while this one lives.
    pub snapshot: String,
    /// Its position; on a standby about.
    pub lsn: Lsn,
    /// Its time, in seconds since 1970.
    pub time: i64,
    /// `server_version_num`.
    pub version: u32,
    /// Bytes of the database, with its indexes.
    pub size: u64,
    /// The role that owns the database.
    pub owner: String,
    /// Roles that something in it depends on.
    pub roles: Vec<String>,
    /// How it sorts and stores text.
    pub locale: Locale,
}

const EXPORT: &str = r"
SELECT json_build_object(
  'snapshot', pg_export_snapshot(),
  'lsn', CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END,
  'time', extract(epoch FROM CASE WHEN pg_is_in_recovery() THEN coalesce(pg_last_xact_replay_timestamp(), now())
                             ELSE now() END)::bigint,
  'version', current_setting('server_version_num')::int,
  'size', pg_database_size(oid),
  'owner', pg_get_userbyid(datdba),
  'roles', coalesce((SELECT json_agg(DISTINCT rolname ORDER BY rolname) FROM pg_shdepend s JOIN pg_roles r ON r.oid = s.refobjid
                     WHERE s.refclassid = 'pg_authid'::regclass AND s.dbid = d.oid), '[]'),
  'locale', json_build_object('encoding', pg_encoding_to_char(encoding), 'collate', datcollate, 'ctype', datctype,
            'provider', coalesce(to_jsonb(d)->>'datlocprovider', 'c'),
            'locale', coalesce(to_jsonb(d)->>'datlocale', to_jsonb(d)->>'daticulocale'))
)::text
FROM pg_database d WHERE datname = current_database()";

/// A database, or that there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its comment.
    pub comment: Option<String>,
}

/// `server_version_num`, and those of the roles that do not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receives {
    /// `server_version_num`.
    pub version: u32,
    /// The roles that are missing.
    pub missing: Vec<String>,
}

impl Session {
    /// Begins a transaction that only reads, and exports what it sees. Others can use that until this session ends.
    pub async fn export_snapshot(&mut self) -> Result<Exported, Error> {
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        self.execute(SHORT, "beginning a transaction", begin.into()).await?;
        let doing = "exporting a snapshot";
        let text: String = within(LONG, doing, sqlx::query_scalar(EXPORT).fetch_one(&mut self.0)).await?;
        serde_json::from_str(&text).map_err(|source| Error::Answer { doing, source })
    }

    /// The database of this name.
    pub async fn database(&mut self, name: &str) -> Result<Option<Found>, Error> {
        let sql = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = $1";
        let row =
            within(SHORT, "looking for a database", sqlx::query(sql).bind(name).fetch_optional(&mut self.0)).await?;
        Ok(row.map(|row| Found { comment: row.get(0) }))
    }

    /// Whether a dump can be received that needs these roles.
    pub async fn receives(&mut self, roles: &[String]) -> Result<Receives, Error> {
        let sql = "SELECT current_setting('server_version_num')::int,
                   ARRAY(SELECT role FROM unnest($1) role WHERE role NOT IN (SELECT rolname FROM pg_roles) ORDER BY role)";
        let row = within(SHORT, "looking for roles", sqlx::query(sql).bind(roles).fetch_one(&mut self.0)).await?;
        Ok(Receives { version: u32::try_from(row.get::<i32, _>(0)).unwrap_or_default(), missing: row.get(1) })
    }

    /// Makes an empty database that only superusers can connect to: its connection limit is 0.
    pub async fn create_unfinished(
        &mut self,
        name: &str,
        owner: &str,
        locale: &Locale,
        version: u32,
    ) -> Result<(), Error> {
        let sql = create(name, owner, locale, version);
        self.execute(CREATE, "making a database for the dump", sql).await
    }

    /// Gives an unfinished database its name, lets clients in, and comments it; all at once, and acknowledged by standbys as a commit
    /// of a client is.
    pub async fn finish_database(&mut self, unfinished: &str, name: &str, comment: &str) -> Result<(), Error> {
        let (from, to) = (quoted(unfinished), quoted(name));
        let sql = format!(
            "BEGIN; SET LOCAL synchronous_commit = on; ALTER DATABASE {from} RENAME TO {to}; \
             ALTER DATABASE {to} CONNECTION LIMIT -1; COMMENT ON DATABASE {to} IS '{}'; COMMIT",
            comment.replace('\'', "''")
        );
        let mut left = RENAMES;
        loop {
            left -= 1;
            match self.execute(PATIENT, "naming the restored database", sql.clone()).await {
                Err(error) if left > 0 && code(&error).as_deref() == Some(IN_USE) => {
                    self.execute(SHORT, "ending a transaction", "ROLLBACK".into()).await?;
                }
                done => return done,
            }
        }
    }

    /// Drops the databases that restores have left unfinished. Returns their names.
    pub async fn drop_unfinished(&mut self) -> Result<Vec<String>, Error> {
        let doing = "dropping unfinished databases";
        // -2: DROP DATABASE was interrupted.
        let sql = "SELECT datname::text FROM pg_database
                   WHERE datname ~ ('^' || $1 || '[0-9a-f]{1,8}_[0-9]+$') AND datconnlimit IN (0, -2)";
        let query = sqlx::query_scalar(sql).bind(UNFINISHED);
        let names: Vec<String> = within(SHORT, doing, query.fetch_all(&mut self.0)).await?;
        for name in &names {
            let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quoted(name));
            within(PATIENT, doing, self.0.execute(AssertSqlSafe(sql))).await?;
        }
        Ok(names)
    }
}

/// SQLSTATE: others are connected to the database.
const IN_USE: &str = "55006";
/// SQLSTATE: there is no such database.
pub const NO_DATABASE: &str = "3D000";
/// SQLSTATE: there is a database of this name.
pub const DUPLICATE: &str = "42P04";

/// The SQLSTATE of a failure, if the server gave one.
pub fn code(error: &Error) -> Option<String> {
    let Error::Sql { source: sqlx::Error::Database(refused), .. } = error else { return None };
    refused.code().map(std::borrow::Cow::into_owned)
}

/// The statement for an empty database with this locale. Providers came with version 15.
fn create(name: &str, owner: &str, locale: &Locale, version: u32) -> String {
    let text = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let mut sql = format!(
        "CREATE DATABASE {} OWNER {} TEMPLATE template0 CONNECTION LIMIT 0 ENCODING {} LC_COLLATE {} LC_CTYPE {}",
        quoted(name),
        quoted(owner),
        text(&locale.encoding),
        text(&locale.collate),
        text(&locale.ctype)
    );
    let of_provider = locale.locale.as_deref().unwrap_or_default();
    match locale.provider.as_str() {
        "i" => sql.push_str(&format!(" LOCALE_PROVIDER icu ICU_LOCALE {}", text(of_provider))),
        "b" => sql.push_str(&format!(" LOCALE_PROVIDER builtin BUILTIN_LOCALE {}", text(of_provider))),
        _ if version >= 150_000 => sql.push_str(" LOCALE_PROVIDER libc"),
        _ => {}
    }
    sql
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_made_with_the_locale_of_the_dump_and_no_name_ends_a_statement() {
        let libc = Locale {
            encoding: "UTF8".into(),
            collate: "de_DE.utf8".into(),
            ctype: "C".into(),
            provider: "c".into(),
            locale: None,
        };
        let icu = Locale { provider: "i".into(), locale: Some("de-x'y".into()), ..libc.clone() };
        let all = [
            create("x\"; --", "app", &libc, 150_018),
            create("x", "app", &libc, 140_000),
            create("x", "app", &icu, 170_000),
        ];
        expect_test::expect![[r#"
            CREATE DATABASE "x""; --" OWNER "app" TEMPLATE template0 CONNECTION LIMIT 0 ENCODING 'UTF8' LC_COLLATE 'de_DE.utf8' LC_CTYPE 'C' LOCALE_PROVIDER libc
            CREATE DATABASE "x" OWNER "app" TEMPLATE template0 CONNECTION LIMIT 0 ENCODING 'UTF8' LC_COLLATE 'de_DE.utf8' LC_CTYPE 'C'
            CREATE DATABASE "x" OWNER "app" TEMPLATE template0 CONNECTION LIMIT 0 ENCODING 'UTF8' LC_COLLATE 'de_DE.utf8' LC_CTYPE 'C' LOCALE_PROVIDER icu ICU_LOCALE 'de-x''y'
        "#]]
        .assert_eq(&all.map(|sql| sql + "\n").concat());
    }
}
