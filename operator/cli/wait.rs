//! `evenkeel wait`: waits until a condition holds, a field has a value, or an object is gone. A condition of
//! an older generation does not count.

use std::str::FromStr;
use std::time::Duration;

use serde_json::Value;

use super::discovery::{self, Resource};
use super::error::Error;
use super::follow::{Event, Follow};
use super::render;
use super::session::{Session, duration};

/// Waits for objects.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// KIND NAME... or KIND/NAME...
    #[arg(required = true, value_name = "KIND NAME")]
    words: Vec<String>,
    /// condition=TYPE[=STATUS], jsonpath={.path}=VALUE, or delete
    #[arg(long = "for", value_name = "WHAT")]
    goal: Goal,
    /// How long to wait for all of them
    #[arg(long, value_parser = duration, default_value = "5m", value_name = "TIME")]
    timeout: Duration,
}

/// The goal of a wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Goal {
    /// A condition has a status.
    Condition {
        /// Its type, e.g. `Ready`.
        kind: String,
        /// The status it must have, e.g. `True`.
        status: String,
    },
    /// A field has a value.
    Field {
        /// JSON pointer.
        pointer: String,
        /// Its text.
        value: String,
    },
    /// The object is gone.
    Delete,
}

impl FromStr for Goal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "delete" {
            return Ok(Self::Delete);
        }
        match text.split_once('=') {
            Some(("condition", condition)) if !condition.is_empty() => {
                let (kind, status) = condition.split_once('=').unwrap_or((condition, "True"));
                Ok(Self::Condition { kind: kind.to_owned(), status: status.to_owned() })
            }
            Some(("jsonpath", rest)) => field_goal(rest),
            _ => {
                Err("write condition=Ready, condition=Ready=False, jsonpath={.status.phase}=Healthy or delete"
                    .to_owned())
            }
        }
    }
}

fn field_goal(text: &str) -> Result<Goal, String> {
    let (path, value) = text.split_once('=').ok_or("write jsonpath={.status.phase}=Healthy")?;
    let path = path.trim_matches(['\'', '"', '{', '}']);
    if !path.starts_with('.') || path.contains(['*', '?', '@', '$']) {
        return Err(format!("{path:?} is not a plain path such as .status.instances[0].role"));
    }
    let pointer = path.replace(['.', '['], "/").replace(']', "");
    Ok(Goal::Field { pointer, value: value.trim_matches(['\'', '"']).to_owned() })
}

impl std::fmt::Display for Goal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Condition { kind, status } => write!(f, "condition {kind}={status}"),
            Self::Field { pointer, value } => write!(f, "{}={value}", pointer.replace('/', ".")),
            Self::Delete => f.write_str("deletion"),
        }
    }
}

impl Goal {
    /// Whether an object (`None`: not there) has reached the goal.
    pub fn reached(&self, object: Option<&Value>) -> bool {
        let Some(object) = object else { return *self == Self::Delete };
        match self {
            Self::Delete => false,
            Self::Condition { kind, status } => condition_holds(object, kind, status),
            Self::Field { pointer, value } => {
                object.pointer(pointer).is_some_and(|found| render::cell(found) == *value)
            }
        }
    }
}

/// Whether a condition has this status for the current generation.
fn condition_holds(object: &Value, kind: &str, status: &str) -> bool {
    let generation = object["metadata"]["generation"].as_i64().unwrap_or(0);
    let current = |seen: &Value| seen.as_i64().is_none_or(|seen| seen >= generation);
    let holds = |condition: &Value| {
        condition["type"].as_str().is_some_and(|found| found.eq_ignore_ascii_case(kind))
            && condition["status"].as_str().is_some_and(|found| found.eq_ignore_ascii_case(status))
            && current(&condition["observedGeneration"])
    };
    let conditions = object["status"]["conditions"].as_array();
    current(&object["status"]["observedGeneration"]) && conditions.is_some_and(|all| all.iter().any(holds))
}

/// Runs the verb.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<(), Error> {
    let catalog = session.client.catalog().await?;
    let mut targets = Vec::new();
    for (kind, name) in discovery::targets(&args.words)? {
        let name = name.ok_or_else(|| Error::Usage(format!("say which {kind} to wait for, by name")))?;
        targets.push((catalog.resolve(&kind)?.clone(), name));
    }
    let mut last = None;
    let mut waiting = None;
    let all = async {
        for (resource, name) in &targets {
            waiting = Some((resource, name));
            until(&args.goal, resource, name, &mut last, session).await?;
            let met = if args.goal == Goal::Delete { "deleted" } else { "condition met" };
            writeln!(session.out, "{}/{name} {met}", resource.label())?;
        }
        Ok(())
    };
    match tokio::time::timeout(args.timeout, all).await {
        Ok(result) => result,
        Err(_) => {
            let of = waiting.map(|(resource, name)| format!("{}/{name}", resource.label())).unwrap_or_default();
            Err(session.timed_out(format!("{} of {of}", args.goal), args.timeout, last.as_ref())?)
        }
    }
}

/// Waits until one object reaches the goal; keeps its last state in `last`.
pub(super) async fn until(
    goal: &Goal,
    resource: &Resource,
    name: &str,
    last: &mut Option<Value>,
    session: &Session<'_>,
) -> Result<(), Error> {
    *last = session.client.object(resource, &session.namespace, name).await?;
    // From the state that was read (regression 319): one that goes before the watch begins sends no event in it.
    let since = last.as_ref().and_then(|object| object["metadata"]["resourceVersion"].as_str()).unwrap_or_default();
    let mut follow = Follow::object(&session.client, resource, &session.namespace, name).since(since);
    if last.is_none() && *goal != Goal::Delete {
        return Err(Error::NotFound(format!("{} {name:?} not found", resource.label())));
    }
    while !goal.reached(last.as_ref()) {
        *last = match follow.next().await? {
            Event::Changed(object) => Some(object),
            Event::Deleted(_) if *goal == Goal::Delete => None,
            Event::Deleted(_) => {
                return Err(Error::NotFound(format!("{} {name:?} was deleted meanwhile", resource.label())));
            }
            Event::Restarted => session.client.object(resource, &session.namespace, name).await?,
        };
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn goal(text: &str) -> Goal {
        text.parse().unwrap()
    }

    #[test]
    fn a_condition_of_an_older_spec_does_not_count() {
        let object = |generation: i64, seen: i64| {
            json!({"metadata": {"generation": generation}, "status": {"observedGeneration": seen, "conditions":
                [{"type": "Ready", "status": "True", "observedGeneration": seen}]}})
        };
        assert!(goal("condition=Ready").reached(Some(&object(2, 2))));
        assert!(!goal("condition=Ready").reached(Some(&object(2, 1))));
        assert!(!goal("condition=Ready=False").reached(Some(&object(2, 2))));
        assert!(!goal("condition=Degraded").reached(Some(&object(2, 2))));
    }

    #[test]
    fn fields_and_deletion_can_be_waited_for() {
        let object = json!({"status": {"phase": "Healthy", "instances": [{"role": "primary"}]}});
        assert!(goal("jsonpath={.status.phase}=Healthy").reached(Some(&object)));
        assert!(goal("jsonpath='{.status.instances[0].role}'=primary").reached(Some(&object)));
        assert!(!goal("jsonpath={.status.term}=1").reached(Some(&object)));
        assert!(goal("delete").reached(None) && !goal("delete").reached(Some(&object)));
        assert!("ready".parse::<Goal>().unwrap_err().contains("condition=Ready"));
        assert!("jsonpath={.a[*]}=1".parse::<Goal>().is_err());
    }
}
