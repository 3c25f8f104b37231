//! One request for objects: target, format of the response, and functions that the handlers share.

use std::sync::Arc;

use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde_json::Value;

use super::access::Permit;
use super::paging::Page;
use super::params::Params;
use super::routes::{self, Target};
use super::selectors::Selector;
use super::status::Refusal;
use super::table::Headings;
use super::tls::Guest;
use super::view::{View, answer};
use super::{Server, scale};
use crate::store::{self, Key, Store};

/// One request for objects.
pub struct Request<'a> {
    /// The server.
    pub server: &'a Server,
    /// Who sent it, and how long that lasts.
    pub permit: Permit,
    /// The addressed objects.
    pub target: Target,
    /// Its query.
    pub params: Params,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// The format of the response.
    pub view: View,
    /// The connection, as long as anything goes on in it.
    pub guest: Arc<Guest>,
    /// The connection itself, for a protocol upgrade (WebSocket).
    pub upgrade: Option<hyper::upgrade::OnUpgrade>,
}

/// Why a write failed.
pub enum WriteError {
    /// The store refused it or failed.
    Store(store::Error),
    /// The API refused it.
    Refused(Refusal),
}

impl From<store::Error> for WriteError {
    fn from(error: store::Error) -> Self {
        Self::Store(error)
    }
}

impl From<Refusal> for WriteError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Request<'_> {
    /// The objects that match the selectors and the path, and the revision of this snapshot.
    pub async fn selected(&self) -> Result<(Vec<Arc<Value>>, u64), Refusal> {
        let selector = self.params.selector(self.target.resource)?;
        self.listed(&selector, &Page::default()).await
    }

    /// The objects that match the selector and the path at the revision of a page, and that revision.
    pub async fn listed(&self, selector: &Selector, page: &Page) -> Result<(Vec<Arc<Value>>, u64), Refusal> {
        let listed = self.listed_in(self.server.objects.store().clone(), selector, page).await;
        listed.map_err(|error| self.list_refusal(&error, page))
    }

    /// The same, of a store.
    pub async fn listed_in(
        &self,
        store: Arc<dyn Store>,
        selector: &Selector,
        page: &Page,
    ) -> Result<(Vec<Arc<Value>>, u64), store::Error> {
        let resource = self.target.resource.qualified();
        let (objects, revision) = store.list_at(&[&resource], self.target.namespace.as_deref(), page.at).await?;
        let objects = objects.into_iter().map(|(_, object)| object).filter(|object| selector.matches(object));
        Ok((objects.collect(), revision))
    }

    /// Why nothing was listed, as a response.
    pub fn list_refusal(&self, error: &store::Error, page: &Page) -> Refusal {
        page.refusal(error).unwrap_or_else(|| self.store_refusal(error))
    }

    /// Reads for somebody who looks. While the store has no majority that would tell what is newest, this is what one of its
    /// replicas has, with a warning that says so.
    pub async fn look<T, F>(&self, read: impl Fn(Arc<dyn Store>) -> F) -> Result<(T, Vec<String>), store::Error>
    where
        F: Future<Output = Result<T, store::Error>>,
    {
        let store = self.server.objects.store();
        let error = match read(store.clone()).await {
            Err(error @ store::Error::NoQuorum { .. }) => error,
            answer => return Ok((answer?, Vec::new())),
        };
        let Some((replica, age)) = store.replica() else { return Err(error) };
        match read(replica).await {
            Ok(found) => Ok((
                found,
                vec![format!(
                    "the store has no quorum: this is what one member of it has, and a majority was last heard from {} s ago; \
                 nothing can be changed until a majority is back",
                    age.as_secs()
                )],
            )),
            Err(_) => Err(error),
        }
    }

    /// The store's key of the target; a collection has an empty name.
    pub fn key(&self) -> Key {
        Key {
            resource: self.target.resource.qualified(),
            namespace: self.target.namespace.clone().unwrap_or_default(),
            name: self.target.name.clone().unwrap_or_default(),
        }
    }

    /// Waits until a stream for this request must end: the server stops, or the user may not read it any more.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let (stop, permit) = (self.server.stop.clone(), self.permit.clone());
        async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = permit.ended() => {}
            }
        }
    }

    /// An object as a response, in the requested format.
    pub fn object(&self, code: StatusCode, object: Value, warnings: &[String]) -> Response {
        let now = self.server.clock.now();
        answer(code, &self.view.object(self.target.resource, &object, Headings::Shown, now), warnings)
    }

    /// The addressed part of an object as a response.
    pub fn part(&self, code: StatusCode, object: Value, warnings: &[String]) -> Response {
        match self.target.part {
            routes::Part::Scale => answer(code, &scale::of(&object), warnings),
            _ => self.object(code, object, warnings),
        }
    }

    /// A failure of the store as a response.
    pub fn store_refusal(&self, error: &store::Error) -> Refusal {
        Refusal::from_store(error, self.target.resource, &self.key().name)
    }

    /// A failed write as a response.
    pub fn write_refusal(&self, error: WriteError) -> Refusal {
        match error {
            WriteError::Refused(refusal) => refusal,
            WriteError::Store(error) => match &error {
                store::Error::AlreadyExists { key } => Refusal::already_exists(self.target.resource, &key.name),
                _ => self.store_refusal(&error),
            },
        }
    }
}
