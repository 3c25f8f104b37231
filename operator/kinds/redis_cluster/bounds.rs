//! Bounds of a supervisor's report: a container that was taken over fills neither the store nor a status. Pure.

use crate::kinds::links::Speech;
use crate::kinds::redis_reports::{EPOCH, TEXTS, check_names, cut};
use crate::supervisor::redis::cluster::wire::{self, Command, Report, SLOTS, SOCKET};

/// The speech of the supervisors of a Redis Cluster.
pub enum ClusterSpeech {}

/// Most bytes of a report: slots may be scattered.
const LINE: usize = 512 << 10;
/// Most nodes that a node may know.
const MANY: usize = 64;
/// Most ranges of slots of one node.
const RANGES: usize = SLOTS as usize;

impl Speech for ClusterSpeech {
    type Command = Command;
    type Report = Report;
    const SOCKET: &'static str = SOCKET;
    const LINE: usize = LINE;
    const KEEPALIVE: Option<fn() -> Command> = Some(|| Command::Here);

    fn bounded(report: Report) -> Result<Report, String> {
        bounded(report)
    }

    fn significant(report: &Report) -> Report {
        wire::significant(report)
    }
}

/// The report with its texts for people cut to their bounds; or why it is refused. What a decision reads is never cut.
fn bounded(mut report: Report) -> Result<Report, String> {
    let mut names: Vec<&String> = vec![&report.boot, &report.run];
    names.extend(report.version.iter().chain(&report.credentials).chain(&report.tls).chain(&report.acting));
    names.extend(report.answer.iter().map(|answer| &answer.id).chain(&report.pending_restart));
    if report.fed.as_ref().is_some_and(|fed| fed.len() > MANY) {
        return Err(format!("it has more than {MANY} replicas"));
    }
    if let Some(node) = &report.node {
        if node.known.len() > MANY {
            return Err(format!("it knows more than {MANY} nodes"));
        }
        let open = node.migrating.iter().chain(&node.importing);
        if open.clone().count() > RANGES {
            return Err("it moves more slots than there are".into());
        }
        names.extend(open.map(|(_, id)| id));
        for one in node.known.iter().chain([&node.own]) {
            names.extend([&one.id].into_iter().chain(&one.master));
            if one.epoch > EPOCH {
                return Err("it has an epoch that no cluster reaches".into());
            }
            if one.slots.len() > RANGES || one.slots.iter().any(|(from, to)| from > to || *to >= SLOTS) {
                return Err("it has slots that do not exist".into());
            }
        }
    }
    check_names(names)?;
    report.config_errors.truncate(TEXTS);
    report.pending_restart.truncate(TEXTS);
    let mut texts: Vec<&mut String> = report.problem.iter_mut().chain(&mut report.config_errors).collect();
    texts.extend(report.answer.iter_mut().filter_map(|answer| answer.refused.as_mut()));
    cut(texts);
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::redis::cluster::wire::{Known, Node};

    /// Regression 392: a report that names slots beyond the last one would have made the operator count them.
    #[test]
    fn what_no_cluster_has_is_refused() {
        let with = |own: Known| bounded(Report { node: Some(Node { own, ..Node::default() }), ..Report::default() });
        assert!(with(Known { slots: vec![(0, 16383)], ..Known::default() }).is_ok());
        for own in [
            Known { slots: vec![(0, 16384)], ..Known::default() },
            Known { slots: vec![(9, 3)], ..Known::default() },
            Known { epoch: u64::MAX, ..Known::default() },
            Known { id: "x\n".into(), ..Known::default() },
        ] {
            assert!(with(own.clone()).is_err(), "{own:?}");
        }
        let long = Report { problem: Some("é\n".repeat(1_000)), ..Report::default() };
        assert!(
            bounded(long).unwrap_or_default().problem.is_some_and(|text| text.len() <= 515 && !text.contains('\n'))
        );
    }
}
