//! The verbs people type, and how answers look. Talks to the server over its API like any other client;
//! only `operator.rs`, the wiring of `evenkeel operator`, knows the other rooms.

pub mod about;
pub mod apply;
pub mod client;
pub mod datadir;
pub mod delete;
pub mod describe;
pub mod discovery;
pub mod error;
pub mod events;
pub mod follow;
pub mod get;
pub mod kubeconfig;
pub mod logging;
pub mod manifest;
pub mod operator;
pub mod preview;
pub mod progress;
pub mod render;
pub mod session;
pub mod switchover;
pub mod timeline;
pub mod up;
pub mod wait;
