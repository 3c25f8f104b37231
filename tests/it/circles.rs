//! Finds files that import each other in a circle. A module and its inner modules are one unit and do not count.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use crate::tidy::{expect_none, sources};

/// The imports of each module, such as `kinds::deployment::plan`.
type Imports = BTreeMap<String, BTreeSet<String>>;

#[test]
fn no_files_import_each_other_in_a_circle() {
    let files: Vec<(String, String)> =
        sources("operator").iter().map(|source| (module(&source.name), source.code())).collect();
    let circles = circles(&imports(&files)).into_iter().map(|circle| circle.join(" <-> "));
    expect_none("what two files share belongs into a third below both", circles.collect());
}

/// The module in a file: `server/mod.rs` is `server`.
fn module(file: &str) -> String {
    file.trim_end_matches(".rs").trim_end_matches("/mod").replace('/', "::")
}

/// The modules that each file imports, by `crate::` and `super::`.
fn imports(files: &[(String, String)]) -> Imports {
    let modules: BTreeSet<&str> = files.iter().map(|(module, _)| module.as_str()).collect();
    let of = |module: &str, code: &str| -> BTreeSet<String> {
        let named = paths(module, code).into_iter().filter_map(|path| longest(&modules, &path));
        named.filter(|other| other != module && !inside(other, module) && !inside(module, other)).collect()
    };
    files.iter().map(|(module, code)| (module.clone(), of(module, code))).collect()
}

fn inside(module: &str, outer: &str) -> bool {
    module.strip_prefix(outer).is_some_and(|rest| rest.starts_with("::"))
}

/// The module that a path such as `server::request::Request` leads to.
fn longest(modules: &BTreeSet<&str>, path: &[String]) -> Option<String> {
    let prefixes = (1..=path.len()).rev().map(|length| path[..length].join("::"));
    prefixes.into_iter().find(|prefix| modules.contains(prefix.as_str()))
}

/// Every path that begins with `crate::` or `super::`, from the crate's root.
fn paths(module: &str, code: &str) -> Vec<Vec<String>> {
    let here: Vec<String> = module.split("::").map(str::to_owned).collect();
    let mut found = Vec::new();
    for (at, word) in code.match_indices("crate::").chain(code.match_indices("super::")) {
        // The middle of `super::super::` was read from its beginning, and `pub(crate)` is no path.
        if code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == ':') {
            continue;
        }
        let mut base = if word == "crate::" { Vec::new() } else { here[..here.len() - 1].to_vec() };
        let mut rest = &code[at + word.len()..];
        while let Some(further) = rest.strip_prefix("super::") {
            base.pop();
            rest = further;
        }
        read(&base, rest, &mut found);
    }
    found
}

/// Reads one path or `{…}` list after `base`; returns the text behind it.
fn read<'a>(base: &[String], text: &'a str, found: &mut Vec<Vec<String>>) -> &'a str {
    let text = text.trim_start();
    let Some(mut rest) = text.strip_prefix('{') else {
        let end = text.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(text.len());
        let path = [base, &[text[..end].to_owned()]].concat();
        let rest = &text[end..];
        return match rest.strip_prefix("::") {
            Some(further) => read(&path, further, found),
            None => {
                found.push(path);
                rest
            }
        };
    };
    loop {
        rest = rest.trim_start_matches(|letter: char| letter.is_whitespace() || letter == ',');
        if rest.is_empty() || rest.starts_with('}') {
            return rest.strip_prefix('}').unwrap_or_default();
        }
        let before = rest.len();
        rest = read(base, rest, found);
        // `as name` and `*` are no paths.
        let alias = rest.find([',', '}']).unwrap_or(rest.len());
        rest = &rest[alias..];
        assert!(rest.len() < before, "no list of imports: {rest}");
    }
}

/// Groups of modules that import each other, in order.
fn circles(imports: &Imports) -> Vec<Vec<String>> {
    let reach = |from: &str| {
        let mut seen = BTreeSet::new();
        let mut next: Vec<&String> = imports.get(from).into_iter().flatten().collect();
        while let Some(module) = next.pop() {
            if seen.insert(module.clone()) {
                next.extend(imports.get(module).into_iter().flatten());
            }
        }
        seen
    };
    let reached: BTreeMap<&String, BTreeSet<String>> = imports.keys().map(|module| (module, reach(module))).collect();
    let mut found = BTreeSet::new();
    for (module, reaches) in &reached {
        let back = |other: &&String| reached.get(*other).is_some_and(|from| from.contains(*module));
        let circle: Vec<String> = reaches.iter().filter(back).cloned().collect();
        if !circle.is_empty() {
            found.insert(circle);
        }
    }
    found.into_iter().collect()
}

#[test]
fn the_search_for_circles_sees_every_form_of_import() {
    let files = [
        ("a", "pub mod x; pub use x::X;"),
        ("a::x", "use super::y::{self, Y};\nuse crate::{b, c::{d::D as E, *}};"),
        ("a::y", "fn y() { super::z::z(); }"),
        ("a::z", "use super::super::a::x::X; pub(crate) fn z() {}"),
        ("b", "use crate::a::Thing;"),
        ("c", ""),
        ("c::d", "use crate::b;"),
    ];
    let files = files.map(|(module, code)| (module.to_owned(), code.to_owned()));
    let imports = imports(&files);
    let of = |module: &str| imports[module].iter().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!((of("a"), of("a::x"), of("a::y")), (String::new(), "a::y b c c::d".to_owned(), "a::z".to_owned()));
    assert_eq!((of("a::z"), of("b"), of("c::d")), ("a::x".to_owned(), "a".to_owned(), "b".to_owned()));
    assert_eq!(circles(&imports), [["a::x", "a::y", "a::z"].map(str::to_owned)]);
    assert_eq!(module("server/mod.rs"), "server");
    assert_eq!(module("store/sqlite.rs"), "store::sqlite");
}
