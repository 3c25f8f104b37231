//! The administrator's token at all operators over one store: the store has it, and each operator follows it, in its files, in its
//! kubeconfig and in what it accepts. A single operator has it in its files alone.

use std::time::Duration;

use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::sleep;

use super::Server;
use super::authn::tokens::secret;
use super::identity::Error as IdentityError;
use super::identity::administrator::AdminToken;
use crate::api::chain::chain;
use crate::store;
use crate::store::etcd::{Administrator, EtcdAdministrator};

/// Pause before the store is read again after a failure.
const AGAIN: Duration = Duration::from_secs(1);
/// Attempts at a write while other operators write too.
const ATTEMPTS: usize = 5;

/// Why the token was not replaced or followed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The files cannot be read or written.
    #[error(transparent)]
    Files(#[from] IdentityError),
    /// What the store has is no token.
    #[error("what the store has as the administrator's token cannot be understood; nothing was changed")]
    Unreadable(#[source] serde_json::Error),
    /// Others write all the time.
    #[error("another operator replaces the administrator's token right now; try again")]
    Busy,
}

/// The token in the store that operators share.
pub struct Shared {
    etcd: EtcdAdministrator,
    /// One at a time reads and applies it, so that an older one never takes the place of a newer one.
    turn: Mutex<()>,
}

impl From<EtcdAdministrator> for Shared {
    fn from(etcd: EtcdAdministrator) -> Self {
        Self { etcd, turn: Mutex::default() }
    }
}

/// Replaces the token, at every operator. `revoke`: the one before ends at once.
pub async fn rotate(server: &Server, revoke: bool) -> Result<(), Error> {
    let now = server.clock.now();
    let token = secret(&*server.clock);
    let Some(shared) = shared(server) else {
        apply(server, |before| before.replaced_by(token, now, revoke))?;
        return Ok(());
    };
    for _ in 0..ATTEMPTS {
        let seen = shared.etcd.read().await?;
        let before = match &seen.text {
            Some(text) => parsed(text)?,
            None => server.authority.admin_token()?,
        };
        let made = before.replaced_by(token.clone(), now, revoke);
        if shared.etcd.write(json!(made).to_string(), &seen).await? {
            follow(server, shared).await?;
            return Ok(());
        }
    }
    Err(Error::Busy)
}

fn shared(server: &Server) -> Option<&Shared> {
    server.cluster.as_ref().map(|cluster| &cluster.administrator)
}

/// Takes the token of the store, or gives the store that of the files if it has none. What was found there.
pub async fn follow(server: &Server, shared: &Shared) -> Result<Administrator, Error> {
    let _turn = shared.turn.lock().await;
    let seen = shared.etcd.read().await?;
    match &seen.text {
        Some(text) => {
            let token = parsed(text)?;
            apply(server, |_| token)?;
        }
        // If another operator is faster, its token is read next.
        None => drop(shared.etcd.write(json!(server.authority.admin_token()?).to_string(), &seen).await?),
    }
    Ok(seen)
}

/// Follows the token of the store for ever.
pub async fn keep(server: &Server) {
    let Some(shared) = shared(server) else { return };
    loop {
        let followed = match follow(server, shared).await {
            Ok(seen) => shared.etcd.changed(&seen).await.map_err(Error::from),
            Err(error) => Err(error),
        };
        if let Err(error) = followed {
            tracing::warn!(error = %chain(&error), "the administrator's token could not be followed; trying again");
            sleep(AGAIN).await;
        }
    }
}

/// The token takes the place of the one in the files, and of those that are accepted.
fn apply(server: &Server, next: impl FnOnce(AdminToken) -> AdminToken) -> Result<(), Error> {
    let tell = |token: &AdminToken| server.access.set_admin(token.valid(server.clock.now()));
    Ok(server.authority.replace_admin_token(next, tell)?)
}

fn parsed(text: &str) -> Result<AdminToken, Error> {
    serde_json::from_str(text).map_err(Error::Unreadable)
}
