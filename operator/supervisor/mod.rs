//! PID 1 beside the database: a pure state machine (`next.rs`) and a thin shell around it. The only one that changes a role.
//!
//! - [`wire`]: what operator and supervisor say to each other.
//! - [`next`]: every decision, pure.
//! - [`run`]: the loop; looks (`look`, `seen`), asks `next`, performs (`perform`), reports (`report`).
//! - The rest does one thing each: files (`place`, `durable`, `secrets`, `conf`), processes (`process`, `tools`, `jobs`),
//!   conversations with the local server (`sql`, `identify`) and with the operator (`control`).

pub mod conf;
mod control;
mod durable;
mod identify;
mod jobs;
mod look;
pub mod next;
pub mod pause;
mod perform;
mod place;
mod process;
mod rejoin;
pub mod report;
pub mod run;
mod secrets;
mod seen;
mod shell;
mod sql;
mod tools;
pub mod wire;
