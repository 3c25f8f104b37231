//! The question to the Sentinels, for a supervisor without an operator: who is master?

use std::collections::HashMap;
use std::time::Duration;

use redis::{RedisResult, cmd};

use crate::supervisor::redis::client::{Login, remote, within};
use crate::supervisor::redis::state::Said;
use crate::supervisor::redis::wire::{ADMIN, Address, Credentials, Sentinels, Tls};

/// Time that each has to answer.
const PATIENCE: Duration = Duration::from_millis(500);

/// Asks all at the same time; the answers that came.
pub async fn ask(sentinels: Sentinels, credentials: Credentials, tls: bool) -> Vec<Said> {
    let tls = credentials.tls.as_ref().filter(|_| tls);
    let name = sentinels.master_name.as_str();
    let login = Login { user: ADMIN, password: &credentials.admin_password };
    let asked = sentinels.addresses.iter().map(|address| within(PATIENCE, ask_one(*address, tls, login, name)));
    futures::future::join_all(asked).await.into_iter().filter_map(Result::ok).flatten().collect()
}

type Fields = HashMap<String, String>;

async fn ask_one(address: Address, tls: Option<&Tls>, login: Login<'_>, name: &str) -> RedisResult<Option<Said>> {
    let mut connection = remote(address, tls, login).await?;
    let question = |words: &str| cmd("SENTINEL").arg(words).arg(name).to_owned();
    let mut pipe = redis::pipe();
    for words in ["GET-MASTER-ADDR-BY-NAME", "MASTER", "REPLICAS"] {
        pipe.add_command(question(words));
    }
    let (named, master, replicas): (Option<(String, u16)>, Fields, Vec<Fields>) =
        pipe.query_async(&mut connection).await?;
    let said = || {
        let (host, port) = named?;
        Some(Said {
            master: Address { ip: host.parse().ok()?, port },
            config_epoch: master.get("config-epoch")?.parse().ok()?,
            promotable: replicas.iter().any(promotable),
        })
    };
    Ok(said())
}

/// Whether a Sentinel might choose this replica.
fn promotable(replica: &Fields) -> bool {
    let flags = replica.get("flags").map(String::as_str).unwrap_or_default();
    let down = flags.split(',').any(|flag| ["s_down", "o_down", "disconnected"].contains(&flag));
    let never = replica.get("slave-priority").is_some_and(|priority| priority == "0");
    !down && !never
}
