//! What a Sentinel knows, read from its answers. Pure.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::supervisor::redis::wire::{Address, KnownReplica, KnownSentinel, MasterSeen};

/// Most replicas, and most Sentinels, that are read.
const READ: usize = 1_000;
/// Most characters of an error of a Sentinel.
const LETTERS: usize = 300;

/// Names and values of one entry of an answer.
pub type Fields = BTreeMap<String, String>;

/// The answers to one poll.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub struct Answers {
    /// `SENTINEL MYID`.
    pub id: String,
    /// `INFO sentinel`.
    pub info: String,
    /// `SENTINEL CONFIG GET announce-*`.
    pub config: Fields,
    /// `SENTINEL MASTER`; `None`: it does not know the name.
    pub master: Option<Fields>,
    /// `SENTINEL GET-MASTER-ADDR-BY-NAME`.
    pub address: Option<(String, String)>,
    /// `SENTINEL REPLICAS`.
    pub replicas: Vec<Fields>,
    /// `SENTINEL SENTINELS`.
    pub sentinels: Vec<Fields>,
    /// The error of `SENTINEL CKQUORUM`.
    pub no_quorum: Option<String>,
}

/// What a Sentinel knows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub struct View {
    /// Its id.
    pub id: String,
    /// It takes no decision, because its clock jumped.
    pub tilt: bool,
    /// The address that it announces.
    pub announce: Option<Address>,
    /// The master; `None`: it does not know the name.
    pub master: Option<Master>,
    /// The replicas.
    pub replicas: Vec<Replica>,
    /// The other Sentinels.
    pub sentinels: Vec<KnownSentinel>,
    /// Why `SENTINEL CKQUORUM` is not OK.
    pub no_quorum: Option<String>,
}

/// The master with the settings in force.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Master {
    /// What is reported.
    pub seen: MasterSeen,
    /// `down-after-milliseconds`.
    pub down_after_ms: u64,
    /// `failover-timeout`.
    pub failover_timeout_ms: u64,
    /// `parallel-syncs`.
    pub parallel_syncs: u32,
}

/// A replica.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Replica {
    /// What is reported.
    pub seen: KnownReplica,
    /// Milliseconds since the Sentinel last had its INFO; 0 also means never.
    pub info_age_ms: u64,
    /// Its link to the master is up.
    pub link_up: bool,
    /// A failover is turning it to the new master.
    pub turning: bool,
}

impl View {
    /// Reads the answers.
    pub fn read(answers: &Answers) -> Self {
        let address = answers.address.as_ref().map(|(ip, port)| address(ip, port));
        Self {
            id: cut(&answers.id),
            tilt: answers.info.lines().any(|line| line.trim() == "sentinel_tilt:1"),
            announce: announced(&answers.config),
            master: answers.master.as_ref().map(|fields| master(fields, address)),
            replicas: answers.replicas.iter().take(READ).map(replica).collect(),
            sentinels: answers.sentinels.iter().take(READ).map(sentinel).collect(),
            no_quorum: answers.no_quorum.as_deref().map(cut),
        }
    }

    /// The master is up and is one, and nothing changes just now.
    pub fn calm(&self) -> bool {
        let up = |master: &Master| !master.seen.down && !master.seen.not_master;
        !self.tilt && self.master.as_ref().is_some_and(up) && !self.failing_over()
    }

    /// A failover runs on this Sentinel.
    pub fn failing_over(&self) -> bool {
        let runs = self.master.as_ref().is_some_and(|master| master.seen.failing_over);
        runs || self.replicas.iter().any(|replica| replica.turning)
    }
}

/// A text of a Sentinel, cut to a bounded length.
pub fn cut(text: &str) -> String {
    text.trim().chars().take(LETTERS).collect()
}

fn text<'a>(fields: &'a Fields, name: &str) -> &'a str {
    fields.get(name).map_or("", String::as_str)
}

fn number<N: std::str::FromStr + Default>(fields: &Fields, name: &str) -> N {
    text(fields, name).parse().unwrap_or_default()
}

fn has(fields: &Fields, flag: &str) -> bool {
    text(fields, "flags").split(',').any(|found| found == flag)
}

/// What is no IPv4 address becomes 0.0.0.0, so that the entry stays visible.
fn address(ip: &str, port: &str) -> Address {
    Address { ip: ip.parse().unwrap_or(Ipv4Addr::UNSPECIFIED), port: port.parse().unwrap_or(0) }
}

fn of(fields: &Fields) -> Address {
    address(text(fields, "ip"), text(fields, "port"))
}

fn announced(config: &Fields) -> Option<Address> {
    let port = number(config, "announce-port");
    text(config, "announce-ip").parse().ok().map(|ip| Address { ip, port })
}

fn master(fields: &Fields, address: Option<Address>) -> Master {
    Master {
        seen: MasterSeen {
            address: address.unwrap_or_else(|| of(fields)),
            config_epoch: number(fields, "config-epoch"),
            quorum: number(fields, "quorum"),
            down: has(fields, "s_down") || has(fields, "o_down"),
            failing_over: has(fields, "failover_in_progress"),
            not_master: text(fields, "role-reported") != "master",
        },
        down_after_ms: number(fields, "down-after-milliseconds"),
        failover_timeout_ms: number(fields, "failover-timeout"),
        parallel_syncs: number(fields, "parallel-syncs"),
    }
}

fn replica(fields: &Fields) -> Replica {
    let turning = ["reconf_sent", "reconf_inprog", "reconf_done", "promoted"];
    Replica {
        seen: KnownReplica {
            address: of(fields),
            down: has(fields, "s_down"),
            priority: number(fields, "slave-priority"),
        },
        info_age_ms: number(fields, "info-refresh"),
        link_up: text(fields, "master-link-status") == "ok",
        turning: turning.iter().any(|flag| has(fields, flag)),
    }
}

fn sentinel(fields: &Fields) -> KnownSentinel {
    KnownSentinel { id: cut(text(fields, "runid")), address: of(fields), down: has(fields, "s_down") }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Fields {
        text.split_whitespace().filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect()
    }

    #[test]
    fn the_answers_of_a_sentinel_are_read() {
        let answers = Answers {
            id: "9b21".into(),
            info: "# Sentinel\r\nsentinel_masters:1\r\nsentinel_tilt:1\r\n".into(),
            config: fields("announce-ip=10.0.0.11 announce-port=26379"),
            master: Some(fields(
                "ip=10.0.0.1 port=6379 flags=s_down,o_down,master,failover_in_progress role-reported=slave \
                 config-epoch=3 quorum=2 down-after-milliseconds=3000 failover-timeout=60000 parallel-syncs=1",
            )),
            address: Some(("10.0.0.2".into(), "6379".into())),
            replicas: vec![
                fields(
                    "ip=10.0.0.2 port=6379 flags=slave,promoted slave-priority=10 info-refresh=90 master-link-status=ok",
                ),
                fields("ip=a.host port=6379 flags=s_down,slave,disconnected slave-priority=100 info-refresh=9000"),
            ],
            sentinels: vec![fields("runid=aa ip=10.0.0.12 port=0 flags=s_down,sentinel")],
            no_quorum: Some("NOQUORUM 1 usable Sentinels.\r\n".into()),
        };
        let view = View::read(&answers);
        let at = |last, port| Address { ip: [10, 0, 0, last].into(), port };
        let master = view.master.clone().unwrap();
        assert_eq!((view.tilt, view.announce, master.seen.address), (true, Some(at(11, 26379)), at(2, 6379)));
        assert!(master.seen.down && master.seen.failing_over && master.seen.not_master && !view.calm());
        assert_eq!((master.seen.config_epoch, master.seen.quorum, master.failover_timeout_ms), (3, 2, 60_000));
        let [one, two] = &view.replicas[..] else { panic!("{view:?}") };
        assert_eq!((one.seen.priority, one.info_age_ms, one.link_up, one.turning), (10, 90, true, true));
        let nowhere = Address { ip: Ipv4Addr::UNSPECIFIED, port: 6379 };
        assert_eq!((two.seen.address, two.seen.down, two.link_up), (nowhere, true, false));
        assert_eq!(view.sentinels, [KnownSentinel { id: "aa".into(), address: at(12, 0), down: true }]);
        assert_eq!(view.no_quorum.as_deref(), Some("NOQUORUM 1 usable Sentinels."));
    }

    #[test]
    fn no_answer_at_all_is_a_sentinel_that_knows_nothing() {
        assert_eq!(View::read(&Answers::default()), View::default());
        assert!(!View::default().calm());
    }
}
