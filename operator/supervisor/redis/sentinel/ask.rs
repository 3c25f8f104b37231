//! Questions and commands to the Sentinel of this container.

use std::path::Path;
use std::time::Duration;

use futures::StreamExt as _;
use redis::aio::{MultiplexedConnection, PubSub};
use redis::{
    Cmd, ErrorKind, FromRedisValue, RedisConnectionInfo, RedisError, RedisResult, Value, cmd, from_redis_value,
};
use tokio::net::UnixStream;

use crate::supervisor::redis::client::{Login, local, within, words};
use crate::supervisor::redis::sentinel::conf;
use crate::supervisor::redis::sentinel::state::Change;
use crate::supervisor::redis::sentinel::view::{Answers, cut};
use crate::supervisor::redis::wire::{ADMIN, Credentials, SENTINEL, Watch};

/// Time-out of one exchange.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// An exchange with the Sentinel failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It refused, did not answer in time, or the connection broke.
    #[error("{doing}: {}", words(.reply))]
    Failed {
        /// What was asked.
        doing: &'static str,
        /// What it said.
        reply: RedisError,
    },
    /// There are no credentials.
    #[error("the supervisor has no password of the Sentinel yet")]
    Stranger,
    /// The order or the credentials cannot be used.
    #[error(transparent)]
    Unusable(#[from] conf::Unusable),
}

impl Error {
    /// Nothing is wrong with the Sentinel: the supervisor has no password that it accepts.
    pub fn is_refusal(&self) -> bool {
        let refused = |reply: &RedisError| reply.kind() == ErrorKind::AuthenticationFailed;
        matches!(self, Self::Stranger) || matches!(self, Self::Failed { reply, .. } if refused(reply))
    }
}

/// A connection to the Sentinel.
pub struct Entered {
    /// The connection.
    pub connection: MultiplexedConnection,
    /// The password that it accepted.
    pub password: String,
    /// The version of the Sentinel.
    pub version: String,
}

/// Connects with the newest password that the Sentinel accepts, and asks for the version.
pub async fn connect(socket: &Path, known: &[Credentials]) -> Result<Entered, Error> {
    let mut refused = Error::Stranger;
    for password in known.iter().rev().map(|credentials| &credentials.admin_password) {
        let entered = within(PATIENCE, local(socket, Login { user: ADMIN, password })).await;
        match entered.map_err(|reply| Error::Failed { doing: "connecting to the Sentinel", reply }) {
            Ok(mut connection) => {
                let info = send(&mut connection, "INFO server", cmd("INFO").arg("server")).await?;
                let info: String = from_redis_value(info).unwrap_or_default();
                let field = |name| info.lines().find_map(|line| line.trim().strip_prefix(name));
                let version = field("valkey_version:").or_else(|| field("redis_version:")).unwrap_or_default();
                return Ok(Entered { connection, password: password.clone(), version: cut(version) });
            }
            Err(error) if error.is_refusal() => refused = error,
            Err(error) => return Err(error),
        }
    }
    Err(refused)
}

/// Calls `hear` for each event of the Sentinel, until the connection breaks; with the epoch of a failover that it begins.
pub async fn listen(socket: &Path, password: &str, hear: impl Fn(Option<u64>)) -> RedisResult<()> {
    let login = RedisConnectionInfo::default().set_username(ADMIN).set_password(password);
    let mut events = PubSub::new(&login.set_skip_set_lib_name(), UnixStream::connect(socket).await?).await?;
    events.psubscribe("*").await?;
    let mut events = events.into_on_message();
    // It says the new epoch just before it begins. Epochs of others' failovers come alone.
    let mut epoch = None;
    while let Some(event) = events.next().await {
        match event.get_channel_name() {
            "+new-epoch" => epoch = event.get_payload::<u64>().ok(),
            "+try-failover" => hear(epoch.take()),
            _ => hear(None),
        }
    }
    Ok(())
}

/// Asks everything, in one pipeline.
pub async fn poll(connection: &mut MultiplexedConnection, name: &str) -> Result<Answers, Error> {
    let mut pipe = redis::pipe();
    pipe.ignore_errors().add_command(sentinel("MYID")).add_command(cmd("INFO").arg("sentinel").to_owned());
    pipe.add_command(sentinel("CONFIG").arg("GET").arg("announce-*").to_owned());
    for question in ["MASTER", "GET-MASTER-ADDR-BY-NAME", "REPLICAS", "SENTINELS", "CKQUORUM"] {
        pipe.add_command(sentinel(question).arg(name).to_owned());
    }
    let failed = |reply| Error::Failed { doing: "asking the Sentinel", reply };
    let replies = within(PATIENCE, pipe.query_async::<Vec<RedisResult<Value>>>(connection)).await.map_err(failed)?;
    let mut replies = replies.into_iter();
    let mut next = || replies.next().unwrap_or(Ok(Value::Nil));
    let [id, info, config, master, address, replicas, sentinels, quorum] = std::array::from_fn(|_| next());
    let read = || -> RedisResult<Answers> {
        Ok(Answers {
            id: from_redis_value(id?)?,
            info: from_redis_value(info?)?,
            config: from_redis_value(config?)?,
            master: known(master)?,
            address: known(address)?.flatten(),
            replicas: known(replicas)?.unwrap_or_default(),
            sentinels: known(sentinels)?.unwrap_or_default(),
            no_quorum: quorum.err().map(|error| words(&error)),
        })
    };
    read().map_err(failed)
}

/// `None`: the Sentinel does not know the name. Any other error stays one.
fn known<T: FromRedisValue>(reply: RedisResult<Value>) -> RedisResult<Option<T>> {
    match reply {
        Err(error) if is_unknown(&error) => Ok(None),
        reply => Ok(Some(from_redis_value(reply?)?)),
    }
}

fn is_unknown(error: &RedisError) -> bool {
    error.detail().is_some_and(|detail| detail.contains("No such master"))
}

fn sentinel(question: &str) -> Cmd {
    cmd("SENTINEL").arg(question).to_owned()
}

async fn send(connection: &mut MultiplexedConnection, doing: &'static str, command: &Cmd) -> Result<Value, Error> {
    within(PATIENCE, command.query_async(connection)).await.map_err(|reply| Error::Failed { doing, reply })
}

/// Sends the command of an act; the error of the Sentinel is the refusal.
pub async fn perform(connection: &mut MultiplexedConnection, command: &[String]) -> Result<(), String> {
    let [name, arguments @ ..] = command else { return Ok(()) };
    match send(connection, "", cmd(name).arg(arguments)).await {
        Ok(_) => Ok(()),
        Err(Error::Failed { reply, .. }) => Err(words(&reply)),
        Err(error) => Err(error.to_string()),
    }
}

/// Makes one change.
pub async fn change(
    connection: &mut MultiplexedConnection,
    change: &Change,
    watch: &Watch,
    credentials: &Credentials,
) -> Result<(), Error> {
    let name = conf::word("the master's name", &watch.sentinels.master_name)?;
    let set = || sentinel("SET").arg(name).to_owned();
    let config = || sentinel("CONFIG").arg("SET").to_owned();
    match change {
        Change::Monitor(master) => {
            let mut monitor = sentinel("MONITOR");
            monitor.arg(name).arg(master.ip.to_string()).arg(master.port).arg(watch.quorum);
            send(connection, "SENTINEL MONITOR", &monitor).await?;
        }
        Change::Set(option, value) => {
            send(connection, "SENTINEL SET", set().arg(option).arg(value)).await?;
        }
        Change::Announce(address) => {
            let doing = "SENTINEL CONFIG SET announce-ip";
            send(connection, doing, config().arg("announce-ip").arg(address.ip.to_string())).await?;
            send(connection, doing, config().arg("announce-port").arg(address.port)).await?;
        }
        Change::Passwords => passwords(connection, watch, credentials).await?,
    }
    Ok(())
}

/// Sets users and passwords. Open connections stay.
async fn passwords(
    connection: &mut MultiplexedConnection,
    watch: &Watch,
    credentials: &Credentials,
) -> Result<(), Error> {
    let password = conf::word("the password of the Sentinels", &credentials.sentinel_password)?;
    let users = conf::users(conf::word("the application's user name", &watch.username)?, credentials);
    for (name, rules) in &users {
        let mut command = cmd("ACL");
        command.arg("SETUSER").arg(name).arg("reset").arg(rules);
        send(connection, "ACL SETUSER", &command).await?;
    }
    let there = send(connection, "ACL USERS", cmd("ACL").arg("USERS")).await?;
    let there: Vec<String> = from_redis_value(there).unwrap_or_default();
    for old in there.iter().filter(|old| *old != "default" && !users.iter().any(|(name, _)| name == *old)) {
        send(connection, "ACL DELUSER", cmd("ACL").arg("DELUSER").arg(old)).await?;
    }
    for (option, value) in [("sentinel-user", SENTINEL), ("sentinel-pass", password)] {
        send(connection, "SENTINEL CONFIG SET", sentinel("CONFIG").arg("SET").arg(option).arg(value)).await?;
    }
    for (option, value) in [("auth-user", SENTINEL), ("auth-pass", password)] {
        let mut set = sentinel("SET");
        match send(connection, "SENTINEL SET", set.arg(&watch.sentinels.master_name).arg(option).arg(value)).await {
            // It need not know the master yet.
            Err(Error::Failed { reply, .. }) if is_unknown(&reply) => {}
            result => drop(result?),
        }
    }
    send(connection, "SENTINEL FLUSHCONFIG", &sentinel("FLUSHCONFIG")).await?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Regression 387: a supervisor that had lost its passwords took the Sentinel for silent, and killed it every five seconds.
    #[tokio::test]
    async fn a_supervisor_without_passwords_is_a_stranger_and_no_proof_that_the_sentinel_hangs() {
        let error = connect("/nowhere".as_ref(), &[]).await.err().unwrap();
        assert!(error.is_refusal(), "{error}");
        let credentials = serde_json::json!({"hash": "", "adminPassword": "", "replicationPassword": "",
            "sentinelPassword": "", "appPassword": ""});
        let known = [serde_json::from_value(credentials).unwrap()];
        assert!(!connect("/nowhere".as_ref(), &known).await.err().unwrap().is_refusal());
    }
}
