//! Rules for PostgreSQL settings: which ones Evenkeel manages, and which a user may set. One table for validation,
//! rendering and restarts.

/// PostgreSQL's port on a Docker network.
pub const PORT: u16 = 5432;

/// The directory of the server's unix socket.
pub const SOCKETS: &str = "/var/run/postgresql";

/// The rule of one setting. A setting that is not in [`RULES`] belongs to the user alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Evenkeel's default, unless the user sets another value.
    Default(&'static str),
    /// One of these values; the first one is the default.
    OneOf(&'static [&'static str]),
    /// A number of at least this, which is also the default.
    AtLeast(u64),
    /// A time, 0 for none. A value below one second cuts streams that are well. This is the default.
    Timeout(&'static str),
    /// A hot standby refuses to start with less than its primary had. So a lower value is applied to the primary first.
    StandbyMinimum {
        /// PostgreSQL's own default.
        built_in: u64,
        /// Like [`Rule::AtLeast`].
        at_least: Option<u64>,
    },
    /// The user's value while an instance follows a leader; otherwise this one.
    WithoutLeader(&'static str),
    /// Always this value; a user cannot set it.
    Ours(&'static str),
    /// Always a value that Evenkeel computes; a user cannot set it.
    Computed,
    /// Never set: it would override a setting of Evenkeel, or move files that it writes.
    Refused,
    /// Never set, for this reason: it breaks what a cluster promises.
    Harmful(&'static str),
    /// The user's, but it loads or runs code in the server: any value needs a privileged namespace, except lists of these.
    Code(&'static [&'static str]),
}

/// Why a setting is refused that is for the rescue of a damaged server.
const HIDES_DAMAGE: &str = "can hide damaged data or damage more of it";

/// Why a list of revoked certificates is refused.
const REFUSES_MEMBERS: &str =
    "makes the server refuse the certificates of the other instances, for which there is no such list";

/// Why a setting is refused that is for debuggers.
const DELAYS_SESSIONS: &str = "delays every new session, also those that watch the server";

/// Libraries that come with PostgreSQL, or with most of its images, and run no code of a user's choice.
const LIBRARIES: &[&str] =
    &["auth_delay", "auto_explain", "passwordcheck", "pg_prewarm", "pg_stat_statements", "pgaudit"];

/// What precedes each line of the log. The bracket in front of a client's names tells its lines from those of the server's
/// own processes: a client chooses its names, also such as look like a message.
pub const LOG_PREFIX: &str = "%m [%p] %q[%u@%d] ";

/// Every setting with a rule, by name.
pub const RULES: &[(&str, Rule)] = &[
    ("allow_alter_system", Rule::Refused),
    ("allow_in_place_tablespaces", Rule::Harmful("makes tablespaces that a copy of the data directory does not have")),
    ("allow_system_table_mods", Rule::Harmful(HIDES_DAMAGE)),
    ("archive_cleanup_command", Rule::Refused),
    // Asks the supervisor, who brings the file into the archive, or says that there is none.
    ("archive_command", Rule::Ours("/evenkeel/evenkeel wal-push %f")),
    ("archive_library", Rule::Refused),
    // Every instance keeps its WAL until it is in the archive: what a dead primary had not archived its successor has. A change
    // of it needs a restart, so it is the same with and without an archive.
    ("archive_mode", Rule::Ours("always")),
    // The supervisor ends segments: PostgreSQL would do it for the supervisor's own writes alone.
    ("archive_timeout", Rule::Ours("0")),
    ("cluster_name", Rule::Computed),
    ("config_file", Rule::Refused),
    ("data_directory", Rule::Refused),
    ("data_sync_retry", Rule::Harmful(HIDES_DAMAGE)),
    ("dynamic_library_path", Rule::Code(&[])),
    ("evenkeel.generation", Rule::Computed),
    ("extension_control_path", Rule::Code(&[])),
    ("external_pid_file", Rule::Refused),
    ("fsync", Rule::Ours("on")),
    ("full_page_writes", Rule::Ours("on")),
    ("hba_file", Rule::Refused),
    ("hot_standby", Rule::Ours("on")),
    // PostgreSQL's default: an absent standby must not delay vacuum.
    ("hot_standby_feedback", Rule::Default("off")),
    ("ident_file", Rule::Refused),
    ("ignore_checksum_failure", Rule::Harmful(HIDES_DAMAGE)),
    ("ignore_invalid_pages", Rule::Harmful(HIDES_DAMAGE)),
    ("ignore_system_indexes", Rule::Harmful(HIDES_DAMAGE)),
    ("include", Rule::Refused),
    ("include_dir", Rule::Refused),
    ("include_if_exists", Rule::Refused),
    ("jit_provider", Rule::Harmful("loads another library into the server")),
    // The log goes to stderr in English: the supervisor reads it and forwards it to the container's log.
    ("lc_messages", Rule::Ours("C")),
    ("listen_addresses", Rule::Computed),
    ("local_preload_libraries", Rule::Code(LIBRARIES)),
    ("log_destination", Rule::Ours("stderr")),
    ("log_line_prefix", Rule::Default(LOG_PREFIX)),
    ("logging_collector", Rule::Ours("off")),
    ("max_connections", Rule::StandbyMinimum { built_in: 100, at_least: None }),
    ("max_locks_per_transaction", Rule::StandbyMinimum { built_in: 64, at_least: None }),
    ("max_prepared_transactions", Rule::StandbyMinimum { built_in: 0, at_least: None }),
    ("max_replication_slots", Rule::AtLeast(10)),
    ("max_slot_wal_keep_size", Rule::Default("4GB")),
    // While an instance must promise, or is about to lead, queries on it must not delay replay.
    ("max_standby_archive_delay", Rule::WithoutLeader("0")),
    ("max_standby_streaming_delay", Rule::WithoutLeader("0")),
    ("max_wal_senders", Rule::StandbyMinimum { built_in: 10, at_least: Some(10) }),
    ("max_worker_processes", Rule::StandbyMinimum { built_in: 8, at_least: None }),
    ("password_encryption", Rule::Ours("scram-sha-256")),
    ("port", Rule::Computed),
    ("post_auth_delay", Rule::Harmful(DELAYS_SESSIONS)),
    ("pre_auth_delay", Rule::Harmful(DELAYS_SESSIONS)),
    ("primary_conninfo", Rule::Computed),
    ("primary_slot_name", Rule::Computed),
    ("promote_trigger_file", Rule::Refused),
    ("recovery_end_command", Rule::Refused),
    // One call instead of an fsync per file before a recovery: a crashed server is back seconds earlier.
    ("recovery_init_sync_method", Rule::Default("syncfs")),
    (
        "recovery_min_apply_delay",
        Rule::Harmful("makes an election wait for the delay: a standby promises when it has replayed"),
    ),
    ("recovery_target", Rule::Refused),
    ("recovery_target_action", Rule::Refused),
    ("recovery_target_inclusive", Rule::Refused),
    ("recovery_target_lsn", Rule::Refused),
    ("recovery_target_name", Rule::Refused),
    ("recovery_target_time", Rule::Refused),
    ("recovery_target_timeline", Rule::Ours("latest")),
    ("recovery_target_xid", Rule::Refused),
    // A crash of one backend ends the server. The operator decides whether it is restarted here.
    ("restart_after_crash", Rule::Ours("off")),
    ("restore_command", Rule::Ours("")),
    ("session_preload_libraries", Rule::Code(LIBRARIES)),
    ("shared_preload_libraries", Rule::Code(LIBRARIES)),
    ("ssl", Rule::Computed),
    ("ssl_ca_file", Rule::Computed),
    ("ssl_cert_file", Rule::Computed),
    ("ssl_crl_dir", Rule::Harmful(REFUSES_MEMBERS)),
    ("ssl_crl_file", Rule::Harmful(REFUSES_MEMBERS)),
    ("ssl_key_file", Rule::Computed),
    ("ssl_min_protocol_version", Rule::OneOf(&["TLSv1.2", "TLSv1.3"])),
    ("ssl_passphrase_command", Rule::Refused),
    ("ssl_passphrase_command_supports_reload", Rule::Refused),
    ("summarize_wal", Rule::Refused),
    ("synchronous_commit", Rule::Ours("on")),
    ("synchronous_standby_names", Rule::Computed),
    // A dead peer is detected within these limits.
    ("tcp_keepalives_count", Rule::Default("3")),
    ("tcp_keepalives_idle", Rule::Default("5")),
    ("tcp_keepalives_interval", Rule::Default("2")),
    ("unix_socket_directories", Rule::Ours(SOCKETS)),
    ("unix_socket_group", Rule::Refused),
    ("unix_socket_permissions", Rule::Refused),
    ("wal_keep_size", Rule::Default("256MB")),
    ("wal_level", Rule::OneOf(&["replica", "logical"])),
    ("wal_log_hints", Rule::Ours("on")),
    // Frequent replies confirm the leader; quick retries make a failover fast.
    ("wal_receiver_status_interval", Rule::Ours("1s")),
    ("wal_receiver_timeout", Rule::Timeout("5s")),
    ("wal_retrieve_retry_interval", Rule::Ours("100ms")),
    ("wal_sender_timeout", Rule::Timeout("5s")),
    ("zero_damaged_pages", Rule::Harmful(HIDES_DAMAGE)),
];

/// The rule of a setting, if it has one.
pub fn rule(name: &str) -> Option<Rule> {
    RULES.binary_search_by_key(&name, |(name, _)| name).ok().map(|at| RULES[at].1)
}

/// Whether a value loads or runs code of the user's choice in the server.
pub fn runs_code(name: &str, value: &str) -> bool {
    let Some(Rule::Code(known)) = rule(name) else { return false };
    let listed = value.split(',').map(|one| one.trim().trim_matches(['\'', '"'])).filter(|one| !one.is_empty());
    listed.into_iter().any(|one| !known.contains(&one))
}

/// Settings that a standby must not have lower than its primary, each with PostgreSQL's own default.
pub fn standby_minima() -> impl Iterator<Item = (&'static str, u64)> {
    RULES.iter().filter_map(|(name, rule)| match rule {
        Rule::StandbyMinimum { built_in, .. } => Some((*name, *built_in)),
        _ => None,
    })
}

/// Whether a lower value is applied to the primary first; all other settings start with the standbys.
pub fn lowered_on_primary_first(name: &str) -> bool {
    matches!(rule(name), Some(Rule::StandbyMinimum { .. }))
}

/// Whether a bad value of a setting can be accepted by a reload and refused later, by a new session or the next start. A
/// setting that needs a restart is always of this kind and is not asked for here.
pub fn judged_by_a_start(name: &str) -> bool {
    name.starts_with("ssl") || name.ends_with("_preload_libraries")
}

/// Settings with the name of a file, relative to the data directory, and PostgreSQL's default.
pub const FILES: [(&str, &str); 1] = [("ssl_dh_params_file", "")];

/// A time as PostgreSQL writes it; `None` if it is written in another way, which PostgreSQL judges.
fn milliseconds(value: &str) -> Option<u64> {
    let value = value.trim();
    let digits = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
    let number: u64 = value[..digits].parse().ok()?;
    let unit = match value[digits..].trim() {
        "" | "ms" => 1,
        "us" => return Some(number.div_ceil(1_000)),
        "s" => 1_000,
        _ => return None,
    };
    Some(number.saturating_mul(unit))
}

/// The problem with one entry of `spec.parameters`.
pub fn problem(name: &str, value: &str) -> Option<String> {
    // In a configuration file, PostgreSQL reads no other names.
    let word = |word: &str| {
        let letter = |c: char| c.is_ascii_lowercase() || c == '_';
        word.starts_with(letter) && word.chars().all(|c| letter(c) || c.is_ascii_digit())
    };
    if name.split('.').count() > 2 || !name.split('.').all(word) {
        return Some("is not the name of a PostgreSQL setting (lower case)".into());
    }
    let rule = rule(name);
    match rule {
        Some(Rule::Ours(_) | Rule::Computed | Rule::Refused) => {
            return Some("is set by Evenkeel and cannot be chosen".into());
        }
        Some(Rule::Harmful(why)) => return Some(format!("is refused: it {why}")),
        _ => {}
    }
    if value.contains(['\n', '\r', '\0']) {
        return Some("must be a single line".into());
    }
    match rule {
        Some(Rule::OneOf(values)) if !values.contains(&value) => Some(format!("must be {}", values.join(" or "))),
        Some(Rule::Timeout(_)) if milliseconds(value).is_some_and(|ms| (1..1_000).contains(&ms)) => {
            Some("must be 0 or at least 1s: less cuts streams that are well".into())
        }
        Some(Rule::AtLeast(least) | Rule::StandbyMinimum { at_least: Some(least), .. })
            if value.parse::<u64>().is_ok_and(|value| value < least) =>
        {
            Some(format!("must be at least {least}"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_names_each_setting_once() {
        assert!(RULES.is_sorted_by(|(one, _), (other, _)| one < other));
        assert_eq!(rule("wal_level"), Some(Rule::OneOf(&["replica", "logical"])));
        assert_eq!(rule("work_mem"), None);
    }

    /// Regression 40: `recovery_min_apply_delay` was accepted. Every standby then lagged by it. A promise waits for replay,
    /// so after the death of a primary no write was possible for that long.
    #[test]
    fn settings_that_break_what_a_cluster_promises_are_refused_with_the_reason() {
        let delay = problem("recovery_min_apply_delay", "60s").unwrap_or_default();
        assert_eq!(
            delay,
            "is refused: it makes an election wait for the delay: a standby promises when it has replayed"
        );
        let page = problem("zero_damaged_pages", "on").unwrap_or_default();
        assert_eq!(page, "is refused: it can hide damaged data or damage more of it");
        assert_eq!(problem("work_mem", "64MB"), None);
    }

    /// Regression 73: `9lives` and `a.b.c` were accepted as names. PostgreSQL reads no configuration file with such a line, so
    /// none of the other settings came into force either.
    #[test]
    fn a_name_that_would_spoil_the_configuration_file_is_refused() {
        for name in ["9lives", "a.b.c", "a..b", ".a", "a.", "a.9", ".", ""] {
            assert!(problem(name, "1").is_some(), "{name:?}");
        }
        assert!(problem("pg_stat_statements.max", "1").is_none() && problem("_a.b_9", "1").is_none());
    }

    /// Regression 125: `wal_receiver_timeout: 10ms` was accepted. Every standby then lost its stream again and again, and
    /// commits waited.
    #[test]
    fn a_timeout_that_cuts_healthy_streams_is_refused() {
        let refused = |value| problem("wal_receiver_timeout", value).is_some();
        assert!(refused("10ms") && refused("999") && refused("1us"));
        assert!(!refused("0") && !refused("1000") && !refused("5s") && !refused("1min"));
    }

    /// Regression 199: whoever could write a PostgresCluster could run code in the server by `archive_command` and the like,
    /// whatever the Pod Security level of the namespace.
    #[test]
    fn a_setting_that_runs_code_is_told_from_one_that_loads_a_known_library() {
        assert!(
            runs_code("dynamic_library_path", "/tmp") && runs_code("shared_preload_libraries", "pg_prewarm, $libdir/x")
        );
        assert!(!runs_code("shared_preload_libraries", "pg_stat_statements, 'auto_explain'"));
        assert!(!runs_code("dynamic_library_path", "") && !runs_code("work_mem", "64MB"));
    }

    #[test]
    fn the_documentation_lists_each_setting_that_is_refused() {
        let page = include_str!("../../docs/kinds/postgrescluster.md");
        let missing: Vec<_> = RULES
            .iter()
            .filter(|(name, _)| problem(name, "1").is_some() && !page.contains(&format!("`{name}`")))
            .collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}
