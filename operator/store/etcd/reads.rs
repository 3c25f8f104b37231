//! Reads of etcd: at one revision, in pages, by a majority or, for people, by one member.

use std::sync::Arc;

use etcd_client::{GetOptions, KeyValue};

use super::failures::{Failure, Kind};
use super::layout::{self, Span};
use super::members::{Repeat, Services};
use super::{EtcdStore, signed, tail, unsigned};
use crate::api::sync::lock;
use crate::store::{Error, Listed, Store as _};

/// Objects in one answer of a list.
const PAGE: i64 = 500;

impl EtcdStore {
    /// How a read asks.
    pub(super) fn options(&self) -> GetOptions {
        let options = GetOptions::new();
        if self.by_one { options.with_serializable() } else { options }
    }

    /// A request that reads.
    pub(super) async fn read<T, F>(
        &self,
        doing: &'static str,
        request: impl Fn(Services) -> F + Send + Sync,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, etcd_client::Error>> + Send,
    {
        match self.asked(request).await {
            Ok(answer) => Ok(answer),
            Err(failure) => Err(self.explained(doing, failure).await),
        }
    }

    /// The answer to a read: of a majority, whose moment is noted, or of one member.
    async fn asked<T, F>(&self, request: impl Fn(Services) -> F + Send + Sync) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, etcd_client::Error>> + Send,
    {
        if self.by_one {
            return self.shared.members.any(request).await;
        }
        let answer = self.shared.members.call(Repeat::Harmless, request).await?;
        *lock(&self.shared.heard) = self.shared.clock.boot();
        Ok(answer)
    }

    /// The keys of a span with their values at one revision (`None`: now), and that revision.
    pub(super) async fn range(&self, span: &Span, at: Option<u64>) -> Result<(Vec<KeyValue>, u64), Error> {
        let (mut found, mut start, mut limit, mut pinned) = (Vec::new(), span.start.clone(), PAGE, at);
        loop {
            let options = self.options().with_range(span.end.clone()).with_limit(limit);
            let options = options.with_revision(pinned.map_or(0, signed));
            let request = |mut services: Services| {
                let (start, options) = (start.clone(), options.clone());
                async move { services.kv.get(start, Some(options)).await }
            };
            let mut page = match self.asked(request).await {
                Ok(page) => page,
                // A page of large objects.
                Err(failure) if failure.kind == Kind::AnswerTooLarge && limit > 1 => {
                    limit /= 4;
                    limit = limit.max(1);
                    continue;
                }
                Err(failure) => return Err(self.outside(failure, pinned.unwrap_or_default()).await),
            };
            let revision = pinned.unwrap_or_else(|| page.header().map_or(0, |header| unsigned(header.revision())));
            pinned = Some(revision);
            let more = page.more();
            found.append(&mut page.take_kvs());
            match found.last() {
                Some(last) if more => start = layout::next(last.key()),
                _ => return Ok((found, revision)),
            }
        }
    }

    /// The objects of these resources, read for one reader.
    pub(super) async fn list_alone(
        &self,
        resources: &[String],
        namespace: Option<&str>,
        at: Option<u64>,
    ) -> Result<Listed, Error> {
        let (mut objects, mut pinned) = (Vec::new(), at);
        for resource in resources {
            // The first one pins the revision of the others.
            let (found, revision) = self.range(&self.shared.layout.of(resource, namespace), pinned).await?;
            pinned = Some(revision);
            for kv in &found {
                objects.extend(self.shared.object(kv)?.map(|(key, value)| (key, Arc::new(value))));
            }
        }
        let revision = match pinned {
            Some(revision) => revision,
            None => self.revision().await?,
        };
        // etcd orders `a-b/` before `a/`.
        objects.sort_by(|one, other| one.0.cmp(&other.0));
        Ok((objects, revision))
    }

    /// A failure of a read at this revision: it may be none that can be read.
    async fn outside(&self, failure: Failure, since: u64) -> Error {
        let newest = match failure.kind {
            Kind::Future | Kind::Compacted => self.revision().await,
            _ => return self.explained("reading", failure).await,
        };
        match (failure.kind, newest) {
            (_, Err(error)) => error,
            (Kind::Future, Ok(newest)) => Error::Future { since, newest },
            (_, Ok(newest)) => {
                let oldest = tail::oldest(&self.shared, since).await;
                Error::Compacted { since, oldest: oldest.unwrap_or(since + 1).min(newest) }
            }
        }
    }

    /// Refuses a revision that cannot be watched or read from.
    pub(super) async fn check_since(&self, since: u64) -> Result<(), Error> {
        // Nothing was written at revision 1, and 0 means "now" to etcd.
        self.range(&self.shared.layout.nothing(), Some(since.max(1))).await.map(|_| ()).map_err(|error| match error {
            Error::Compacted { oldest, .. } => Error::Compacted { since, oldest },
            Error::Future { newest, .. } => Error::Future { since, newest },
            error => error,
        })
    }
}
