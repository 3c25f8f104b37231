//! What can go wrong with a store, in kinds that a condition can name, and in words without credentials.

use object_store::Error as Cause;

use crate::api::chain::chain;

/// Characters kept of what a store says.
const SAID: usize = 300;
/// Letters of a credential at least: a shorter one is no secret, and would be found in other words.
const SECRET: usize = 6;

/// The kinds of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The credentials are wrong, or do not allow this.
    Denied,
    /// The bucket does not exist, or the directory.
    NoBucket,
    /// The store cannot be connected to, does not answer in time, or answers that it cannot serve now.
    Unreachable,
    /// There is no object with this key.
    NotFound,
    /// Another object is there, or another one than expected.
    Conflict,
    /// What is stored is damaged, or too large to be what it should be.
    Broken,
    /// What is stored is encrypted, and its key was not given.
    KeyMissing,
    /// The settings are unusable, or the store cannot do what is needed.
    Config,
}

impl Kind {
    /// The reason of a condition.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Denied => "StoreDenied",
            Self::NoBucket => "BucketNotFound",
            Self::Unreachable => "StoreUnreachable",
            Self::NotFound => "ObjectNotFound",
            Self::Conflict => "ArchiveConflict",
            Self::Broken => "ObjectDamaged",
            Self::KeyMissing => "KeyMissing",
            Self::Config => "StoreUnusable",
        }
    }

    fn advice(self) -> &'static str {
        match self {
            Self::Denied => "; check the credentials and what they allow",
            Self::NoBucket => "; create it, or correct its name",
            Self::Unreachable => "; it is tried again",
            Self::KeyMissing => "; add its key to the Secret of the encryption, as another line",
            Self::NotFound | Self::Conflict | Self::Broken | Self::Config => "",
        }
    }
}

/// An operation on a store failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{doing} in {store}: {said}{}", .kind.advice())]
pub struct Error {
    /// Its kind.
    pub kind: Kind,
    /// The operation with its key, e.g. `reading wals/00000002.history`.
    pub doing: String,
    /// The store.
    pub store: String,
    /// What happened.
    pub said: String,
}

/// A store's name for messages, and what must not be in them.
#[derive(Clone)]
pub(crate) struct Speaker {
    pub(crate) store: String,
    pub(crate) secrets: Vec<String>,
}

impl Speaker {
    /// A failure that this program has found.
    pub(crate) fn fail(&self, kind: Kind, doing: &str, said: impl Into<String>) -> Error {
        Error { kind, doing: doing.to_owned(), store: self.store.clone(), said: self.clean(&said.into()) }
    }

    /// A failure of the client library.
    pub(crate) fn explain(&self, doing: &str, cause: &Cause) -> Error {
        let text = chain(cause);
        let (status, code) = (status(&text), element(&text, "Code"));
        let kind = kind(cause, status, code.unwrap_or_default(), &text);
        let said = match (code, element(&text, "Message")) {
            (Some(code), Some(message)) => format!("{code}: {message}"),
            (Some(code), None) => code.to_owned(),
            _ if kind == Kind::NotFound => "it does not exist".to_owned(),
            // An answer without these words is of a proxy, or of no store at all: its body may be anything.
            _ => match status {
                Some(status) => format!("the answer was HTTP status {status}"),
                None => words(cause),
            },
        };
        self.fail(kind, doing, said)
    }

    /// Without credentials and control characters, and short.
    fn clean(&self, said: &str) -> String {
        let mut said = said.to_owned();
        for secret in self.secrets.iter().filter(|secret| secret.len() >= SECRET) {
            said = said.replace(secret.as_str(), "(a credential)");
        }
        said.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).take(SAID).collect()
    }
}

/// The innermost causes: the outer ones repeat what a message says anyway, and the times of the library.
fn words(cause: &Cause) -> String {
    let mut causes = Vec::new();
    let mut next: Option<&dyn std::error::Error> = Some(cause);
    while let Some(error) = next {
        causes.push(error.to_string());
        next = error.source();
    }
    let kept: Vec<String> = causes[causes.len().saturating_sub(2)..].to_vec();
    match kept.as_slice() {
        [outer, inner] if outer.contains(inner.as_str()) => outer.clone(),
        _ => kept.join(": "),
    }
}

fn kind(cause: &Cause, status: Option<u16>, code: &str, text: &str) -> Kind {
    match (code, cause) {
        ("NoSuchBucket", _) => Kind::NoBucket,
        (
            "AccessDenied"
            | "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "ExpiredToken"
            | "InvalidToken"
            | "AuthorizationHeaderMalformed"
            | "RequestTimeTooSkewed",
            _,
        ) => Kind::Denied,
        (_, Cause::PermissionDenied { .. } | Cause::Unauthenticated { .. }) => Kind::Denied,
        (_, Cause::NotFound { .. }) => Kind::NotFound,
        (_, Cause::AlreadyExists { .. } | Cause::Precondition { .. } | Cause::NotModified { .. }) => Kind::Conflict,
        (_, Cause::NotImplemented { .. } | Cause::NotSupported { .. } | Cause::UnknownConfigurationKey { .. }) => {
            Kind::Config
        }
        (_, Cause::InvalidPath { .. }) => Kind::Config,
        ("SlowDown" | "InternalError" | "ServiceUnavailable" | "RequestTimeout", _) => Kind::Unreachable,
        // Of a directory: the disk.
        (_, Cause::Generic { store: "LocalFileSystem", .. }) if text.contains("Permission denied") => Kind::Denied,
        _ => match status {
            Some(401 | 403) => Kind::Denied,
            Some(408 | 429 | 500..) | None => Kind::Unreachable,
            Some(_) => Kind::Config,
        },
    }
}

/// `status code: 503 Service Unavailable`.
fn status(text: &str) -> Option<u16> {
    let (_, rest) = text.split_once("status code: ")?;
    rest.get(..3)?.parse().ok()
}

/// The text of an XML element, without markup.
fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (inner, _) = rest.split_once(&format!("</{name}>"))?;
    Some(inner.trim()).filter(|inner| !inner.is_empty() && !inner.contains('<'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn speaker() -> Speaker {
        Speaker {
            store: "bucket backups at http://s3:9000".into(),
            secrets: vec!["t0ken-of-a-session".into(), "a".into(), String::new()],
        }
    }

    fn generic(text: &str) -> Cause {
        Cause::Generic { store: "S3", source: text.to_owned().into() }
    }

    #[test]
    fn what_a_store_says_has_a_kind_and_shows_no_credential() {
        let denied = "Server returned non-2xx status code: 403 Forbidden: <Error><Code>SignatureDoesNotMatch</Code>\
                      <Message>The signature of t0ken-of-a-session does not match</Message><CanonicalRequest>t0ken-of-a-session</CanonicalRequest></Error>";
        let error = speaker().explain("reading wals/00000002.history", &generic(denied));
        assert_eq!(error.kind, Kind::Denied);
        assert_eq!(
            error.to_string(),
            "reading wals/00000002.history in bucket backups at http://s3:9000: SignatureDoesNotMatch: The signature of \
             (a credential) does not match; check the credentials and what they allow"
        );
        let kind = |text: &str| speaker().explain("", &generic(text)).kind;
        assert_eq!(kind("status code: 503 Service Unavailable: <Code>SlowDown</Code>"), Kind::Unreachable);
        assert_eq!(kind("status code: 404 Not Found: <Code>NoSuchBucket</Code>"), Kind::NoBucket);
        assert_eq!(kind("status code: 502 Bad Gateway: <html>"), Kind::Unreachable);
        assert_eq!(kind("status code: 401 Unauthorized: "), Kind::Denied);
        assert_eq!(kind("status code: 400 Bad Request: <Code>ExpiredToken</Code>"), Kind::Denied);
        assert_eq!(kind("status code: 405 Method Not Allowed: "), Kind::Config);
        assert_eq!(kind("error sending request"), Kind::Unreachable);
    }

    /// Regression 351: the access key of a store for tests was `a`. Each `a` of a message was replaced, and nobody could
    /// read what had happened.
    #[test]
    fn a_credential_of_few_letters_is_not_looked_for_in_words() {
        assert_eq!(
            speaker().fail(Kind::Denied, "reading a", "the answer was HTTP status 403").said,
            "the answer was HTTP status 403"
        );
    }

    #[test]
    fn the_page_of_a_proxy_is_not_repeated() {
        let page = "Server returned non-2xx status code: 502 Bad Gateway: <html>\n<b>very long</b>";
        let error = speaker().explain("listing wals", &generic(page));
        assert_eq!(error.said, "the answer was HTTP status 502");
    }
}
