//! Who may do what, as the store says now; and a request that was allowed, for as long as it is.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::authn;
use super::authn::tokens::{HASHES, Hash, Tokens};
use super::authn::user::User;
use super::authz::attributes::Attributes;
use super::authz::rules::{RESOURCES, Rules};
use super::authz::{self, Verdict, builtin};
use super::status::Refusal;
use crate::api::object::Object as _;
use crate::api::token::Token;
use crate::store::objects::Part;
use crate::store::{self, Clock, Objects};

/// Pause before the store is watched again after a failure.
const AGAIN: Duration = Duration::from_secs(1);

/// The tokens and rules in force.
#[derive(Debug, Default)]
pub struct State {
    /// The tokens.
    pub tokens: Tokens,
    /// The roles and bindings.
    pub rules: Rules,
    revision: u64,
    admin: Vec<(Hash, Option<Timestamp>)>,
}

/// The tokens and rules in force, kept up to date.
pub struct Access {
    objects: Objects,
    state: watch::Sender<Arc<State>>,
}

impl Access {
    /// Reads the store. `admin` are the administrator's tokens.
    pub async fn start(objects: Objects, admin: Vec<(Hash, Option<Timestamp>)>) -> Result<Self, store::Error> {
        keep_builtin(&objects).await?;
        let access = Self { objects, state: watch::Sender::default() };
        access.read(Some(admin)).await?;
        Ok(access)
    }

    /// What is in force now.
    pub fn now(&self) -> Arc<State> {
        self.state.borrow().clone()
    }

    /// Reads the store again. The answer to a write of a rule or Token comes after this: then it is in force.
    pub async fn refresh(&self) -> Result<u64, store::Error> {
        self.read(None).await
    }

    async fn read(&self, new_admin: Option<Vec<(Hash, Option<Timestamp>)>>) -> Result<u64, store::Error> {
        let (objects, revision) = self.objects.store().list_of(&resources(), None).await?;
        self.state.send_if_modified(|state| {
            // Another reader may have been faster.
            let newer = revision > state.revision || new_admin.is_some();
            if newer {
                let admin = new_admin.unwrap_or_else(|| state.admin.clone());
                let tokens = Tokens::new(&objects, admin.clone());
                *state = Arc::new(State { tokens, rules: Rules::new(&objects), revision, admin });
            }
            newer
        });
        Ok(revision)
    }

    /// Replaces the administrator's tokens.
    pub async fn set_admin(&self, admin: Vec<(Hash, Option<Timestamp>)>) -> Result<(), store::Error> {
        self.read(Some(admin)).await.map(|_| ())
    }

    /// Follows changes by others than requests until it is told to stop.
    pub async fn follow(&self, stop: CancellationToken) {
        let work = async {
            loop {
                if let Err(error) = self.next_change().await {
                    tracing::warn!(%error, "could not read who may do what; trying again");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = work => {}
        }
    }

    async fn next_change(&self) -> Result<(), store::Error> {
        let since = self.refresh().await?;
        let mut changes = self.objects.store().watch_of(&resources(), None, since).await?;
        match changes.next().await {
            Some(change) => change.map(|_| ()),
            None => std::future::pending().await, // the store is closed
        }
    }

    /// A request that was allowed.
    pub fn permit(&self, user: User, attributes: Attributes, clock: Arc<dyn Clock>) -> Permit {
        Permit { user, attributes, clock, state: self.state.subscribe() }
    }
}

/// A request that was allowed.
#[derive(Clone)]
pub struct Permit {
    /// Who sent it.
    pub user: User,
    attributes: Attributes,
    clock: Arc<dyn Clock>,
    state: watch::Receiver<Arc<State>>,
}

impl Permit {
    /// Waits until the user may not do this any more: the token is revoked or expired, or a rule is gone. Streams end then.
    pub async fn ended(mut self) {
        loop {
            let (state, now) = (self.state.borrow_and_update().clone(), self.clock.now());
            let Some(end) = authn::end(&state.tokens, &self.user) else { return };
            if end.is_some_and(|end| end <= now)
                || authz::allowed(&state.rules, &self.user, &self.attributes) == Verdict::Deny
            {
                return;
            }
            let left = end.map(|end| Duration::try_from(end.duration_since(now)).unwrap_or_default());
            let expired = async {
                match left {
                    Some(left) => tokio::time::sleep(left).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.state.changed() => if changed.is_err() { return },
                () = expired => {}
            }
        }
    }

    /// Refuses what needs another verb too, if the user may not do that with the same object.
    pub fn require(&self, verb: &str) -> Result<(), Refusal> {
        let asked = Attributes { verb: verb.to_owned(), ..self.attributes.clone() };
        match authz::allowed(&self.state.borrow().rules, &self.user, &asked) {
            Verdict::Allow(_) => Ok(()),
            Verdict::Deny => Err(asked.refusal(&self.user.name)),
        }
    }

    /// What is in force now.
    pub fn state(&self) -> Arc<State> {
        self.state.borrow().clone()
    }
}

/// The resources that decide who may do what.
fn resources() -> Vec<&'static str> {
    RESOURCES.into_iter().chain([Token::RESOURCE, HASHES]).collect()
}

/// Whether a write of this resource changes who may do what.
pub fn decides(resource: &str) -> bool {
    resources().contains(&resource)
}

/// Creates the roles and bindings that always exist, and puts right those of an earlier version.
async fn keep_builtin(objects: &Objects) -> Result<(), store::Error> {
    for (key, wanted) in builtin::objects() {
        match objects.create(&key, wanted.clone()).await {
            Err(store::Error::AlreadyExists { .. }) => {}
            other => {
                other?;
                continue;
            }
        }
        let right = |mut object: serde_json::Value| {
            for field in ["rules", "roleRef", "subjects"] {
                if let Some(value) = wanted.get(field) {
                    object[field] = value.clone();
                }
            }
            Ok::<_, store::Error>(object)
        };
        objects.modify(&key, Part::Main, right).await?;
    }
    Ok(())
}
