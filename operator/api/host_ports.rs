//! Ports and addresses of a Docker host: what an object publishes, and what its namespace may publish. Pure.

use std::net::IpAddr;
use std::str::FromStr;

use serde_json::Value;

use super::invalid::Invalid;

/// Annotation of a namespace: the host ports that its objects may publish, such as `15000-15999,18080`. No other namespace may
/// publish them, unless they are in its own annotation too.
pub const PORTS: &str = "evenkeel.dev/host-ports";
/// Annotation of a namespace: the addresses of a host that its objects may publish ports on, comma-separated.
pub const ADDRESSES: &str = "evenkeel.dev/bind-addresses";

/// A port that an object publishes, or several in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPorts {
    /// The field.
    pub path: String,
    /// The address of the host.
    pub address: IpAddr,
    /// The first port.
    pub first: u16,
    /// The last port.
    pub last: u16,
}

impl HostPorts {
    /// `count` ports from `first`. An address that is none is loopback, as where the port is published.
    pub fn new(path: impl Into<String>, address: &str, first: u16, count: u32) -> Self {
        let address = address.parse().unwrap_or(IpAddr::from([127, 0, 0, 1]));
        let last = u16::try_from(u32::from(first).saturating_add(count.max(1) - 1)).unwrap_or(u16::MAX);
        Self { path: path.into(), address, first, last }
    }
}

/// Ranges of ports.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ranges(Vec<(u16, u16)>);

impl Ranges {
    /// Whether a port is in them.
    pub fn has(&self, port: u16) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&port))
    }

    /// A port of these that is not in the ranges.
    fn lacks(&self, ports: &HostPorts) -> Option<u16> {
        (ports.first..=ports.last).find(|port| !self.has(*port))
    }
}

impl FromStr for Ranges {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0);
            Some((port(first)?, port(last)?)).filter(|(first, last)| first <= last)
        };
        let wrong = || format!("{text:?} must be ports and ranges such as 15000-15999,18080");
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(|part| range(part).ok_or_else(wrong)).collect::<Result<_, _>>().map(Self)
    }
}

/// What a namespace may publish.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Allowed {
    /// Its own ports; `None`: all that are not another namespace's.
    pub ports: Option<Ranges>,
    /// The ports of other namespaces, by the name of the namespace.
    pub taken: Vec<(String, Ranges)>,
    /// The addresses; `None`: all.
    pub addresses: Option<Vec<IpAddr>>,
}

impl Allowed {
    /// What the namespace of this name may publish, of all namespaces.
    pub fn read(name: &str, namespaces: &[Value]) -> Self {
        let named = |one: &&Value| one["metadata"]["name"] == *name;
        let own = namespaces.iter().find(named);
        let others = namespaces.iter().filter(|one| !named(one));
        let taken = others.filter_map(|one| Some((one["metadata"]["name"].as_str()?.to_owned(), ports(one)?)));
        let addresses = own.and_then(|own| addresses(own).ok().flatten());
        Self { ports: own.and_then(ports), taken: taken.collect(), addresses }
    }

    /// Why these ports may not be published.
    pub fn problem(&self, asked: &HostPorts) -> Option<String> {
        if let Some(addresses) = self.addresses.as_ref().filter(|all| !all.contains(&asked.address)) {
            let all: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            let all = if all.is_empty() { "none".to_owned() } else { all.join(", ") };
            return Some(format!("address {} is not allowed by annotation {ADDRESSES} ({all})", asked.address));
        }
        match &self.ports {
            Some(own) => own.lacks(asked).map(|port| format!("host port {port} is not in annotation {PORTS}")),
            None => self.taken.iter().find_map(|(owner, ranges)| {
                let port = (asked.first..=asked.last).find(|port| ranges.has(*port))?;
                Some(format!("host port {port} belongs to namespace {owner} by its annotation {PORTS}"))
            }),
        }
    }
}

fn ports(namespace: &Value) -> Option<Ranges> {
    namespace["metadata"]["annotations"][PORTS].as_str()?.parse().ok()
}

fn addresses(namespace: &Value) -> Result<Option<Vec<IpAddr>>, String> {
    let Some(text) = namespace["metadata"]["annotations"][ADDRESSES].as_str() else { return Ok(None) };
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let read = |part: &str| part.parse().map_err(|_| format!("{part:?} is not an IP address"));
    parts.map(read).collect::<Result<_, _>>().map(Some)
}

/// The problems with the annotations of a namespace.
pub fn annotation_problems(namespace: &Value) -> Vec<Invalid> {
    let said = namespace["metadata"]["annotations"][PORTS].as_str();
    let ranges = said.and_then(|text| text.parse::<Ranges>().err()).map(|message| (PORTS, message));
    let addresses = addresses(namespace).err().map(|message| (ADDRESSES, message));
    let told = ranges.into_iter().chain(addresses);
    told.map(|(name, message)| Invalid::new(format!("metadata.annotations[{name}]"), message)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_namespace_publishes_its_own_ports_on_its_own_addresses_and_nobody_elses() {
        let namespace =
            |name: &str, annotations: Value| json!({"metadata": {"name": name, "annotations": annotations}});
        let all = [
            namespace("free", json!({})),
            namespace("team", json!({(PORTS): "15000-15009, 18080", (ADDRESSES): "127.0.0.1"})),
            namespace("none", json!({(PORTS): ""})),
        ];
        let told = |name: &str, address: &str, first, count| {
            Allowed::read(name, &all).problem(&HostPorts::new("spec.expose", address, first, count)).unwrap_or_default()
        };
        assert_eq!(told("team", "127.0.0.1", 15000, 10), "");
        assert_eq!(told("team", "127.0.0.1", 18080, 1), "");
        assert_eq!(told("team", "127.0.0.1", 15005, 6), "host port 15010 is not in annotation evenkeel.dev/host-ports");
        let address = "address 0.0.0.0 is not allowed by annotation evenkeel.dev/bind-addresses (127.0.0.1)";
        assert_eq!(told("team", "0.0.0.0", 15000, 1), address);
        assert_eq!(told("free", "0.0.0.0", 8080, 3), "");
        let taken = "host port 15000 belongs to namespace team by its annotation evenkeel.dev/host-ports";
        assert_eq!(told("free", "127.0.0.1", 14999, 3), taken);
        assert_eq!(told("none", "127.0.0.1", 1, 1), "host port 1 is not in annotation evenkeel.dev/host-ports");
    }

    #[test]
    fn annotations_that_cannot_be_read_are_refused() {
        for (ports, addresses) in
            [("x", "127.0.0.1"), ("2-1", "127.0.0.1"), ("0", "127.0.0.1"), ("1", "here"), ("1-70000", "::1")]
        {
            let annotations = json!({(PORTS): ports, (ADDRESSES): addresses});
            let problems = annotation_problems(&json!({"metadata": {"annotations": annotations}}));
            assert_eq!(problems.len(), 1, "{ports} {addresses}: {problems:?}");
        }
        assert_eq!(annotation_problems(&json!({"metadata": {}})), []);
    }
}
