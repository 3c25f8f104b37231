//! The kinds that the server serves, and the lookup of a word such as `pg`, `postgresclusters.evenkeel.dev`
//! or `PostgresCluster`.

use serde_json::Value;

use super::error::Error;

/// One kind that the server serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// API group; empty for core.
    pub group: String,
    /// Version, e.g. `v1alpha1`.
    pub version: String,
    /// Lower-case plural, as in URLs.
    pub plural: String,
    /// Lower-case singular.
    pub singular: String,
    /// Kind, e.g. `PostgresCluster`.
    pub kind: String,
    /// Short names, e.g. `pg`.
    pub short_names: Vec<String>,
    /// Categories, e.g. `all`.
    pub categories: Vec<String>,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
}

impl Resource {
    /// `postgrescluster.evenkeel.dev`, as kubectl prints before a name; `secret` for core.
    pub fn label(&self) -> String {
        let dot = if self.group.is_empty() { "" } else { "." };
        format!("{}{dot}{}", self.singular, self.group)
    }

    /// The URL path of the collection (`namespace`: `None` = all) or of one object.
    pub fn path(&self, namespace: Option<&str>, name: Option<&str>) -> String {
        let mut path = match self.group.as_str() {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        };
        if let Some(namespace) = namespace.filter(|_| self.namespaced) {
            path.push_str("/namespaces/");
            path.push_str(&segment(namespace));
        }
        path.push('/');
        path.push_str(&self.plural);
        if let Some(name) = name {
            path.push('/');
            path.push_str(&segment(name));
        }
        path
    }

    fn is_called(&self, word: &str) -> bool {
        let named = |name: &str| {
            name == self.plural
                || name == self.singular
                || name == self.kind.to_lowercase()
                || self.short_names.iter().any(|short| short == name)
        };
        if named(word) {
            return true;
        }
        let Some((name, rest)) = word.split_once('.') else { return false };
        named(name) && (rest == self.group || rest == format!("{}.{}", self.version, self.group))
    }
}

/// A name escaped as one URL path segment: it cannot reach another path or add a query.
fn segment(name: &str) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b':' => text.push(char::from(byte)),
            b'.' if !name.trim_matches('.').is_empty() => text.push('.'),
            _ => drop(write!(text, "%{byte:02X}")),
        }
    }
    text
}

/// Every kind that the server serves, in lookup order: Evenkeel's kinds, core, the rest.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    resources: Vec<Resource>,
}

impl Catalog {
    /// Merges `APIResourceList`s; leaves out subresources and resources that cannot be listed.
    pub fn from_lists<'a>(lists: impl IntoIterator<Item = &'a Value>) -> Self {
        let mut resources: Vec<Resource> = lists.into_iter().flat_map(resources_of).collect();
        resources.sort_by_key(|resource| match resource.group.as_str() {
            "evenkeel.dev" => 0,
            "" => 1,
            _ => 2,
        });
        Self { resources }
    }

    /// The kind that `word` means.
    pub fn resolve(&self, word: &str) -> Result<&Resource, Error> {
        let lower = word.to_lowercase();
        self.resources.iter().find(|resource| resource.is_called(&lower)).ok_or_else(|| self.unknown(word))
    }

    /// The kinds for a comma-separated list of words and categories (`all`), without duplicates.
    pub fn resolve_all(&self, words: &str) -> Result<Vec<&Resource>, Error> {
        let mut found: Vec<&Resource> = Vec::new();
        for word in words.split(',').filter(|word| !word.is_empty()) {
            let in_category = |resource: &&Resource| resource.categories.iter().any(|category| category == word);
            let mut meant: Vec<&Resource> = self.resources.iter().filter(in_category).collect();
            if meant.is_empty() {
                meant.push(self.resolve(word)?);
            }
            for resource in meant {
                if !found.contains(&resource) {
                    found.push(resource);
                }
            }
        }
        if found.is_empty() { Err(self.unknown(words)) } else { Ok(found) }
    }

    /// The kind of a document.
    pub fn of_document(&self, api_version: &str, kind: &str) -> Option<&Resource> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        self.resources
            .iter()
            .find(|resource| resource.kind == kind && resource.group == group && resource.version == version)
    }

    /// The error for an unknown kind: names the kinds that exist.
    pub fn unknown(&self, word: &str) -> Error {
        let known: Vec<&str> = self.resources.iter().map(|resource| resource.plural.as_str()).collect();
        Error::NotFound(format!("the server has no kind {word:?}; it has {}", known.join(", ")))
    }
}

fn resources_of(list: &Value) -> Vec<Resource> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let texts = |value: &Value| value.as_array().map(|all| all.iter().map(text).collect()).unwrap_or_default();
    let group_version = text(&list["groupVersion"]);
    let (group, version) = group_version.split_once('/').unwrap_or(("", &group_version));
    let one = |entry: &Value| {
        let plural = text(&entry["name"]);
        let verbs: Vec<String> = texts(&entry["verbs"]);
        if plural.contains('/') || !verbs.iter().any(|verb| verb == "list" || verb == "get") {
            return None;
        }
        let kind = text(&entry["kind"]);
        let singular = Some(text(&entry["singularName"])).filter(|name| !name.is_empty());
        Some(Resource {
            group: group.to_owned(),
            version: version.to_owned(),
            plural,
            singular: singular.unwrap_or_else(|| kind.to_lowercase()),
            kind,
            short_names: texts(&entry["shortNames"]),
            categories: texts(&entry["categories"]),
            namespaced: entry["namespaced"].as_bool().unwrap_or(false),
        })
    };
    list["resources"].as_array().into_iter().flatten().filter_map(one).collect()
}

/// Splits the arguments of a verb, `KIND NAME...`, `KIND/NAME...` or `KIND`, into (kind, name) pairs; no name = `None`.
pub fn targets(words: &[String]) -> Result<Vec<(String, Option<String>)>, Error> {
    let slashed = words.iter().filter(|word| word.contains('/')).count();
    match words {
        [] => Err(Error::Usage("say which kind, e.g. `postgrescluster awx-db`".to_owned())),
        _ if slashed == words.len() => words
            .iter()
            .map(|word| match word.split_once('/') {
                Some((kind, name)) if !kind.is_empty() && !name.is_empty() && !name.contains('/') => {
                    Ok((kind.to_owned(), Some(name.to_owned())))
                }
                _ => Err(Error::Usage(format!("{word:?} is not KIND/NAME"))),
            })
            .collect(),
        _ if slashed > 0 => Err(Error::Usage("use KIND NAME... or KIND/NAME..., not both at once".to_owned())),
        [kind] => Ok(vec![(kind.clone(), None)]),
        [kind, names @ ..] => Ok(names.iter().map(|name| (kind.clone(), Some(name.clone()))).collect()),
    }
}
