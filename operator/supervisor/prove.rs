//! The proof that a new client can write now: while the gate is open, a fresh session through the clients' own door
//! (TCP, the application's role and password) commits a write, again and again. Starts the attempts; decides nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::unistd::Pid;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{Connection, Row};
use tokio_util::task::AbortOnDropHandle;

use super::listen::listen;
use super::poll::HEARTBEAT_MS;
use super::shell::{Note, Shell};
use super::state::Gate;
use super::wire::{Lead, Task};

impl Shell {
    /// Starts the next attempt if it is due, and reads the evidence while one waits.
    pub fn prove(&mut self, now: u64) {
        let Some((pid, client)) = self.client() else { return self.server.run.proving.rest() };
        let answers = self.problems.poll.is_none();
        let poll = self.server.run.poll.as_ref().filter(|poll| answers && !poll.proof_waits);
        let lsn = poll.map(|poll| poll.lsn);
        if self.server.run.proving.due(now) {
            let (id, notes) = (self.server.run.id.clone(), self.notes.clone());
            let connected = Arc::new(AtomicBool::new(false));
            let work = attempt(client, connected.clone());
            let task = tokio::spawn(async move {
                let result = work.await;
                // The loop exists as long as the process.
                let _ = notes.send(Note::Proof(id, result)).await;
            });
            self.server.run.proving.begin(pid, connected, AbortOnDropHandle::new(task), now);
        }
        self.server.run.proving.watch(pid, lsn, &self.place.own(), now);
    }

    /// An attempt ended: the server committed, or refused.
    pub fn proved(&mut self, result: Result<(), String>, now: u64) {
        if result.is_ok() {
            // The write is a heartbeat, too; and a report says how old the proof is.
            self.clocks.heartbeat_at = self.clocks.heartbeat_at.max(now + HEARTBEAT_MS);
            self.told.reported.1 = 0;
        }
        self.server.run.proving.end(result, now);
    }

    /// The postmaster and the connection data of a client, while clients are let in and their database was made.
    fn client(&self) -> Option<(Pid, PgConnectOptions)> {
        let Task::Lead(Lead { database, owner, .. }) = &self.durable.order.as_ref()?.task else { return None };
        let run = &self.server.run;
        let open = run.applied.as_ref().is_some_and(|applied| applied.gate == Gate::Open);
        let primary = run.poll.as_ref().is_some_and(|poll| !poll.recovery);
        let postmaster = self.server.postmaster.as_ref().filter(|postmaster| postmaster.stopping.is_none())?;
        let options = PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(listen().port)
            .username(owner)
            .password(&self.secrets.as_ref()?.credentials.owner_password)
            .database(database)
            .application_name("evenkeel proof")
            .ssl_mode(PgSslMode::Disable)
            .statement_cache_capacity(0)
            .options([("synchronous_commit", "on"), ("statement_timeout", "0"), ("search_path", "pg_catalog")]);
        (open && primary && run.app_ensured).then_some((postmaster.pid, options))
    }
}

/// One session that commits one write.
async fn attempt(client: PgConnectOptions, connected: Arc<AtomicBool>) -> Result<(), String> {
    let mut session = PgConnection::connect_with(&client).await.map_err(|error| answer(&error))?;
    connected.store(true, Ordering::Relaxed);
    // The transactional message assigns a transaction id, so that its commit is flushed, and acknowledged by voters.
    let sql =
        "SELECT current_setting('transaction_read_only') = 'on', pg_logical_emit_message(true, 'evenkeel', 'proof')";
    let row = sqlx::query(sql).fetch_one(&mut session).await.map_err(|error| answer(&error))?;
    // An error is the server's, after the proof.
    let _ = session.close().await;
    match row.get::<bool, _>(0) {
        true => Err("a new session's transactions are read-only: see default_transaction_read_only".to_owned()),
        false => Ok(()),
    }
}

/// What the server, or the network, said.
fn answer(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(refused) => format!("a new session is refused: {}", refused.message()),
        error => format!("a new session fails: {error}"),
    }
}
