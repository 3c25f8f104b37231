//! The manager runs all kinds over one store: one reflector per resource, one controller per kind, and routes
//! every wake-up to an inbox.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::{join_all, pending};
use futures::{Stream, StreamExt as _};
use serde::Deserialize as _;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::clock::Clock;
use super::companions::Wake;
use super::controller::{Controller, Drive};
use super::inbox::Inbox;
use super::metrics::Metrics;
use super::{Kind, reflector};
use crate::api::labels::Owner;
use crate::api::sync::lock;
use crate::store::Objects;

/// Resync period: the longest time between two reconciles of an object.
const RESYNC: Duration = Duration::from_secs(10);

/// Runs kinds. Create it with [`Manager::new`], add kinds with [`Manager::add`], start it with [`Manager::run`].
pub struct Manager {
    objects: Objects,
    clock: Arc<dyn Clock>,
    resync: Duration,
    inboxes: Inboxes,
    controllers: BTreeMap<&'static str, Arc<dyn Drive>>,
}

/// The inbox of each kind. Shared with tasks that wake objects; they are created before their kind is added.
type Inboxes = Arc<Mutex<BTreeMap<&'static str, Arc<Inbox>>>>;

impl Manager {
    /// A manager without kinds, over `objects`.
    pub fn new(objects: Objects, clock: Arc<dyn Clock>) -> Self {
        Self { objects, clock, resync: RESYNC, inboxes: Inboxes::default(), controllers: BTreeMap::new() }
    }

    /// Sets the resync period; 10 s by default. Applies to kinds that are added afterwards.
    pub fn resync(self, resync: Duration) -> Self {
        Self { resync, ..self }
    }

    /// Wakes objects of any kind, also of kinds that are added later: for background tasks of a kind.
    pub fn wake(&self) -> Wake {
        let inboxes = self.inboxes.clone();
        Wake::new(move |owner| {
            let inbox = lock(&inboxes).get(owner.kind.as_str()).cloned();
            // If this kind is not driven here, nothing happens.
            inbox.into_iter().for_each(|inbox| inbox.wake_named(&owner.namespace, &owner.name));
        })
    }

    /// Adds a kind. Returns its counters.
    pub fn add<K: Kind>(&mut self, kind: K) -> Arc<Metrics> {
        let inbox = Arc::new(Inbox::new(K::RESOURCE, K::concerns(), |value| {
            K::Object::deserialize(value).map(|object| K::references(&object)).unwrap_or_default()
        }));
        let metrics: Arc<Metrics> = Arc::default();
        let controller = Controller {
            kind,
            inbox: inbox.clone(),
            objects: self.objects.clone(),
            clock: self.clock.clone(),
            resync: self.resync,
            backoff: Mutex::default(),
            metrics: metrics.clone(),
        };
        lock(&self.inboxes).insert(K::NAME, inbox);
        self.controllers.insert(K::NAME, Arc::new(controller));
        metrics
    }

    /// The plan for an object: its status, the steps, and a note if there is no plan. Records and does nothing.
    pub async fn preview(&self, object: Value) -> Value {
        let controller = object["kind"].as_str().and_then(|kind| self.controllers.get(kind));
        let plan = match controller {
            Some(controller) => controller.preview(object).await,
            None => Err("objects of this kind are only stored; the operator does nothing for them".to_owned()),
        };
        plan.unwrap_or_else(|note| json!({"note": note, "steps": []}))
    }

    /// Number of entries in memory about objects of all kinds: deleted objects must leave none.
    pub fn kept(&self) -> usize {
        self.controllers.values().map(|controller| controller.kept()).sum()
    }

    /// Reconciles until `shutdown`; then lets reconciles under way finish, for 10 s at most. No task outlives this
    /// future. Each hint names the owner of something that changed outside the store; `None`: hints may have been lost.
    pub async fn run(&self, hints: impl Stream<Item = Option<Owner>>, shutdown: CancellationToken) {
        let inboxes: BTreeMap<_, _> = lock(&self.inboxes).clone();
        let mut controllers = JoinSet::new();
        for controller in self.controllers.values() {
            controllers.spawn(controller.clone().run(shutdown.clone()));
        }
        let own = inboxes.values().map(|inbox| inbox.resource);
        let others = inboxes.values().flat_map(|inbox| inbox.concerns.iter().map(|concern| concern.resource));
        let resources: BTreeSet<&str> = own.chain(others).collect();
        let reflectors = resources.into_iter().map(|resource| {
            let inboxes = &inboxes;
            reflector::follow(self.objects.clone(), resource, move |event| {
                inboxes.values().for_each(|inbox| inbox.event(resource, &event));
            })
        });
        let ended = async { while controllers.join_next().await.is_some() {} };
        tokio::select! {
            biased;
            _ = join_all(reflectors) => {}
            () = forward_hints(&inboxes, hints) => {}
            () = ended => {}
        }
    }
}

/// Forwards each hint to the inbox of its kind, for ever.
async fn forward_hints(inboxes: &BTreeMap<&'static str, Arc<Inbox>>, hints: impl Stream<Item = Option<Owner>>) {
    let mut hints = pin!(hints);
    while let Some(hint) = hints.next().await {
        match hint {
            // The owner's kind may not be driven here.
            Some(owner) => {
                if let Some(inbox) = inboxes.get(owner.kind.as_str()) {
                    inbox.wake_named(&owner.namespace, &owner.name);
                }
            }
            None => inboxes.values().for_each(|inbox| inbox.wake_all()),
        }
    }
    pending().await
}
