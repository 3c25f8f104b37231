//! Parses paths: one parser for every kind, so that a new kind needs no new route.

use crate::api::registry;
use crate::api::resource::Resource;
use crate::server::reviews::{self, Review};
use crate::server::status::Refusal;

/// A parsed path.
#[derive(Debug, Clone, PartialEq)]
pub enum Route<'a> {
    /// `/`: all paths.
    Root,
    /// `/livez`, `/readyz`, `/healthz`: need no token.
    Health,
    /// `/version`: needs no token.
    Version,
    /// `/api`: versions of the core group.
    CoreVersions,
    /// `/apis`: all named groups.
    Groups,
    /// `/apis/GROUP`.
    Group(&'a str),
    /// `/api/v1` or `/apis/GROUP/VERSION`: the resources of one group and version.
    Resources(&'a str, &'a str),
    /// `/openapi/v2`: the OpenAPI v2 document.
    OpenApiV2,
    /// `/openapi/v3`: the list of documents.
    OpenApiIndex,
    /// `/openapi/v3/NAME`: the document of one group and version.
    OpenApi(&'a str),
    /// A review: of oneself or, if one may, of others.
    Review {
        /// Its kind.
        review: &'static Review,
        /// The namespace it is about, for the kind that is in one.
        namespace: Option<String>,
    },
    /// A collection, an object or a subresource of it.
    Objects(Target),
}

/// The objects that a path addresses.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// The kind.
    pub resource: &'static Resource,
    /// The namespace; `None` for cluster-scoped kinds and for "all namespaces".
    pub namespace: Option<String>,
    /// The object; `None` for the collection.
    pub name: Option<String>,
    /// The part of the object.
    pub part: Part,
}

/// The object itself or a subresource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Everything but the status.
    Main,
    /// `/status`, which clients can only read.
    Status,
    /// `/scale`.
    Scale,
    /// `/log` of containers.
    Log,
    /// `/exec` in containers.
    Exec,
    /// `/attach` to the output of containers.
    Attach,
    /// `/portforward` to ports of containers.
    PortForward,
    /// `/eviction`.
    Eviction,
}

/// Parses a path; a trailing slash does not matter.
pub fn parse(path: &str) -> Result<Route<'_>, Refusal> {
    let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
    match segments.as_slice() {
        [] => Ok(Route::Root),
        ["livez" | "readyz" | "healthz", ..] => Ok(Route::Health),
        ["version"] => Ok(Route::Version),
        ["openapi", "v2"] => Ok(Route::OpenApiV2),
        ["openapi", "v3"] => Ok(Route::OpenApiIndex),
        ["openapi", "v3", ..] => Ok(Route::OpenApi(path.trim_start_matches("/openapi/v3/").trim_end_matches('/'))),
        ["api"] => Ok(Route::CoreVersions),
        ["apis"] => Ok(Route::Groups),
        ["apis", group] => Ok(Route::Group(group)),
        ["api", version] => Ok(Route::Resources("", version)),
        ["apis", group, version] => Ok(Route::Resources(group, version)),
        ["apis", group, version, plural] if let Some(review) = reviews::find(group, version, plural, false) => {
            Ok(Route::Review { review, namespace: None })
        }
        ["apis", group, version, "namespaces", namespace, plural]
            if let Some(review) = reviews::find(group, version, plural, true) =>
        {
            Ok(Route::Review { review, namespace: Some(decoded(namespace)?) })
        }
        ["api", version, rest @ ..] => target("", version, rest).map(Route::Objects),
        ["apis", group, version, rest @ ..] => target(group, version, rest).map(Route::Objects),
        _ => Err(Refusal::no_such_path()),
    }
}

fn target(group: &str, version: &str, rest: &[&str]) -> Result<Target, Refusal> {
    let find = |plural: &str| registry::find(group, version, plural).ok_or_else(Refusal::no_such_path);
    // `namespaces/N/secrets` is a collection inside N, but `namespaces/N/status` is a part of N itself.
    let (namespace, rest) = match rest {
        ["namespaces", namespace, plural, rest @ ..] if registry::find(group, version, plural).is_some() => {
            (Some(decoded(namespace)?), [&[*plural], rest].concat())
        }
        _ => (None, rest.to_vec()),
    };
    let (resource, name, part) = match rest.as_slice() {
        [plural] => (find(plural)?, None, Part::Main),
        [plural, name] => (find(plural)?, Some(decoded(name)?), Part::Main),
        [plural, name, part] => {
            let resource = find(plural)?;
            let part = match *part {
                "status" if resource.has_status => Part::Status,
                "scale" if resource.has_scale => Part::Scale,
                "log" if resource.has_containers() => Part::Log,
                "exec" if resource.has_containers() => Part::Exec,
                "attach" if resource.has_containers() => Part::Attach,
                "portforward" if resource.has_containers() => Part::PortForward,
                "eviction" if resource.has_containers() => Part::Eviction,
                _ => return Err(Refusal::no_such_path()),
            };
            (resource, Some(decoded(name)?), part)
        }
        _ => return Err(Refusal::no_such_path()),
    };
    let misplaced = namespace.is_some() && !resource.namespaced;
    let nowhere = namespace.is_none() && resource.namespaced && name.is_some();
    if misplaced || nowhere { Err(Refusal::no_such_path()) } else { Ok(Target { resource, namespace, name, part }) }
}

/// A name or namespace in a path, %-decoded; 400 if it cannot be one.
fn decoded(segment: &str) -> Result<String, Refusal> {
    let bad = |why: &str| Refusal::bad_request(format!("the path has an invalid part {segment:?}: {why}"));
    let mut bytes = Vec::new();
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            let code = digit().zip(digit()).and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
            code.ok_or_else(|| bad("'%' must be followed by two hexadecimal digits"))?
        } else {
            byte
        });
    }
    let text = String::from_utf8(bytes).map_err(|_| bad("it is not UTF-8"))?;
    if matches!(text.as_str(), "." | "..") || text.contains(['/', '%']) {
        return Err(bad("a name cannot be '.' or '..', and has no '/' and no '%'"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, expected: &str) {
        let shown = match parse(path) {
            Ok(Route::Objects(t)) => format!(
                "{} ns={} name={} {:?}",
                t.resource.plural,
                t.namespace.as_deref().unwrap_or("-"),
                t.name.as_deref().unwrap_or("-"),
                t.part
            ),
            Ok(other) => format!("{other:?}"),
            Err(refusal) => refusal.code.as_u16().to_string(),
        };
        assert_eq!(shown, expected, "{path}");
    }

    #[test]
    fn every_form_of_path_is_understood() {
        check("/", "Root");
        check("/readyz", "Health");
        check("/version/", "Version");
        check("/apis/evenkeel.dev", "Group(\"evenkeel.dev\")");
        check("/openapi/v3/", "OpenApiIndex");
        check("/openapi/v3/apis/evenkeel.dev/v1alpha1", "OpenApi(\"apis/evenkeel.dev/v1alpha1\")");
        check("/api/v1/", "Resources(\"\", \"v1\")");
        check("/api/v1/namespaces", "namespaces ns=- name=- Main");
        check("/api/v1/namespaces/a", "namespaces ns=- name=a Main");
        check("/api/v1/namespaces/a/status", "namespaces ns=- name=a Status");
        check("/api/v1/namespaces/a/secrets", "secrets ns=a name=- Main");
        check("/api/v1/namespaces/a/secrets/b", "secrets ns=a name=b Main");
        check("/api/v1/secrets", "secrets ns=- name=- Main");
        check("/api/v1/namespaces/a/pods/b/log", "pods ns=a name=b Log");
        check("/api/v1/namespaces/a/pods/b/exec", "pods ns=a name=b Exec");
        check("/api/v1/namespaces/a/pods/b/portforward", "pods ns=a name=b PortForward");
        check("/apis/apps/v1/namespaces/a/deployments/b/scale", "deployments ns=a name=b Scale");
        check("/apis/evenkeel.dev/v1alpha1/dockerhosts/local/status", "dockerhosts ns=- name=local Status");
        check(
            "/apis/evenkeel.dev/v1alpha1/namespaces/a/postgresclusters/b/status",
            "postgresclusters ns=a name=b Status",
        );
    }

    /// Regression 57: names in paths were not decoded, so `/secrets/a%2Db` was not found; and a namespace like `..%2f` was
    /// listed as an empty one.
    #[test]
    fn names_in_paths_are_decoded() {
        check("/api/v1/namespaces/%61/secrets/b%2Dc", "secrets ns=a name=b-c Main");
        for bad in ["..%2f..%2f", "%2e", "%25", "%zz", "%f", "%ff"] {
            check(&format!("/api/v1/namespaces/{bad}/secrets"), "400");
            check(&format!("/api/v1/namespaces/a/secrets/{bad}"), "400");
        }
    }

    #[test]
    fn what_is_not_served_is_not_found() {
        for path in [
            "/foo",
            "/api/v2/secrets",
            "/api/v1/secrets/b",
            "/api/v1/pigs",
            "/api/v1/namespaces/a/secrets/b/status",
            "/apis/evenkeel.dev/v1alpha1/namespaces/a/dockerhosts",
            "/apis/evenkeel.dev/v1alpha1/dockerhosts/a/scale",
        ] {
            check(path, "404");
        }
    }
}
