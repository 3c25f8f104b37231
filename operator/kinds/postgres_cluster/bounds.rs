//! Bounds of a supervisor's report: a container that was taken over fills neither the store nor a status. Pure.

use crate::supervisor::wire::{Notice, Report};

/// Most bytes of a report. Some 150 of them are for each failover that the cluster had.
pub const LINE: usize = 256 << 10;
/// Bytes of a text for people; the rest is cut off.
const TEXT: usize = 512;
/// Items of a list for people; the rest is left out.
const TEXTS: usize = 32;
/// Most bytes of a name or an ID.
const NAME: usize = 128;
/// Most bytes of the name of a setting.
const SETTING: usize = 63;
/// The highest term, and the highest revision of decisions: some 10^16 failovers.
const TERM: u64 = 1 << 53;
/// Most timelines of a cluster.
const TIMELINES: usize = 2_000;

/// The report with its texts for people cut to their bounds; or why it is refused. What a decision reads is never cut.
pub fn bounded(mut report: Report) -> Result<Report, String> {
    let leading = report.leading.as_ref();
    let history = leading.map_or(0, |leading| leading.history.len());
    if report.timeline_terms.len().max(history) > TIMELINES {
        return Err(format!("it has more than {TIMELINES} timelines"));
    }
    let orders = report.order.iter().flat_map(|order| [order.term, order.revision]);
    let terms = report.promise.iter().map(|promise| promise.term).chain(leading.map(|leading| leading.term));
    let mut terms = terms.chain(orders).chain(report.timeline_terms.values().copied()).chain([report.promised]);
    if terms.any(|term| term > TERM) {
        return Err("it has a term or revision that no cluster reaches".into());
    }
    let sorted = report.collations.iter_mut().filter_map(|collations| collations.sorted.as_mut());
    sorted.for_each(|sorted| sorted.databases.truncate(TEXTS));
    report.pending_restart.truncate(TEXTS);
    report.setting_errors.truncate(TEXTS);
    report.notices.truncate(Notice::TYPES.len());
    let Report { incarnation, system_identifier, server_version, credentials, tls, .. } = &report;
    let ids = [incarnation, system_identifier, server_version, credentials, tls];
    let names = [&report.boot, &report.run].into_iter().chain(ids.into_iter().flatten());
    let names = names.chain(report.receiver.iter().map(|receiver| &receiver.from)).chain(&report.pending_restart);
    let libraries = report.collations.iter().filter_map(|collations| collations.libraries.as_ref());
    let names = names.chain(libraries.flat_map(|found| [Some(&found.libc), found.icu.as_ref()]).flatten());
    let sorted = report.collations.iter().filter_map(|collations| collations.sorted.as_ref());
    let mut names = names.chain(sorted.flat_map(|sorted| &sorted.databases));
    let wrong = names.any(|name| name.len() > NAME || name.contains(char::is_control));
    drop(names);
    let wrong = wrong || report.pending_restart.iter().any(|name| name.len() > SETTING);
    if wrong {
        return Err(format!(
            "a name in it is longer than {NAME} bytes ({SETTING}: of a setting), or has characters that no name has"
        ));
    }
    let job = report.job.iter_mut().filter_map(|job| job.error.as_mut());
    let proof = report.proof.iter_mut().filter_map(|proof| proof.failing.as_mut());
    let collations = report.collations.iter_mut().filter_map(|collations| collations.problem.as_mut());
    let notices = report.notices.iter_mut().map(|notice| &mut notice.message);
    let texts = report.problem.iter_mut().chain(&mut report.tls_problem).chain(&mut report.setting_errors);
    let texts = texts.chain(job).chain(proof);
    texts.chain(collations).chain(notices).for_each(cut);
    Ok(report)
}

fn cut(text: &mut String) {
    if text.len() > TEXT {
        text.truncate(text.floor_char_boundary(TEXT));
        text.push('…');
    }
    if text.contains(char::is_control) {
        *text = text.replace(char::is_control, " ");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Regression 84: a supervisor that promised the highest number left no number for the next term: the sum overflowed, and
    /// no election was possible any more.
    #[test]
    fn a_term_after_which_there_is_no_next_one_is_refused() {
        let promised = |promised: u64| bounded(Report { promised, ..Report::default() }).is_ok();
        assert!(promised(TERM) && !promised(TERM + 1) && !promised(u64::MAX));
    }

    /// Regression 152: a hostile container sent a report of 0.9 MB with another text some nine times a second; each text went
    /// into the status, and the store grew by 190 MB in 12 s.
    #[test]
    fn a_text_is_cut_and_a_name_or_a_history_without_end_is_refused() {
        let long = || "ä\n".repeat(400_000);
        let texts = Report { problem: Some(long()), setting_errors: vec![long(); 999], ..Report::default() };
        let cut = bounded(texts).unwrap();
        assert_eq!((cut.problem.unwrap().len(), cut.setting_errors.len()), (515, 32));
        // Regression 72: these two were forgotten. One report brought 256 KB into the status.
        let certificates = Report { tls_problem: Some(long()), ..Report::default() };
        assert_eq!(bounded(certificates).unwrap().tls_problem.unwrap().len(), 515);
        assert!(bounded(Report { tls: Some("x".repeat(129)), ..Report::default() }).is_err());
        let told = Report { pending_restart: vec!["work_mem".into(); 99], ..Report::default() };
        assert_eq!(bounded(told).unwrap().pending_restart.len(), 32);
        let refused = |report: Report| bounded(report).unwrap_err();
        let why = "a name in it is longer than 128 bytes (63: of a setting), or has characters that no name has";
        assert_eq!(refused(Report { incarnation: Some("x".repeat(129)), ..Report::default() }), why);
        assert_eq!(refused(Report { run: "a\u{1b}[2J".into(), ..Report::default() }), why);
        let settings = Report { pending_restart: vec!["x".repeat(64)], ..Report::default() };
        assert_eq!(refused(settings), why);
        let timeline_terms = (0..2_001).map(|timeline| (timeline, 1)).collect();
        assert_eq!(refused(Report { timeline_terms, ..Report::default() }), "it has more than 2000 timelines");
    }
}
