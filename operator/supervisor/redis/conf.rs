//! The server's file, its users, and which directives differ. Pure.
//!
//! The file is rendered anew before each start and has no authority: what the server is, the order says.

use std::collections::BTreeMap;
use std::path::Path;

use crate::api::hash::short_hash;
use crate::supervisor::listen::Listen;
use crate::supervisor::redis::place::CERTIFICATES;
use crate::supervisor::redis::wire::{ADMIN, Address, Config, Credentials, REPLICATION, SENTINEL, Tls};

/// What replicas may do.
const REPLICA: &[&str] = &["+psync", "+replconf", "+ping"];
/// What Sentinels may do.
const WATCHER: &[&str] = &[
    "&*",
    "+multi",
    "+exec",
    "+slaveof",
    "+ping",
    "+subscribe",
    "+publish",
    "+config|rewrite",
    "+role",
    "+info",
    "+client|setname",
    "+client|kill",
    "+script|kill",
];
/// What an application may do: everything with its data, and looking on. A name that a version does not know ends the
/// server at its start, so these are categories and names of Redis 7.0. It publishes everywhere but on `__s*`: who publishes on
/// `__sentinel__:hello` can name any address as master to the Sentinels. The selector at the end lets it subscribe everywhere.
const CLIENT: &[&str] = &[
    "~*",
    "resetchannels",
    "&[^_]*",
    "&_[^_]*",
    "&__[^s]*",
    "+@all",
    "-@admin",
    "-@dangerous",
    "+info",
    "+role",
    "+keys",
    "+sort",
    "+sort_ro",
    "+flushdb",
    "+flushall",
    "+client|list",
    "(&*",
    "+subscribe",
    "+psubscribe)",
];
/// Directives whose values are several words; the value of any other is one.
const WORDS: [&str; 6] = [
    "bind",
    "client-output-buffer-limit",
    "latency-tracking-info-percentiles",
    "oom-score-adj-values",
    "replicaof",
    "save",
];

/// Each user with its rules; `default` is off unless it is the application's.
pub fn users(username: &str, credentials: &Credentials) -> Vec<(String, Vec<String>)> {
    let on = |name: &str, password: &str, rights: &[&str]| {
        let hash = format!("#{}", short_hash(password, 64));
        let rules = ["on", &hash].into_iter().chain(rights.iter().copied());
        (name.to_owned(), rules.map(str::to_owned).collect())
    };
    let mut users = vec![
        on(ADMIN, &credentials.admin_password, &["~*", "&*", "+@all"]),
        on(REPLICATION, &credentials.replication_password, REPLICA),
        on(SENTINEL, &credentials.sentinel_password, WATCHER),
        on(username, &credentials.app_password, CLIENT),
    ];
    if username != "default" {
        users.push(("default".to_owned(), vec!["off".to_owned()]));
    }
    users
}

/// Directives that Evenkeel sets and changes while the server runs.
pub fn ours(config: &Config, credentials: &Credentials, certificates: &Path) -> BTreeMap<String, String> {
    let mut all: BTreeMap<&str, String> = [
        ("masteruser", REPLICATION.to_owned()),
        ("masterauth", credentials.replication_password.clone()),
        ("replica-priority", config.priority.to_string()),
    ]
    .into();
    if let Some(Address { ip, port }) = config.announce {
        all.extend([("replica-announce-ip", ip.to_string()), ("replica-announce-port", port.to_string())]);
    }
    if let Some(tls) = credentials.tls.as_ref().filter(|_| config.tls) {
        all.extend(files(tls, certificates));
    }
    all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The directives that name the files of these certificates in this folder; they change together.
pub fn files(tls: &Tls, folder: &Path) -> [(&'static str, String); 3] {
    // A server reads a file again only if its name is another one.
    let file = |name: &str| folder.join(format!("{}{name}", prefix(&tls.hash))).display().to_string();
    let [ca, cert, key] = CERTIFICATES.map(file);
    [("tls-ca-cert-file", ca), (CERTIFICATE, cert), ("tls-key-file", key)]
}

/// The directives by which the one port of a server has TLS or has it not; they change together. `had`: it has it now, so that
/// it must be switched off. A server that was built without TLS knows only `port`.
pub fn ports(config: &Config, had: bool, port: u16) -> BTreeMap<String, String> {
    let port = port.to_string();
    let all: &[(&str, &str)] = match (config.tls, had) {
        (true, _) => &[("port", "0"), ("tls-auth-clients", "optional"), (TLS_PORT, &port), ("tls-replication", "yes")],
        (false, true) => &[("port", &port), (TLS_PORT, "0"), ("tls-replication", "no")],
        (false, false) => &[("port", &port)],
    };
    all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// The addresses where a server on the network of its host listens; `None`: everywhere in its container.
pub fn bind(listen: Listen) -> Option<String> {
    // No other address of the host is its business.
    listen.address.map(|address| format!("{address} 127.0.0.1"))
}

/// Directives of a Redis Cluster's node on the network of its host: there its second port does not follow from the first.
pub fn node(listen: Listen, tls: bool) -> Vec<(&'static str, String)> {
    let Some(bus) = listen.address.and(listen.bus).map(|bus| bus.to_string()) else { return Vec::new() };
    let port = listen.port.to_string();
    // Who asks without TLS is told the port without TLS, which there is not.
    let tls = tls.then(|| ("cluster-announce-tls-port", port.clone()));
    let all = [("cluster-port", bus.clone()), ("cluster-announce-bus-port", bus), ("cluster-announce-port", port)];
    all.into_iter().chain(tls).collect()
}

/// The directive of a server's certificate.
pub const CERTIFICATE: &str = "tls-cert-file";

/// The directive of a server's port with TLS.
pub const TLS_PORT: &str = "tls-port";

/// The beginning of the names of the files of certificates with this hash.
pub fn prefix(hash: &str) -> String {
    format!("{}-", short_hash(hash, 12))
}

/// redis.conf. `live`: what may change while the server runs: [`ours`] and the directives of the order.
pub fn render(
    config: &Config,
    live: &BTreeMap<String, String>,
    credentials: &Credentials,
    (data, socket): (&Path, &Path),
    listen: Listen,
    master: Option<Address>,
) -> String {
    let (plain, secure) = if config.tls { (0, listen.port) } else { (listen.port, 0) };
    let mut fixed: Vec<(&str, String)> = vec![
        ("bind", bind(listen).unwrap_or_else(|| "* -::*".to_owned())),
        ("protected-mode", "no".to_owned()),
        ("port", plain.to_string()),
        ("unixsocket", socket.display().to_string()),
        ("unixsocketperm", "700".to_owned()),
        ("daemonize", "no".to_owned()),
        ("dir", data.display().to_string()),
        // The grace of a container's stop is longer.
        ("shutdown-timeout", "3".to_owned()),
        ("rdb-del-sync-files", "yes".to_owned()),
    ];
    if config.tls {
        fixed.extend([
            ("tls-port", secure.to_string()),
            ("tls-auth-clients", "optional".to_owned()),
            ("tls-replication", "yes".to_owned()),
        ]);
    }
    fixed.extend(master.map(|Address { ip, port }| ("replicaof", format!("{ip} {port}"))));
    let line = |name: &str, value: &str| format!("{name} {}\n", written(name, value));
    let fixed = fixed.iter().map(|(name, value)| line(name, value));
    let live = live.iter().map(|(name, value)| line(name, value));
    let users = users(&config.username, credentials);
    let users = users.iter().map(|(name, rules)| format!("user {name} {}\n", rules.join(" ")));
    // Ours come last, so that no directive of a user stands against them.
    live.chain(fixed).chain(users).collect()
}

/// A value as the file has it.
fn written(name: &str, value: &str) -> String {
    let one_line = !value.contains(char::is_control);
    if WORDS.contains(&name) && one_line && !value.trim_matches(['"', ' ']).is_empty() {
        return value.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in value.trim_matches('"').chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.extend(format!("\\x{:02x}", u32::from(c)).chars()),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// The value that `CONFIG SET` is given.
pub fn bare(value: &str) -> &str {
    if value.trim() == "\"\"" { "" } else { value }
}

/// Whether the order wants nothing on disk.
pub fn keeps_nothing(directives: &BTreeMap<String, String>) -> bool {
    let is =
        |name: &str, values: &[&str]| directives.get(name).is_none_or(|value| values.contains(&bare(value).trim()));
    is("appendonly", &["no"]) && directives.contains_key("save") && is("save", &[""])
}

/// Whether the order wants an append-only file.
pub fn appends(directives: &BTreeMap<String, String>) -> bool {
    directives.get("appendonly").is_some_and(|value| value == "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials() -> Credentials {
        let [admin_password, replication_password, sentinel_password, app_password] =
            ["Admin1", "Re\"pl 1", "Sent1", "abc"].map(str::to_owned);
        Credentials {
            hash: "h".into(),
            admin_password,
            replication_password,
            sentinel_password,
            app_password,
            tls: None,
        }
    }

    fn config() -> Config {
        let announce = Some(Address { ip: [10, 0, 0, 1].into(), port: 6379 });
        Config { announce, priority: 100, username: "app".into(), ..Config::default() }
    }

    fn file(config: &Config, credentials: &Credentials, directives: &[(&str, &str)]) -> String {
        let mut live = ours(config, credentials, "/c".as_ref());
        live.extend(directives.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let master = Some(Address { ip: [10, 0, 0, 2].into(), port: 6379 });
        render(config, &live, credentials, ("/data/redis".as_ref(), "/s".as_ref()), LISTEN, master)
    }

    const LISTEN: Listen = Listen { address: None, port: 6379, bus: None };

    fn expect(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(text.lines().any(|found| found.starts_with(line)), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn the_file_has_the_passwords_as_hashes_only_but_for_that_by_which_the_server_replicates() {
        let directives = [("save", "3600 1 300 100"), ("maxmemory", "1gb"), ("proc-title-template", "{title} a")];
        let text = file(&config(), &credentials(), &directives);
        let lines = [
            "replicaof 10.0.0.2 6379",
            "replica-announce-ip \"10.0.0.1\"",
            "masterauth \"Re\\\"pl 1\"",
            "save 3600 1 300 100",
            "maxmemory \"1gb\"",
            "proc-title-template \"{title} a\"",
            "port \"6379\"",
            "user app on #ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad ~* resetchannels &[^_]* &_[^_]* &__[^s]* +@all -@admin",
            "user default off",
        ];
        expect(&text, &lines);
        assert!(!["Admin1", "Sent1", "abc\n"].iter().any(|secret| text.contains(secret)), "{text}");
    }

    #[test]
    fn on_the_network_of_a_host_a_server_listens_at_its_own_address_and_port_only() {
        let listen = Listen { address: Some([10, 99, 0, 11].into()), port: 20431, bus: None };
        let text = |tls| {
            let (config, live) = (Config { tls, ..config() }, BTreeMap::new());
            render(&config, &live, &credentials(), ("/data/redis".as_ref(), "/s".as_ref()), listen, None)
        };
        expect(&text(false), &["bind 10.99.0.11 127.0.0.1", "port \"20431\""]);
        expect(&text(true), &["bind 10.99.0.11 127.0.0.1", "port \"0\"", "tls-port \"20431\""]);
    }

    #[test]
    fn a_node_on_the_network_of_a_host_announces_both_of_its_ports() {
        let told = |bus, tls| {
            let all = node(Listen { address: Some([10, 99, 0, 11].into()), port: 20431, bus }, tls);
            all.into_iter().map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", ")
        };
        assert_eq!(told(None, true), "");
        let both = "cluster-port 21000, cluster-announce-bus-port 21000, cluster-announce-port 20431";
        assert_eq!(told(Some(21000), false), both);
        assert_eq!(told(Some(21000), true), format!("{both}, cluster-announce-tls-port 20431"));
    }

    /// Regression 363: `save ""`, by which snapshots are off, was written as `save` without a value, which ends the server.
    #[test]
    fn an_empty_value_is_written_as_one() {
        for empty in ["", "\"\""] {
            expect(&file(&config(), &credentials(), &[("save", empty)]), &["save \"\""]);
            let none: BTreeMap<String, String> = [("save".to_owned(), empty.to_owned())].into();
            assert!(keeps_nothing(&none), "{empty:?}");
        }
        assert!(!keeps_nothing(&BTreeMap::new()), "the server's own default saves");
        assert!(!keeps_nothing(&[("save".into(), String::new()), ("appendonly".into(), "yes".into())].into()));
    }

    #[test]
    fn a_value_cannot_begin_another_line() {
        let text = file(&config(), &credentials(), &[("maxmemory-policy", "a\nreplicaof no one"), ("x", "1\" \\")]);
        expect(&text, &["maxmemory-policy \"a\\x0areplicaof no one\"", "x \"1\\\" \\\\\""]);
    }

    /// The order of the names is that in which a server is told them: it closes the one port before it opens the other.
    #[test]
    fn the_port_with_tls_and_the_one_without_change_in_one_command() {
        let told = |tls, had| {
            let ports = ports(&Config { tls, ..config() }, had, 6379).into_iter();
            ports.map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", ")
        };
        assert_eq!(told(true, false), "port 0, tls-auth-clients optional, tls-port 6379, tls-replication yes");
        assert_eq!(told(false, true), "port 6379, tls-port 0, tls-replication no");
        assert_eq!(told(false, false), "port 6379");
    }

    #[test]
    fn with_tls_there_is_no_plain_port_and_other_certificates_have_other_names() {
        let word = str::to_owned;
        let with = |hash: &str| {
            let tls = Tls { hash: word(hash), ca: word("ca"), cert: word("c"), key: word("k") };
            let config = Config { tls: true, ..config() };
            file(&config, &Credentials { tls: Some(tls), ..credentials() }, &[])
        };
        let one = with("one");
        expect(&one, &["port \"0\"", "tls-port \"6379\"", "tls-replication \"yes\"", "tls-cert-file \"/c/"]);
        assert_ne!(one, with("two"));
    }
}
