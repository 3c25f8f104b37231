//! PID 1 beside the database: a pure state machine (`next.rs`) and a thin shell around it. The only one that changes a role.
//!
//! - [`wire`]: what operator and supervisor say to each other.
//! - [`state`]: what decisions rest on and result in; [`next`] (with `rejoin`): every decision, pure; [`report`]: what is told.
//! - [`run`]: the loop; observes (`poll`), takes a `snapshot`, asks `next`, performs (`perform`), reports.
//! - The rest does one thing each: files (`place`, `durable`, `secrets`, `conf`, `configure`), processes (`process`, `tools`, `jobs`, `server_log`),
//!   conversations with the local server (`sql`, `identify`) and with the operator (`control`).

pub mod conf;
mod configure;
mod control;
mod durable;
mod identify;
mod jobs;
pub mod next;
pub mod pause;
mod perform;
mod place;
mod poll;
mod process;
mod rejoin;
pub mod report;
pub mod run;
mod secrets;
mod server_log;
mod shell;
mod snapshot;
mod sql;
pub mod state;
mod tools;
pub mod wire;
