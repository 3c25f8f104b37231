//! Logs of containers.

use bollard::query_parameters::LogsOptionsBuilder;
use futures::StreamExt as _;

use super::super::{Error, LogOptions, Outputs};
use super::execs::output;
use super::{ANSWER, DockerEngine, classify};

impl DockerEngine {
    pub(super) async fn logs_of(&self, container: &str, options: &LogOptions) -> Result<Outputs, Error> {
        let doing = format!("reading the log of container {container}");
        // The log stream reports a missing container only in place of the first line.
        self.call(&doing, ANSWER, |docker| docker.inspect_container(container, None)).await?;
        let mut query = LogsOptionsBuilder::default()
            .stdout(true)
            .stderr(true)
            .follow(options.follow)
            .timestamps(options.timestamps)
            .since(options.since.map_or(0, |since| i32::try_from(since).unwrap_or(i32::MAX)));
        if let Some(lines) = options.tail {
            query = query.tail(&lines.to_string());
        }
        let client = self.client(&doing).await?.clone();
        let (host, pieces) = (self.host.clone(), client.logs(container, Some(query.build())));
        Ok(Box::pin(pieces.map(move |piece| match piece {
            Ok(piece) => Ok(output(piece)),
            Err(error) => Err(classify::classify(&host, &doing, error)),
        })))
    }
}
