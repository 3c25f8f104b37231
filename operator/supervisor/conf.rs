//! The server's configuration files, rendered from a [`Config`]; pure text.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use super::next::{Config, Gate, Upstream};
use super::place::SOCKETS;
use super::secrets::REPLICATION_ROLE;
use super::wire::{PORT, Rule};

/// What a user's setting may replace.
const DEFAULTS: [(&str, &str); 13] = [
    ("wal_level", "replica"),
    ("max_wal_senders", "10"),
    ("max_replication_slots", "10"),
    ("max_slot_wal_keep_size", "4GB"),
    ("wal_keep_size", "256MB"),
    // Off as PostgreSQL has it: a standby that is away must not hold back vacuum.
    ("hot_standby_feedback", "off"),
    // A dead peer is noticed within these.
    ("wal_receiver_timeout", "5s"),
    ("wal_sender_timeout", "5s"),
    ("tcp_keepalives_idle", "5"),
    ("tcp_keepalives_interval", "2"),
    ("tcp_keepalives_count", "3"),
    // One call instead of an fsync of every file before each recovery: seconds less until a crashed server is back.
    ("recovery_init_sync_method", "syncfs"),
    ("log_line_prefix", "%m [%p] %q%u@%d "),
];

/// What nobody may replace: replication, promises and the operator's sight rest on it.
const RESERVED: [(&str, &str); 18] = [
    ("listen_addresses", "*"),
    ("unix_socket_directories", SOCKETS),
    ("hot_standby", "on"),
    ("wal_log_hints", "on"),
    ("full_page_writes", "on"),
    ("fsync", "on"),
    ("synchronous_commit", "on"),
    ("password_encryption", "scram-sha-256"),
    // Frequent replies are the leader's confirmation, quick retries the speed of a failover.
    ("wal_receiver_status_interval", "1s"),
    ("wal_retrieve_retry_interval", "100ms"),
    ("recovery_target_timeline", "latest"),
    // A crash of one backend ends the server: whether it starts again here is the operator's decision.
    ("restart_after_crash", "off"),
    // The log goes to stderr in English, where the supervisor reads it and passes it on.
    ("lc_messages", "C"),
    ("log_destination", "stderr"),
    ("logging_collector", "off"),
    ("restore_command", ""),
    ("primary_conninfo", ""),
    ("primary_slot_name", ""),
];

/// Settings that a hot standby must not have lower than its primary had, or it refuses to start.
pub const STANDBY_MINIMA: [&str; 5] = [
    "max_connections",
    "max_prepared_transactions",
    "max_locks_per_transaction",
    "max_wal_senders",
    "max_worker_processes",
];
/// Their built-in defaults, for a standby whose user sets nothing.
const BUILT_IN: [u64; 5] = [100, 0, 64, 10, 8];

/// What rendering needs besides the [`Config`].
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// cluster_name.
    pub member: &'a str,
    /// application_name towards the leader.
    pub incarnation: &'a str,
    /// Grows with each rendering: a session that shows it was begun after this file was loaded.
    pub generation: u64,
    /// Values that a hot standby must reach; empty for a primary.
    pub minima: &'a BTreeMap<String, u64>,
    /// The user's settings, those that PostgreSQL accepts.
    pub settings: &'a BTreeMap<String, String>,
    /// Password file of the server's user.
    pub passfile: &'a Path,
}

/// `postgresql.conf`.
pub fn postgresql_conf(config: &Config, facts: &Facts) -> String {
    let mut settings: BTreeMap<&str, String> = BTreeMap::new();
    settings.extend(DEFAULTS.map(|(name, value)| (name, value.to_owned())));
    settings.extend(facts.settings.iter().map(|(name, value)| (name.as_str(), value.clone())));
    settings.extend(RESERVED.map(|(name, value)| (name, value.to_owned())));
    settings.insert("port", PORT.to_string());
    settings.insert("cluster_name", facts.member.to_owned());
    settings.insert("evenkeel.generation", facts.generation.to_string());
    settings.insert("synchronous_standby_names", standby_names(&config.commit));
    match &config.upstream {
        Some(upstream) => {
            settings.insert("primary_conninfo", conninfo(upstream, facts));
            settings.insert("primary_slot_name", upstream.slot.clone());
        }
        None => {
            // Without an upstream it is asked to promise or about to lead: queries of readers must not hold up replay.
            settings.insert("max_standby_archive_delay", "0".to_owned());
            settings.insert("max_standby_streaming_delay", "0".to_owned());
        }
    }
    for (name, built_in) in STANDBY_MINIMA.into_iter().zip(BUILT_IN) {
        let Some(minimum) = facts.minima.get(name) else { continue };
        let chosen = settings.get(name).map_or(Some(built_in), |value| value.parse().ok());
        if chosen.is_some_and(|chosen| chosen < *minimum) {
            settings.insert(name, minimum.to_string());
        }
    }
    let mut text = String::from("# Written by evenkeel; changed by the object's spec.parameters, not here.\n");
    for (name, value) in settings {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name} = '{}'", quoted(&value));
    }
    text
}

/// Whether a standby runs with more than the user's settings ask for, to keep up with its primary.
pub fn held_up(settings: &BTreeMap<String, String>, minima: &BTreeMap<String, u64>) -> bool {
    STANDBY_MINIMA.into_iter().zip(BUILT_IN).any(|(name, built_in)| {
        let chosen = settings.get(name).map_or(Some(built_in), |value| value.parse().ok());
        minima.get(name).is_some_and(|minimum| chosen.is_some_and(|chosen| chosen < *minimum))
    })
}

/// The name that stands where a voter is missing, so that commits wait instead of passing with too few.
const NOBODY: &str = "evenkeel-nobody";

/// synchronous_standby_names for a commit rule.
pub fn standby_names(rule: &Rule) -> String {
    if rule.count == 0 {
        return String::new();
    }
    let mut names: Vec<String> = rule.names.iter().map(|name| format!("\"{}\"", name.replace('"', "\"\""))).collect();
    for missing in names.len()..rule.count as usize {
        names.push(format!("\"{NOBODY}-{missing}\""));
    }
    format!("ANY {} ({})", rule.count, names.join(","))
}

/// primary_conninfo.
pub fn conninfo(upstream: &Upstream, facts: &Facts) -> String {
    format!("{} application_name={}", leader(&upstream.address, facts.passfile), facts.incarnation)
}

/// How to reach a leader as the replication role; also for pg_basebackup and pg_rewind. No secret is in it.
pub fn leader(address: &str, passfile: &Path) -> String {
    format!(
        "host={address} port={PORT} user={REPLICATION_ROLE} passfile={} sslmode=prefer connect_timeout=2 keepalives_idle=5 keepalives_interval=2 keepalives_count=3 tcp_user_timeout=5000",
        passfile.display()
    )
}

/// In single quotes, as the server's configuration files read it.
fn quoted(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '\'' => text.push_str("''"),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            c if c.is_control() => {}
            c => text.push(c),
        }
    }
    text
}

/// `pg_hba.conf`. The supervisor always gets in, and only by the unix socket; replication always, for the rest there is the gate.
pub fn pg_hba(gate: Gate) -> String {
    let mut text = format!(
        "local all,replication evenkeel peer map=evenkeel\n\
         host all,replication evenkeel all reject\n\
         host replication {REPLICATION_ROLE} samenet scram-sha-256\n\
         host postgres {REPLICATION_ROLE} samenet scram-sha-256\n\
         host all {REPLICATION_ROLE} all reject\n"
    );
    text.push_str(match gate {
        Gate::Open => "local all all peer map=evenkeel\nhost all all all scram-sha-256\n",
        Gate::Shut => "local all all reject\nhost all all all reject\n",
    });
    text
}

/// `pg_ident.conf`: who may be whom over the unix socket.
pub fn pg_ident() -> &'static str {
    "evenkeel root evenkeel\nevenkeel root postgres\nevenkeel postgres postgres\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(config: Config, settings: &[(&str, &str)], minima: &[(&str, u64)], expected: Expect) {
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let minima = minima.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        let facts = Facts {
            member: "db-1",
            incarnation: "5f0c",
            generation: 3,
            minima: &minima,
            settings: &settings,
            passfile: Path::new("/v/pgpass"),
        };
        // Only what differs from a primary without anything is shown.
        let (none, nothing) = (BTreeMap::new(), BTreeMap::new());
        let plain = Facts { minima: &none, settings: &nothing, ..facts.clone() };
        let base = postgresql_conf(&Config::default(), &plain);
        let text = postgresql_conf(&config, &facts);
        let changed: Vec<&str> = text.lines().filter(|line| !base.lines().any(|other| other == *line)).collect();
        expected.assert_eq(&changed.join("\n"));
    }

    fn rule(count: u32, names: &[&str]) -> Rule {
        Rule { count, names: names.iter().map(|name| (*name).to_owned()).collect() }
    }

    #[test]
    fn a_plain_primary() {
        let (none, nothing) = (BTreeMap::new(), BTreeMap::new());
        let facts = Facts {
            member: "db-1",
            incarnation: "5f0c",
            generation: 3,
            minima: &none,
            settings: &nothing,
            passfile: Path::new("/v/pgpass"),
        };
        expect![[r#"
            # Written by evenkeel; changed by the object's spec.parameters, not here.
            cluster_name = 'db-1'
            evenkeel.generation = '3'
            fsync = 'on'
            full_page_writes = 'on'
            hot_standby = 'on'
            hot_standby_feedback = 'off'
            lc_messages = 'C'
            listen_addresses = '*'
            log_destination = 'stderr'
            log_line_prefix = '%m [%p] %q%u@%d '
            logging_collector = 'off'
            max_replication_slots = '10'
            max_slot_wal_keep_size = '4GB'
            max_standby_archive_delay = '0'
            max_standby_streaming_delay = '0'
            max_wal_senders = '10'
            password_encryption = 'scram-sha-256'
            port = '5432'
            primary_conninfo = ''
            primary_slot_name = ''
            recovery_init_sync_method = 'syncfs'
            recovery_target_timeline = 'latest'
            restart_after_crash = 'off'
            restore_command = ''
            synchronous_commit = 'on'
            synchronous_standby_names = ''
            tcp_keepalives_count = '3'
            tcp_keepalives_idle = '5'
            tcp_keepalives_interval = '2'
            unix_socket_directories = '/var/run/postgresql'
            wal_keep_size = '256MB'
            wal_level = 'replica'
            wal_log_hints = 'on'
            wal_receiver_status_interval = '1s'
            wal_receiver_timeout = '5s'
            wal_retrieve_retry_interval = '100ms'
            wal_sender_timeout = '5s'
        "#]]
        .assert_eq(&postgresql_conf(&Config::default(), &facts));
    }

    #[test]
    fn a_standby_knows_its_leader_and_keeps_its_own_name() {
        let upstream = Some(Upstream { address: "172.30.0.2".into(), slot: "evenkeel_db_1".into() });
        check(
            Config { upstream, ..Config::default() },
            &[],
            &[],
            expect![[r#"
            primary_conninfo = 'host=172.30.0.2 port=5432 user=evenkeel_replication passfile=/v/pgpass sslmode=prefer connect_timeout=2 keepalives_idle=5 keepalives_interval=2 keepalives_count=3 tcp_user_timeout=5000 application_name=5f0c'
            primary_slot_name = 'evenkeel_db_1'"#]],
        );
    }

    #[test]
    fn a_users_setting_replaces_defaults_and_never_what_is_reserved() {
        check(
            Config::default(),
            &[("wal_keep_size", "1GB"), ("fsync", "off"), ("restart_after_crash", "on"), ("my.note", "it's C:\\x")],
            &[],
            expect![[r#"
                my.note = 'it''s C:\\x'
                wal_keep_size = '1GB'"#]],
        );
    }

    #[test]
    fn a_standby_never_starts_with_less_than_its_primary_had() {
        check(
            Config::default(),
            &[("max_connections", "50"), ("max_worker_processes", "20")],
            &[("max_connections", 200), ("max_worker_processes", 8), ("max_wal_senders", 10)],
            expect![[r#"
                max_connections = '200'
                max_worker_processes = '20'"#]],
        );
    }

    #[test]
    fn a_missing_voter_makes_commits_wait() {
        let shown: Vec<String> =
            [rule(0, &["a"]), rule(1, &["a", "b"]), rule(2, &["a"]), rule(1, &[])].iter().map(standby_names).collect();
        expect![[r#"

            ANY 1 ("a","b")
            ANY 2 ("a","evenkeel-nobody-1")
            ANY 1 ("evenkeel-nobody-0")"#]]
        .assert_eq(&shown.join("\n"));
    }

    #[test]
    fn a_shut_gate_lets_in_replication_and_the_supervisor_alone() {
        expect![[r#"
            local all,replication evenkeel peer map=evenkeel
            host all,replication evenkeel all reject
            host replication evenkeel_replication samenet scram-sha-256
            host postgres evenkeel_replication samenet scram-sha-256
            host all evenkeel_replication all reject
            local all all reject
            host all all all reject
        "#]]
        .assert_eq(&pg_hba(Gate::Shut));
    }

    #[test]
    fn an_open_gate_asks_for_passwords_over_the_network() {
        expect![[r#"
            local all,replication evenkeel peer map=evenkeel
            host all,replication evenkeel all reject
            host replication evenkeel_replication samenet scram-sha-256
            host postgres evenkeel_replication samenet scram-sha-256
            host all evenkeel_replication all reject
            local all all peer map=evenkeel
            host all all all scram-sha-256
        "#]]
        .assert_eq(&pg_hba(Gate::Open));
    }
}
