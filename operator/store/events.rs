//! Events: what happened to an object, for people. A repeated Event is counted, not stored again.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::objects::{Objects, Part};
use super::{Error, Key, rules};
use crate::api::hash::short_hash;

/// The resource that Events are stored as.
pub const EVENTS: &str = "events";
/// The component that reports the Events.
pub const COMPONENT: &str = "evenkeel";
/// Limit of a message, in characters, as in Kubernetes.
const MESSAGE: usize = 1024;

/// The type of an Event: `Normal` or `Warning`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Ordinary.
    Normal,
    /// A problem.
    Warning,
}

impl Severity {
    /// The word in the Event's `type`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Something that happened to an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// `Normal` or `Warning`.
    pub severity: Severity,
    /// One CamelCase word.
    pub reason: String,
    /// One sentence that says what happened. Never a secret.
    pub message: String,
    /// The time.
    pub at: Timestamp,
}

impl Objects {
    /// Records that something happened to `about` (any complete object) as an Event in its namespace.
    /// If the same object, severity, reason and message exist already, it increments that Event.
    pub async fn record_event(&self, about: &Value, new: &NewEvent) -> Result<Value, Error> {
        let key = event_key(about, new);
        match self.create(&key, event(about, new, 1, new.at)).await {
            Err(Error::AlreadyExists { .. }) => {}
            outcome => return outcome,
        }
        let counted = |old: Value| Ok::<_, Error>(again(old, new));
        match self.modify(&key, Part::Main, counted).await {
            // It expired just now.
            Err(Error::NotFound { .. }) => self.create(&key, event(about, new, 1, new.at)).await,
            outcome => outcome,
        }
    }
}

/// The name is computed from the content, so two writers increment the same Event.
fn event_key(about: &Value, new: &NewEvent) -> Key {
    let text = |field: &str| about["metadata"][field].as_str().unwrap_or("");
    let severity = new.severity.as_str();
    let parts = [text("uid"), severity, &new.reason, &new.message];
    let hash = short_hash(parts.join("\0"), 16);
    let namespace = Some(text("namespace")).filter(|name| !name.is_empty()).unwrap_or("default");
    Key { resource: EVENTS.to_owned(), namespace: namespace.to_owned(), name: format!("{}.{hash}", text("name")) }
}

fn event(about: &Value, new: &NewEvent, count: u64, first: Timestamp) -> Value {
    let metadata = &about["metadata"];
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {},
        "involvedObject": {
            "apiVersion": about["apiVersion"],
            "kind": about["kind"],
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
        },
        "type": new.severity.as_str(),
        "reason": new.reason,
        "message": new.message.chars().take(MESSAGE).collect::<String>(),
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "reportingInstance": "",
        "count": count,
        "firstTimestamp": rules::seconds(first),
        "lastTimestamp": rules::seconds(new.at),
        "eventTime": microseconds(new.at),
    })
}

/// The Event with its count incremented.
fn again(mut event: Value, new: &NewEvent) -> Value {
    event["count"] = json!(event["count"].as_u64().unwrap_or(0) + 1);
    event["lastTimestamp"] = json!(rules::seconds(new.at));
    event["eventTime"] = json!(microseconds(new.at));
    event
}

/// Kubernetes' MicroTime: always six digits.
fn microseconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}
