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
#[derive(Debug, Clone, Default)]
pub struct State {
    /// The tokens.
    pub tokens: Tokens,
    /// The roles and bindings.
    pub rules: Rules,
    revision: u64,
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
        access.set_admin(admin);
        access.refresh().await?;
        Ok(access)
    }

    /// What is in force now.
    pub fn now(&self) -> Arc<State> {
        self.state.borrow().clone()
    }

    /// Reads the store again. The answer to a write of a rule or Token comes after this: then it is in force.
    pub async fn refresh(&self) -> Result<u64, store::Error> {
        let (objects, revision) = self.objects.store().list_of(&resources(), None).await?;
        self.state.send_if_modified(|state| {
            // Another reader may have been faster.
            let newer = revision > state.revision;
            if newer {
                let tokens = Tokens::new(&objects, state.tokens.of_admin().to_vec());
                *state = Arc::new(State { tokens, rules: Rules::new(&objects), revision });
            }
            newer
        });
        Ok(revision)
    }

    /// Replaces the administrator's tokens, and nothing else.
    pub fn set_admin(&self, admin: Vec<(Hash, Option<Timestamp>)>) {
        self.state.send_modify(|state| {
            let State { tokens, rules, revision } = State::clone(state);
            *state = Arc::new(State { tokens: tokens.with_admin(admin), rules, revision });
        });
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::runtime::SystemClock;
    use crate::server::authn::user::{MASTERS, Via};
    use crate::store::{Key, MemoryStore};

    /// A store of the version before has no roles; one of an earlier version may have others.
    #[tokio::test]
    async fn what_always_exists_is_made_and_put_right_at_the_start() {
        let objects = Objects::new(Arc::new(MemoryStore::new()), Arc::new(SystemClock));
        let (key, wanted) = builtin::objects().swap_remove(3);
        let mut wrong = wanted.clone();
        wrong["rules"] = serde_json::json!([]);
        objects.create(&key, wrong).await.unwrap();
        for _ in 0..2 {
            Access::start(objects.clone(), Vec::new()).await.unwrap();
            let found = objects.get::<serde_json::Value>(&key).await.unwrap().unwrap();
            assert_eq!(found["rules"], wanted["rules"]);
        }
        let all = objects.list::<serde_json::Value>(RESOURCES[1], None).await.unwrap().0;
        assert_eq!(all.len(), builtin::roles().len());
        let binding = Key::new(RESOURCES[3], "", "cluster-admin");
        assert!(objects.get::<serde_json::Value>(&binding).await.unwrap().is_some());
    }

    /// Regression 156: a new token of the administrator took the rules and Tokens of an earlier read along. A Token that was
    /// revoked meanwhile was in force again, until the next change of any rule.
    #[tokio::test]
    async fn a_new_token_of_the_administrator_changes_nothing_else() {
        let objects = Objects::new(Arc::new(MemoryStore::new()), Arc::new(SystemClock));
        let access = Access::start(objects, vec![([1; 32], None)]).await.unwrap();
        let before = access.now();
        access.set_admin(vec![([2; 32], None)]);
        let after = access.now();
        assert_eq!((after.tokens.admin(&[1; 32]), after.tokens.admin(&[2; 32])), (None, Some(None)));
        assert_eq!((after.revision, after.tokens.user("x")), (before.revision, None));
        access.refresh().await.unwrap();
        assert_eq!(access.now().tokens.admin(&[2; 32]), Some(None), "a read of the store keeps it");
    }

    /// The time of tokio, which a test can pause.
    struct Paused(Timestamp, tokio::time::Instant);

    impl Clock for Paused {
        fn now(&self) -> Timestamp {
            self.0 + self.1.elapsed()
        }
        fn boot(&self) -> std::time::Duration {
            self.1.elapsed()
        }
        fn random(&self) -> u64 {
            0
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_permit_ends_when_its_credential_expires() {
        let objects = Objects::new(Arc::new(MemoryStore::new()), Arc::new(SystemClock));
        let access = Access::start(objects, Vec::new()).await.unwrap();
        let began = crate::runtime::clock::instant();
        let start = Timestamp::from_second(1_800_000_000).unwrap();
        let permit = |end: Option<u64>| {
            let end = end.map(|seconds| start + Duration::from_secs(seconds));
            let user = User::new("a", vec![MASTERS.to_owned()], Via::Certificate, end);
            access.permit(user, Attributes::default(), Arc::new(Paused(start, began)))
        };
        permit(Some(0)).ended().await;
        permit(Some(3600)).ended().await;
        assert_eq!(began.elapsed().as_secs(), 3600);
        assert!(tokio::time::timeout(Duration::from_secs(86_400), permit(None).ended()).await.is_err());
    }
}
