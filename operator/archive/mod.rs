//! The archive of a PostgresCluster, or of a RedisSentinel, in an object store: what it is called there, how it is reached, what it
//! holds, and what may be deleted from it or restored from it.
//!
//! The layout is that of barman-cloud, so that its tools can read an archive. Supervisors are the only ones who carry bytes;
//! the operator only decides.

pub mod access;
pub mod catalog;
pub mod cipher;
pub mod dumps;
pub mod fetch;
pub mod frames;
pub mod history;
pub mod info;
pub mod names;
pub mod rdb;
pub mod recovery;
pub mod retention;
pub mod store;
pub mod survey;
pub mod tarball;
pub mod target;
pub mod volumes;
pub mod wal;

#[cfg(test)]
mod tests;
