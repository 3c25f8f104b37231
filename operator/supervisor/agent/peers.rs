//! What is known of the way to each peer: a result counts at once if it is good, and after some in a row if it is bad. Pure.

use std::collections::BTreeMap;

use crate::api::reach::Reach;

/// Attempts in a row that must fail before the way counts as cut: a lost packet, and the restart of an agent, are no news.
const FAILURES: u32 = 3;

/// The way to one peer.
#[derive(Debug, Default)]
struct Way {
    failures: u32,
    known: Option<Reach>,
}

/// The ways to all peers.
#[derive(Debug, Default)]
pub struct Ways(BTreeMap<String, Way>);

impl Ways {
    /// Forgets the peers that are not kept.
    pub fn keep(&mut self, keep: impl Fn(&str) -> bool) {
        self.0.retain(|peer, _| keep(peer));
    }

    /// Takes the result of one attempt to connect.
    pub fn hear(&mut self, peer: &str, found: Reach) {
        let way = self.0.entry(peer.to_owned()).or_default();
        way.failures = if found == Reach::Ok { 0 } else { way.failures.saturating_add(1) };
        if found == Reach::Ok || way.failures >= FAILURES {
            way.known = Some(found);
        }
    }

    /// What is known, by peer.
    pub fn known(&self) -> BTreeMap<String, Reach> {
        self.0.iter().filter_map(|(peer, way)| Some((peer.clone(), way.known?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_is_cut_after_three_failures_in_a_row_and_open_at_once() {
        let mut ways = Ways::default();
        let mut after = |found: Reach| {
            ways.hear("h2", found);
            ways.known().get("h2").copied()
        };
        assert_eq!(after(Reach::Refused), None, "its agent may be starting");
        assert_eq!(after(Reach::Ok), Some(Reach::Ok));
        assert_eq!([after(Reach::Timeout), after(Reach::Timeout)], [Some(Reach::Ok); 2]);
        assert_eq!(after(Reach::Timeout), Some(Reach::Timeout));
        assert_eq!(after(Reach::Refused), Some(Reach::Refused));
        assert_eq!(after(Reach::Ok), Some(Reach::Ok));
        ways.keep(|peer| peer != "h2");
        assert_eq!(ways.known(), BTreeMap::new());
    }
}
