//! The agent: one container on each of several hosts, which tells what only a process on the host's network can see. It
//! decides nothing and changes nothing.
//!
//! - [`wire`]: the messages between operator and agent.
//! - `listeners`: the listening ports in the kernel's tables. `peers`: what is known of the way to each peer. Both pure.
//! - [`run`]: the loop: reads, connects, reports.

mod listeners;
mod peers;
pub mod run;
pub mod wire;
