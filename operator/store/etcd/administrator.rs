//! The administrator's token as all operators over one store have it: a key of etcd that is no object, so that no request, no backup
//! and no other store gets it. Sealed like a Secret.

use etcd_client::{Compare, CompareOp, Txn, TxnOp};

use super::feed::Feed;
use super::layout::{Span, next};
use super::members::{Repeat, Services};
use super::{EtcdStore, signed, stored_text, unsigned};
use crate::store::seal::SEALED;
use crate::store::{Error, Key};

/// The administrator's token in etcd. Get it with [`EtcdStore::administrator`].
#[derive(Clone)]
pub struct EtcdAdministrator {
    store: EtcdStore,
}

/// What a look at it has found.
pub struct Administrator {
    /// The text, if there is one.
    pub text: Option<String>,
    /// The revision that it was written at, for the next write; 0: there is none.
    written: u64,
    /// The revision of the look.
    at: u64,
}

impl EtcdStore {
    /// The administrator's token of this store.
    pub fn administrator(&self) -> EtcdAdministrator {
        EtcdAdministrator { store: self.clone() }
    }
}

/// The name that the text is sealed with. No Secret can have it: a Secret has a namespace.
pub(super) fn name() -> Key {
    Key::new(SEALED, "", "administrator")
}

impl EtcdAdministrator {
    /// What there is.
    pub async fn read(&self) -> Result<Administrator, Error> {
        let shared = &self.store.shared;
        let key = shared.layout.administrator();
        let request = |mut services: Services| {
            let key = key.clone();
            async move { services.kv.get(key, None).await }
        };
        let found = self.store.read("reading the administrator's token", request).await?;
        let at = found.header().map_or(0, |header| unsigned(header.revision()));
        let Some(kv) = found.kvs().first() else { return Ok(Administrator { text: None, written: 0, at }) };
        let text = shared.seal.open(&name(), stored_text(&name(), kv)?)?.into_owned();
        Ok(Administrator { text: Some(text), written: unsigned(kv.mod_revision()), at })
    }

    /// Writes the text if it is still as it was seen. `false`: another operator was faster.
    pub async fn write(&self, text: String, seen: &Administrator) -> Result<bool, Error> {
        let shared = &self.store.shared;
        let (key, text) = (shared.layout.administrator(), shared.seal.seal(&name(), text));
        let is_seen = Compare::mod_revision(key.clone(), CompareOp::Equal, signed(seen.written));
        let txn = Txn::new().when(vec![is_seen]).and_then(vec![TxnOp::put(key, text, None)]);
        let request = |mut services: Services| {
            let txn = txn.clone();
            async move { services.kv.txn(txn).await }
        };
        match shared.members.call(Repeat::IfUnsent, request).await {
            Ok(answer) => Ok(answer.succeeded()),
            Err(failure) => Err(self.store.explained("writing the administrator's token", failure).await),
        }
    }

    /// Waits until it is written after this look.
    pub async fn changed(&self, since: &Administrator) -> Result<(), Error> {
        let start = self.store.shared.layout.administrator();
        let span = Span { end: next(&start), start };
        match Feed::new(self.store.shared.members.clone(), span, since.at).next().await {
            // What is too old to be followed is read again.
            Ok(_) | Err(Error::Compacted { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
