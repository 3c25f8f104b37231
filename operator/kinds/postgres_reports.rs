//! Bounds of the report of a supervisor of PostgreSQL: a container that was taken over fills neither the store nor a status. Pure.

use crate::kinds::links::Speech;
use crate::supervisor::wire::{self, Command, Notice, Report, SOCKET};

/// The speech of PostgreSQL's supervisors.
pub enum PostgresSpeech {}

impl Speech for PostgresSpeech {
    type Command = Command;
    type Report = Report;
    const SOCKET: &'static str = SOCKET;
    const LINE: usize = LINE;

    fn bounded(report: Report) -> Result<Report, String> {
        bounded(report)
    }

    fn significant(report: &Report) -> Report {
        wire::significant(report)
    }
}

/// Most bytes of a report. Some 150 of them are for each failover that the cluster had.
pub const LINE: usize = 256 << 10;
/// Bytes of a text for people; the rest is cut off.
const TEXT: usize = 512;
/// Items of a list for people; the rest is left out.
const TEXTS: usize = 32;
/// Most bytes of a name or an ID.
const NAME: usize = 128;
/// Most timelines of a cluster, and standbys of a leader.
const MANY: usize = 2_000;
/// Most bytes of the name of a setting.
const SETTING: usize = 63;
/// The highest term, and the highest revision of decisions: some 10^16 failovers.
const TERM: u64 = 1 << 53;

/// The report with its texts for people cut to their bounds; or why it is refused. What a decision reads is never cut. The
/// texts of its order need no bound: they are only compared with those that were given.
pub fn bounded(mut report: Report) -> Result<Report, String> {
    let leading = report.leading.as_ref();
    let history = leading.map_or(0, |leading| leading.history.len());
    let path = report.recovery.as_ref().map_or(0, |recovery| recovery.path.len());
    if report.timeline_terms.len().max(history).max(path) > MANY {
        return Err(format!("it has more than {MANY} timelines"));
    }
    if standbys(&report).count() > MANY {
        return Err(format!("it has more than {MANY} standbys"));
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
    let catalogs = report.archive.iter_mut().filter_map(|archive| archive.catalog.as_mut());
    catalogs.for_each(|catalog| catalog.gaps.truncate(TEXTS));
    let ids =
        [&report.incarnation, &report.system_identifier, &report.server_version, &report.credentials, &report.tls];
    let names = [&report.boot, &report.run].into_iter().chain(ids.into_iter().flatten()).chain(standbys(&report));
    let names = names.chain(report.receiver.iter().map(|receiver| &receiver.from)).chain(&report.pending_restart);
    let names = names.chain(report.notices.iter().map(|notice| &notice.type_)).chain(archive::names(&report));
    let libraries = report.collations.iter().filter_map(|collations| collations.libraries.as_ref());
    let mut names = names.chain(libraries.flat_map(|found| [Some(&found.libc), found.icu.as_ref()]).flatten());
    let wrong = names.any(|name| name.len() > NAME || name.contains(char::is_control));
    drop(names);
    if wrong {
        return Err(format!("a name in it is longer than {NAME} bytes, or has characters that no name has"));
    }
    if report.pending_restart.iter().any(|name| name.len() > SETTING) {
        return Err(format!("the name of a setting in it is longer than {SETTING} bytes"));
    }
    let job = report.job.iter_mut().filter_map(|job| job.error.as_mut());
    let proof = report.proof.iter_mut().filter_map(|proof| proof.failing.as_mut());
    let collations = report.collations.iter_mut().flat_map(|collations| {
        // Whoever may create databases gives them any name.
        let databases = collations.sorted.iter_mut().flat_map(|sorted| &mut sorted.databases);
        collations.problem.iter_mut().chain(databases)
    });
    let notices = report.notices.iter_mut().map(|notice| &mut notice.message);
    let texts = report.problem.iter_mut().chain(&mut report.tls_problem).chain(&mut report.setting_errors);
    if let Some(recovery) = &mut report.recovery {
        recovery.checks.truncate(TEXTS);
        recovery.unchecked.truncate(TEXTS);
    }
    let archive = archive::texts(
        &mut report.archive,
        report.backup.iter_mut().chain(&mut report.restore).chain(&mut report.point),
    );
    let recovery = archive::recovery_texts(&mut report.recovery);
    texts.chain(job).chain(proof).chain(collations).chain(notices).chain(archive).chain(recovery).for_each(cut);
    Ok(report)
}

/// The voters and the standbys of a leader.
fn standbys(report: &Report) -> impl Iterator<Item = &String> {
    report.leading.iter().flat_map(|leading| {
        let voters = leading.commit.iter().flat_map(|rule| &rule.names);
        voters.chain(leading.replicas.iter().map(|replica| &replica.incarnation))
    })
}

/// The archive, the backup and the restore of a report.
mod archive {
    use crate::kinds::attempts;
    use crate::supervisor::wire::{ArchiveState, BackupState, RecoveryState, Report};

    /// What a decision or a status compares.
    pub fn names(report: &Report) -> impl Iterator<Item = &String> {
        let archive = report.archive.iter().flat_map(|archive| {
            let catalog = archive
                .catalog
                .iter()
                .flat_map(|catalog| catalog.last_backup.iter().chain(&catalog.gaps).chain(&catalog.cut));
            let last = archive.last.iter().map(|(segment, _)| segment).chain(&archive.age_fingerprint);
            [&archive.path]
                .into_iter()
                .chain(last)
                .chain(archive.problem.iter().map(|problem| &problem.reason))
                .chain(catalog)
        });
        let backup = report.backup.iter().chain(&report.restore).chain(&report.point).flat_map(attempts::names);
        let recovery = report.recovery.iter().flat_map(|recovery| {
            let names = [&recovery.backup, &recovery.last_wal].into_iter();
            names.chain(&recovery.wal)
        });
        archive.chain(backup).chain(recovery).chain(&report.archives_held)
    }

    /// What is for people of a recovery.
    pub fn recovery_texts(recovery: &mut Option<RecoveryState>) -> impl Iterator<Item = &mut String> {
        recovery.iter_mut().flat_map(|recovery| {
            let texts = [&mut recovery.doing].into_iter().chain(&mut recovery.error);
            texts.chain(&mut recovery.checks).chain(&mut recovery.unchecked)
        })
    }

    /// What is for people.
    pub fn texts<'a>(
        archive: &'a mut Option<ArchiveState>,
        work: impl Iterator<Item = &'a mut BackupState>,
    ) -> impl Iterator<Item = &'a mut String> {
        let problem = archive.iter_mut().filter_map(|archive| archive.problem.as_mut());
        problem.map(|problem| &mut problem.message).chain(work.filter_map(|work| work.error.as_mut()))
    }
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
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;
    use crate::api::libraries::Libraries;
    use crate::api::lsn::{Fork, Lsn};
    use crate::supervisor::wire::{
        ArchiveProblem, ArchiveState, BackupPhase, BackupSpan, BackupState, CatalogState, Collations, Data, Job,
        JobKind, Leading, Order, Postgres, Promise, Proof, RdbState, Reached, Receiver, RecoveryPart, RecoveryState,
        Replica, Rule, Snapshot, Sorted, Task,
    };

    /// A report with something in every field. A new field must be named here.
    fn full() -> Report {
        let word = || "word".to_owned();
        let fork = Fork { timeline: 1, ended_at: Lsn(1) };
        let order =
            Order { term: 1, revision: 1, task: Task::Prepare, settings: BTreeMap::new(), access: None, archive: None };
        let work = || BackupState {
            id: word(),
            attempt: 1,
            phase: BackupPhase::Running,
            error: Some(word()),
            lasting: true,
            bytes: 1,
            total: 1,
            stored: 1,
            started_at: 1,
            stopped_at: Some(1),
            span: Some(BackupSpan { timeline: 1, begin: Lsn(1), end: Lsn(1), begin_wal: word(), end_wal: word() }),
            snapshot: Some(Snapshot { lsn: Lsn(1), time: 1 }),
            rdb: Some(RdbState { backup: word(), server: word(), replid: word(), offset: 1, time: 1, keys: 1 }),
        };
        Report {
            boot: word(),
            clock_ms: 1,
            promised: 1,
            order: Some(order),
            timeline_terms: [(1, 1)].into(),
            incarnation: Some(word()),
            system_identifier: Some(word()),
            data: Data::Primary,
            postgres: Postgres::Primary,
            run: word(),
            server_version: Some(word()),
            timeline: Some(1),
            lsn: Some(Lsn(1)),
            clean: true,
            promise: Some(Promise { term: 1, timeline: 1, lsn: Lsn(1) }),
            cannot_promise: true,
            receiver: Some(Receiver { streaming: true, from: word(), quiet_ms: 1 }),
            leading: Some(Leading {
                term: 1,
                commit: Some(Rule { names: vec![word()], count: 1 }),
                barrier: true,
                confirmed: true,
                history: vec![fork],
                checkpointed: true,
                replicas: vec![Replica {
                    incarnation: word(),
                    streaming: true,
                    silent_ms: 1,
                    lsn: Lsn(1),
                    lag_bytes: 1,
                }],
            }),
            gate_open: true,
            job: Some(Job { kind: JobKind::Clone, error: Some(word()), failures: 1, running: true }),
            former_wal_end: Some(fork),
            pending_restart: vec![word()],
            setting_errors: vec![word()],
            settings_pending: true,
            notices: vec![Notice::new(Notice::SLOTS_LOST, word())],
            credentials: Some(word()),
            tls: Some(word()),
            tls_problem: Some(word()),
            secures: true,
            archives: true,
            archives_held: Some(word()),
            archive: Some(ArchiveState {
                path: word(),
                conditional_put: Some(true),
                age_fingerprint: Some(word()),
                pushes: true,
                last: Some((word(), 1)),
                waiting: 1,
                waiting_bytes: 1,
                lag_ms: 1,
                problem: Some(ArchiveProblem { reason: word(), message: word() }),
                catalog: Some(CatalogState {
                    backups: 1,
                    last_backup: Some(word()),
                    first_point: Some(1),
                    last_point: Some(1),
                    gaps: vec![word()],
                    cut: Some(word()),
                }),
            }),
            backup: Some(work()),
            restore: Some(work()),
            point: Some(work()),
            recovery: Some(RecoveryState {
                phase: RecoveryPart::Checking,
                failures: 1,
                interruptions: 1,
                error: Some(word()),
                backup: word(),
                path: vec![1],
                bytes: 1,
                total: 1,
                wal: Some(word()),
                last_wal: word(),
                doing: word(),
                steps: 1,
                reached: Some(Reached { lsn: Lsn(1), timeline: 1, last_commit: Some(jiff::Timestamp::UNIX_EPOCH) }),
                checks: vec![word()],
                unchecked: vec![word()],
                started_at: 1,
                stopped_at: Some(1),
            }),
            port_taken: true,
            disk_free: 1,
            proof: Some(Proof { proven_ms: Some(1), failing: Some(word()), hung: true }),
            collations: Some(Collations {
                libraries: Some(Libraries { libc: word(), icu: Some(word()) }),
                sorted: Some(Sorted { libc: 1, icu: 1, databases: vec![word()] }),
                problem: Some(word()),
            }),
            problem: Some(word()),
            start_pending: true,
            terminating: true,
        }
    }

    /// The paths of all fields below a value, with their values.
    fn leaves(at: String, value: &Value, found: &mut Vec<(String, Value)>) {
        let inner: Vec<(String, &Value)> = match value {
            Value::Object(fields) => fields.iter().map(|(name, value)| (format!("{at}/{name}"), value)).collect(),
            Value::Array(items) => items.iter().enumerate().map(|(n, value)| (format!("{at}/{n}"), value)).collect(),
            _ => Vec::new(),
        };
        inner.into_iter().for_each(|(at, value)| leaves(at, value, found));
        found.push((at, value.clone()));
    }

    /// Regression 105: `tlsProblem`, the names of standbys and the types of notices came after the bounds and had none. Each
    /// text, list and table of the message is tried here, so that a new one without a bound fails.
    #[test]
    fn every_text_and_every_list_of_a_report_has_a_bound() {
        let whole = serde_json::to_value(full()).unwrap();
        assert_eq!(serde_json::to_value(bounded(full()).unwrap()).unwrap(), whole);
        let mut all = Vec::new();
        leaves(String::new(), &whole, &mut all);
        let (mut refused, mut cut) = (Vec::new(), Vec::new());
        for (at, value) in all.into_iter().filter(|(at, _)| !at.is_empty() && !at.starts_with("/order")) {
            assert!(!value.is_null() && value != json!([]) && value != json!({}), "fill {at} in this test");
            let large = match &value {
                Value::String(_) => json!("ä\n".repeat(9_000)),
                Value::Array(items) => json!(vec![items[0].clone(); 9_000]),
                Value::Object(fields) if fields.keys().all(|name| name.parse::<u32>().is_ok()) => {
                    (0..9_000).map(|key| (key.to_string(), json!(1))).collect::<serde_json::Map<_, _>>().into()
                }
                _ => continue,
            };
            let mut hostile = whole.clone();
            *hostile.pointer_mut(&at).unwrap() = large;
            // What is no report ends the conversation too.
            let Ok(report) = serde_json::from_value::<Report>(hostile) else { continue };
            let Ok(report) = bounded(report) else {
                refused.push(at);
                continue;
            };
            let left = serde_json::to_value(report).unwrap().pointer(&at).cloned().unwrap();
            match &left {
                Value::String(text) => assert!(text.len() <= 515 && !text.contains('\n'), "{at} has no bound"),
                other => assert!(other.as_array().is_some_and(|items| items.len() <= 32), "{at} has no bound"),
            }
            cut.push(at);
        }
        expect_test::expect![[r#"
            /archive/catalog/gaps
            /archive/problem/message
            /backup/error
            /collations/problem
            /collations/sorted/databases/0
            /collations/sorted/databases
            /job/error
            /notices/0/message
            /notices
            /pendingRestart
            /point/error
            /problem
            /proof/failing
            /recovery/checks/0
            /recovery/checks
            /recovery/doing
            /recovery/error
            /recovery/unchecked/0
            /recovery/unchecked
            /restore/error
            /settingErrors/0
            /settingErrors
            /tlsProblem"#]]
        .assert_eq(&cut.join("\n"));
        expect_test::expect![[r#"
            /archive/ageFingerprint
            /archive/catalog/cut
            /archive/catalog/gaps/0
            /archive/catalog/lastBackup
            /archive/last/0
            /archive/path
            /archive/problem/reason
            /archivesHeld
            /backup/id
            /backup/rdb/backup
            /backup/rdb/replid
            /backup/rdb/server
            /backup/span/beginWal
            /backup/span/endWal
            /begun
            /boot
            /collations/libraries/icu
            /collations/libraries/libc
            /credentials
            /incarnation
            /leading/commit/names/0
            /leading/commit/names
            /leading/history
            /leading/replicas/0/incarnation
            /leading/replicas
            /notices/0/type
            /pendingRestart/0
            /point/id
            /point/rdb/backup
            /point/rdb/replid
            /point/rdb/server
            /point/span/beginWal
            /point/span/endWal
            /receiver/from
            /recovery/backup
            /recovery/lastWal
            /recovery/path
            /recovery/wal
            /restore/id
            /restore/rdb/backup
            /restore/rdb/replid
            /restore/rdb/server
            /restore/span/beginWal
            /restore/span/endWal
            /run
            /serverVersion
            /systemIdentifier
            /tls"#]]
        .assert_eq(&refused.join("\n"));
    }

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
        let why = "a name in it is longer than 128 bytes, or has characters that no name has";
        assert_eq!(refused(Report { incarnation: Some("x".repeat(129)), ..Report::default() }), why);
        assert_eq!(refused(Report { run: "a\u{1b}[2J".into(), ..Report::default() }), why);
        let settings = Report { pending_restart: vec!["x".repeat(64)], ..Report::default() };
        assert_eq!(refused(settings), "the name of a setting in it is longer than 63 bytes");
        let timeline_terms = (0..2_001).map(|timeline| (timeline, 1)).collect();
        assert_eq!(refused(Report { timeline_terms, ..Report::default() }), "it has more than 2000 timelines");
    }
}
