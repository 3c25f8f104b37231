//! The first sentinel.conf, the Sentinel's arguments, and its users. Pure.
//!
//! The Sentinel owns its file after that: it writes there its id, the epochs and what it knows, and nobody else writes it.

use std::path::Path;

use crate::api::hash::short_hash;
use crate::supervisor::listen::Listen;
use crate::supervisor::redis::conf::bind;
use crate::supervisor::redis::wire::{ADMIN, Address, Credentials, SENTINEL, Watch};

/// What the Sentinels may do with each other.
const PEER: &[&str] = &[
    "resetchannels",
    "&__sentinel__:hello",
    "+auth",
    "+hello",
    "+ping",
    "+publish",
    "+client|setname",
    "+sentinel|is-master-down-by-addr",
];

/// What an application may do: ask, and listen to events.
const CLIENT: &[&str] = &[
    "&*",
    "+auth",
    "+hello",
    "+ping",
    "+info",
    "+role",
    "+command",
    "+client",
    "-client|kill",
    "-client|pause",
    "-client|unpause",
    "-client|unblock",
    "+subscribe",
    "+psubscribe",
    "+unsubscribe",
    "+punsubscribe",
    "+sentinel|get-master-addr-by-name",
    "+sentinel|master",
    "+sentinel|masters",
    "+sentinel|replicas",
    "+sentinel|slaves",
    "+sentinel|sentinels",
    "+sentinel|ckquorum",
    "+sentinel|myid",
];

/// Why no sentinel.conf can be rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// A word would break its line of the file.
    #[error(
        "{what} must not be empty, and must not contain spaces, quotes or backslashes: Sentinel cannot keep it in its file"
    )]
    Word {
        /// What it is.
        what: &'static str,
    },
    /// The order has no address to announce.
    #[error("the order has no address to announce")]
    Announce,
}

/// Checks that Sentinel can write this word into its file and read it again: it writes some without quotes.
pub fn word<'a>(what: &'static str, text: &'a str) -> Result<&'a str, Unusable> {
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\'' | '\\');
    let usable = !text.is_empty() && !text.starts_with('#') && text.chars().all(plain);
    usable.then_some(text).ok_or(Unusable::Word { what })
}

/// Each user with its rules; `default` is off unless it is the application's.
pub fn users(username: &str, credentials: &Credentials) -> Vec<(String, Vec<String>)> {
    let on = |name: &str, password: &str, rights: &[&str]| {
        let hash = format!("#{}", short_hash(password, 64));
        let rules = ["on", &hash, "-@all"].into_iter().chain(rights.iter().copied());
        (name.to_owned(), rules.map(str::to_owned).collect())
    };
    let mut users = vec![
        on(ADMIN, &credentials.admin_password, &["&*", "+@all"]),
        on(SENTINEL, &credentials.sentinel_password, PEER),
        on(username, &credentials.app_password, CLIENT),
    ];
    if username != "default" {
        users.push(("default".to_owned(), vec!["off".to_owned(), "resetchannels".to_owned(), "-@all".to_owned()]));
    }
    users
}

/// The first sentinel.conf. `folder` is the Sentinel's own.
pub fn render(watch: &Watch, monitor: Address, credentials: &Credentials, folder: &str) -> Result<String, Unusable> {
    let name = word("the master's name", &watch.sentinels.master_name)?;
    let username = word("the application's user name", &watch.username)?;
    let password = word("the password of the Sentinels", &credentials.sentinel_password)?;
    let announce = watch.announce.ok_or(Unusable::Announce)?;
    let mut lines = vec![format!("dir {folder}"), "loglevel notice".to_owned()];
    lines.extend(
        users(username, credentials).into_iter().map(|(name, rules)| format!("user {name} {}", rules.join(" "))),
    );
    let Address { ip, port } = monitor;
    let settings = [
        "deny-scripts-reconfig yes".to_owned(),
        "resolve-hostnames no".to_owned(),
        "announce-hostnames no".to_owned(),
        format!("announce-ip {}", announce.ip),
        format!("announce-port {}", announce.port),
        format!("sentinel-user {SENTINEL}"),
        format!("sentinel-pass {password}"),
        format!("monitor {name} {ip} {port} {}", watch.quorum),
        format!("down-after-milliseconds {name} {}", watch.sentinels.down_after_ms),
        format!("failover-timeout {name} {}", watch.sentinels.failover_timeout_ms),
        format!("parallel-syncs {name} {}", watch.parallel_syncs),
        format!("auth-user {name} {SENTINEL}"),
        format!("auth-pass {name} {password}"),
    ];
    lines.extend(settings.map(|setting| format!("sentinel {setting}")));
    Ok(lines.join("\n") + "\n")
}

/// What is given at each start: these win over the file, so that a file of an older version has them too. No secret is here.
/// `certificates` is the folder of `ca.pem`, `cert.pem` and `key.pem`.
pub fn arguments(tls: bool, listen: Listen, socket: &Path, certificates: &Path) -> Vec<String> {
    let (plain, secure) = if tls { (0, listen.port) } else { (listen.port, 0) };
    let mut pairs = vec![
        ("port", plain.to_string()),
        ("protected-mode", "no".to_owned()),
        ("daemonize", "no".to_owned()),
        ("unixsocket", socket.display().to_string()),
        ("unixsocketperm", "700".to_owned()),
        ("tls-port", secure.to_string()),
    ];
    if tls {
        let file = |name: &str| certificates.join(name).display().to_string();
        pairs.extend([
            ("tls-ca-cert-file", file("ca.pem")),
            ("tls-cert-file", file("cert.pem")),
            ("tls-key-file", file("key.pem")),
            ("tls-auth-clients", "optional".to_owned()),
        ]);
    }
    pairs.push(("tls-replication", if tls { "yes" } else { "no" }.to_owned()));
    let words = pairs.into_iter().flat_map(|(name, value)| [format!("--{name}"), value]);
    let bind = bind(listen).map(|bind| format!("--bind {bind}"));
    let bind: Vec<String> = bind.iter().flat_map(|words| words.split(' ')).map(str::to_owned).collect();
    ["--sentinel".to_owned()].into_iter().chain(words).chain(bind).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::supervisor::redis::wire::Sentinels;

    fn watch() -> Watch {
        let sentinels = Sentinels {
            addresses: Vec::new(),
            master_name: "mymaster".into(),
            down_after_ms: 3_000,
            failover_timeout_ms: 60_000,
        };
        let announce = Some(Address { ip: [10, 0, 0, 11].into(), port: 26379 });
        Watch { announce, sentinels, quorum: 2, parallel_syncs: 1, username: "app".into(), ..Watch::default() }
    }

    fn credentials() -> Credentials {
        let [admin_password, replication_password, sentinel_password, app_password] =
            ["Admin1", "Repl1", "Sent1", "abc"].map(str::to_owned);
        Credentials {
            hash: "h".into(),
            admin_password,
            replication_password,
            sentinel_password,
            app_password,
            tls: None,
        }
    }

    const MASTER: Address = Address { ip: std::net::Ipv4Addr::new(10, 0, 0, 1), port: 6379 };

    #[test]
    fn the_first_file_knows_the_master_and_shows_only_the_password_that_sentinel_itself_must_send() {
        let text = render(&watch(), MASTER, &credentials(), "/data/sentinel").unwrap();
        for line in [
            "dir /data/sentinel",
            "user app on #ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad -@all &* +auth",
            "user default off",
            "sentinel announce-ip 10.0.0.11",
            "sentinel monitor mymaster 10.0.0.1 6379 2",
            "sentinel down-after-milliseconds mymaster 3000",
            "sentinel auth-pass mymaster Sent1",
        ] {
            assert!(text.lines().any(|found| found.starts_with(line)), "{line} is missing in\n{text}");
        }
        assert!(!["Admin1", "Repl1", "abc\n"].iter().any(|secret| text.contains(secret)), "{text}");
    }

    /// Regression 380: Sentinel writes `auth-pass` into its file without quotes. A password with a space made a file that the
    /// Sentinel could not read at its next start, and it stayed down.
    #[test]
    fn a_word_that_sentinel_cannot_keep_in_its_file_is_refused() {
        for bad in ["", "with space", "quo\"te", "it's", "back\\slash", "line\nbreak", "#first", "ü"] {
            let credentials = Credentials { sentinel_password: bad.into(), ..credentials() };
            let refused = render(&watch(), MASTER, &credentials, "/data/sentinel").unwrap_err().to_string();
            assert!(refused.starts_with("the password of the Sentinels must not"), "{bad}: {refused}");
        }
        let mut watch = watch();
        watch.sentinels.master_name = "my master".into();
        assert!(render(&watch, MASTER, &credentials(), "/").unwrap_err().to_string().starts_with("the master's name"));
        assert_eq!(
            render(&Watch { announce: None, ..self::watch() }, MASTER, &credentials(), "/"),
            Err(Unusable::Announce)
        );
    }

    #[test]
    fn with_tls_there_is_no_plain_port() {
        let listen = Listen { address: None, port: 26379, bus: None };
        let tls = arguments(true, listen, "/s".as_ref(), "/c".as_ref()).join(" ");
        assert!(
            tls.starts_with("--sentinel --port 0 ") && tls.contains("--tls-port 26379 --tls-ca-cert-file /c/ca.pem")
        );
        let plain = arguments(false, listen, "/s".as_ref(), "/c".as_ref()).join(" ");
        assert!(plain.contains("--port 26379 ") && plain.contains("--tls-port 0 --tls-replication no"));
        assert!(!plain.contains("--bind"));
        let listen = Listen { address: Some([10, 99, 0, 11].into()), port: 20031, bus: None };
        let on_host = arguments(true, listen, "/s".as_ref(), "/c".as_ref()).join(" ");
        assert!(on_host.contains("--tls-port 20031 ") && on_host.ends_with(" --bind 10.99.0.11 127.0.0.1"));
    }

    #[test]
    fn the_user_default_is_off_unless_the_application_is_called_so() {
        let of = |username| users(username, &credentials()).into_iter().filter(|(name, _)| name == "default");
        assert_eq!(of("app").map(|(_, rules)| rules[0].clone()).collect::<Vec<_>>(), ["off"]);
        assert_eq!(of("default").map(|(_, rules)| rules[0].clone()).collect::<Vec<_>>(), ["on"]);
    }
}
