//! `evenkeel logs`: what the containers of a pod wrote, or of all pods of an object, each line then with its origin.

use std::time::Duration;

use futures::stream::{BoxStream, select_all};
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::Value;
use tokio_util::codec::{FramedRead, LinesCodec};
use tokio_util::io::StreamReader;

use super::error::Error;
use super::pods;
use super::render;
use super::session::{Session, duration};

/// A longer line is cut off with the rest of its log.
const LINE_LIMIT: usize = 1 << 20;

/// Shows what containers wrote.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A pod, or KIND/NAME for all pods of an object
    #[arg(value_name = "POD|KIND/NAME")]
    target: String,
    /// Go on with what is written from now on
    #[arg(short, long)]
    follow: bool,
    /// Only this container [default: all of them]
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// Only that many lines from the end
    #[arg(long, value_name = "LINES")]
    tail: Option<u64>,
    /// Only what was written in this span until now, e.g. `10m`
    #[arg(long, value_parser = duration, value_name = "TIME")]
    since: Option<Duration>,
    /// Each line with its time
    #[arg(long)]
    timestamps: bool,
}

/// Runs the verb.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<(), Error> {
    let (resource, found) = pods::meant(&args.target, session).await?;
    let mut query = Vec::new();
    query.extend(args.tail.map(|lines| ("tailLines", lines.to_string())));
    query.extend(args.since.map(|span| ("sinceSeconds", span.as_secs().max(1).to_string())));
    query.extend(args.follow.then(|| ("follow", "true".to_owned())));
    query.extend(args.timestamps.then(|| ("timestamps", "true".to_owned())));
    let sources = sources(&found, args.container.as_deref());
    let alone = sources.len() == 1;
    let (mut streams, mut problems) = (Vec::new(), Vec::new());
    for (pod, container) in &sources {
        let path = format!("{}/log", resource.path(Some(&session.namespace), Some(pod)));
        let mut query: Vec<(&str, &str)> = query.iter().map(|(name, value)| (*name, value.as_str())).collect();
        query.push(("container", container));
        let prefix = if alone { String::new() } else { format!("[{pod}/{container}] ") };
        match session.client.open_stream(&path, &query).await {
            Ok(response) => streams.push(lines(response, prefix)),
            Err(error) => problems.push(error),
        }
    }
    let mut all = select_all(streams);
    while let Some(line) = all.next().await {
        match line {
            Ok(line) => writeln!(session.out, "{line}")?,
            Err(error) => problems.push(Error::Failed(format!("a log broke off: {error}"))),
        }
        session.out.flush()?;
    }
    match problems.len() {
        0 => Ok(()),
        1 => Err(problems.remove(0)),
        _ => Err(Error::Several(problems)),
    }
}

/// Pods and containers whose logs are meant.
fn sources(found: &[Value], container: Option<&str>) -> Vec<(String, String)> {
    let of = |pod: &Value| {
        let names = container.map_or_else(|| pods::containers(pod), |name| vec![name.to_owned()]);
        let pod = render::cell(&pod["metadata"]["name"]);
        names.into_iter().map(move |name| (pod.clone(), name)).collect::<Vec<_>>()
    };
    found.iter().flat_map(of).collect()
}

fn lines(response: reqwest::Response, prefix: String) -> BoxStream<'static, Result<String, String>> {
    let bytes = response.bytes_stream().map_err(std::io::Error::other);
    let lines = FramedRead::new(StreamReader::new(bytes), LinesCodec::new_with_max_length(LINE_LIMIT));
    lines.map(move |line| line.map(|line| format!("{prefix}{line}")).map_err(|error| error.to_string())).boxed()
}
