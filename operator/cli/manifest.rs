//! Reads manifests: files, directories and stdin with many documents each, and the position of every field.
//! Sends nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_saphyr::Spanned;

use super::error::Error;

/// Limit of a manifest in bytes; the server accepts no larger object.
const LIMIT: u64 = 16 << 20;

/// One object from a file, not yet sent anywhere.
#[derive(Debug, Clone)]
pub struct Document {
    /// The object.
    pub value: Value,
    source: String,
    positions: BTreeMap<String, (u64, u64)>,
}

impl Document {
    /// `apiVersion`.
    pub fn api_version(&self) -> &str {
        self.value["apiVersion"].as_str().unwrap_or_default()
    }

    /// `kind`.
    pub fn kind(&self) -> &str {
        self.value["kind"].as_str().unwrap_or_default()
    }

    /// `metadata.name`.
    pub fn name(&self) -> &str {
        self.value["metadata"]["name"].as_str().unwrap_or_default()
    }

    /// `metadata.namespace`, if the document has one.
    pub fn namespace(&self) -> Option<&str> {
        self.value["metadata"]["namespace"].as_str()
    }

    /// `file:line:column` of a path such as `spec.instances`, or of its closest parent in the file.
    pub fn position(&self, path: &str) -> Option<String> {
        let path = dotted(path);
        let mut path = path.as_str();
        loop {
            if let Some((line, column)) = self.positions.get(path) {
                return Some(format!("{}:{line}:{column}", self.source));
            }
            path = path.rfind(['.', '[']).map_or("", |end| &path[..end]);
            if path.is_empty() {
                return None;
            }
        }
    }

    /// `file:line:column` where the document begins.
    fn start(&self) -> String {
        self.positions
            .get("")
            .map_or_else(|| self.source.clone(), |(line, column)| format!("{}:{line}:{column}", self.source))
    }

    fn check(self) -> Result<Self, Error> {
        for (path, present) in [
            ("apiVersion", !self.api_version().is_empty()),
            ("kind", !self.kind().is_empty()),
            ("metadata.name", !self.name().is_empty()),
        ] {
            if !present {
                let place = self.position(path).unwrap_or_else(|| self.start());
                return Err(Error::Manifest(format!("{place}: {path} is missing or not a string")));
            }
        }
        Ok(self)
    }

    /// The items of a `List`, each as a document; any other document unchanged.
    fn items(self) -> Vec<Self> {
        let is_list = self.kind().ends_with("List") && self.value["items"].is_array();
        if !is_list {
            return vec![self];
        }
        let Self { mut value, source, positions } = self;
        let Value::Array(items) = value["items"].take() else { return Vec::new() };
        let own = |index: usize| {
            let prefix = format!("items[{index}]");
            positions
                .iter()
                .filter_map(|(path, place)| {
                    let rest = path.strip_prefix(&prefix)?;
                    Some((rest.strip_prefix('.').unwrap_or(rest).to_owned(), *place))
                })
                .collect()
        };
        items
            .into_iter()
            .enumerate()
            .map(|(index, value)| Self { value, source: source.clone(), positions: own(index) })
            .collect()
    }
}

/// Reads every document of every path (`-` is stdin, a directory means its `*.yaml`, `*.yml` and `*.json`).
/// Returns either all documents or all problems.
pub fn read(paths: &[PathBuf], stdin: &mut dyn Read) -> Result<Vec<Document>, Error> {
    let mut documents = Vec::new();
    let mut problems = Vec::new();
    for path in paths {
        match read_path(path, stdin) {
            Ok(found) => documents.extend(found),
            Err(Error::Several(more)) => problems.extend(more),
            Err(problem) => problems.push(problem),
        }
    }
    match problems.len() {
        0 => Ok(documents),
        1 => Err(problems.remove(0)),
        _ => Err(Error::Several(problems)),
    }
}

fn read_path(path: &Path, stdin: &mut dyn Read) -> Result<Vec<Document>, Error> {
    if path == Path::new("-") {
        return parse("stdin", &slurp(stdin, "read stdin")?);
    }
    if !path.is_dir() {
        return parse_file(path);
    }
    let doing = || format!("read the directory {}", path.display());
    let entries = std::fs::read_dir(path).map_err(|source| Error::Io { doing: doing(), source })?;
    let mut files = Vec::new();
    for entry in entries {
        let file = entry.map_err(|source| Error::Io { doing: doing(), source })?.path();
        let extension = file.extension().and_then(|extension| extension.to_str());
        if matches!(extension, Some("yaml" | "yml" | "json")) && file.is_file() {
            files.push(file);
        }
    }
    if files.is_empty() {
        return Err(Error::NotFound(format!("no *.yaml, *.yml or *.json in {}", path.display())));
    }
    files.sort();
    read(&files, stdin)
}

fn parse_file(path: &Path) -> Result<Vec<Document>, Error> {
    let doing = format!("read {}", path.display());
    let mut file = std::fs::File::open(path).map_err(|source| Error::Io { doing: doing.clone(), source })?;
    parse(&path.display().to_string(), &slurp(&mut file, &doing)?)
}

fn slurp(reader: &mut dyn Read, doing: &str) -> Result<String, Error> {
    let mut text = String::new();
    let io = |source| Error::Io { doing: doing.to_owned(), source };
    reader.take(LIMIT + 1).read_to_string(&mut text).map_err(io)?;
    if text.len() as u64 > LIMIT {
        return Err(Error::Manifest(format!("cannot {doing}: larger than {} MiB", LIMIT >> 20)));
    }
    Ok(text)
}

/// The documents of one YAML (or JSON) text. `source` names it in error messages.
pub fn parse(source: &str, text: &str) -> Result<Vec<Document>, Error> {
    // As in YAML 1.2, `on` and `yes` are strings, not booleans (PostgreSQL's parameters need that).
    let options = serde_saphyr::options! { strict_booleans: true };
    let trees: Vec<Spanned<Node>> =
        serde_saphyr::from_multiple_with_options(text, options).map_err(|error| syntax_error(source, &error))?;
    let mut documents = Vec::new();
    for tree in trees {
        let mut positions = BTreeMap::new();
        let value = flatten(tree, String::new(), &mut positions);
        documents.extend(Document { value, source: source.to_owned(), positions }.items());
    }
    if documents.is_empty() {
        return Err(Error::Manifest(format!("{source}: no objects in it")));
    }
    documents.into_iter().map(Document::check).collect()
}

fn syntax_error(source: &str, error: &serde_saphyr::Error) -> Error {
    let place = match error.location() {
        Some(at) => format!("{source}:{}:{}", at.line(), at.column()),
        None => source.to_owned(),
    };
    let formatter = serde_saphyr::UserMessageFormatter;
    let plain = serde_saphyr::render_options! { formatter: &formatter, snippets: serde_saphyr::SnippetMode::Off };
    let mut message = error.render_with_options(plain);
    if let Some(at) = error.location() {
        // The message already starts with the position.
        message = message.replace(&format!(" at line {}, column {}", at.line(), at.column()), "");
        message = message.trim_start_matches(&format!("line {} column {}: ", at.line(), at.column())).to_owned();
    }
    Error::Manifest(format!("{place}: {message}"))
}

/// `spec.parameters[work_mem]` -> `spec.parameters.work_mem`; `items[0]` stays.
fn dotted(path: &str) -> String {
    let mut parts = path.split('[');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once(']') {
            Some((key, rest)) if !key.is_empty() && !key.chars().all(|c| c.is_ascii_digit()) => {
                text.push('.');
                text.push_str(key.trim_matches(['"', '\'']));
                text.push_str(rest);
            }
            _ => {
                text.push('[');
                text.push_str(part);
            }
        }
    }
    text
}

/// A YAML value with the position of each part.
#[derive(Debug)]
enum Node {
    Plain(Value),
    List(Vec<Spanned<Node>>),
    Fields(Vec<(String, Spanned<Node>)>),
}

/// The plain value; puts the position of each part into `positions` under its path.
fn flatten(node: Spanned<Node>, path: String, positions: &mut BTreeMap<String, (u64, u64)>) -> Value {
    positions.insert(path.clone(), (node.referenced.line(), node.referenced.column()));
    match node.value {
        Node::Plain(value) => value,
        Node::List(items) => items
            .into_iter()
            .enumerate()
            .map(|(index, item)| flatten(item, format!("{path}[{index}]"), positions))
            .collect(),
        Node::Fields(fields) => {
            let dot = if path.is_empty() { "" } else { "." };
            let field = |(name, node)| {
                let value = flatten(node, format!("{path}{dot}{name}"), positions);
                (name, value)
            };
            Value::Object(fields.into_iter().map(field).collect::<Map<_, _>>())
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Plain(value.into()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Plain(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Plain(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Plain(value.into()))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Plain(value.into()))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Node, E> {
        Ok(Node::Plain(Value::Null))
    }

    fn visit_none<E: de::Error>(self) -> Result<Node, E> {
        Ok(Node::Plain(Value::Null))
    }

    fn visit_some<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = access.next_entry()? {
            fields.push(field);
        }
        Ok(Node::Fields(fields))
    }
}
