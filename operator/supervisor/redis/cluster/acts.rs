//! The commands to the node of this container, and, for a migration, to the one that receives slots.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue, RedisResult, Value, cmd};

use crate::supervisor::redis::client::{Login, remote, within, words};
use crate::supervisor::redis::cluster::wire::{Act, Address, BUS_PORT};
use crate::supervisor::redis::wire::{ADMIN, Credentials};

/// Time-out of one exchange.
const PATIENCE: Duration = Duration::from_secs(5);
/// Slots that are open at a time. Their commands go in one message, which costs a server one write to its disk; commands of
/// several keys may have to be tried again while their slot is open.
const OPEN: usize = 8;
/// Time-out of the move of some keys, and the most keys of one.
const MOVE_MS: u64 = 30_000;
const KEYS: u32 = 100;

/// Does an act; the refusal if it fails.
pub async fn perform(
    connection: &mut MultiplexedConnection,
    own: &str,
    act: &Act,
    credentials: &Credentials,
) -> Result<(), String> {
    let command = match act {
        Act::Epoch(epoch) => cluster("SET-CONFIG-EPOCH").arg(*epoch).to_owned(),
        Act::AddSlots(from, to) => cluster("ADDSLOTSRANGE").arg(*from).arg(*to).to_owned(),
        Act::Meet(to) => cluster("MEET").arg(to.ip.to_string()).arg(to.port).arg(BUS_PORT).to_owned(),
        Act::MeetAt { to, bus } => cluster("MEET").arg(to.ip.to_string()).arg(to.port).arg(*bus).to_owned(),
        Act::Replicate(master) => cluster("REPLICATE").arg(master).to_owned(),
        Act::Failover { force: true } => cluster("FAILOVER").arg("FORCE").to_owned(),
        Act::Failover { force: false } => cluster("FAILOVER"),
        Act::TakeOver => cluster("FAILOVER").arg("TAKEOVER").to_owned(),
        Act::Forget(id) => cluster("FORGET").arg(id).to_owned(),
        Act::Stable(slot) => cluster("SETSLOT").arg(*slot).arg("STABLE").to_owned(),
        Act::Reset => cluster("RESET").arg("SOFT").to_owned(),
        Act::Migrate { slots, to, address } => {
            let moved = migrate(connection, own, slots, (to, *address), credentials).await;
            return moved.map_err(|error| words(&error));
        }
    };
    send::<Value>(connection, &command).await.map(drop).map_err(|error| words(&error))
}

fn cluster(word: &str) -> Cmd {
    cmd("CLUSTER").arg(word).to_owned()
}

async fn send<T: FromRedisValue>(connection: &mut MultiplexedConnection, command: &Cmd) -> RedisResult<T> {
    within(PATIENCE, command.query_async(connection)).await
}

/// Moves slots, [`OPEN`] at a time. Each command may have been done before, by a migration that was interrupted.
async fn migrate(
    source: &mut MultiplexedConnection,
    own: &str,
    slots: &[u16],
    (to, address): (&str, Address),
    credentials: &Credentials,
) -> RedisResult<()> {
    let login = Login { user: ADMIN, password: &credentials.admin_password };
    let mut target = within(PATIENCE, remote(address, credentials.tls.as_ref(), login)).await?;
    for open in slots.chunks(OPEN) {
        // In this order a client that is sent to the target is served there.
        let importing = set_all(&mut target, open, "IMPORTING", own).await?;
        let mut moving = Vec::new();
        for (slot, answer) in open.iter().zip(importing) {
            match answer {
                Err(error) if words(&error).contains("already the owner") => {}
                answer => {
                    answer?;
                    moving.push(*slot);
                }
            }
        }
        let ok = |answers: Vec<RedisResult<Value>>| answers.into_iter().collect::<RedisResult<Vec<_>>>();
        ok(set_all(source, &moving, "MIGRATING", to).await?)?;
        for slot in &moving {
            drain(source, *slot, address, credentials).await?;
        }
        // The receiver first: a slot that nobody has is worse than one that two name for a moment.
        ok(set_all(&mut target, &moving, "NODE", to).await?)?;
        ok(set_all(source, open, "NODE", to).await?)?;
    }
    Ok(())
}

/// `CLUSTER SETSLOT` of each slot, in one message; the answer to each.
async fn set_all(
    node: &mut MultiplexedConnection,
    slots: &[u16],
    state: &str,
    id: &str,
) -> RedisResult<Vec<RedisResult<Value>>> {
    if slots.is_empty() {
        return Ok(Vec::new());
    }
    let mut all = redis::pipe();
    all.ignore_errors();
    for slot in slots {
        all.add_command(cluster("SETSLOT").arg(*slot).arg(state).arg(id).to_owned());
    }
    within(PATIENCE, all.query_async(node)).await
}

/// Moves the keys of a slot, some at a time.
async fn drain(
    source: &mut MultiplexedConnection,
    slot: u16,
    to: Address,
    credentials: &Credentials,
) -> RedisResult<()> {
    loop {
        let question = cmd("CLUSTER").arg("GETKEYSINSLOT").arg(slot).arg(KEYS).to_owned();
        let keys: Vec<Vec<u8>> = send(source, &question).await?;
        if keys.is_empty() {
            return Ok(());
        }
        let mut command = cmd("MIGRATE");
        command.arg(to.ip.to_string()).arg(to.port).arg("").arg(0).arg(MOVE_MS).arg("REPLACE");
        command.arg("AUTH2").arg(ADMIN).arg(&credentials.admin_password).arg("KEYS").arg(keys);
        let _: Value = within(Duration::from_millis(MOVE_MS * 2), command.query_async(source)).await?;
    }
}
