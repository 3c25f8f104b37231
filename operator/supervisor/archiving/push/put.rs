//! How a file of a timeline gets its place in the archive, encrypted or not: nothing is overwritten but what an older lineage has left.

use std::sync::Mutex;

use crate::api::sync::lock;
use crate::archive::cipher::METADATA;
use crate::archive::names;
use crate::archive::store::{Head, Kind, Put};
use crate::archive::survey::claims;
use crate::supervisor::archiving::decide::{Conflict, conflict};
use crate::supervisor::archiving::push::{Error, File, Leader, deposed};
use crate::supervisor::clock::wall_seconds;

/// Most bytes of an object that is compared.
const LARGE: u64 = 2 << 30;

impl Leader<'_> {
    /// Puts a file of a timeline. One of an older lineage is kept elsewhere and gives way. `same` compares its content.
    pub(super) async fn put(&self, file: File, same: impl Fn(&[u8]) -> bool) -> Result<(), Error> {
        let File { key: clear, timeline, content, is_sealed } = file;
        let began = self.guard.lineage.as_ref().and_then(|lineage| lineage.began(timeline));
        let mut metadata = vec![
            ("evenkeel-term", self.guard.term.to_string()),
            ("evenkeel-begun", began.map_or(String::new(), |term| term.to_string())),
            ("evenkeel-incarnation", self.guard.incarnation.clone()),
            ("evenkeel-stored", wall_seconds().to_string()),
        ];
        let (mut key, mut bytes, mut other) = (clear.clone(), content, None);
        if is_sealed {
            key = self.store.content_key(&clear);
            metadata.extend(self.store.cipher().map(|cipher| (METADATA, cipher.fingerprint().to_owned())));
            let sealed = names::sealed(&clear);
            other = [sealed, clear].into_iter().find(|other| *other != key).filter(|_| self.mixed);
            // Both at once: most of the time there is none, and the pushes need not wait for that answer.
            let (sealed, there) = tokio::try_join!(self.store.seal(&key, bytes), async {
                match &other {
                    Some(other) => self.store.head(other).await,
                    None => Ok(None),
                }
            })?;
            (bytes, other) = (sealed, other.filter(|_| there.is_some()));
        }
        // I17 holds for the name of a file in either form.
        if let Some(other) = other {
            let Some(found) = self.store.get(&other, LARGE).await? else { return Err(Error::NotLeading) };
            let opened = self.store.unsealed(&other, &found);
            if opened.as_ref().is_ok_and(|content| same(content)) {
                return Ok(());
            }
            let closed = opened.is_err_and(|error| error.kind == Kind::KeyMissing);
            match self.judge(timeline).await? {
                Conflict::Orphan(term) => {
                    self.orphan(&other, term).await?;
                    self.store.delete(std::slice::from_ref(&other)).await?;
                }
                // Encryption was switched off just after it was pushed: it is of this lineage, and stays beside the one in the clear.
                Conflict::Damaged if closed => {}
                verdict => return Err(refusal(&other, timeline, verdict)),
            }
        }
        let closed = Mutex::new(None);
        let same = |stored: &[u8]| match self.store.unsealed(&key, stored) {
            Ok(content) => same(&content),
            Err(error) => {
                *lock(&closed) = Some(error).filter(|error| error.kind == Kind::KeyMissing);
                false
            }
        };
        if self.store.put_new(&key, bytes.clone(), &metadata, same).await? != Put::Other {
            return Ok(());
        }
        let closed = lock(&closed).take();
        match (self.judge(timeline).await?, closed) {
            (Conflict::Orphan(term), _) => {
                let there = self.orphan(&key, term).await?;
                Ok(self.store.replace(&key, bytes, &metadata, &there).await?)
            }
            // Without its key nobody knows whether it is the same.
            (Conflict::Damaged, Some(error)) => Err(error.into()),
            (verdict, _) => Err(refusal(&key, timeline, verdict)),
        }
    }

    /// Whose an object of this timeline is that has other content than ours.
    async fn judge(&self, timeline: u32) -> Result<Conflict, Error> {
        let began = self.guard.lineage.as_ref().and_then(|lineage| lineage.began(timeline));
        let claims = claims(&self.store).await?.remove(&timeline).unwrap_or_default();
        Ok(conflict(began, &claims))
    }

    /// Keeps an object of an older lineage, which began in this term, elsewhere, as its name is wanted; what it was.
    async fn orphan(&self, key: &str, term: u64) -> Result<Head, Error> {
        let Some(there) = self.store.head(key).await? else { return Err(Error::NotLeading) };
        tracing::warn!(key, term, "an object of a lineage that was given up is moved to orphans/");
        self.store.copy(key, &names::orphan_key(key, term)).await?;
        self.granted()?;
        Ok(there)
    }
}

/// Why nothing is put in the place of an object.
fn refusal(key: &str, timeline: u32, verdict: Conflict) -> Error {
    match verdict {
        Conflict::Deposed(term) => deposed(timeline, term),
        Conflict::Damaged | Conflict::Orphan(_) => Error::Conflict(format!(
            "{key} is in the archive with other content, and this very lineage put it there: one of the two is damaged; look at both, and move the one in the archive away"
        )),
    }
}
