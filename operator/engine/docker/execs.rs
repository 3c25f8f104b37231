//! Commands in a container.

use std::time::Duration;

use bollard::container::LogOutput;
use bollard::exec::{ResizeExecOptions, StartExecOptions, StartExecResults};
use bollard::models::ExecConfig;
use futures::StreamExt as _;

use super::super::{Error, ExecRequest, ExecResult, ExecSession, Output};
use super::{ANSWER, DockerEngine, classify};

/// Limit of the output that is kept from a command, in bytes.
const KEPT: usize = 16 * 1024;
/// Poll interval for the exit code: Docker knows it a moment after the output has ended.
const GLANCE: Duration = Duration::from_millis(5);

impl DockerEngine {
    /// Creates an exec and starts it with its streams attached: Docker's ID of it, output and input.
    pub(super) async fn exec_started(
        &self,
        container: &str,
        exec: ExecConfig,
        doing: &str,
    ) -> Result<ExecSession, Error> {
        let tty = exec.tty == Some(true);
        let made = self.call(doing, ANSWER, |docker| docker.create_exec(container, exec)).await?;
        let options = StartExecOptions { tty, ..Default::default() };
        let started = self.call(doing, ANSWER, |docker| docker.start_exec(&made.id, Some(options))).await?;
        let StartExecResults::Attached { output, input } = started else {
            return Err(Error::refused(&self.host, doing, "Docker started the exec without attaching to it"));
        };
        let (host, doing) = (self.host.clone(), doing.to_owned());
        let output = output.map(move |piece| match piece {
            Ok(piece) => Ok(self::output(piece)),
            Err(error) => Err(classify::classify(&host, &doing, error)),
        });
        Ok(ExecSession { id: made.id, output: Box::pin(output), input })
    }

    pub(super) async fn exec_ended(
        &self,
        container: &str,
        command: &[String],
        limit: Duration,
    ) -> Result<ExecResult, Error> {
        let program = command.first().map(String::as_str).unwrap_or_default();
        let doing = format!("running {program} in container {container}");
        let ended = tokio::time::timeout(limit, async {
            let exec = config(&ExecRequest { command: command.to_vec(), ..Default::default() });
            let mut session = self.exec_started(container, exec, &doing).await?;
            let mut said = Vec::new();
            while let Some(piece) = session.output.next().await {
                let (Output::Stdout(piece) | Output::Stderr(piece)) = piece?;
                said.extend_from_slice(&piece[..piece.len().min(KEPT - said.len())]);
            }
            loop {
                if let Some(code) = self.exec_code_of(&session.id).await? {
                    return Ok(ExecResult { code, output: String::from_utf8_lossy(&said).into_owned() });
                }
                tokio::time::sleep(GLANCE).await;
            }
        });
        let too_long =
            |_| Err(Error::refused(&self.host, &doing, format!("it did not end within {} s", limit.as_secs_f32())));
        ended.await.unwrap_or_else(too_long)
    }

    pub(super) async fn exec_session(&self, container: &str, request: &ExecRequest) -> Result<ExecSession, Error> {
        let program = request.command.first().map(String::as_str).unwrap_or_default();
        self.exec_started(container, config(request), &format!("running {program} in container {container}")).await
    }

    pub(super) async fn exec_resized(&self, id: &str, (height, width): (u16, u16)) -> Result<(), Error> {
        let size = ResizeExecOptions { height, width };
        self.call("resizing the terminal of a command", ANSWER, |docker| docker.resize_exec(id, size)).await
    }

    pub(super) async fn exec_code_of(&self, id: &str) -> Result<Option<i64>, Error> {
        let seen = self.call("asking how a command ended", ANSWER, |docker| docker.inspect_exec(id)).await?;
        Ok(seen.exit_code.filter(|_| seen.running != Some(true)))
    }
}

fn config(request: &ExecRequest) -> ExecConfig {
    ExecConfig {
        attach_stdin: Some(request.stdin),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        tty: Some(request.tty),
        cmd: Some(request.command.clone()),
        ..Default::default()
    }
}

/// With a terminal all output is stdout.
pub(super) fn output(piece: LogOutput) -> Output {
    match piece {
        LogOutput::StdErr { message } => Output::Stderr(message),
        LogOutput::StdOut { message } | LogOutput::StdIn { message } | LogOutput::Console { message } => {
            Output::Stdout(message)
        }
    }
}
