//! What `INFO` says. Pure.

use std::collections::BTreeMap;

use crate::supervisor::redis::wire::{Address, Link, Replica, Role, Usage};

/// Most replicas of a report.
const REPLICAS: usize = 64;
/// Longest text that is taken over from the server.
const LONGEST: usize = 100;

/// What a server says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Info {
    /// Its version.
    pub version: String,
    /// It reads its data.
    pub loading: bool,
    /// Its role.
    pub role: Option<Role>,
    /// `master_replid`.
    pub replid: String,
    /// `master_repl_offset`.
    pub offset: u64,
    /// `second_repl_offset`; 0 if there is none.
    pub second_offset: u64,
    /// `master_replid2`.
    pub second_replid: String,
    /// `rdb_changes_since_last_save`: another number if data has changed since, unless there was a snapshot.
    pub changes: u64,
    /// Of a replica; [`Link::synced`] is not set here.
    pub link: Option<Link>,
    /// Of a master.
    pub replicas: Vec<Replica>,
    /// Keys in all databases.
    pub keys: u64,
    /// What it uses.
    pub usage: Usage,
    /// The append-only file is written, and has all data.
    pub appends: bool,
    /// No append-only file is written, and there is none to come.
    pub appends_not: bool,
    /// `rdb_last_save_time`; 0 while a snapshot is being written, or if the last one failed.
    pub saved: u64,
}

/// Reads the answer to `INFO`.
pub fn read(text: &str) -> Info {
    let fields: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.trim().split_once(':')).collect();
    let word = |name: &str| fields.get(name).copied().unwrap_or_default();
    let number = |name: &str| word(name).parse::<u64>().unwrap_or_default();
    let is = |name: &str, value: &str| word(name) == value;
    let cut = |text: &str| text.chars().filter(|c| !c.is_control()).take(LONGEST).collect::<String>();
    let version = ["valkey_version", "redis_version"].map(word).into_iter().find(|version| !version.is_empty());
    let role = match word("role") {
        "master" => Some(Role::Master),
        "slave" | "replica" => Some(Role::Replica),
        _ => None,
    };
    let master = address(word("master_host"), word("master_port")).filter(|_| role == Some(Role::Replica));
    let link = master.map(|master| Link {
        master,
        up: is("master_link_status", "up"),
        syncing: is("master_sync_in_progress", "1"),
        down_s: number("master_link_down_since_seconds"),
        synced: false,
    });
    let keys =
        fields.iter().filter(|(name, _)| name.strip_prefix("db").is_some_and(|rest| rest.parse::<u32>().is_ok()));
    let keys = keys.filter_map(|(_, value)| value.strip_prefix("keys=")?.split(',').next()?.parse::<u64>().ok());
    let rewriting = is("aof_rewrite_in_progress", "1") || is("aof_rewrite_scheduled", "1");
    let saving = is("rdb_bgsave_in_progress", "1") || !is("rdb_last_bgsave_status", "ok");
    Info {
        version: cut(version.unwrap_or_default()),
        loading: is("loading", "1"),
        role,
        replid: cut(word("master_replid")),
        offset: number("master_repl_offset"),
        second_offset: number("second_repl_offset"),
        second_replid: cut(word("master_replid2")),
        changes: number("rdb_changes_since_last_save"),
        link,
        // A client that takes a snapshot is listed among them, with a path or no port.
        replicas: (0..REPLICAS)
            .map_while(|n| fields.get(format!("slave{n}").as_str()))
            .filter_map(|line| replica(line).filter(|one| one.address.port > 0))
            .collect(),
        keys: keys.fold(0, u64::saturating_add),
        usage: Usage {
            memory: number("used_memory"),
            max_memory: number("maxmemory"),
            eviction_policy: cut(word("maxmemory_policy")),
            evicted: number("evicted_keys"),
            fragmentation_percent: hundredths(word("mem_fragmentation_ratio")),
            clients: number("connected_clients"),
        },
        appends: is("aof_enabled", "1") && !rewriting && is("aof_last_bgrewrite_status", "ok"),
        appends_not: is("aof_enabled", "0"),
        saved: if saving { 0 } else { number("rdb_last_save_time") },
    }
}

fn address(host: &str, port: &str) -> Option<Address> {
    Some(Address { ip: host.parse().ok()?, port: port.parse().ok()? })
}

/// `ip=10.0.0.2,port=6379,state=online,offset=42,lag=0`.
fn replica(line: &str) -> Option<Replica> {
    let field = |name: &str| line.split(',').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
    Some(Replica {
        address: address(field("ip")?, field("port")?)?,
        online: field("state")? == "online",
        offset: field("offset")?.parse().unwrap_or_default(),
        lag_s: field("lag").and_then(|lag| lag.parse().ok()).unwrap_or_default(),
    })
}

/// `1.07` is 107.
fn hundredths(ratio: &str) -> u32 {
    let (whole, part) = ratio.split_once('.').unwrap_or((ratio, ""));
    let digits: String = part.chars().chain("00".chars()).take(2).collect();
    let number = |text: &str| text.parse::<u32>().unwrap_or_default();
    number(whole).saturating_mul(100).saturating_add(number(&digits))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Regression 431: INFO lists a client that takes a snapshot among the replicas, with the path of the socket as its address. The
    /// list was read up to the first line that is no address, so that the replicas after it were missing while a backup ran.
    #[test]
    fn a_client_that_takes_a_snapshot_hides_no_replica() {
        let text = "role:master\r\nslave0:ip=/run/redis.sock,port=0,state=wait_bgsave,offset=0,lag=0\r\n\
                    slave1:ip=127.0.0.1,port=0,state=send_bulk,offset=0,lag=0\r\n\
                    slave2:ip=10.0.0.3,port=6379,state=online,offset=42,lag=1\r\n";
        let replicas = read(text).replicas;
        assert_eq!(replicas.iter().map(|one| one.address.to_string()).collect::<Vec<_>>(), ["10.0.0.3:6379"]);
    }

    #[test]
    fn a_master_tells_its_replicas_and_what_it_uses() {
        let text = "# Server\r\nredis_version:7.0.15\r\n# Replication\r\nrole:master\r\nconnected_slaves:2\r\n\
                    slave0:ip=10.0.0.2,port=6379,state=online,offset=42,lag=1\r\n\
                    slave1:ip=10.0.0.3,port=6379,state=wait_bgsave,offset=0,lag=0\r\n\
                    master_replid:abc\r\nmaster_replid2:def\r\nmaster_repl_offset:42\r\nsecond_repl_offset:-1\r\n\
                    used_memory:1000\r\nmem_fragmentation_ratio:12.3\r\nmaxmemory_policy:noeviction\r\n\
                    aof_enabled:1\r\naof_rewrite_in_progress:0\r\naof_last_bgrewrite_status:ok\r\n\
                    db0:keys=3,expires=0,avg_ttl=0\r\ndb15:keys=4,expires=0\r\ndbx:keys=9\r\n";
        let info = read(text);
        assert_eq!((info.role, info.offset, info.second_offset, info.keys), (Some(Role::Master), 42, 0, 7));
        assert_eq!((info.version.as_str(), info.usage.fragmentation_percent), ("7.0.15", 1230));
        assert_eq!((info.replid.as_str(), info.second_replid.as_str()), ("abc", "def"));
        let told: Vec<_> = info.replicas.iter().map(|one| (one.address.to_string(), one.online, one.lag_s)).collect();
        assert_eq!(told, [("10.0.0.2:6379".to_owned(), true, 1), ("10.0.0.3:6379".to_owned(), false, 0)]);
        assert!(info.appends && !info.appends_not && info.link.is_none());
    }

    #[test]
    fn a_replica_tells_its_link_and_a_server_that_loads_says_so() {
        let text = "redis_version:7.2.4\r\nvalkey_version:8.1.1\r\nloading:0\r\nrole:slave\r\nmaster_host:10.0.0.1\r\n\
                    master_port:6379\r\nmaster_link_status:down\r\nmaster_link_down_since_seconds:-1\r\n\
                    master_sync_in_progress:1\r\n";
        let info = read(text);
        let link = info.link.unwrap();
        assert_eq!((link.master.to_string().as_str(), link.up, link.syncing), ("10.0.0.1:6379", false, true));
        assert_eq!((link.down_s, info.version.as_str()), (0, "8.1.1"));
        assert!(read("loading:1\r\n").loading);
        assert_eq!(read("nonsense"), Info::default());
        assert_eq!(["1.07", "0.5", "3", "x", "99999999999"].map(hundredths), [107, 50, 300, 0, 0]);
    }
}
