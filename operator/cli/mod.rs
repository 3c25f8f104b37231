//! The verbs of the command line and their output. It uses the server's API like any other client;
//! only `operator.rs`, the wiring of `evenkeel operator`, and `secrets.rs`, which opens the store of a stopped one,
//! import other rooms.

pub mod about;
pub mod apply;
pub mod client;
pub mod cluster;
pub mod datadir;
pub mod delete;
pub mod describe;
pub mod discovery;
pub mod error;
pub mod etcd;
pub mod events;
pub mod exec;
pub mod follow;
pub mod get;
pub mod host;
pub mod join;
pub mod kubeconfig;
pub mod logging;
pub mod logs;
pub mod manifest;
pub mod operator;
pub mod preview;
pub mod progress;
pub mod render;
pub mod rollouts;
pub mod scale;
pub mod secrets;
pub mod session;
pub mod switchover;
pub mod targets;
pub mod terminal;
pub mod timeline;
pub mod token;
pub mod up;
pub mod wait;
