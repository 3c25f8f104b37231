//! Bounds of the report of a supervisor of a RedisSentinel: a container that was taken over fills neither the store nor a status. Pure.

use crate::kinds::attempts::names as names_of;
use crate::kinds::links::Speech;
use crate::kinds::redis_reports::{EPOCH, TEXTS, check_names, cut};
use crate::supervisor::redis::wire::{self, Command, Report, SOCKET};

/// The speech of the supervisors of Redis and of Sentinels.
pub enum RedisSpeech {}

/// Most bytes of a report.
const LINE: usize = 128 << 10;
/// Most replicas, and most Sentinels, that a member may know.
const MANY: usize = 64;

impl Speech for RedisSpeech {
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
    names.extend(report.version.iter().chain(&report.credentials).chain(&report.tls).chain(&report.archives_held));
    names.extend(report.backup.iter().chain(&report.restore).flat_map(names_of));
    let mut epochs = Vec::new();
    if let Some(redis) = &report.redis {
        let positions = || redis.last.iter().chain(&redis.demoted);
        names.extend(redis.replid.iter().chain(&redis.promoted_replid).chain(&redis.paused));
        names.extend(positions().map(|position| &position.replid));
        names.extend(redis.pending_restart.iter().chain([&redis.usage.eviction_policy]));
        epochs.extend(redis.order.iter().flat_map(|order| [order.epoch, order.revision]));
        epochs.extend(redis.promoted.into_iter().chain(positions().map(|position| position.epoch)));
        if redis.replicas.len() > MANY {
            return Err(format!("it has more than {MANY} replicas"));
        }
    }
    if let Some(sentinel) = &report.sentinel {
        names.extend(sentinel.id.iter().chain(sentinel.sentinels.iter().map(|one| &one.id)));
        names.extend(sentinel.answer.iter().map(|answer| &answer.id));
        epochs.extend(sentinel.master.iter().map(|master| master.config_epoch));
        if sentinel.replicas.len().max(sentinel.sentinels.len()) > MANY {
            return Err(format!("it knows more than {MANY} replicas or Sentinels"));
        }
    }
    check_names(names)?;
    if epochs.into_iter().any(|epoch| epoch > EPOCH) {
        return Err("it has an epoch or revision that no group reaches".into());
    }
    let mut texts: Vec<&mut String> = report.problem.iter_mut().collect();
    texts.extend(report.backup.iter_mut().chain(&mut report.restore).filter_map(|work| work.error.as_mut()));
    if let Some(redis) = &mut report.redis {
        redis.config_errors.truncate(TEXTS);
        redis.pending_restart.truncate(TEXTS);
        texts.extend(redis.config_errors.iter_mut().chain(&mut redis.alone));
    }
    if let Some(sentinel) = &mut report.sentinel {
        texts.extend(
            sentinel.no_quorum.iter_mut().chain(sentinel.answer.iter_mut().filter_map(|one| one.refused.as_mut())),
        );
    }
    cut(texts);
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::redis::wire::{BackupState, RdbState};

    #[test]
    fn the_names_and_the_words_of_a_backup_and_a_restore_have_a_bound() {
        let long = "x".repeat(10_000);
        let work = |name: &str, error: &str| BackupState {
            id: "20261130T030000".into(),
            error: Some(error.to_owned()),
            rdb: Some(RdbState { server: name.to_owned(), ..RdbState::default() }),
            ..BackupState::default()
        };
        let of = |name: &str, error: &str| Report { restore: Some(work(name, error)), ..Report::default() };
        assert!(bounded(of(&long, "")).is_err() && bounded(of("7\n", "")).is_err());
        let cut = bounded(of("7.0.15", &long)).map(|report| report.restore.and_then(|one| one.error));
        assert!(cut.is_ok_and(|error| error.is_some_and(|error| error.len() < 600)));
    }
}
