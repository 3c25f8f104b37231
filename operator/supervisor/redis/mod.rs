//! PID 1 in the containers of Redis and of Sentinels.
//!
//! - [`wire`]: the messages between operator and supervisors.
//! - Of data members: [`state`]: inputs and outputs of decisions; [`next`]: every decision, pure; `info`, `conf`: what the
//!   server says, and what it is told; [`run`]: the loop, with its memory and its acts (`shell`, `report`, `perform`); `alone`: the
//!   question to the Sentinels; `kept`: what is known of data whose server is down.
//! - Of data members, beside the loop: `rdb` stores a snapshot, `restore` makes the first data from one; `backups` begins and ends both.
//! - [`sentinel`], [`cluster`]: supervisors of Sentinels, and of members of a Redis Cluster.
//! - Common: [`place`], [`client`], [`log`].

mod alone;
mod backups;
pub mod client;
pub mod cluster;
mod conf;
mod info;
mod kept;
pub mod log;
pub mod next;
mod perform;
pub mod place;
mod rdb;
mod report;
mod restore;
pub mod run;
pub mod sentinel;
mod shell;
pub mod state;
pub mod wire;
