//! `evenkeel logs`: prints the logs of one pod or of all pods of an object; `--follow` continues.

use std::time::Duration;

use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};
use tokio_util::codec::{FramedRead, LinesCodec};
use tokio_util::io::StreamReader;

use super::error::Error;
use super::session::{Session, duration};
use super::targets;

/// Limit of one line in bytes; no log line is longer.
const LINE_LIMIT: usize = 16 << 20;

/// Prints the logs of containers.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// POD, or KIND/NAME for all pods of an object, e.g. `deployment/web`
    #[arg(value_name = "POD")]
    target: String,
    /// Follow: print new lines as they are written
    #[arg(short, long)]
    follow: bool,
    /// The container [default: the first]
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// Print only this many lines from the end
    #[arg(long, value_name = "LINES")]
    tail: Option<u64>,
    /// Print only lines of the last TIME
    #[arg(long, value_parser = duration, value_name = "TIME")]
    since: Option<Duration>,
    /// Start each line with its time
    #[arg(long)]
    timestamps: bool,
}

impl Args {
    /// The query for one container.
    fn query(&self, container: String) -> Vec<(&'static str, String)> {
        let mut query = vec![("container", container)];
        query.extend(self.follow.then(|| ("follow", "true".to_owned())));
        query.extend(self.timestamps.then(|| ("timestamps", "true".to_owned())));
        query.extend(self.tail.map(|lines| ("tailLines", lines.to_string())));
        query.extend(self.since.map(|since| ("sinceSeconds", since.as_secs().max(1).to_string())));
        query
    }
}

type Lines = BoxStream<'static, Result<String, std::io::Error>>;

/// Runs the verb.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<(), Error> {
    let (resource, found) = targets::meant(&args.target, session).await?;
    let mut logs: Vec<Lines> = Vec::new();
    let mut told = None;
    for pod in &found {
        let (container, word) = targets::container(pod, args.container.as_deref());
        told = told.or(word);
        let query = args.query(container.clone());
        let query: Vec<(&str, &str)> = query.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let path = format!("{}/log", resource.path(Some(&session.namespace), Some(targets::name(pod))));
        let prefix = if found.len() > 1 { format!("[{} {container}] ", targets::name(pod)) } else { String::new() };
        let response = session.client.open_text(&path, &query).await?;
        let bytes = StreamReader::new(response.bytes_stream().map_err(std::io::Error::other));
        let lines = FramedRead::new(bytes, LinesCodec::new_with_max_length(LINE_LIMIT));
        let prefixed = lines.map(move |line| match line {
            Ok(line) => Ok(format!("{prefix}{line}")),
            Err(error) => Err(std::io::Error::other(error)),
        });
        logs.push(prefixed.boxed());
    }
    if let Some(word) = told {
        writeln!(session.err, "{word}")?;
    }
    let mut all = if args.follow { stream::select_all(logs).boxed() } else { stream::iter(logs).flatten().boxed() };
    while let Some(line) = all.next().await {
        let line = line.map_err(|source| Error::Io { doing: "read the log".to_owned(), source })?;
        writeln!(session.out, "{line}")?;
        session.out.flush()?;
    }
    Ok(())
}
