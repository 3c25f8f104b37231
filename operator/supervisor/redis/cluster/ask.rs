//! Questions to the server of this container.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, RedisResult, Value, cmd};

use crate::supervisor::redis::client::{Login, local, within};
use crate::supervisor::redis::cluster::nodes;
use crate::supervisor::redis::cluster::wire::Node;
use crate::supervisor::redis::info::{self, Info};
use crate::supervisor::redis::place::Place;
use crate::supervisor::redis::wire::{ADMIN, Credentials};

/// Time-out of one exchange.
const PATIENCE: Duration = Duration::from_secs(1);

/// Connects as the supervisor, with the newest password that the server accepts.
pub async fn connect(place: &Place, known: &[Credentials]) -> RedisResult<MultiplexedConnection> {
    let mut last = (ErrorKind::AuthenticationFailed, "no password is known").into();
    for credentials in known.iter().rev() {
        let login = Login { user: ADMIN, password: &credentials.admin_password };
        match within(PATIENCE, local(&place.socket(), login)).await {
            Err(error) if error.kind() == ErrorKind::AuthenticationFailed => last = error,
            other => return other,
        }
    }
    Err(last)
}

/// Sends one command.
pub async fn send(connection: &mut MultiplexedConnection, command: &Cmd) -> RedisResult<Value> {
    within(PATIENCE, command.query_async(connection)).await
}

/// Asks everything.
pub async fn poll(connection: &mut MultiplexedConnection) -> RedisResult<(Info, Option<Node>)> {
    let mut question = cmd("INFO");
    question.arg(&["server", "persistence", "replication", "memory", "stats", "clients", "keyspace"]);
    let text: String = within(PATIENCE, question.query_async(connection)).await?;
    let asked = redis::pipe()
        .add_command(cmd("CLUSTER").arg("NODES").to_owned())
        .add_command(cmd("CLUSTER").arg("INFO").to_owned())
        .to_owned();
    let (list, state): (String, String) = within(PATIENCE, asked.query_async(connection)).await?;
    let ok = state.lines().any(|line| line.trim() == "cluster_state:ok");
    Ok((info::read(&text), nodes::read(&list).map(|node| Node { ok, ..node })))
}
