//! Maps bollard's errors to our four classes; keeps the engine's own message.

use std::error::Error as StdError;

use bollard::errors::Error as Bollard;

use super::super::Error;

/// The class of a bollard error.
pub(super) fn classify(host: &str, doing: &str, error: Bollard) -> Error {
    match error {
        Bollard::DockerResponseServerError { status_code, message } => {
            let message = message.trim().to_owned();
            match status_code {
                404 => Error::not_found(host, doing, message),
                409 => Error::conflict(host, doing, message),
                // A proxy in front of the engine cannot reach it.
                502..=504 => Error::unreachable(host, doing, message),
                _ => Error::refused(host, doing, message),
            }
        }
        Bollard::DockerStreamError { error } => Error::refused(host, doing, error.trim()),
        Bollard::RequestTimeoutError => Error::unreachable(host, doing, "no answer in time"),
        Bollard::SocketNotFoundError(path) => {
            Error::unreachable(host, doing, format!("there is no socket {path}; is Docker running?"))
        }
        Bollard::IOError { .. } | Bollard::HyperResponseError { .. } | Bollard::HyperLegacyError { .. } => {
            Error::unreachable(host, doing, root_cause(&error))
        }
        other => Error::refused(host, doing, format!("the engine's answer was not understood: {other}")),
    }
}

/// The innermost message: the outer ones only say that a client failed.
pub(super) fn root_cause(error: &dyn StdError) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::failure::Failure;

    fn said(error: Bollard) -> String {
        let failure = Failure::from(classify("local", "starting container db-1", error));
        format!("{:?}: {}", failure.class, failure.message)
    }

    fn status(status_code: u16, message: &str) -> Bollard {
        Bollard::DockerResponseServerError { status_code, message: message.to_owned() }
    }

    #[test]
    fn every_answer_has_its_class_and_keeps_the_engines_words() {
        let told = [
            status(404, "No such container: db-1"),
            status(409, "Container db-1 is paused\n"),
            status(500, "driver failed: Bind for 127.0.0.1:5432 failed: port is already allocated"),
            status(400, "invalid reference format"),
            status(503, "no backend"),
            Bollard::DockerStreamError { error: "toomanyrequests".to_owned() },
            Bollard::RequestTimeoutError,
            Bollard::SocketNotFoundError("/run/none.sock".to_owned()),
            Bollard::from(std::io::Error::from(std::io::ErrorKind::ConnectionRefused)),
        ]
        .map(|error| said(error) + "\n")
        .concat();
        expect_test::expect![[r#"
            NotFound: Docker host local: not found while starting container db-1: No such container: db-1
            Conflict: Docker host local: conflict while starting container db-1: Container db-1 is paused
            Transient: Docker host local refused starting container db-1: driver failed: Bind for 127.0.0.1:5432 failed: port is already allocated
            Transient: Docker host local refused starting container db-1: invalid reference format
            Transient: Docker host local does not answer while starting container db-1: no backend
            Transient: Docker host local refused starting container db-1: toomanyrequests
            Transient: Docker host local does not answer while starting container db-1: no answer in time
            Transient: Docker host local does not answer while starting container db-1: there is no socket /run/none.sock; is Docker running?
            Transient: Docker host local does not answer while starting container db-1: connection refused
        "#]].assert_eq(&told);
    }
}
