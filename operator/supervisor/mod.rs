//! PID 1 in the database container: a pure state machine (`next.rs`) and a thin shell around it. Only the
//! supervisor changes the role of its PostgreSQL.
//!
//! - [`wire`]: the messages between operator and supervisor.
//! - [`state`]: inputs and outputs of decisions; [`next`] (with `rejoin`): every decision, pure; [`report`]:
//!   renders the report.
//! - [`agent`]: no database, but the one container that tells what a host's network is like.
//! - [`run`]: the loop; observes (`poll`), takes a `snapshot`, calls `next`, performs (`perform`), reports.
//! - [`archiving`]: brings WAL into the archive, beside the loop.
//! - `proof`: whether a new client can write now; `collations`: what sorts text here.
//! - The other files have one task each: files (`place`, `theirs`, `durable`, `secrets`, `tls`, `conf`, `configure`,
//!   `dry_start`, `leftovers`),
//!   processes (`process`, `authenticating`, `tools`, `jobs`, `server_log`),
//!   connections to the local server (`sql`, `identify`) and from the operator (`control`).

pub mod agent;
pub mod archiving;
mod authenticating;
pub mod backup;
mod backups;
mod beside;
pub(crate) mod clock;
mod collations;
pub mod conf;
mod configure;
mod control;
mod dry_start;
pub mod dump;
pub mod dump_restore;
mod dump_restores;
mod durable;
pub mod fence;
pub(crate) mod identify;
#[cfg(test)]
mod inside;
mod jobs;
mod leftovers;
pub mod listen;
pub mod next;
mod pace;
pub mod pause;
mod perform;
mod place;
mod point;
mod poll;
pub mod porter;
pub mod probe;
mod process;
mod proof;
mod prove;
pub mod redis;
mod rejoin;
pub mod report;
pub mod restore;
pub mod restoring;
pub mod run;
mod running;
pub mod secrets;
mod server_log;
mod shell;
mod snapshot;
mod sql;
pub mod state;
mod theirs;
pub mod tls;
pub(crate) mod tools;
mod walsender;
pub mod wire;
