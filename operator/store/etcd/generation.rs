//! The generation of a store on etcd, and whether it is closed: while objects are copied into it, or since they were taken out.

use etcd_client::{Compare, CompareOp, KeyValue, PutOptions, Txn, TxnOp};
use serde::{Deserialize, Serialize};

use super::members::{Repeat, Services};
use super::{EtcdStore, signed, unsigned};
use crate::store::Error;

/// Why nobody may lead over a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Closed {
    /// Objects are copied into it; only some of them may be there.
    Copying {
        /// What is copied ([`Snapshot::content`](crate::store::sqlite::Snapshot::content)): nothing else completes it.
        content: String,
    },
    /// A node has taken the objects into a store of its own.
    Left {
        /// The name of the node.
        node: String,
    },
}

/// What the key holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Origin {
    /// How often the objects went over into another store.
    pub(super) generation: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    closed: Option<Closed>,
}

impl Origin {
    /// The generation, if the store is open.
    pub(super) fn open(&self) -> Result<u64, Error> {
        let problem = match &self.closed {
            None => return Ok(self.generation),
            Some(Closed::Copying { .. }) => {
                "objects are copied into etcd, or that was interrupted: run the same command again \
                                             with the same file, and start the operators when it is done"
                    .to_owned()
            }
            Some(Closed::Left { node }) => format!(
                "the operator of the node {node} has taken the objects out of this etcd (cluster leave) and is the only one now; \
                 what is here is old. To share a store again, start with an empty etcd"
            ),
        };
        Err(Error::Setup { problem })
    }
}

impl EtcdStore {
    /// What the key holds, and its revision for a condition (0: there is none).
    pub(super) async fn origin(&self) -> Result<(Origin, u64), Error> {
        let key = self.shared.layout.generation();
        let request = |mut services: Services| {
            let key = key.clone();
            async move { services.kv.get(key, None).await }
        };
        let found = self.read("reading its generation", request).await?;
        found.kvs().first().map_or(Ok((Origin::default(), 0)), parsed)
    }

    /// Closes the store, unless it is closed for another reason or an operator leads. Returns its generation.
    pub async fn close(&self, why: Closed) -> Result<u64, Error> {
        let (origin, seen) = self.origin().await?;
        let generation = origin.generation;
        if origin.closed.as_ref() != Some(&why) {
            origin.open()?;
            self.write_origin(&Origin { closed: Some(why), ..origin }, seen).await?;
        }
        Ok(generation)
    }

    /// Whether it is closed for this reason.
    pub async fn is_closed(&self, why: &Closed) -> Result<bool, Error> {
        Ok(self.origin().await?.0.closed.as_ref() == Some(why))
    }

    /// Opens the store with the objects that were copied into it. Its generation never falls.
    pub async fn reopen(&self, generation: u64) -> Result<(), Error> {
        let (origin, seen) = self.origin().await?;
        let opened = Origin { generation: origin.generation.max(generation), closed: None };
        self.write_origin(&opened, seen).await
    }

    /// Writes the key if it is as it was seen, and nobody leads.
    async fn write_origin(&self, origin: &Origin, seen: u64) -> Result<(), Error> {
        let (key, leader) = (self.shared.layout.generation(), self.shared.layout.leader());
        let text = serde_json::json!(origin).to_string();
        let conditions = vec![
            Compare::mod_revision(key.clone(), CompareOp::Equal, signed(seen)),
            Compare::create_revision(leader, CompareOp::Equal, 0),
        ];
        let txn = Txn::new().when(conditions).and_then(vec![TxnOp::put(key, text, None::<PutOptions>)]);
        let request = |mut services: Services| {
            let txn = txn.clone();
            async move { services.kv.txn(txn).await }
        };
        match self.shared.members.call(Repeat::IfUnsent, request).await {
            Ok(answer) if answer.succeeded() => Ok(()),
            Ok(_) => Err(Error::Led),
            Err(failure) => Err(self.explained("writing its generation", failure).await),
        }
    }
}

/// The key as it is stored, and its revision.
fn parsed(kv: &KeyValue) -> Result<(Origin, u64), Error> {
    let origin = serde_json::from_slice(kv.value())
        .map_err(|source| Error::Backend { doing: "reading its generation", source: Box::new(source) })?;
    Ok((origin, unsigned(kv.mod_revision())))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn nobody_works_with_a_store_that_is_half_copied_or_left() {
        assert_eq!(Origin { generation: 3, closed: None }.open().unwrap(), 3);
        for (closed, word) in [
            (Closed::Copying { content: "a".into() }, "interrupted"),
            (Closed::Left { node: "one".into() }, "node one"),
        ] {
            let told = Origin { generation: 3, closed: Some(closed) }.open().unwrap_err().to_string();
            assert!(told.contains(word), "{told}");
        }
    }
}
