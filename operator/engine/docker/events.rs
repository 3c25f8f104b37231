//! Events of our containers, as hints which owners to observe; resubscribes for ever.
//!
//! The order of requests closes the gap between two subscriptions: read the engine's own time, send `None` ("observe
//! everything"), then request the events since that time. Earlier changes are found by the observation, later ones by
//! the events.

use std::collections::HashMap;
use std::pin::Pin;
use std::time::Duration;

use bollard::Docker;
use bollard::models::{EventMessage, EventMessageTypeEnum};
use bollard::query_parameters::EventsOptionsBuilder;
use futures::{Stream, StreamExt as _, stream};
use tokio::sync::mpsc;
use tokio::time::{sleep_until, timeout};

use super::super::instant::instant;
use super::super::{Error, EventHint, Identity};
use super::{ANSWER, DockerEngine, classify};
use crate::api::failure::Failure;
use crate::api::labels::Owner;
use crate::api::sync::lock;

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// Failures in a row before a warning; fewer are just a restart of the engine.
const WORTH_A_WARNING: u32 = 3;
/// A host that was not heard for this long is pinged: a dead host sends nothing, and neither does a quiet one.
const PING: Duration = Duration::from_secs(15);
/// Time-out of a request for the subscription.
const SUBSCRIBE: Duration = Duration::from_secs(2);
/// Length of the queue; when it is full, the engine waits.
const QUEUE: usize = 256;

/// Actions that change what the lists show. Execs are left out: each `dial` causes three events.
const ACTIONS: [&str; 18] = [
    "create",
    "start",
    "restart",
    "die",
    "oom",
    "pause",
    "unpause",
    "stop",
    "destroy",
    "health_status",
    "connect",
    "disconnect",
    // Of images.
    "pull",
    "load",
    "import",
    "tag",
    "untag",
    "delete",
];

impl DockerEngine {
    pub(super) fn event_hints(&self) -> Pin<Box<dyn Stream<Item = EventHint> + Send>> {
        let (hints, receiver) = mpsc::channel(QUEUE);
        let engine = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = hints.closed() => {}
                () = engine.follow_for_ever(&hints) => {}
            }
        });
        Box::pin(stream::unfold(
            receiver,
            |mut receiver| async move { receiver.recv().await.map(|hint| (hint, receiver)) },
        ))
    }

    async fn follow_for_ever(&self, hints: &mpsc::Sender<EventHint>) {
        let mut failures = 0;
        loop {
            let ended = Failure::from(self.follow(hints, &mut failures).await);
            // Whoever answers next may be another engine.
            let before = std::mem::replace(&mut lock(&self.told).identity, Identity::Lost);
            if before != Identity::Lost {
                self.stirs.notify_one();
            }
            failures += 1;
            let wait = LONGEST_WAIT.min(FIRST_WAIT * 2_u32.saturating_pow(failures - 1));
            let host = &*self.host;
            if failures == WORTH_A_WARNING {
                tracing::warn!(host, "cannot follow the Docker host's events, trying on: {ended}");
            } else {
                tracing::debug!(host, "the event stream ended, subscribing again in {wait:?}: {ended}");
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// One subscription; returns the reason for its end. `failures` is reset once the subscription works.
    async fn follow(&self, hints: &mpsc::Sender<EventHint>, failures: &mut u32) -> Error {
        let doing = "following its events";
        let gone = || Error::refused(&self.host, doing, "nobody listens");
        let info = match timeout(SUBSCRIBE, self.system_info(doing)).await {
            Ok(Ok(info)) => info,
            Ok(Err(error)) => return error,
            Err(_) => return Error::unreachable(&self.host, doing, format!("no answer within {SUBSCRIBE:?}")),
        };
        if hints.send(None).await.is_err() {
            return gone();
        }
        let client = match self.client(doing).await {
            Ok(client) => client,
            Err(error) => return error,
        };
        let mut options = EventsOptionsBuilder::default().filters(&filters());
        if let Some(now) = info.system_time.as_deref().and_then(unix_time) {
            options = options.since(&now);
        }
        let mut events = Box::pin(client.events(Some(options.build())));
        let mut quiet = instant();
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(event)) => {
                        *failures = 0;
                        lock(&self.told).heard = instant();
                        let owner = owner(&event);
                        if concerns_all(&event) {
                            self.stirs.notify_one();
                        }
                        if let Some(container) = listed_later(&event, owner.as_ref()) {
                            self.hint_when_listed(container.to_owned(), owner.clone(), hints.clone());
                        }
                        let Some(owner) = owner else { continue };
                        if hints.send(Some(owner)).await.is_err() {
                            return gone();
                        }
                    }
                    Some(Err(error)) => return classify::classify(&self.host, doing, error),
                    None => return Error::unreachable(&self.host, doing, "the engine ended the stream"),
                },
                () = sleep_until(quiet + PING) => {
                    quiet = lock(&self.told).heard;
                    if quiet.elapsed() >= PING {
                        match timeout(SUBSCRIBE, self.call(doing, ANSWER, Docker::ping)).await {
                            Ok(Ok(_)) => *failures = 0,
                            Ok(Err(error)) => return error,
                            Err(_) => return Error::unreachable(&self.host, doing, "a ping was not answered"),
                        }
                        quiet = instant();
                    }
                }
            }
        }
    }
}

impl DockerEngine {
    /// An inspect waits for the container's lock, which is held until the lists show what an event reports; so only a
    /// hint after the inspect finds it in the list. The inspect also tells the owner.
    fn hint_when_listed(&self, container: String, owner: Option<Owner>, hints: mpsc::Sender<EventHint>) {
        let engine = self.clone();
        tokio::spawn(async move {
            let doing = "waiting until a change is listed";
            let seen = engine.call(doing, ANSWER, |docker| docker.inspect_container(&container, None)).await;
            if let Ok(seen) = &seen {
                engine.remember_aliases(seen);
            }
            let labels = seen.ok().and_then(|seen| seen.config?.labels).unwrap_or_default();
            let owner = owner.or_else(|| Owner::from_labels(|key| labels.get(key).map(String::as_str)));
            if owner.is_some() {
                // An error means that the reader has ended.
                let _ = hints.send(owner).await;
            }
        });
    }
}

/// Whether a volume, network or image came or went; the events of these name no owner.
fn concerns_all(event: &EventMessage) -> bool {
    let comes_or_goes = matches!(event.action.as_deref(), Some("create" | "destroy"));
    match event.typ {
        Some(EventMessageTypeEnum::VOLUME | EventMessageTypeEnum::NETWORK) => comes_or_goes,
        Some(EventMessageTypeEnum::IMAGE) => true,
        _ => false,
    }
}

/// The container of an event that Docker may report before its lists show it: a death, or a connection to a network,
/// whose event has no labels.
fn listed_later<'a>(event: &'a EventMessage, owner: Option<&Owner>) -> Option<&'a str> {
    let actor = event.actor.as_ref()?;
    match event.action.as_deref()? {
        "die" => actor.id.as_deref().filter(|_| owner.is_some()),
        "connect" | "disconnect" => actor.attributes.as_ref()?.get("container").map(String::as_str),
        _ => None,
    }
}

/// Docker reports its time as RFC 3339 and expects seconds and nanoseconds in requests.
fn unix_time(rfc3339: &str) -> Option<String> {
    let time: jiff::Timestamp = rfc3339.parse().ok()?;
    Some(format!("{}.{:09}", time.as_second(), time.subsec_nanosecond()))
}

fn filters() -> HashMap<String, Vec<String>> {
    HashMap::from([
        // Events of networks have no labels, so Docker cannot filter by label.
        ("type".to_owned(), ["container", "network", "volume", "image"].map(str::to_owned).to_vec()),
        ("event".to_owned(), ACTIONS.map(str::to_owned).to_vec()),
    ])
}

/// The owner that the event concerns; an event of a container carries its labels.
fn owner(event: &EventMessage) -> Option<Owner> {
    let attributes = event.actor.as_ref()?.attributes.as_ref()?;
    Owner::from_labels(|key| attributes.get(key).map(String::as_str))
}

#[cfg(test)]
mod tests {
    use bollard::models::EventActor;

    use super::*;

    #[test]
    fn docker_is_asked_for_its_own_time_in_the_form_it_takes() {
        assert_eq!(unix_time("2026-11-24T06:52:18.005228525Z").as_deref(), Some("1795503138.005228525"));
        assert_eq!(unix_time("2026-11-24T07:52:18+01:00").as_deref(), Some("1795503138.000000000"));
        assert_eq!(unix_time("yesterday"), None);
    }

    #[test]
    fn an_event_names_the_owner_by_the_labels_of_its_container() {
        let expected = Owner { kind: "PostgresCluster".into(), namespace: "default".into(), name: "db".into() };
        let event = |attributes: HashMap<String, String>| EventMessage {
            actor: Some(EventActor { id: None, attributes: Some(attributes) }),
            ..Default::default()
        };
        assert_eq!(owner(&event(expected.labels().into_iter().collect())), Some(expected));
        assert_eq!(owner(&event(HashMap::from([("name".to_owned(), "x".to_owned())]))), None);
        assert_eq!(owner(&EventMessage::default()), None);
    }
}
