//! Lists that are asked for at the same moment are read once: when an operator has started, hundreds of clients begin to watch
//! the same objects, and etcd would have to send all of them to each.
//!
//! A reader may only get what was read after it has asked. So nobody joins a list that is being read; all who ask meanwhile share
//! the next one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use tokio::time::timeout;

use crate::api::sync::lock;
use crate::store::{Error, Listed};

/// How long a list waits for the one before it, which may ask a member that is lost.
const PATIENCE: Duration = Duration::from_millis(50);

/// The resources and the namespace of a list.
pub(super) type Asked = (Vec<String>, Option<String>);

type Answer = Result<Arc<Listed>, Arc<Error>>;
type Reading = Shared<BoxFuture<'static, Answer>>;

/// The lists that are being read, and those that begin after them.
#[derive(Default)]
pub(super) struct Together(Mutex<HashMap<Asked, Turns>>);

#[derive(Default)]
struct Turns {
    /// It is being read.
    now: Option<Reading>,
    /// It begins when that has ended, or takes long.
    next: Option<Reading>,
}

impl Together {
    /// What is read by `read`, together with everybody who asks the same now.
    pub(super) async fn list<F>(self: &Arc<Self>, asked: Asked, read: impl Fn() -> F) -> Result<Listed, Error>
    where
        F: Future<Output = Result<Listed, Error>> + Send + 'static,
    {
        match self.turn(asked, read()).await {
            Ok(listed) => Ok(Listed::clone(&listed)),
            Err(error) => match &*error {
                Error::NoQuorum { doing, told } => Err(Error::NoQuorum { doing, told: told.clone() }),
                Error::Backend { doing, source } => Err(Error::Backend { doing, source: source.to_string().into() }),
                // It is about an object, and does not pass by waiting: each reader gets an error of its own.
                _ => read().await,
            },
        }
    }

    /// The list that begins next; it is read to its end also when nobody waits for it any more.
    fn turn(
        self: &Arc<Self>,
        asked: Asked,
        read: impl Future<Output = Result<Listed, Error>> + Send + 'static,
    ) -> Reading {
        let mut all = lock(&self.0);
        let turns = all.entry(asked.clone()).or_default();
        if let Some(next) = &turns.next {
            return next.clone();
        }
        let (this, before) = (self.clone(), turns.now.clone());
        let task = tokio::spawn(async move {
            if let Some(before) = before {
                let _ = timeout(PATIENCE, before).await;
            }
            this.begin(&asked);
            let answer = read.await;
            this.end(&asked);
            answer.map(Arc::new).map_err(Arc::new)
        });
        let failed = |error: tokio::task::JoinError| Error::Backend { doing: "reading", source: error.into() };
        let reading =
            task.map(move |ended| ended.unwrap_or_else(|error| Err(Arc::new(failed(error))))).boxed().shared();
        turns.next = Some(reading.clone());
        reading
    }

    fn begin(&self, asked: &Asked) {
        if let Some(turns) = lock(&self.0).get_mut(asked) {
            turns.now = turns.next.take();
        }
    }

    fn end(&self, asked: &Asked) {
        let mut all = lock(&self.0);
        if all.get(asked).is_some_and(|turns| turns.next.is_none()) {
            all.remove(asked);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::{AtomicU64, Ordering};

    use futures::future::join_all;

    use super::*;

    const TAKES: Duration = Duration::from_millis(40);

    /// A store whose revision is the number of lists that have begun.
    #[derive(Default)]
    struct Slow {
        together: Arc<Together>,
        begun: Arc<AtomicU64>,
        fails: bool,
        /// The first list never ends.
        hangs: bool,
    }

    impl Slow {
        async fn list(&self) -> Result<u64, Error> {
            let (begun, fails, hangs) = (self.begun.clone(), self.fails, self.hangs);
            let read = move || {
                let begun = begun.clone();
                async move {
                    let revision = begun.fetch_add(1, Ordering::Relaxed) + 1;
                    tokio::time::sleep(TAKES).await;
                    if hangs && revision == 1 {
                        std::future::pending::<()>().await;
                    }
                    let told = "no leader is known".to_owned();
                    if fails { Err(Error::NoQuorum { doing: "reading", told }) } else { Ok((Vec::new(), revision)) }
                }
            };
            let (_, revision) = self.together.list((vec!["configmaps".to_owned()], None), read).await?;
            Ok(revision)
        }
    }

    /// Regression 325: 300 clients began to watch 2,000 objects at the same moment, and each had them read for itself: etcd did
    /// not answer in time, and 124 of the watches were refused with 500.
    #[tokio::test(start_paused = true)]
    async fn readers_who_ask_at_once_share_one_list_and_never_one_that_has_begun() {
        let slow = Slow::default();
        let late = async {
            tokio::time::sleep(TAKES / 2).await;
            join_all((0..100).map(|_| slow.list())).await
        };
        let (first, late) = tokio::join!(join_all((0..100).map(|_| slow.list())), late);
        assert!(first.into_iter().all(|seen| seen.unwrap() == 1));
        assert!(
            late.into_iter().all(|seen| seen.unwrap() == 2),
            "what began before they asked may be too old for them"
        );
        assert_eq!(slow.list().await.unwrap(), 3, "nothing is kept");
        assert!(lock(&slow.together.0).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_goes_on_when_its_reader_is_gone_and_its_failure_is_told_to_all() {
        let slow = Slow { fails: true, ..Slow::default() };
        assert!(tokio::time::timeout(TAKES / 2, slow.list()).await.is_err());
        let seen = join_all((0..3).map(|_| slow.list())).await;
        assert!(seen.iter().all(|seen| matches!(seen, Err(Error::NoQuorum { .. }))));
        assert_eq!(slow.begun.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_that_does_not_end_holds_up_the_next_ones_for_a_moment_only() {
        let slow = Slow { hangs: true, ..Slow::default() };
        assert!(timeout(TAKES, slow.list()).await.is_err());
        let seen = timeout(PATIENCE + TAKES * 2, join_all((0..3).map(|_| slow.list()))).await.unwrap();
        assert!(seen.into_iter().all(|seen| seen.unwrap() == 2));
        assert_eq!(timeout(PATIENCE + TAKES * 2, slow.list()).await.unwrap().unwrap(), 3);
    }
}
