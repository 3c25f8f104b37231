//! Label and field selectors: parsing and matching, as in Kubernetes.

use serde_json::Value;

use crate::api::resource::Resource;
use crate::server::metadata;
use crate::server::status::Refusal;

/// The selectors of a list or watch; an empty one matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<(String, Match, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Match {
    Equal,
    NotEqual,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Greater(String, i64),
    Less(String, i64),
    Exists(String),
    Absent(String),
}

impl Selector {
    /// Parses both query parameters; 400 for syntax errors and for fields that the resource does not support.
    pub fn parse(resource: &Resource, labels: Option<&str>, fields: Option<&str>) -> Result<Self, Refusal> {
        let labels = split(labels.unwrap_or_default()).into_iter().map(requirement).collect::<Result<_, _>>()?;
        let fields = split(fields.unwrap_or_default())
            .into_iter()
            .map(|term| field(resource, term))
            .collect::<Result<_, _>>()?;
        Ok(Self { labels, fields })
    }

    /// Adds the condition that the object has this name.
    #[must_use]
    pub fn and_name(mut self, name: &str) -> Self {
        self.fields.push(("metadata.name".to_owned(), Match::Equal, name.to_owned()));
        self
    }

    /// Whether the object matches.
    pub fn matches(&self, object: &Value) -> bool {
        let label = |key: &str| object["metadata"]["labels"].get(key).and_then(Value::as_str);
        self.labels.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => label(key).is_some_and(|v| values.iter().any(|w| w == v)),
            Requirement::NotIn(key, values) => label(key).is_none_or(|v| values.iter().all(|w| w != v)),
            Requirement::Greater(key, bound) => number(label(key)).is_some_and(|value| value > *bound),
            Requirement::Less(key, bound) => number(label(key)).is_some_and(|value| value < *bound),
            Requirement::Exists(key) => label(key).is_some(),
            Requirement::Absent(key) => label(key).is_none(),
        }) && self.fields.iter().all(|(path, how, wanted)| {
            let found = path.split('.').fold(object, |at, name| &at[name]).as_str().unwrap_or_default();
            (found == wanted) == (*how == Match::Equal)
        })
    }
}

fn number(label: Option<&str>) -> Option<i64> {
    label?.parse().ok()
}

/// Splits at commas outside parentheses; drops empty terms.
fn split(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut depth, mut start) = (0_u32, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                terms.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(text[start..].trim());
    terms.retain(|term| !term.is_empty());
    terms
}

fn requirement(term: &str) -> Result<Requirement, Refusal> {
    let bad = || Refusal::bad_request(format!("unable to parse requirement {term:?} of the label selector"));
    let key = |text: &str| {
        let text = text.trim();
        if metadata::key_problem(text).is_some() { Err(bad()) } else { Ok(text.to_owned()) }
    };
    let value = |text: &str| {
        let text = text.trim();
        if metadata::value_problem(text).is_some() { Err(bad()) } else { Ok(text.to_owned()) }
    };
    if let Some(rest) = term.strip_prefix('!') {
        return Ok(Requirement::Absent(key(rest)?));
    }
    if let Some((head, values)) = term.split_once('(') {
        let values = values.strip_suffix(')').ok_or_else(bad)?;
        if values.trim().is_empty() {
            return Err(bad());
        }
        let values = values.split(',').map(value).collect::<Result<_, _>>()?;
        let (name, operator) = head.trim().rsplit_once(char::is_whitespace).ok_or_else(bad)?;
        return match operator {
            "in" => Ok(Requirement::In(key(name)?, values)),
            "notin" => Ok(Requirement::NotIn(key(name)?, values)),
            _ => Err(bad()),
        };
    }
    for (operator, equal) in [("!=", false), ("==", true), ("=", true)] {
        if let Some((name, text)) = term.split_once(operator) {
            let (name, values) = (key(name)?, vec![value(text)?]);
            return Ok(if equal { Requirement::In(name, values) } else { Requirement::NotIn(name, values) });
        }
    }
    for (operator, form) in [('>', Requirement::Greater as fn(_, _) -> _), ('<', Requirement::Less)] {
        if let Some((name, bound)) = term.split_once(operator) {
            return Ok(form(key(name)?, number(Some(bound.trim())).ok_or_else(bad)?));
        }
    }
    Ok(Requirement::Exists(key(term)?))
}

fn field(resource: &Resource, term: &str) -> Result<(String, Match, String), Refusal> {
    let parsed = [("!=", Match::NotEqual), ("==", Match::Equal), ("=", Match::Equal)]
        .into_iter()
        .find_map(|(operator, how)| term.split_once(operator).map(|(path, value)| (path.trim(), how, value.trim())));
    let Some((path, how, value)) = parsed else {
        return Err(Refusal::bad_request(format!("invalid field selector {term:?}: want field=value or field!=value")));
    };
    if !["metadata.name", "metadata.namespace"].contains(&path) && !resource.selectable.contains(&path) {
        return Err(Refusal::bad_request(format!("field label not supported: {path} (of {})", resource.qualified())));
    }
    Ok((path.to_owned(), how, value.to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;
    use crate::api::registry;

    fn selects(labels: &str, fields: &str) -> bool {
        let object =
            json!({"metadata": {"name": "a", "namespace": "n", "labels": {"app": "db", "tier": "gold", "n": "7"}}});
        let secrets = registry::find("", "v1", "secrets").unwrap();
        Selector::parse(secrets, Some(labels), Some(fields)).unwrap().matches(&object)
    }

    #[test]
    fn label_selectors_match_as_in_kubernetes() {
        for yes in [
            "",
            "app",
            "app=db",
            "app==db",
            "app!=x",
            "none!=x",
            "app in (db, web),tier",
            "app notin (web)",
            "!x",
            "n>6",
            "n<8",
            "app in (db,)",
        ] {
            assert!(selects(yes, ""), "{yes} should match");
        }
        for no in [
            "x",
            "app=web",
            "app!=db",
            "app in (web)",
            "app notin (db,web)",
            "x in (a)",
            "!app",
            "app=db,tier=tin",
            "n>7",
            "app<9",
            "x>1",
        ] {
            assert!(!selects(no, ""), "{no} should not match");
        }
    }

    #[test]
    fn field_selectors_match_names_and_namespaces() {
        assert!(selects("", "metadata.name=a,metadata.namespace==n"));
        assert!(!selects("", "metadata.name!=a"));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let secrets = registry::find("", "v1", "secrets").unwrap();
        for bad in ["a b", "a in b", "a of (b)", "=x", "a in (b", "a in ()", "a>b", "a>=1", "app=d b", "a/b/c"] {
            assert!(Selector::parse(secrets, Some(bad), None).is_err(), "{bad} should be refused");
        }
        for bad in ["spec.x=1", "metadata.name"] {
            assert!(Selector::parse(secrets, None, Some(bad)).is_err(), "{bad} should be refused");
        }
    }
}
