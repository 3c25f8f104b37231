//! The restore tests of a cluster's Backups: `status.backup.lastVerified`, and the condition `RestoreTested`. Its own decisions do
//! not depend on them.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::view::ClusterView;
use super::{BackupsSeen, RestoreTest};
use crate::api::backup::{BackedUp, BackedUpKind, Backup, VerificationResult};
use crate::api::conditions::{Verdict, no, set, yes};
use crate::api::duration::Span;
use crate::api::object::Object as _;
use crate::api::postgres_backup::LastVerified;
use crate::api::postgres_cluster::{PostgresCluster, PostgresClusterStatus, Stage};
use crate::store::Error;
use crate::store::objects::Objects;

/// The condition.
const RESTORE_TESTED: &str = "RestoreTested";

/// The name of the cluster of a Backup.
pub fn cluster_of(backup: &Value) -> Vec<String> {
    backup["spec"]["cluster"]["name"].as_str().map(str::to_owned).into_iter().collect()
}

/// The part of a Backup that matters here.
pub fn part(backup: &Value) -> Value {
    let status = &backup["status"];
    json!([status["verification"]["endedAt"], status["verified"]])
}

/// The Backups, and their tests that have ended. They are not read while a primary is being chosen: nothing then waits for what it does not need.
pub async fn read(objects: &Objects, object: &PostgresCluster) -> Result<Option<BackupsSeen>, Error> {
    let decisions = object.status.as_ref().and_then(|status| status.decisions.as_ref());
    let steady = decisions.is_some_and(|decisions| decisions.stage == Stage::Steady);
    if object.spec.backup.is_none() || !steady {
        return Ok(None);
    }
    let (all, _) = objects.list::<Backup>(Backup::RESOURCE, Some(object.namespace())).await?;
    let ours = all.iter().filter(|backup| is_of(backup.cluster(), object.name()));
    let names = ours.clone().map(|backup| backup.name().to_owned()).collect();
    Ok(Some(BackupsSeen { names, tests: ours.filter_map(ended).collect() }))
}

/// Whether a Backup is of the PostgresCluster of this name.
fn is_of(cluster: &BackedUp, name: &str) -> bool {
    cluster.kind == BackedUpKind::PostgresCluster && cluster.name == name
}

fn ended(backup: &Backup) -> Option<RestoreTest> {
    let status = backup.status.as_ref()?;
    let test = status.verification.as_ref();
    let passed_at = status.verified.as_ref().map(|verified| verified.at);
    Some(RestoreTest {
        backup: backup.name().to_owned(),
        at: test.and_then(|test| test.ended_at).or(passed_at)?,
        failure: test.filter(|test| test.result == VerificationResult::Failed).map(|test| test.message.clone()),
        passed_at,
    })
}

/// Fills in what is known of restore tests.
pub fn render(view: &ClusterView, status: &mut PostgresClusterStatus, seen: Option<&BackupsSeen>) {
    let max_age = view.object.spec.backup.as_ref().and_then(|backup| backup.verify.as_ref()).map(|one| one.max_age);
    if max_age.is_none() {
        status.conditions.retain(|condition| condition.type_ != RESTORE_TESTED);
    }
    let (Some(BackupsSeen { tests: seen, .. }), Some(told)) = (seen, &mut status.backup) else { return };
    // What was verified stays known when the Backup is deleted.
    let passed = seen.iter().filter_map(|test| Some(LastVerified { backup: test.backup.clone(), at: test.passed_at? }));
    told.last_verified = passed.chain(told.last_verified.take()).max_by_key(|one| (one.at, one.backup.clone()));
    if let Some(max_age) = max_age {
        let verdict = verdict(seen, told.last_verified.as_ref(), max_age, view.now);
        set(&mut status.conditions, RESTORE_TESTED, verdict, status.observed_generation, view.now);
    }
}

fn verdict(seen: &[RestoreTest], verified: Option<&LastVerified>, max_age: Span, now: Timestamp) -> Verdict {
    let last = seen.iter().max_by_key(|test| test.at);
    let failed = last.and_then(|test| Some((test, test.failure.as_ref()?)));
    match (failed, verified) {
        (Some((test, why)), verified) if verified.is_none_or(|verified| verified.at <= test.at) => {
            no("RestoreFailed", format!("the restore test of Backup {} failed at {}: {why}", test.backup, test.at))
        }
        (_, None) => no("NeverTested", "no Backup was restored and checked yet: run `evenkeel verify BACKUP`"),
        (_, Some(LastVerified { backup, at })) => {
            let age = std::time::Duration::try_from(now.duration_since(*at)).unwrap_or_default();
            match age > max_age.get() {
                true => {
                    no("TooOld", format!("Backup {backup} was restored and checked at {at}, more than {max_age} ago"))
                }
                false => yes("Verified", format!("Backup {backup} was restored and checked at {at}")),
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Regression 430: a Backup of a RedisSentinel counted as one of the PostgresCluster of the same name. The refused restore test of
    /// a snapshot made `RestoreTested` of that cluster False.
    #[test]
    fn a_backup_of_another_kind_with_the_same_name_says_nothing_of_a_cluster() {
        let of = |kind| BackedUp { kind, name: "db".into() };
        assert!(is_of(&of(BackedUpKind::PostgresCluster), "db") && !is_of(&of(BackedUpKind::PostgresCluster), "other"));
        assert!(!is_of(&of(BackedUpKind::RedisSentinel), "db"));
    }

    #[test]
    fn a_cluster_is_tested_while_its_last_test_passed_and_is_young() {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let test = |backup: &str, second: i64, failure: Option<&str>| RestoreTest {
            backup: backup.into(),
            at: at(second),
            failure: failure.map(str::to_owned),
            passed_at: failure.is_none().then(|| at(second)),
        };
        let passed = |second: i64| LastVerified { backup: "a".into(), at: at(second) };
        let mut told = String::new();
        for (seen, verified, now) in [
            (vec![], None, 0),
            (vec![test("a", 10, None)], Some(passed(10)), 3610),
            (vec![test("a", 10, None)], Some(passed(10)), 3611),
            (vec![test("a", 10, None), test("b", 20, Some("page 3 is damaged"))], Some(passed(10)), 30),
            (vec![test("b", 5, Some("page 3 is damaged")), test("a", 10, None)], Some(passed(10)), 30),
            // The Backup that passed was deleted since.
            (vec![], Some(passed(10)), 30),
        ] {
            let Verdict { status, reason, message } = verdict(&seen, verified.as_ref(), Span::seconds(3600), at(now));
            told += &format!("{} {reason}: {message}\n", status.as_str());
        }
        expect_test::expect![[r#"
            False NeverTested: no Backup was restored and checked yet: run `evenkeel verify BACKUP`
            True Verified: Backup a was restored and checked at 1970-01-01T00:00:10Z
            False TooOld: Backup a was restored and checked at 1970-01-01T00:00:10Z, more than 1h ago
            False RestoreFailed: the restore test of Backup b failed at 1970-01-01T00:00:20Z: page 3 is damaged
            True Verified: Backup a was restored and checked at 1970-01-01T00:00:10Z
            True Verified: Backup a was restored and checked at 1970-01-01T00:00:10Z
        "#]]
        .assert_eq(&told);
    }
}
