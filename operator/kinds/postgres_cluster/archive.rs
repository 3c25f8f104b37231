//! The archive of a cluster: which folder of the store it has, which supervisors lack what opens it, and what people are told. Pure.
//!
//! Nothing of an election, a switchover or a rollout depends on it.

use super::decided::Blocker;
use super::view::{ClusterView, Member};
use super::{BackupsSeen, Step};
use crate::api::conditions::{Verdict, no, set, unknown, yes};
use crate::api::object::Object as _;
use crate::api::postgres_backup::{Backlog, BackupStatus};
use crate::api::postgres_cluster::{Decisions, PostgresCluster, PostgresClusterStatus};
use crate::kinds::stores::ArchivesSeen;
use crate::supervisor::wire::ArchiveState;

/// The condition.
const ARCHIVE_HEALTHY: &str = "ArchiveHealthy";
/// Digits of the object's UID in the name of its archive.
const EPOCH: usize = 8;
/// WAL that is older than this many times `wal.maxAge` lags behind.
const LAGGING: u64 = 3;

/// The folder of the archive below the store's prefix: `NAMESPACE.NAME/SYSTEM_IDENTIFIER-EPOCH`; `None`: there is none.
///
/// It belongs to one data directory's history and one object: a restored cluster has the system identifier of its source, and
/// an object that was deleted and made again may have the volumes of another. Once decided it stays.
pub fn path(view: &ClusterView, decisions: &Decisions) -> Option<String> {
    let object = view.object;
    object.spec.backup.as_ref()?;
    // While an adoption does not know the system identifier yet, what the instances remember holds: WAL that is not archived must
    // not be forgotten meanwhile.
    let system_identifier = decisions.system_identifier.as_deref();
    let of_this_data = |path: &&String| {
        let folder = path.rsplit('/').next().unwrap_or_default();
        system_identifier.is_none() || folder.split('-').next() == system_identifier
    };
    let decided = decisions.archive.as_ref().filter(of_this_data);
    // The record was lost: an instance still has it.
    let adopted = || {
        let orders = view.members.iter().filter_map(|member| member.live()?.order.as_ref());
        let known = orders.filter_map(|order| Some((order.term, order.archive.as_ref().filter(of_this_data)?)));
        known.max().map(|(_, path)| path.clone())
    };
    decided.cloned().or_else(adopted).or_else(|| Some(new(object, system_identifier?)))
}

fn new(object: &PostgresCluster, system_identifier: &str) -> String {
    let owner = object.owner();
    let uid = object.metadata.uid.as_deref().unwrap_or_default();
    let epoch: String = uid.chars().filter(char::is_ascii_hexdigit).take(EPOCH).collect();
    format!("{}.{}/{system_identifier}-{epoch}", owner.namespace, owner.name)
}

/// Why the data that the cluster is to be recovered from cannot be reached. Nothing is made instead of it.
pub fn no_source(object: &PostgresCluster, before: &Decisions, seen: &ArchivesSeen) -> Option<Blocker> {
    let needed = object.spec.bootstrap.recovery.is_some() && before.system_identifier.is_none();
    let (reason, message) = seen.problem.as_ref().filter(|_| needed)?;
    Some(Blocker::new(reason, message.clone()))
}

/// What opens the archive, to each supervisor that has something else.
pub fn steps(view: &ClusterView, seen: &ArchivesSeen) -> Vec<Step> {
    let Some(wanted) = &seen.hash else { return Vec::new() };
    let lacks = |member: &&Member| {
        member.live().is_some_and(|report| {
            report.archives && report.archives_held.as_deref().unwrap_or_default() != wanted.as_str()
        })
    };
    let members = view.members.iter().filter(lacks);
    members.map(|member| Step::SendArchives { member: member.place.name.clone() }).collect()
}

/// The base backup that is made after a gap: nothing after it can be restored before. It is made once.
pub fn after_gap(view: &ClusterView, decisions: &Decisions, seen: Option<&BackupsSeen>) -> Option<Step> {
    let state = state(view, decisions).filter(|state| state.pushes && state.problem.is_none())?;
    let gap = state.catalog.as_ref()?.cut.clone()?;
    let name = gap_backup(view.object.name(), &gap);
    (!seen?.names.contains(&name)).then_some(Step::BackUp { name, gap })
}

/// The name of the Backup that is made after a gap `FIRST-LAST`.
fn gap_backup(cluster: &str, gap: &str) -> String {
    let first = gap.split('-').next().unwrap_or_default();
    format!("{cluster}-gap-{}", first.to_lowercase())
}

/// What the leader says of the archive.
fn state<'a>(view: &'a ClusterView, decisions: &Decisions) -> Option<&'a ArchiveState> {
    let leader = decisions.leader_name().and_then(|name| view.member(name)?.live())?;
    leader.archive.as_ref().filter(|state| decisions.archive.as_ref() == Some(&state.path))
}

/// `status.backup`, and the condition `ArchiveHealthy`.
pub fn render(view: &ClusterView, status: &mut PostgresClusterStatus, decisions: &Decisions, seen: &ArchivesSeen) {
    let Some(spec) = &view.object.spec.backup else {
        status.backup = None;
        return status.conditions.retain(|condition| condition.type_ != ARCHIVE_HEALTHY);
    };
    let leader = decisions.leader_name().and_then(|name| view.member(name)?.live());
    let state = state(view, decisions);
    if let Some(path) = &decisions.archive {
        let mut told = status.backup.take().filter(|told| told.archive == *path).unwrap_or_default();
        told.archive.clone_from(path);
        if let Some(state) = state {
            tell(view, &mut told, state);
        }
        status.backup = Some(told);
    }
    let max_age_ms = spec.wal.max_age.as_millis();
    let verdict = match (&seen.problem, leader, state) {
        (Some((reason, message)), ..) => no(reason, message.clone()),
        (None, Some(report), _) if !report.archives => no(
            "SupervisorOutdated",
            "the supervisor of the primary is of an older version and archives nothing: let the update replace its container",
        ),
        (None, _, Some(state)) => health(view.object.name(), state, max_age_ms),
        (None, _, None) => unknown("NotKnown", "the primary has not said how its archive is"),
    };
    set(&mut status.conditions, ARCHIVE_HEALTHY, verdict, status.observed_generation, view.now);
}

fn tell(view: &ClusterView, told: &mut BackupStatus, state: &ArchiveState) {
    told.conditional_put = state.conditional_put.or(told.conditional_put);
    if let Some((segment, age_ms)) = &state.last {
        let new = told.last_archived_wal.as_ref() != Some(segment);
        told.last_archived_wal = Some(segment.clone());
        let age = std::time::Duration::from_millis(*age_ms);
        told.archived_at = told.archived_at.filter(|_| !new).or_else(|| view.now.checked_sub(age).ok());
    }
    if state.pushes {
        told.age_fingerprint.clone_from(&state.age_fingerprint);
    }
    told.backlog = Some(Backlog { segments: state.waiting, bytes: state.waiting_bytes });
    if let Some(catalog) = &state.catalog {
        let time = |seconds: i64| jiff::Timestamp::from_second(seconds).ok();
        told.first_recoverability_point = catalog.first_point.and_then(time);
        told.last_recoverability_point = catalog.last_point.and_then(time);
        told.last_backup.clone_from(&catalog.last_backup);
        told.backups = catalog.backups;
        told.gaps.clone_from(&catalog.gaps);
    }
}

/// By the age of the oldest WAL that is not in the archive, and not by the last error.
fn health(cluster: &str, state: &ArchiveState, max_age_ms: u64) -> Verdict {
    let lag = state.lag_ms / 1_000;
    let lags = state.lag_ms > LAGGING * max_age_ms.max(10_000);
    match &state.problem {
        Some(problem) => no(&problem.reason, format!("{}; WAL has waited for {lag} s", problem.message)),
        None if !state.pushes => unknown("NotPushing", "the primary serves nobody yet, so it archives nothing"),
        None if lags => no(
            "Lagging",
            format!(
                "{} WAL segments wait, the oldest for {lag} s: the store or the way to it is too slow",
                state.waiting
            ),
        ),
        None => match state.catalog.as_ref().and_then(|catalog| catalog.cut.as_ref()) {
            Some(gap) => no(
                "ArchiveGap",
                format!(
                    "WAL {gap} is missing in the archive: nothing after it can be restored until there is another base backup; Backup {} is to make it",
                    gap_backup(cluster, gap)
                ),
            ),
            None if state.conditional_put == Some(false) => yes(
                "Archiving",
                "WAL is archived; this store ignores conditional writes, so two clusters that write to one archive are noticed late",
            ),
            None => yes("Archiving", "WAL is archived"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::wire::{ArchiveProblem, CatalogState};

    fn shown(state: ArchiveState) -> String {
        let Verdict { status, reason, message } = health("db", &state, 60_000);
        format!("{} {reason}: {message}\n", status.as_str())
    }

    /// By the age of what is not archived: an error that was overcome is not told for ever, and a store that takes everything
    /// slowly is not healthy.
    #[test]
    fn an_archive_is_as_healthy_as_its_oldest_unarchived_wal_is_young() {
        let pushes = || ArchiveState { pushes: true, ..ArchiveState::default() };
        let problem = ArchiveProblem { reason: "StoreDenied".into(), message: "writing x in s3://b: 403".into() };
        let healed = CatalogState { gaps: vec!["A-B".into()], ..CatalogState::default() };
        let cut = CatalogState { cut: Some("A-B".into()), ..healed.clone() };
        let told = [
            ArchiveState::default(),
            pushes(),
            ArchiveState { conditional_put: Some(false), ..pushes() },
            ArchiveState { waiting: 3, lag_ms: 200_000, ..pushes() },
            ArchiveState { lag_ms: 5_000, problem: Some(problem), ..pushes() },
            ArchiveState { catalog: Some(cut), ..pushes() },
            ArchiveState { catalog: Some(healed), ..pushes() },
        ];
        expect_test::expect![[r#"
            Unknown NotPushing: the primary serves nobody yet, so it archives nothing
            True Archiving: WAL is archived
            True Archiving: WAL is archived; this store ignores conditional writes, so two clusters that write to one archive are noticed late
            False Lagging: 3 WAL segments wait, the oldest for 200 s: the store or the way to it is too slow
            False StoreDenied: writing x in s3://b: 403; WAL has waited for 5 s
            False ArchiveGap: WAL A-B is missing in the archive: nothing after it can be restored until there is another base backup; Backup db-gap-a is to make it
            True Archiving: WAL is archived
        "#]]
        .assert_eq(&told.into_iter().map(shown).collect::<String>());
    }

    #[test]
    fn the_base_backup_after_a_gap_is_named_after_the_gap_so_that_it_is_made_once() {
        let gap = "00000001000000000000000A-00000001000000000000001F";
        assert_eq!(gap_backup("db", gap), "db-gap-00000001000000000000000a");
    }

    #[test]
    fn an_archive_is_named_after_the_data_and_the_object() {
        let mut object = PostgresCluster::new("db", serde_saphyr::from_str("image: postgres:15").expect("a spec"));
        object.metadata.namespace = Some("prod".into());
        object.metadata.uid = Some("5f0c01aa-77de-4a0b-9c1e-000000000000".into());
        assert_eq!(new(&object, "7412"), "prod.db/7412-5f0c01aa");
    }
}
