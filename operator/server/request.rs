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
use super::view::{View, answer};
use super::{Server, scale};
use crate::store::{self, Key};

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
        let resource = self.target.resource.qualified();
        let store = self.server.objects.store();
        let listed = store.list_at(&[&resource], self.target.namespace.as_deref(), page.at).await;
        let refused = |error| page.refusal(&error).unwrap_or_else(|| self.store_refusal(&error));
        let (objects, revision) = listed.map_err(refused)?;
        Ok((
            objects.into_iter().map(|(_, object)| object).filter(|object| selector.matches(object)).collect(),
            revision,
        ))
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
