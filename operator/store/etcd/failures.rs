//! What an error of etcd says: about the request, about the member, or nothing. Pure.

use std::fmt;

use crate::store::Error;

/// What a failed call is known to mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The revision was compacted.
    Compacted,
    /// The revision does not exist yet.
    Future,
    /// The database is full: the cluster accepts no writes that make it larger.
    Full,
    /// The request is larger than etcd accepts.
    TooLarge,
    /// The answer is larger than this program accepts.
    AnswerTooLarge,
    /// The lease does not exist any more.
    LeaseGone,
    /// The member did not get the request: another one may be asked.
    Unsent,
    /// The member knows no leader: it did nothing.
    NoLeader,
    /// The member is in trouble; whether it performed the request is not known.
    Unknown,
    /// The cluster refuses the request: another member would, too.
    Refused,
}

/// A failed call.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) kind: Kind,
    pub(super) cause: Cause,
}

/// The words of a failure, without addresses of memory and metadata of gRPC.
#[derive(Debug)]
pub(super) struct Cause(String);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Cause {}

impl Failure {
    /// A member that did not answer in time.
    pub(super) fn silence() -> Self {
        Self { kind: Kind::Unknown, cause: Cause("etcd did not answer in time".to_owned()) }
    }

    /// Whether it says something about the request, not about a member.
    pub(super) fn is_of_the_request(&self) -> bool {
        !matches!(self.kind, Kind::Unsent | Kind::NoLeader | Kind::Unknown)
    }

    /// Of the failures of two members the one that says more.
    pub(super) fn or(self, other: Self) -> Self {
        if self.is_of_the_request() { self } else { other }
    }

    /// Whether etcd's words contain these.
    pub(super) fn says(&self, words: &str) -> bool {
        self.cause.0.contains(words)
    }

    /// The failure as an error of the store.
    pub(super) fn error(self, doing: &'static str) -> Error {
        match self.kind {
            Kind::Full => Error::Full,
            _ => Error::Backend { doing, source: Box::new(self.cause) },
        }
    }
}

impl From<etcd_client::Error> for Failure {
    fn from(error: etcd_client::Error) -> Self {
        match &error {
            etcd_client::Error::GRpcStatus(status) => {
                let kind = judge(status.code() as i32, status.message());
                Self { kind, cause: Cause(words(status.message(), status)) }
            }
            // The connection was not made.
            etcd_client::Error::TransportError(_) | etcd_client::Error::IoError(_) => {
                Self { kind: Kind::Unsent, cause: Cause(crate::api::chain::chain(&error)) }
            }
            etcd_client::Error::LeaseKeepAliveError(words) if words == "lease not found" => {
                Self { kind: Kind::LeaseGone, cause: Cause(words.clone()) }
            }
            other => Self { kind: Kind::Unknown, cause: Cause(other.to_string()) },
        }
    }
}

/// A message with the innermost cause of its error: of a connection that was not made, that is the reason.
fn words(message: &str, error: &dyn std::error::Error) -> String {
    let innermost = std::iter::successors(error.source(), |cause| cause.source()).last();
    match innermost.map(ToString::to_string).filter(|cause| !message.contains(cause.as_str())) {
        Some(cause) => format!("{message}: {cause}"),
        None => message.to_owned(),
    }
}

/// What a status of gRPC means, by its code and etcd's words.
fn judge(code: i32, message: &str) -> Kind {
    let says = |words: &str| message.contains(words);
    match code {
        // OUT_OF_RANGE
        11 if says("has been compacted") => Kind::Compacted,
        11 if says("future revision") => Kind::Future,
        11 if says("message length too large") => Kind::AnswerTooLarge,
        // RESOURCE_EXHAUSTED
        8 if says("database space exceeded") => Kind::Full,
        8 if says("larger than max") => Kind::TooLarge,
        // INVALID_ARGUMENT
        3 if says("request is too large") => Kind::TooLarge,
        // NOT_FOUND
        5 if says("lease not found") => Kind::LeaseGone,
        // UNAVAILABLE
        14 if says("no leader") => Kind::NoLeader,
        14 if says("tcp connect error") || says("error trying to connect") || says("Connection refused") => {
            Kind::Unsent
        }
        // INVALID_ARGUMENT, PERMISSION_DENIED, FAILED_PRECONDITION, UNIMPLEMENTED, UNAUTHENTICATED
        3 | 7 | 9 | 12 | 16 => Kind::Refused,
        _ => Kind::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etcds_words_are_understood() {
        for (code, message, kind) in [
            (11, "etcdserver: mvcc: required revision has been compacted", Kind::Compacted),
            (11, "etcdserver: mvcc: required revision is a future revision", Kind::Future),
            (11, "Error, decoded message length too large: found 9 bytes, the limit is: 4 bytes", Kind::AnswerTooLarge),
            (8, "etcdserver: mvcc: database space exceeded", Kind::Full),
            (8, "grpc: received message larger than max (2097152 vs. 2097151)", Kind::TooLarge),
            (3, "etcdserver: request is too large", Kind::TooLarge),
            (5, "etcdserver: requested lease not found", Kind::LeaseGone),
            (14, "etcdserver: no leader", Kind::NoLeader),
            (14, "tcp connect error", Kind::Unsent),
            (16, "etcdserver: invalid auth token", Kind::Refused),
        ] {
            assert_eq!(judge(code, message), kind, "{message}");
        }
    }

    /// Words that nobody knows, and words that leave the outcome open, mean nothing: patroni#3572 demoted a primary by one.
    #[test]
    fn anything_else_says_nothing() {
        for (code, message) in [
            (14, "etcdserver: request timed out"),
            (14, "etcdserver: leader changed"),
            (14, "etcdserver: request timed out, possibly due to previous leader failure"),
            (13, "h2 protocol error"),
            (2, "transport error"),
            (99, "new words"),
        ] {
            assert_eq!(judge(code, message), Kind::Unknown, "{message}");
        }
    }
}
