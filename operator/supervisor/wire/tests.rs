//! Compatibility with the previous release, checked with its recorded messages (`released.json`).

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::supervisor::state::Durable;

/// Values of every shape, as version 0.1.0 wrote them.
fn recorded(what: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(include_str!("released.json")).expect("the record is JSON");
    all[what].as_array().cloned().unwrap_or_default()
}

fn read<T: DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{error}\n{value:#}"))
}

fn written(value: &impl Serialize) -> Value {
    serde_json::to_value(value).expect("plain data")
}

/// Whether `more` contains everything in `less`.
fn says_all_of(more: &Value, less: &Value) -> bool {
    match (more, less) {
        (Value::Object(more), Value::Object(less)) => {
            less.iter().all(|(name, less)| more.get(name).is_some_and(|more| says_all_of(more, less)))
        }
        (Value::Array(more), Value::Array(less)) => {
            more.len() == less.len() && more.iter().zip(less).all(|(more, less)| says_all_of(more, less))
        }
        _ => more == less,
    }
}

/// Today's type reads each record and writes all of it again, and the released type reads today's output as
/// the same value.
fn check<Today: DeserializeOwned + Serialize, Released: DeserializeOwned + PartialEq>(what: &str) {
    let records = recorded(what);
    assert!(!records.is_empty(), "no {what}");
    for record in records {
        let today = written(&read::<Today>(&record));
        assert!(says_all_of(&today, &record), "lost of {record:#}\nin {today:#}");
        assert!(read::<Released>(&today) == read::<Released>(&record), "another meaning: {today:#}");
    }
}

#[test]
fn commands_of_the_release_before_and_of_today_are_read_by_either_side() {
    check::<Command, released::Command>("commands");
}

#[test]
fn reports_of_the_release_before_and_of_today_are_read_by_either_side() {
    check::<Report, released::Report>("reports");
}

#[test]
fn a_data_volume_may_go_from_one_release_to_the_other_and_back() {
    check::<Durable, released::Durable>("durable");
}

#[test]
fn a_field_that_is_not_known_is_passed_over() {
    let mut report = recorded("reports").pop().expect("a report");
    report["ofTheNextVersion"] = json!({"any": 1});
    read::<Report>(&report);
    read::<Command>(&json!({"renew": {"term": 1, "clockMs": 2, "ofTheNextVersion": true}}));
}

/// An unknown variant is an error to the previous release. Who adds a variant adds its arm here, and sends it only to
/// supervisors that have reported that they know it.
#[test]
fn no_word_is_new_since_the_release_before() {
    for command in recorded("commands").iter().map(read::<Command>) {
        match command {
            Command::Order(order) => match order.task {
                Task::Prepare | Task::Lead(_) | Task::Follow(_) | Task::Stop { .. } => {}
            },
            Command::Credentials(_) | Command::Restart { .. } | Command::Renew { .. } => {}
            // Only for supervisors that report that they archive.
            Command::Archives(_)
            | Command::Backup(_)
            | Command::RestoreDump(_)
            | Command::SwitchWal { .. }
            | Command::RestorePoint(_) => {}
        }
    }
    for report in recorded("reports").iter().map(read::<Report>) {
        match report.data {
            Data::Unknown | Data::None | Data::Standby | Data::Primary | Data::Broken => {}
        }
        match report.postgres {
            Postgres::Stopped | Postgres::Starting | Postgres::Standby | Postgres::Primary | Postgres::Stopping => {}
        }
        match report.job.map(|job| job.kind) {
            None | Some(JobKind::Init | JobKind::Clone | JobKind::Recover | JobKind::Rewind | JobKind::Restore) => {}
        }
    }
}
