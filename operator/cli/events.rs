//! `evenkeel events`: Events, oldest first, of a namespace or of one object; `--watch` follows.

use serde_json::Value;

use super::client::{Client, JSON};
use super::discovery;
use super::error::Error;
use super::follow::{Event, Follow};
use super::render::{self, Layout};
use super::session::Session;

/// Shows Events.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only Events of these objects: KIND NAME or KIND/NAME
    #[arg(value_name = "KIND NAME")]
    words: Vec<String>,
    /// Follow: print new Events as they happen
    #[arg(short, long)]
    watch: bool,
    /// In all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
}

/// Runs the verb.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<(), Error> {
    let (selector, everywhere) = match args.words.as_slice() {
        [] => (String::new(), args.all_namespaces),
        words => {
            let catalog = session.client.catalog().await?;
            let mut targets = discovery::targets(words)?;
            let (kind, name) = targets.remove(0);
            if !targets.is_empty() {
                return Err(Error::Usage("events are shown of one object or of one kind at a time".to_owned()));
            }
            let resource = catalog.resolve(&kind)?;
            let name = name.map(|name| format!(",involvedObject.name={name}")).unwrap_or_default();
            (format!("involvedObject.kind={}{name}", resource.kind), args.all_namespaces || !resource.namespaced)
        }
    };
    let path = match everywhere {
        true => "/api/v1/events".to_owned(),
        false => format!("/api/v1/namespaces/{}/events", session.namespace),
    };
    let query: Vec<(&str, &str)> = match selector.as_str() {
        "" => Vec::new(),
        selector => vec![("fieldSelector", selector)],
    };
    let answer = session.client.get(&path, &query, JSON).await?;
    let mut list = answer["items"].as_array().cloned().unwrap_or_default();
    sort(&mut list);
    let mut layout = Layout::default();
    let heading = render::EVENT_HEADING.map(str::to_owned);
    let now = (session.now)();
    let rows: Vec<[String; 5]> = list.iter().map(|event| render::event_cells(event, now)).collect();
    if rows.is_empty() && !args.watch {
        writeln!(session.err, "no events; they are kept for a limited time")?;
        return Ok(());
    }
    for cells in std::iter::once(&heading).chain(&rows) {
        layout.fit(cells);
    }
    for cells in std::iter::once(&heading).chain(&rows) {
        writeln!(session.out, "{}", layout.line(cells))?;
    }
    if !args.watch {
        return Ok(());
    }
    let since = render::cell(&answer["metadata"]["resourceVersion"]);
    let client = session.client.clone();
    let mut follow = Follow::new(&client, path, &query, JSON, &since);
    loop {
        if let Event::Changed(event) = follow.next().await? {
            let cells = render::event_cells(&event, (session.now)());
            layout.fit(&cells);
            writeln!(session.out, "{}", layout.line(&cells))?;
            session.out.flush()?;
        }
    }
}

/// The Events of one object, oldest first. Those of cluster-scoped objects are in any namespace.
pub async fn of(client: &Client, object: &Value) -> Result<Vec<Value>, Error> {
    let path = match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("/api/v1/namespaces/{namespace}/events"),
        None => "/api/v1/events".to_owned(),
    };
    let (kind, name) = (render::cell(&object["kind"]), render::cell(&object["metadata"]["name"]));
    let selector = format!("involvedObject.kind={kind},involvedObject.name={name}");
    let answer = client.get(&path, &[("fieldSelector", &selector)], JSON).await?;
    let mut list = answer["items"].as_array().cloned().unwrap_or_default();
    sort(&mut list);
    Ok(list)
}

fn sort(events: &mut [Value]) {
    events.sort_by_cached_key(render::event_time);
}
