//! The errors of a verb: the text for the user and the exit code. Nothing here prints.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::api::chain::chain;

/// The exit codes, as `--help` and docs/cli.md show them. They are an interface: scripts rely on them.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed
  2  wrong usage
  3  not found: no such object, kind or file
  4  refused: not valid YAML, or the server says the object or request is invalid or conflicts
  5  timed out waiting
  6  the server cannot be reached
  exec ends with the exit code of its command";

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The arguments are inconsistent (clap reports the errors that it detects itself).
    #[error("{0}")]
    Usage(String),
    /// No such object, kind or file.
    #[error("{0}")]
    NotFound(String),
    /// A manifest cannot be read as objects; the text starts with `file:line:column`.
    #[error("{0}")]
    Manifest(String),
    /// The server answered with a Status.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A wait timed out.
    #[error("timed out after {} waiting for {what}", humantime::format_duration(*after))]
    TimedOut {
        /// What was waited for.
        what: String,
        /// How long.
        after: std::time::Duration,
    },
    /// No answer from the server.
    #[error("cannot reach the server at {address} (kubeconfig {})", kubeconfig.display())]
    Unreachable {
        /// Its URL.
        address: String,
        /// The kubeconfig that contains it.
        kubeconfig: PathBuf,
        /// The network error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file or socket of this machine.
    #[error("cannot {doing}")]
    Io {
        /// The action, e.g. `read awx-db.yaml`.
        doing: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Every other error: one sentence that says what happened.
    #[error("{0}")]
    Failed(String),
    /// A part of the operator failed to start, or stopped.
    #[error("{doing}")]
    Operator {
        /// The action.
        doing: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The command in a container failed; the verb exits with its exit code.
    #[error("{message}")]
    Ended {
        /// Its exit code.
        code: u8,
        /// How it ended.
        message: String,
    },
    /// Several objects failed, each for its own reason.
    #[error("{} problems", .0.len())]
    Several(Vec<Error>),
    /// Standard output was closed by its reader.
    #[error("cannot write the output")]
    Output(#[from] io::Error),
}

impl Error {
    /// The process's exit code, one of [`EXIT_CODES`].
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::NotFound(_) => 3,
            Self::Manifest(_) => 4,
            Self::Refused(refusal) => refusal.exit_code(),
            Self::TimedOut { .. } => 5,
            Self::Unreachable { .. } => 6,
            Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => 3,
            Self::Io { .. } | Self::Failed(_) | Self::Operator { .. } => 1,
            Self::Ended { code, .. } => *code,
            Self::Several(all) => all.first().map_or(1, Self::exit_code),
            Self::Output(source) => u8::from(source.kind() != io::ErrorKind::BrokenPipe),
        }
    }

    /// The text for stderr: for each error one `error:` line with its chain of causes, and advice. Empty if
    /// the output was closed.
    pub fn report(&self) -> String {
        match self {
            Self::Several(all) => all.iter().map(Self::report).collect(),
            Self::Output(source) if source.kind() == io::ErrorKind::BrokenPipe => String::new(),
            one => format!("error: {}\n{}", chain(one), one.hint()),
        }
    }

    fn hint(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "is `evenkeel operator` running?\n",
            Self::Refused(refusal) => refusal.hint(),
            _ => "",
        }
    }
}

/// The error of a part of the operator.
pub fn failed<E: std::error::Error + Send + Sync + 'static>(doing: impl Fn() -> String) -> impl Fn(E) -> Error {
    move |source| Error::Operator { doing: doing(), source: Box::new(source) }
}

/// The server's Status, prepared for display.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status code.
    pub code: u16,
    /// Kubernetes reason, e.g. `Invalid`.
    pub reason: String,
    /// One sentence, without the causes if they are listed separately.
    pub message: String,
    /// Every problem with the path it is about.
    pub causes: Vec<Cause>,
}

/// One problem of a [`Refusal`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Its position in a file, `file:line:column`, if the object came from one.
    pub position: Option<String>,
    /// Path in the object, e.g. `spec.instances`; empty if the server named none.
    pub field: String,
    /// What is wrong there.
    pub message: String,
}

impl std::error::Error for Refusal {}

impl Refusal {
    /// Parses a Status; a body that is not a Status becomes the message.
    pub fn from_body(code: u16, body: &str) -> Self {
        let status: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let causes: Vec<Cause> = status["details"]["causes"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|cause| Cause {
                position: None,
                field: text(&cause["field"]).trim_start_matches('.').to_owned(),
                message: text(&cause["message"]),
            })
            .collect();
        let mut message = text(&status["message"]);
        if message.is_empty() {
            message = format!("the server answered {code}: {}", body.trim());
        }
        if !causes.is_empty() {
            // The message repeats the causes after its first sentence; they are printed on their own lines instead.
            for end in [" is invalid", " conflicts", " conflict"] {
                if let Some(at) = message.find(&format!("{end}:")) {
                    message.truncate(at + end.len());
                    break;
                }
            }
        }
        Self { code, reason: text(&status["reason"]), message, causes }
    }

    /// Adds to each cause its position in the file that the object came from.
    pub fn locate(mut self, position: impl Fn(&str) -> Option<String>) -> Self {
        for cause in &mut self.causes {
            cause.position = position(&cause.field);
        }
        self
    }

    /// Whether it is an apply that would undo only what other verbs of this program have changed.
    pub fn conflicts_with_other_verbs(&self) -> bool {
        let ours = |cause: &Cause| cause.message.starts_with("conflict with \"evenkeel-");
        self.code == 409 && !self.causes.is_empty() && self.causes.iter().all(ours)
    }

    fn exit_code(&self) -> u8 {
        match self.code {
            404 => 3,
            400 | 405 | 406 | 409 | 413 | 415 | 422 => 4,
            _ => 1,
        }
    }

    fn hint(&self) -> &'static str {
        match self.code {
            401 => {
                "the credential in the kubeconfig is not valid here: it is expired or revoked, or of another server\n"
            }
            409 if self.causes.iter().any(|cause| cause.message.contains("conflict with")) => {
                "another manager set these fields; --force-conflicts takes them over\n"
            }
            _ => "",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        for cause in &self.causes {
            f.write_str("\n  ")?;
            if let Some(position) = &cause.position {
                write!(f, "{position}: ")?;
            }
            if !cause.field.is_empty() {
                write!(f, "{}: ", cause.field)?;
            }
            f.write_str(&cause.message)?;
        }
        Ok(())
    }
}
