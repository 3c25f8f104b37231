//! Process 1 in a porter: a throw-away container that copies one volume into a store, or a copy from there into a volume.
//!
//! `run.rs` is its loop, `wire.rs` what the operator and it say to each other, `store.rs` and `restore.rs` the two works over the
//! store, `pack.rs` and `unpack.rs` the tar archive.

mod pack;
mod pipe;
mod restore;
pub mod run;
mod store;
mod unpack;
pub mod wire;

/// Mount path of the volume.
pub const VOLUME: &str = "/volume";
/// A file at the top of a volume that is being restored. A volume that has it is not whole.
pub const MARKER: &str = ".evenkeel-restore";
