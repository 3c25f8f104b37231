//! PID 1 beside the database: a pure state machine (`next.rs`) and a thin shell around it. The only one that changes a role.

pub mod next;
pub mod wire;
