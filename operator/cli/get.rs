//! `evenkeel get`: prints objects as the server's tables, as YAML, JSON or names; `--watch` follows.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::client::{JSON, TABLE};
use super::discovery::{self, Resource};
use super::error::Error;
use super::follow::{Event, Follow};
use super::render::{self, Layout};
use super::session::Session;

/// Lists objects, or shows those that are named.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// KIND[,KIND] [NAME...] or KIND/NAME...; kinds by singular, plural or short name, `all` for the category `all`
    #[arg(required = true, value_name = "KIND [NAME]")]
    words: Vec<String>,
    /// Output format
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Format,
    /// Follow: print objects as they change
    #[arg(short, long)]
    watch: bool,
    /// In all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Only objects with these labels, e.g. `app=awx,tier!=web`
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: Option<String>,
    /// Only objects with these fields, e.g. `metadata.name=awx-db`
    #[arg(long, value_name = "SELECTOR")]
    field_selector: Option<String>,
    /// Omit the heading
    #[arg(long)]
    no_headers: bool,
}

impl Args {
    /// All objects of a kind, as a table.
    pub fn all_of(kind: &str) -> Self {
        Self {
            words: vec![kind.to_owned()],
            output: Format::Table,
            watch: false,
            all_namespaces: false,
            selector: None,
            field_selector: None,
            no_headers: false,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// The usual columns
    Table,
    /// All columns
    Wide,
    /// Whole objects
    Yaml,
    /// Whole objects
    Json,
    /// kind/name, one a line
    Name,
}

impl Format {
    fn accept(self) -> &'static str {
        if matches!(self, Self::Table | Self::Wide) { TABLE } else { JSON }
    }
}

/// One request: a collection (`name`: `None`) or an object.
struct Part {
    resource: Resource,
    name: Option<String>,
}

/// Runs the verb.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<(), Error> {
    let catalog = session.client.catalog().await?;
    let mut parts = Vec::new();
    for (words, name) in discovery::targets(&args.words)? {
        for resource in catalog.resolve_all(&words)? {
            parts.push(Part { resource: resource.clone(), name: name.clone() });
        }
    }
    if args.watch && parts.len() > 1 {
        return Err(Error::Usage("--watch follows one kind or one object at a time".to_owned()));
    }
    let kinds: BTreeSet<&str> = parts.iter().map(|part| part.resource.plural.as_str()).collect();
    let mut printer = Printer::new(&args, kinds.len() > 1);
    let mut problems = Vec::new();
    let mut version = String::new();
    for part in &parts {
        match fetch(part, &args, session).await {
            Ok(answer) => {
                version = render::cell(&answer["metadata"]["resourceVersion"]);
                printer.take(&part.resource, &answer, session)?;
            }
            Err(error @ Error::Unreachable { .. }) => return Err(error),
            Err(error) => problems.push(error),
        }
    }
    // A refusal says more than that there is nothing.
    printer.printed |= !problems.is_empty();
    printer.finish(session)?;
    match problems.len() {
        0 if args.watch => watch(&parts[0], &args, version, printer, session).await,
        0 => Ok(()),
        1 => Err(problems.remove(0)),
        _ => Err(Error::Several(problems)),
    }
}

fn namespace<'a>(args: &Args, session: &'a Session<'_>) -> Option<&'a str> {
    (!args.all_namespaces).then_some(session.namespace.as_str())
}

fn selectors(args: &Args) -> Vec<(&str, &str)> {
    let label = args.selector.as_deref().map(|selector| ("labelSelector", selector));
    let field = args.field_selector.as_deref().map(|selector| ("fieldSelector", selector));
    label.into_iter().chain(field).collect()
}

async fn fetch(part: &Part, args: &Args, session: &Session<'_>) -> Result<Value, Error> {
    let namespace = namespace(args, session);
    if part.name.is_some() && namespace.is_none() {
        return Err(Error::Usage("an object has one namespace: leave out -A or the name".to_owned()));
    }
    let path = part.resource.path(namespace, part.name.as_deref());
    let query = if part.name.is_some() { Vec::new() } else { selectors(args) };
    session.client.get(&path, &query, args.output.accept()).await
}

async fn watch(
    part: &Part,
    args: &Args,
    version: String,
    mut printer: Printer,
    session: &mut Session<'_>,
) -> Result<(), Error> {
    let path = part.resource.path(namespace(args, session), None);
    let own = part.name.as_ref().map(|name| format!("metadata.name={name}"));
    let mut query = selectors(args);
    if let Some(own) = &own {
        query = vec![("fieldSelector", own.as_str())];
    }
    let client = session.client.clone();
    let mut follow = Follow::new(&client, path, &query, args.output.accept(), &version);
    loop {
        match follow.next().await? {
            Event::Changed(object) | Event::Deleted(object) => {
                printer.take(&part.resource, &object, session)?;
                printer.flush(session)?;
            }
            Event::Restarted => {}
        }
    }
}

/// Prints responses in the requested format as they arrive.
struct Printer {
    format: Format,
    with_namespace: bool,
    with_kind: bool,
    headers: bool,
    watching: bool,
    columns: Vec<(String, i64)>,
    layout: Layout,
    lines: Vec<Vec<String>>,
    of: String,
    objects: Vec<Value>,
    printed: bool,
    single: bool,
}

impl Printer {
    fn new(args: &Args, with_kind: bool) -> Self {
        Self {
            format: args.output,
            with_namespace: args.all_namespaces,
            with_kind,
            headers: !args.no_headers,
            watching: args.watch,
            columns: Vec::new(),
            layout: Layout::default(),
            lines: Vec::new(),
            of: String::new(),
            objects: Vec::new(),
            printed: false,
            single: args.words.iter().any(|word| word.contains('/')) || args.words.len() > 1,
        }
    }

    /// Adds an object, a List or a Table.
    fn take(&mut self, resource: &Resource, answer: &Value, session: &mut Session<'_>) -> Result<(), Error> {
        if !matches!(self.format, Format::Table | Format::Wide) {
            let found = objects(answer, resource);
            match self.format {
                Format::Name => self.objects.extend(found.iter().map(|object| name_of(object, resource))),
                _ => self.objects.extend(found),
            }
            return Ok(());
        }
        if self.of != resource.label() {
            self.flush(session)?;
            self.of = resource.label();
            self.columns.clear();
            self.layout = Layout::default();
        }
        let table = as_table(answer, (session.now)());
        if let Some(columns) = table["columnDefinitions"].as_array().filter(|columns| !columns.is_empty()) {
            let column = |column: &Value| (render::cell(&column["name"]), column["priority"].as_i64().unwrap_or(0));
            let heading = self.columns.is_empty();
            self.columns = columns.iter().map(column).collect();
            let rows = table["rows"].as_array().is_some_and(|rows| !rows.is_empty());
            if heading && self.headers && (rows || self.watching) {
                let titles = self.columns.iter().map(|(name, _)| name.to_uppercase()).collect();
                self.push(titles, resource.namespaced.then(|| "NAMESPACE".to_owned()));
            }
        }
        for row in table["rows"].as_array().into_iter().flatten() {
            let mut cells: Vec<String> = row["cells"].as_array().into_iter().flatten().map(render::cell).collect();
            if let Some(name) = cells.first_mut().filter(|_| self.with_kind) {
                *name = format!("{}/{name}", self.of);
            }
            let namespace = render::cell(&row["object"]["metadata"]["namespace"]);
            self.push(cells, resource.namespaced.then_some(namespace));
        }
        Ok(())
    }

    fn push(&mut self, cells: Vec<String>, namespace: Option<String>) {
        let shown = |index: &usize| {
            self.format == Format::Wide || self.columns.get(*index).is_none_or(|(_, priority)| *priority == 0)
        };
        let wanted = cells.iter().enumerate().filter(|(index, _)| shown(index)).map(|(_, cell)| cell.clone());
        let line: Vec<String> = namespace.filter(|_| self.with_namespace).into_iter().chain(wanted).collect();
        self.layout.fit(&line);
        self.lines.push(line);
    }

    /// Prints what was added; each whole object is a document of its own.
    fn flush(&mut self, session: &mut Session<'_>) -> Result<(), Error> {
        if !self.lines.is_empty() && self.printed && self.with_kind {
            writeln!(session.out)?;
        }
        for line in self.lines.drain(..) {
            writeln!(session.out, "{}", self.layout.line(&line))?;
            self.printed = true;
        }
        for object in std::mem::take(&mut self.objects) {
            self.print(&object, session)?;
        }
        session.out.flush()?;
        Ok(())
    }

    fn finish(&mut self, session: &mut Session<'_>) -> Result<(), Error> {
        let list = !self.single && matches!(self.format, Format::Yaml | Format::Json);
        if (list || self.objects.len() > 1) && matches!(self.format, Format::Yaml | Format::Json) && !self.watching {
            let items = std::mem::take(&mut self.objects);
            self.print(&json!({"apiVersion": "v1", "kind": "List", "items": items}), session)?;
        }
        self.flush(session)?;
        if !self.printed && !self.watching {
            let place =
                if self.with_namespace { String::new() } else { format!(" in namespace {}", session.namespace) };
            writeln!(session.err, "no objects found{place}")?;
        }
        Ok(())
    }

    fn print(&mut self, object: &Value, session: &mut Session<'_>) -> Result<(), Error> {
        match self.format {
            Format::Json => writeln!(session.out, "{object:#}")?,
            Format::Yaml => {
                let separator = if self.printed { "---\n" } else { "" };
                write!(session.out, "{separator}{}", render::yaml(object)?)?;
            }
            _ => writeln!(session.out, "{}", render::cell(object))?,
        }
        self.printed = true;
        Ok(())
    }
}

/// `postgrescluster.evenkeel.dev/awx-db`.
fn name_of(object: &Value, resource: &Resource) -> Value {
    format!("{}/{}", resource.label(), render::cell(&object["metadata"]["name"])).into()
}

/// The objects of a response, without `managedFields`.
fn objects(answer: &Value, resource: &Resource) -> Vec<Value> {
    let all = match answer["items"].as_array() {
        Some(items) => items.clone(),
        None => vec![answer.clone()],
    };
    let tidy = |mut object: Value| {
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("managedFields");
        }
        if let Some(fields) = object.as_object_mut() {
            fields.entry("kind").or_insert_with(|| resource.kind.clone().into());
        }
        object
    };
    all.into_iter().map(tidy).collect()
}

/// For a server that returns no tables: a table with name and age.
fn as_table(answer: &Value, now: jiff::Timestamp) -> Value {
    if answer["kind"] == "Table" {
        return answer.clone();
    }
    let all = answer["items"].as_array().cloned().unwrap_or_else(|| vec![answer.clone()]);
    let row = |object: &Value| {
        let metadata = &object["metadata"];
        let age = render::age(metadata["creationTimestamp"].as_str().unwrap_or_default(), now);
        json!({"cells": [metadata["name"], age], "object": {"metadata": metadata}})
    };
    let columns = json!([{"name": "Name", "priority": 0}, {"name": "Age", "priority": 0}]);
    json!({"kind": "Table", "columnDefinitions": columns, "rows": all.iter().map(row).collect::<Vec<_>>()})
}
