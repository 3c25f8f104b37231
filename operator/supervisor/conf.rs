//! The server's configuration files, rendered from a [`Config`] as text. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use super::listen::Listen;
use super::secrets::REPLICATION_ROLE;
use super::state::{Config, Gate, Settings, Source, Upstream};
use super::tls;
use super::wire::{self, Access, NOBODY};
use crate::api::postgres_settings::{RULES, Rule, standby_minima};

/// A password file that does not exist. Without one in the connection string, libpq takes the one in the home directory.
const NO_PASSWORDS: &str = "/evenkeel/none";

/// Inputs of the rendering in addition to the [`Config`].
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// cluster_name.
    pub member: &'a str,
    /// application_name in connections to the leader.
    pub incarnation: &'a str,
    /// Incremented by each rendering: a session that shows it was started after this file was loaded.
    pub generation: u64,
    /// Minimum values on a hot standby; empty for a primary.
    pub minima: &'a BTreeMap<String, u64>,
    /// The user's settings that PostgreSQL accepts.
    pub settings: &'a Settings,
    /// Password file of the server's operating system user.
    pub passfile: &'a Path,
    /// Folder of the certificates' files, by the names in [`super::tls`].
    pub certificates: &'a Path,
    /// They are there, and the server offers TLS.
    pub ssl: bool,
    /// Where it listens.
    pub listen: Listen,
}

/// `postgresql.conf`: the user's settings, with defaults and overrides by [`RULES`].
pub fn postgresql_conf(config: &Config, facts: &Facts) -> String {
    let users = facts.settings.iter().map(|(name, value)| (name.as_str(), value.clone()));
    let mut settings: BTreeMap<&str, String> = users.collect();
    for (name, rule) in RULES {
        match rule {
            Rule::Default(value) | Rule::Timeout(value) | Rule::OneOf([value, ..]) => {
                settings.entry(name).or_insert_with(|| (*value).to_owned());
            }
            Rule::AtLeast(least) | Rule::StandbyMinimum { at_least: Some(least), .. } => {
                settings.entry(name).or_insert_with(|| least.to_string());
            }
            Rule::Ours(value) => drop(settings.insert(name, (*value).to_owned())),
            Rule::WithoutLeader(value) if config.upstream.is_none() => {
                settings.insert(name, (*value).to_owned());
            }
            Rule::Computed | Rule::Refused | Rule::Harmful(_) => drop(settings.remove(name)),
            Rule::OneOf([]) | Rule::StandbyMinimum { at_least: None, .. } | Rule::WithoutLeader(_) | Rule::Code(_) => {}
        }
    }
    settings.extend(computed(config, facts));
    for (name, built_in) in standby_minima() {
        let Some(minimum) = facts.minima.get(name) else { continue };
        if chosen(settings.get(name), built_in).is_some_and(|chosen| chosen < *minimum) {
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

/// The value of each [`Rule::Computed`].
fn computed(config: &Config, facts: &Facts) -> Vec<(&'static str, String)> {
    let upstream = config.upstream.as_ref();
    let file = |(setting, name)| (setting, facts.certificates.join(name).display().to_string());
    let files =
        [("ssl_ca_file", tls::CLIENT_CA), ("ssl_cert_file", tls::SERVER_CERT), ("ssl_key_file", tls::SERVER_KEY)];
    let files = files.into_iter().filter(|_| facts.ssl).map(file);
    let others = [
        ("cluster_name", facts.member.to_owned()),
        ("evenkeel.generation", facts.generation.to_string()),
        ("listen_addresses", listen_addresses(facts.listen)),
        ("port", facts.listen.port.to_string()),
        ("primary_conninfo", upstream.map_or(String::new(), |upstream| conninfo(upstream, facts))),
        ("primary_slot_name", upstream.map_or(String::new(), |upstream| upstream.slot.clone())),
        ("ssl", if facts.ssl { "on" } else { "off" }.to_owned()),
        ("synchronous_standby_names", standby_names(&config.commit)),
    ];
    others.into_iter().chain(files).collect()
}

/// On the host's network the server never listens on an address that nobody named. Loopback is for its supervisor.
fn listen_addresses(listen: Listen) -> String {
    listen.address.map_or("*".to_owned(), |address| format!("{address},127.0.0.1"))
}

/// The number that a setting will have; `None` if its value is not a plain number.
fn chosen(value: Option<&String>, built_in: u64) -> Option<u64> {
    value.map_or(Some(built_in), |value| value.parse().ok())
}

/// Whether a standby runs with higher values than the user's settings, because its primary has higher ones.
pub fn held_up(settings: &Settings, minima: &BTreeMap<String, u64>) -> bool {
    standby_minima().any(|(name, built_in)| {
        let chosen = chosen(settings.get(name), built_in);
        minima.get(name).is_some_and(|minimum| chosen.is_some_and(|chosen| chosen < *minimum))
    })
}

/// synchronous_standby_names for a commit rule. A missing voter is replaced by a name that no standby has, so that
/// commits wait instead of being acknowledged by too few.
pub fn standby_names(rule: &wire::Rule) -> String {
    if rule.count == 0 {
        return String::new();
    }
    let mut names: Vec<String> = rule.names.iter().map(|name| format!("\"{}\"", name.replace('"', "\"\""))).collect();
    for missing in names.len()..rule.count as usize {
        names.push(format!("\"{NOBODY}_{missing}\""));
    }
    format!("ANY {} ({})", rule.count, names.join(","))
}

/// primary_conninfo.
pub fn conninfo(upstream: &Upstream, facts: &Facts) -> String {
    format!("{} application_name={}", leader(&upstream.source, facts.passfile, facts.certificates), facts.incarnation)
}

/// Connection string to a leader as the replication role; also for pg_basebackup and pg_rewind. Contains no secret. A
/// secure one has no password to answer with, whatever the other side asks for.
pub fn leader(source: &Source, passfile: &Path, certificates: &Path) -> String {
    let how = match source {
        Source::Plain { address, .. } => format!("host={address} passfile={} sslmode=prefer", passfile.display()),
        Source::Secure { name, address, .. } => {
            let file = |name: &str| certificates.join(name).display().to_string();
            let (ca, cert, key) = (file(tls::CA), file(tls::CLIENT_CERT), file(tls::CLIENT_KEY));
            format!(
                "host={name} hostaddr={address} passfile={NO_PASSWORDS} sslmode=verify-full sslrootcert={ca} sslcert={cert} sslkey={key}"
            )
        }
    };
    format!(
        "{how} port={} user={REPLICATION_ROLE} connect_timeout=2 keepalives_idle=5 keepalives_interval=2 keepalives_count=3 tcp_user_timeout=5000",
        source.port()
    )
}

/// Quotes a value for the server's configuration files.
fn quoted(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '\'' => text.push_str("''"),
            '\\' => text.push_str("\\\\"),
            // No file can hold it, and the API refuses it.
            '\0' => {}
            // PostgreSQL reads it back as it was. Writing to a string cannot fail.
            c if c.is_ascii_control() => drop(write!(text, "\\{:03o}", u32::from(c))),
            c => text.push(c),
        }
    }
    text
}

/// `pg_hba.conf`. It always admits the supervisor, only by the unix socket, and the members for replication; the gate
/// decides about all others. Nobody is a superuser over the network.
pub fn pg_hba(gate: Gate, access: Option<&Access>) -> String {
    let mut text = String::from(
        "local all,replication evenkeel peer map=evenkeel\n\
         host all,replication evenkeel,postgres all reject\n",
    );
    let mut admit = |how: &str, from: &str, proof: &str| {
        for database in ["replication", "postgres"] {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{how} {database} {REPLICATION_ROLE} {from} {proof}");
        }
    };
    match access {
        Some(access) => {
            // Over hosts an address proves nothing, and translation may change it. The certificate proves who it is.
            let secure = access.secure.iter().map(|address| format!("{address}/32"));
            let secure = if access.anywhere { vec!["all".to_owned()] } else { secure.collect() };
            secure.iter().for_each(|from| admit("hostssl", from, "cert"));
            access.plain.iter().for_each(|address| admit("host", &format!("{address}/32"), "scram-sha-256"));
        }
        None => admit("host", "samenet", "scram-sha-256"),
    }
    let _ = writeln!(text, "host all,replication {REPLICATION_ROLE} all reject");
    text.push_str(match gate {
        // The supervisor proves from inside the container, without TLS, that a client can write.
        Gate::Open if access.is_some_and(|access| access.clients_use_tls) => {
            "local all all peer map=evenkeel\n\
             host all all 127.0.0.1/32 scram-sha-256\n\
             host all all ::1/128 scram-sha-256\n\
             hostssl all all all scram-sha-256\n"
        }
        Gate::Open => "local all all peer map=evenkeel\nhost all all all scram-sha-256\n",
        Gate::Shut => "local all all reject\nhost all all all reject\n",
    });
    text
}

/// `pg_ident.conf`: which operating system user may be which role over the unix socket.
pub fn pg_ident() -> &'static str {
    "evenkeel root evenkeel\nevenkeel root postgres\nevenkeel postgres postgres\n"
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::api::postgres_cluster::PostgresClusterSpec;
    use crate::api::postgres_settings;
    use expect_test::{Expect, expect};

    fn facts<'a>(minima: &'a BTreeMap<String, u64>, settings: &'a Settings) -> Facts<'a> {
        Facts {
            member: "db-1",
            incarnation: "5f0c",
            generation: 3,
            minima,
            settings,
            passfile: Path::new("/v/pgpass"),
            certificates: Path::new("/c"),
            ssl: false,
            listen: Listen::CONTAINER,
        }
    }

    fn check(config: Config, settings: &[(&str, &str)], minima: &[(&str, u64)], expected: Expect) {
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let minima = minima.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        // Shows only the differences from a primary with an empty configuration.
        let (none, nothing) = (BTreeMap::new(), BTreeMap::new());
        let base = postgresql_conf(&Config::default(), &facts(&none, &nothing));
        let text = postgresql_conf(&config, &facts(&minima, &settings));
        let changed: Vec<&str> = text.lines().filter(|line| !base.lines().any(|other| other == *line)).collect();
        expected.assert_eq(&changed.join("\n"));
    }

    fn rule(count: u32, names: &[&str]) -> wire::Rule {
        wire::Rule { count, names: names.iter().map(|name| (*name).to_owned()).collect() }
    }

    #[test]
    fn a_plain_primary() {
        let (none, nothing) = (BTreeMap::new(), BTreeMap::new());
        expect![[r#"
            # Written by evenkeel; changed by the object's spec.parameters, not here.
            archive_command = '/evenkeel/evenkeel wal-push %f'
            archive_mode = 'always'
            archive_timeout = '0'
            cluster_name = 'db-1'
            evenkeel.generation = '3'
            fsync = 'on'
            full_page_writes = 'on'
            hot_standby = 'on'
            hot_standby_feedback = 'off'
            lc_messages = 'C'
            listen_addresses = '*'
            log_destination = 'stderr'
            log_line_prefix = '%m [%p] %q[%u@%d] '
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
            ssl = 'off'
            ssl_min_protocol_version = 'TLSv1.2'
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
        .assert_eq(&postgresql_conf(&Config::default(), &facts(&none, &nothing)));
    }

    #[test]
    fn a_standby_knows_its_leader_and_keeps_its_own_name() {
        let upstream = |source| Some(Upstream { source, slot: "evenkeel_db_1".into() });
        let plain = Source::Plain { address: "172.30.0.2".into(), port: 5432 };
        check(
            Config { upstream: upstream(plain), ..Config::default() },
            &[],
            &[],
            expect![[r#"
                primary_conninfo = 'host=172.30.0.2 passfile=/v/pgpass sslmode=prefer port=5432 user=evenkeel_replication connect_timeout=2 keepalives_idle=5 keepalives_interval=2 keepalives_count=3 tcp_user_timeout=5000 application_name=5f0c'
                primary_slot_name = 'evenkeel_db_1'"#]],
        );
        let secure = Source::Secure { name: "db-2".into(), address: [172, 31, 0, 12].into(), port: 5432 };
        check(
            Config { upstream: upstream(secure), ..Config::default() },
            &[],
            &[],
            expect![[r#"
                primary_conninfo = 'host=db-2 hostaddr=172.31.0.12 passfile=/evenkeel/none sslmode=verify-full sslrootcert=/c/ca.crt sslcert=/c/client.crt sslkey=/c/client.key port=5432 user=evenkeel_replication connect_timeout=2 keepalives_idle=5 keepalives_interval=2 keepalives_count=3 tcp_user_timeout=5000 application_name=5f0c'
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

    /// Regression 26: `lc_messages`, `log_destination`, `logging_collector` and `evenkeel.generation` were accepted in
    /// an object and silently replaced, because validation and rendering each had a list. Now one table serves both.
    #[test]
    fn a_value_that_is_replaced_is_refused_in_the_object_unless_the_rule_says_when_it_holds() {
        let upstream =
            Some(Upstream { source: Source::Plain { address: "172.30.0.2".into(), port: 5432 }, slot: "s".into() });
        let configs = [Config::default(), Config { upstream, ..Config::default() }];
        let rendered = |settings: &Settings| {
            let minima = BTreeMap::from([("max_connections".to_owned(), 200)]);
            let facts = Facts { ssl: true, ..facts(&minima, settings) };
            configs.clone().map(|config| postgresql_conf(&config, &facts)).join("")
        };
        let line = |text: &str, name: &str| text.lines().any(|line| line == format!("{name} = '150'"));
        let written = rendered(&Settings::new());
        let names = written.lines().filter_map(|line| line.split_once(" = ")).map(|(name, _)| name);
        let names: BTreeSet<_> = names.chain(RULES.iter().map(|(name, _)| *name)).collect();
        let mut silently_replaced = Vec::new();
        for name in names {
            let settings = Settings::from([(name.to_owned(), "150".to_owned())]);
            let spec = serde_json::json!({"image": "postgres:15", "parameters": settings});
            let spec: PostgresClusterSpec = serde_json::from_value(spec).expect("a spec");
            let refused = spec
                .validate(None)
                .iter()
                .any(|problem| problem.to_string().starts_with(&format!("spec.parameters[{name}]")));
            let conditional = matches!(postgres_settings::rule(name), Some(Rule::StandbyMinimum { .. }));
            if !refused && !conditional && !line(&rendered(&settings), name) {
                silently_replaced.push(name.to_owned());
            }
        }
        assert_eq!(silently_replaced, Vec::<String>::new());
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
            ANY 2 ("a","evenkeel_nobody_1")
            ANY 1 ("evenkeel_nobody_0")"#]]
        .assert_eq(&shown.join("\n"));
    }

    fn access(clients_use_tls: bool) -> Access {
        let of = |last: u8| [[172, 31, 0, last].into()].to_vec();
        Access { secure: of(11), plain: of(12), clients_use_tls, anywhere: false }
    }

    /// The lines behind those that let in the supervisor and the members, which the gate does not change.
    fn admits(gate: Gate, clients_use_tls: bool, expected: Expect) {
        let always = "\
            local all,replication evenkeel peer map=evenkeel\n\
            host all,replication evenkeel,postgres all reject\n\
            hostssl replication evenkeel_replication 172.31.0.11/32 cert\n\
            hostssl postgres evenkeel_replication 172.31.0.11/32 cert\n\
            host replication evenkeel_replication 172.31.0.12/32 scram-sha-256\n\
            host postgres evenkeel_replication 172.31.0.12/32 scram-sha-256\n\
            host all,replication evenkeel_replication all reject\n";
        let text = pg_hba(gate, Some(&access(clients_use_tls)));
        expected.assert_eq(text.strip_prefix(always).unwrap_or(&text));
    }

    /// Regression 130: every address of the container's networks was asked for the password of the replication role,
    /// and an application pod on that network could take the place of a member and ask a standby for it. Now the lines
    /// have one address each, and members have certificates.
    #[test]
    fn a_shut_gate_lets_in_the_members_and_the_supervisor_alone() {
        let expected = expect![[r#"
            local all all reject
            host all all all reject
        "#]];
        admits(Gate::Shut, true, expected);
        let networks = ["samenet", "samehost", "0.0.0.0/0"];
        let all = [Gate::Shut, Gate::Open].map(|gate| pg_hba(gate, Some(&access(false)))).concat();
        let replicates = |line: &&str| line.contains(REPLICATION_ROLE) && !line.ends_with("reject");
        for line in all.lines().filter(replicates) {
            assert!(line.contains("/32 ") && !networks.iter().any(|network| line.contains(network)), "{line}");
        }
    }

    #[test]
    fn an_open_gate_asks_for_passwords_over_the_network() {
        let expected = expect![[r#"
            local all all peer map=evenkeel
            host all all all scram-sha-256
        "#]];
        admits(Gate::Open, false, expected);
    }

    #[test]
    fn clients_can_be_made_to_use_tls_and_the_supervisor_proves_without() {
        let expected = expect![[r#"
            local all all peer map=evenkeel
            host all all 127.0.0.1/32 scram-sha-256
            host all all ::1/128 scram-sha-256
            hostssl all all all scram-sha-256
        "#]];
        admits(Gate::Open, true, expected);
    }

    /// Regression 71: control characters were left out, so PostgreSQL had another value than the one that the user chose, such
    /// as a `log_line_prefix` without its tabs.
    #[test]
    fn a_value_reads_back_as_it_was_chosen() {
        check(
            Config::default(),
            &[("log_line_prefix", "%m\t[%p]\u{1b} 'a\\b'\u{85}")],
            &[],
            expect!["log_line_prefix = '%m\\011[%p]\\033 ''a\\\\b''\u{85}'"],
        );
    }

    /// Regression 137: any user of the host was asked for a password of `postgres`, which has none. The line comes before
    /// those that admit clients, whatever the gate.
    #[test]
    fn nobody_is_a_superuser_over_the_network() {
        for (gate, access) in [(Gate::Open, Some(access(true))), (Gate::Open, None), (Gate::Shut, None)] {
            let text = pg_hba(gate, access.as_ref());
            let first = text.lines().find(|line| line.starts_with("host")).unwrap_or_default();
            assert_eq!(first, "host all,replication evenkeel,postgres all reject");
        }
    }

    /// An operator of the release before names no addresses.
    #[test]
    fn an_order_without_addresses_admits_the_networks_of_the_container() {
        expect![[r#"
            local all,replication evenkeel peer map=evenkeel
            host all,replication evenkeel,postgres all reject
            host replication evenkeel_replication samenet scram-sha-256
            host postgres evenkeel_replication samenet scram-sha-256
            host all,replication evenkeel_replication all reject
            local all all peer map=evenkeel
            host all all all scram-sha-256
        "#]]
        .assert_eq(&pg_hba(Gate::Open, None));
    }

    /// Regression 131: with `channel_binding` and `sslmode` at their defaults a standby answered the question for a
    /// cleartext password of whoever had its leader's address. Now it has no password to answer with.
    #[test]
    fn a_secure_connection_can_answer_no_question_for_a_password() {
        let secure = Source::Secure { name: "db-2".into(), address: [172, 31, 0, 12].into(), port: 5432 };
        let text = leader(&secure, Path::new("/v/pgpass"), Path::new("/c"));
        assert!(text.contains("sslmode=verify-full") && !text.contains("pgpass"), "{text}");
        assert!(text.contains("passfile=/evenkeel/none"), "without it libpq looks into the home directory: {text}");
    }
}
