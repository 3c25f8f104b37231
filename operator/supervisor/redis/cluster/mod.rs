//! PID 1 in the container of a member of a Redis Cluster: it starts the server only by an order, does the acts that the
//! operator asks for, one after the other, and tells everything that the node knows.
//!
//! - `next`: every decision, pure; `nodes`: reads what a node knows, pure; `wire`: the messages.
//! - `run`: the loop; `shell`: its memory, and what it performs; `acts`: the commands to the node, `ask`: questions to it.

mod acts;
mod ask;
mod next;
mod nodes;
pub mod run;
mod shell;
pub mod wire;
