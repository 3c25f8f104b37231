//! Reads `CLUSTER NODES` and `nodes.conf`, which have the same form. Pure.

use crate::supervisor::redis::cluster::wire::{Address, Known, Node, PORT, SLOTS};

/// Most nodes that are read.
const MANY: usize = 64;
/// Length of an id, in characters.
const ID: usize = 40;

/// The node, with everything that it knows; `None` if the text does not say which of the nodes it is.
pub fn read(text: &str) -> Option<Node> {
    let mut node = Node::default();
    for line in text.lines().take(MANY) {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [id, address, flags, master, _, _, epoch, link, slots @ ..] = fields.as_slice() else { continue };
        let flag = |name: &str| flags.split(',').any(|flag| flag == name);
        // Nodes that it has not met have ids that mean nothing.
        if id.len() != ID || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) || flag("handshake") {
            continue;
        }
        let one = Known {
            id: (*id).to_owned(),
            address: self::address(address).filter(|_| !flag("noaddr")),
            master: (*master != "-").then(|| (*master).to_owned()),
            epoch: epoch.parse().unwrap_or_default(),
            slots: slots.iter().filter_map(|words| range(words)).collect(),
            down: flag("fail") || flag("fail?"),
            linked: *link == "connected",
        };
        if flag("myself") {
            let open = |arrow: &'static str| slots.iter().filter_map(move |words| opened(words, arrow)).collect();
            (node.migrating, node.importing) = (open("->-"), open("-<-"));
            node.own = one;
        } else {
            node.known.push(one);
        }
    }
    // The order in which a node lists the others changes.
    node.known.sort_by(|one, other| one.id.cmp(&other.id));
    (!node.own.id.is_empty()).then_some(node)
}

/// `10.0.0.1:6379@16379,host-name`.
fn address(text: &str) -> Option<Address> {
    let (ip, rest) = text.split_once(':')?;
    let port = rest.split(['@', ',']).next()?.parse().ok()?;
    // Redis 7.2 and Valkey tell the port without TLS to who asks without TLS, and there may be none.
    Some(Address { ip: ip.parse().ok()?, port: if port == 0 { PORT } else { port } })
}

fn range(words: &str) -> Option<(u16, u16)> {
    let (from, to) = words.split_once('-').unwrap_or((words, words));
    let (from, to) = (from.parse().ok()?, to.parse().ok()?);
    (from <= to && to < SLOTS).then_some((from, to))
}

/// `[93->-ID]` or `[93-<-ID]`.
fn opened(words: &str, arrow: &str) -> Option<(u16, String)> {
    let (slot, id) = words.strip_prefix('[')?.strip_suffix(']')?.split_once(arrow)?;
    Some((slot.parse().ok().filter(|slot| *slot < SLOTS)?, id.to_owned()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_node_tells_itself_its_slots_and_the_others() {
        let [a, b, c] = ["a", "b", "c"].map(|letter| letter.repeat(ID));
        let text = format!(
            "{c} 10.0.0.3:6379@16379 slave,fail {a} 0 0 1 disconnected\n\
             {a} 10.0.0.1:6379@16379,host myself,master - 0 0 1 connected 0-99 101 [5->-{b}] [7-<-{b}]\n\
             {b} :0@0 master,noaddr - 0 0 2 connected 200\n\
             short 10.0.0.9:6379@16379 handshake - 0 0 0 connected\nvars currentEpoch 2 lastVoteEpoch 0\n"
        );
        let node = read(&text).unwrap();
        assert_eq!((node.own.id.as_str(), node.own.slots.clone()), (a.as_str(), vec![(0, 99), (101, 101)]));
        assert_eq!((node.migrating, node.importing), (vec![(5, b.clone())], vec![(7, b.clone())]));
        let told: Vec<_> =
            node.known.iter().map(|one| (one.id.as_str(), one.address.is_some(), one.down, one.linked)).collect();
        assert_eq!(told, [(b.as_str(), false, false, true), (c.as_str(), true, true, false)]);
        assert_eq!(node.known[1].master.as_deref(), Some(a.as_str()));
        assert_eq!(read("nonsense\n1-9 [ ["), None);
    }

    /// Regression 391: a file that names slots beyond the last one, or a range that ends before it begins, was believed.
    #[test]
    fn slots_that_do_not_exist_are_not_read() {
        assert_eq!(
            ["16383", "16384", "9-3", "0-16384", "x"].map(range),
            [Some((16383, 16383)), None, None, None, None]
        );
    }
}
