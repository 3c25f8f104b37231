//! Forgets old revisions: one operator at a time compacts what is older than ten minutes.

use std::sync::Weak;
use std::time::Duration;

use etcd_client::{Compare, CompareOp, GetOptions, Txn, TxnOp, TxnOpResponse};

use super::failures::{Failure, Kind};
use super::members::{Members, Repeat, Services};
use super::{signed, unsigned};

/// Interval of a turn. A turn compacts up to where the store was at the turn before, so that this much is always kept.
const KEEP: Duration = Duration::from_secs(600);

/// What a turn knows of those before: how often the key was written, and where the store was when this process saw that.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    version: i64,
    revision: u64,
}

/// Takes a turn every ten minutes, until nobody uses the members any more.
pub(super) async fn run(members: Weak<Members>, key: Vec<u8>) {
    let mut turn = Turn::default();
    loop {
        if let Some(members) = members.upgrade() {
            match take(&members, &key, turn).await {
                Ok(next) => turn = next,
                Err(failure) => tracing::debug!(error = %failure.cause, "old revisions could not be compacted"),
            }
        } else {
            return;
        }
        tokio::time::sleep(KEEP).await;
    }
}

/// One turn. Whoever first writes the key that all have seen compacts; the others only note where the store is.
pub(super) async fn take(members: &Members, key: &[u8], last: Turn) -> Result<Turn, Failure> {
    let mine = Compare::version(key, CompareOp::Equal, last.version);
    let look = TxnOp::get(key, Some(GetOptions::new()));
    let txn = Txn::new().when(vec![mine]).and_then(vec![TxnOp::put(key, "", None)]).or_else(vec![look]);
    let request = |mut services: Services| {
        let txn = txn.clone();
        async move { services.kv.txn(txn).await }
    };
    let answer = members.call(Repeat::IfUnsent, request).await?;
    let revision = answer.header().map_or(0, |header| unsigned(header.revision()));
    if answer.succeeded() {
        if last.revision > 0 {
            compact(members, last.revision).await?;
        }
        return Ok(Turn { version: last.version + 1, revision });
    }
    let seen = answer.op_responses().into_iter().find_map(|response| match response {
        TxnOpResponse::Get(found) => found.kvs().first().map(etcd_client::KeyValue::version),
        _ => None,
    });
    Ok(Turn { version: seen.unwrap_or_default(), revision })
}

/// Compacts up to and including this revision; nothing if that was done before.
pub(super) async fn compact(members: &Members, through: u64) -> Result<(), Failure> {
    let request = |mut services: Services| async move { services.kv.compact(signed(through), None).await };
    match members.call(Repeat::Harmless, request).await {
        Ok(_) => Ok(()),
        Err(failure) if failure.kind == Kind::Compacted => Ok(()),
        Err(failure) => Err(failure),
    }
}
