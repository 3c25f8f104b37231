//! Histories of timelines: which timeline each came from, and where. Pure.

use crate::api::lsn::Lsn;

/// Bytes of a history file at most.
pub const HISTORY: u64 = 1 << 20;
/// Ancestors of a timeline at most.
const ANCESTORS: usize = 10_000;

/// The history of a timeline.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History {
    /// Its ancestors from the first on, each with the end of its WAL that belongs to this history.
    pub ancestors: Vec<(u32, Lsn)>,
}

/// It is no history of this timeline.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{timeline:08X}.history: {what}")]
pub struct NotHistory {
    timeline: u32,
    what: String,
}

impl History {
    /// Reads the history file of a timeline. The first timeline has none.
    ///
    /// A recovery that ends on an ancestor of the timeline that it was to follow writes the whole way there, and that its own
    /// timeline left the last one at a position before that one had begun. Of such timelines nothing is on the way: they are left
    /// out.
    ///
    /// # Errors
    /// A line is not of a history file, or its timelines do not ascend.
    pub fn parse(timeline: u32, text: &str) -> Result<Self, NotHistory> {
        let wrong = |what: String| NotHistory { timeline, what };
        let (mut ancestors, mut before): (Vec<(u32, Lsn)>, u32) = (Vec::new(), 0);
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let mut words = line.split_whitespace();
            let mut read = || Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?));
            let (ancestor, end): (u32, Lsn) = read()
                .ok_or_else(|| wrong(format!("{:?} is no line of it", line.chars().take(64).collect::<String>())))?;
            let ascends = before < ancestor;
            before = ancestor;
            if !ascends || ancestor >= timeline {
                return Err(wrong(format!("timeline {ancestor} is not in order")));
            }
            if ancestors.len() == ANCESTORS {
                return Err(wrong(format!("it has more than {ANCESTORS} lines")));
            }
            let mut left = ancestor;
            while let Some((before, _)) = ancestors.pop_if(|(_, at)| *at > end) {
                left = before;
            }
            ancestors.push((left, end));
        }
        match (ancestors.is_empty(), timeline) {
            (true, 2..) => Err(wrong("it is empty".to_owned())),
            _ => Ok(Self { ancestors }),
        }
    }

    /// The end of a timeline's WAL on the way to `timeline`, whose history this is. `None`: it is not on the way.
    /// `Some(None)`: it is `timeline` itself.
    pub fn end_of(&self, timeline: u32, ancestor: u32) -> Option<Option<Lsn>> {
        if ancestor == timeline {
            return Some(None);
        }
        self.ancestors.iter().find(|(known, _)| *known == ancestor).map(|(_, end)| Some(*end))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_history_names_the_ancestors_and_where_each_was_left() {
        let text = "1\t0/3000148\tno recovery target specified\n\n2\t0/5000000\tbefore 2026-11-28 01:00:00+00\n";
        let history = History::parse(3, text).unwrap();
        assert_eq!(history.ancestors, [(1, Lsn(0x300_0148)), (2, Lsn(0x500_0000))]);
        assert_eq!(history.end_of(3, 1), Some(Some(Lsn(0x300_0148))));
        assert_eq!((history.end_of(3, 3), history.end_of(3, 4)), (Some(None), None));
        assert_eq!(History::parse(1, ""), Ok(History::default()));
    }

    /// Regression 499: a recovery to a transaction before a failover ended on timeline 1 and began timeline 3, and PostgreSQL wrote
    /// that 3 left 2 at a position at which 2 had not begun. That history was refused, and the recovery with it.
    #[test]
    fn a_timeline_that_had_not_begun_where_it_was_left_is_not_on_the_way() {
        let ancestors = |text: &str| History::parse(9, text).unwrap().ancestors;
        assert_eq!(ancestors("1\t0/500\n2\t0/300"), [(1, Lsn(0x300))]);
        assert_eq!(ancestors("1\t0/100\n2\t0/500\n3\t0/300"), [(1, Lsn(0x100)), (2, Lsn(0x300))]);
        assert_eq!(ancestors("1\t0/400\n2\t0/500\n3\t0/300\n4\t0/600"), [(1, Lsn(0x300)), (4, Lsn(0x600))]);
    }

    #[test]
    fn what_is_no_history_is_refused() {
        for text in ["", "2 0/1", "x", "1\tnowhere", "2\t0/1\n1\t0/2", "3\t0/1", "0\t0/1"] {
            assert!(History::parse(if text == "2 0/1" { 2 } else { 3 }, text).is_err(), "{text:?}");
        }
    }
}
