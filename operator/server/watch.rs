//! Watches: newline-delimited JSON events, each flushed at once, from any revision in the window.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use futures::future::BoxFuture;
use futures::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::time::{Interval, Sleep};

use super::paging::Page;
use super::params::WatchFrom;
use super::request::Request;
use super::selectors::Selector;
use super::status::Refusal;
use super::table::Headings;
use super::view::View;
use crate::api::resource::Resource;
use crate::store::{Change, Clock, Error, Watch, revision_of};

/// Duration of a watch without a time-out; clients reopen it where it ended.
const LONGEST: Duration = Duration::from_secs(45 * 60);
/// Interval of BOOKMARK events.
const BOOKMARK_EVERY: Duration = Duration::from_secs(30);

/// Answers with a stream of events.
pub async fn serve(request: Request<'_>) -> Result<Response, Refusal> {
    let resource = request.target.resource;
    let options = request.params.watch_options()?;
    let mut selector = request.params.selector(resource)?;
    if let Some(name) = &request.target.name {
        selector = selector.and_name(name);
    }
    let (initial, since) = match options.from {
        WatchFrom::Revision(since) => (Vec::new(), since),
        WatchFrom::Now => {
            let revision = request.server.objects.store().revision().await;
            (Vec::new(), revision.map_err(|error| request.store_refusal(&error))?)
        }
        WatchFrom::Snapshot | WatchFrom::MarkedSnapshot => request.listed(&selector, &Page::default()).await?,
    };
    let namespace = request.target.namespace.as_deref();
    let watch = request.server.objects.watch(&resource.qualified(), namespace, since).await;
    let mut feed = Feed {
        changes: watch.map_err(|error| request.store_refusal(&error))?,
        initial: initial.into_iter(),
        mark: options.from == WatchFrom::MarkedSnapshot && options.bookmarks,
        lines: VecDeque::new(),
        resource,
        selector,
        view: request.view,
        clock: request.server.clock.clone(),
        headings: Headings::Shown,
        revision: since,
        bookmarks: options.bookmarks.then(|| tokio::time::interval(BOOKMARK_EVERY)),
        deadline: Box::pin(tokio::time::sleep(options.timeout.unwrap_or(LONGEST).min(LONGEST))),
        end: Box::pin(request.ended()),
        ended: false,
    };
    if let Some(bookmarks) = &mut feed.bookmarks {
        bookmarks.reset(); // skip the immediate first tick
    }
    let lines = stream::unfold(feed, |mut feed| async {
        let line = feed.next().await?;
        Some((Ok::<_, Infallible>(line), feed))
    });
    let mut response = Response::new(Body::from_stream(lines));
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// One open watch.
struct Feed {
    changes: Watch,
    /// Existing objects that were not sent yet.
    initial: std::vec::IntoIter<Arc<Value>>,
    /// Whether a BOOKMARK must still say that all existing objects were sent.
    mark: bool,
    lines: VecDeque<Bytes>,
    resource: &'static Resource,
    selector: Selector,
    view: View,
    clock: Arc<dyn Clock>,
    headings: Headings,
    /// Every change up to this revision was sent.
    revision: u64,
    bookmarks: Option<Interval>,
    deadline: std::pin::Pin<Box<Sleep>>,
    end: BoxFuture<'static, ()>,
    ended: bool,
}

/// What woke the stream.
enum Woken {
    Change(Option<Result<Change, Error>>),
    Bookmark,
    End,
}

impl Feed {
    /// The next line; `None` when the stream has ended.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Some(line);
            }
            if let Some(object) = self.initial.next() {
                self.push("ADDED", &object);
                continue;
            }
            if std::mem::take(&mut self.mark) {
                self.push_bookmark(json!({"k8s.io/initial-events-end": "true"}));
                continue;
            }
            if self.ended {
                return None;
            }
            match self.wait().await {
                Woken::Change(Some(Ok(change))) => self.tell(change),
                Woken::Change(Some(Err(error))) => self.fail(&error),
                Woken::Bookmark => self.push_bookmark(json!({})),
                Woken::Change(None) | Woken::End => {
                    self.ended = true;
                    if self.bookmarks.is_some() {
                        self.push_bookmark(json!({}));
                    }
                }
            }
        }
    }

    async fn wait(&mut self) -> Woken {
        let tick = async {
            match &mut self.bookmarks {
                Some(bookmarks) => bookmarks.tick().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = &mut self.end => Woken::End,
            () = &mut self.deadline => Woken::End,
            change = self.changes.next() => Woken::Change(change),
            _ = tick => Woken::Bookmark,
        }
    }

    fn tell(&mut self, change: Change) {
        self.revision = change.revision;
        let Some((kind, mut object)) = event(&self.selector, change.old, change.new) else { return };
        if revision_of(&object) != Some(change.revision) {
            Arc::make_mut(&mut object)["metadata"]["resourceVersion"] = change.revision.to_string().into();
        }
        self.push(kind, &object);
    }

    fn push(&mut self, kind: &str, object: &Value) {
        let view = self.view;
        let object = view.object(self.resource, object, self.headings, self.clock.now());
        self.headings = Headings::Omitted;
        self.push_line(kind, &object);
    }

    fn push_bookmark(&mut self, annotations: Value) {
        let mut metadata = json!({"resourceVersion": self.revision.to_string()});
        if annotations != json!({}) {
            metadata["annotations"] = annotations;
        }
        let (api_version, kind) = match self.view {
            View::Metadata => ("meta.k8s.io/v1".to_owned(), "PartialObjectMetadata"),
            _ => (self.resource.api_version(), self.resource.kind.as_str()),
        };
        let mark = json!({"apiVersion": api_version, "kind": kind, "metadata": metadata});
        let mark = match self.view {
            View::Table(_) => self.view.object(self.resource, &mark, Headings::Omitted, self.clock.now()),
            _ => Cow::Borrowed(&mark),
        };
        self.push_line("BOOKMARK", &mark);
    }

    fn fail(&mut self, error: &Error) {
        self.ended = true;
        self.push_line("ERROR", &Refusal::from_store(error, self.resource, "").status());
    }

    fn push_line(&mut self, kind: &str, object: &Value) {
        self.lines.push_back(format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n").into());
    }
}

/// The event of a change for a client that sees only the objects that match its selector.
fn event(selector: &Selector, old: Option<Arc<Value>>, new: Option<Arc<Value>>) -> Option<(&'static str, Arc<Value>)> {
    let old = old.filter(|object| selector.matches(object));
    let new = new.filter(|object| selector.matches(object));
    match (old, new) {
        (None, Some(new)) => Some(("ADDED", new)),
        (Some(_), Some(new)) => Some(("MODIFIED", new)),
        (Some(old), None) => Some(("DELETED", old)),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::api::registry;

    #[test]
    fn an_object_comes_and_goes_with_the_selector() {
        let secrets = registry::find("", "v1", "secrets").unwrap();
        let selector = Selector::parse(secrets, Some("app=db"), None).unwrap();
        let of = |app: &str| Some(Arc::new(json!({"metadata": {"name": "x", "labels": {"app": app}}})));
        let seen = |old, new| event(&selector, old, new).map(|(kind, _)| kind);
        assert_eq!(seen(None, of("db")), Some("ADDED"));
        assert_eq!(seen(of("web"), of("db")), Some("ADDED"));
        assert_eq!(seen(of("db"), of("db")), Some("MODIFIED"));
        assert_eq!(seen(of("db"), of("web")), Some("DELETED"));
        assert_eq!(seen(of("db"), None), Some("DELETED"));
        assert_eq!(seen(of("web"), None), None);
    }
}
