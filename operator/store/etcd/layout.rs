//! Where the store's objects are in etcd: `PREFIX/v1/RESOURCE/NAMESPACE/NAME`, and `PREFIX/v1/!WORD` for what is no object.
//! Pure.

use crate::store::state::concerns;
use crate::store::{Error, Key};

/// The namespace of an object without one.
const CLUSTER: &str = "-";

/// Keys from `start` up to `end`, which is not included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: Vec<u8>,
    pub(super) end: Vec<u8>,
}

/// Names of keys below one prefix.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    root: String,
}

impl Layout {
    /// The keys below this prefix.
    pub(super) fn new(prefix: &str) -> Self {
        Self { root: format!("{}/v1/", prefix.trim_end_matches('/')) }
    }

    /// The key of an object; refuses names that would be another object's.
    pub(super) fn object(&self, key: &Key) -> Result<Vec<u8>, Error> {
        let odd = key.resource.contains('/') || key.namespace.contains('/') || key.namespace == CLUSTER;
        if odd || key.resource.starts_with('!') {
            let problem = "a resource or namespace has a name that the store cannot hold".to_owned();
            return Err(Error::Malformed { key: key.clone(), problem });
        }
        Ok(format!("{}{}", self.root, path(key)).into_bytes())
    }

    /// The object at a key; `None` for keys of the store itself.
    pub(super) fn parse(&self, key: &[u8]) -> Option<Key> {
        parsed(std::str::from_utf8(key).ok()?.strip_prefix(&self.root)?)
    }

    /// All objects.
    pub(super) fn objects(&self) -> Span {
        // The keys of the store itself begin with `!`, which sorts before all names of resources.
        Span { start: format!("{}\"", self.root).into_bytes(), end: after(&self.root) }
    }

    /// The objects of a resource, of one namespace if given.
    pub(super) fn of(&self, resource: &str, namespace: Option<&str>) -> Span {
        let prefix = match namespace {
            Some("") => format!("{}{resource}/{CLUSTER}/", self.root),
            Some(namespace) => format!("{}{resource}/{namespace}/", self.root),
            None => format!("{}{resource}/", self.root),
        };
        Span { end: after(&prefix), start: prefix.into_bytes() }
    }

    /// One span with all objects of these resources, and maybe others.
    pub(super) fn around(&self, resources: &[String], namespace: Option<&str>) -> Span {
        let spans = resources.iter().map(|resource| self.of(resource, namespace));
        let all = spans.reduce(|one, other| Span { start: one.start.min(other.start), end: one.end.max(other.end) });
        all.unwrap_or_else(|| self.nothing())
    }

    /// The marks of all that an owner owns.
    pub(super) fn owned(&self, uid: &str) -> Span {
        let prefix = self.marks(uid);
        Span { end: after(&prefix), start: prefix.into_bytes() }
    }

    /// The mark that the object at `key` names this owner.
    pub(super) fn mark(&self, uid: &str, key: &Key) -> Vec<u8> {
        format!("{}{}", self.marks(uid), path(key)).into_bytes()
    }

    /// The object of a mark.
    pub(super) fn marked(&self, uid: &str, mark: &[u8]) -> Option<Key> {
        parsed(std::str::from_utf8(mark).ok()?.strip_prefix(&self.marks(uid))?)
    }

    /// The key of the leader.
    pub(super) fn leader(&self) -> Vec<u8> {
        format!("{}!leader", self.root).into_bytes()
    }

    /// The key of a node whose operator runs.
    pub(super) fn node(&self, name: &str) -> Vec<u8> {
        format!("{}!node/{name}", self.root).into_bytes()
    }

    /// The keys of all nodes whose operators run.
    pub(super) fn nodes(&self) -> Span {
        let prefix = format!("{}!node/", self.root);
        Span { end: after(&prefix), start: prefix.into_bytes() }
    }

    /// The key that says who compacts next, and up to where.
    pub(super) fn compaction(&self) -> Vec<u8> {
        format!("{}!compaction", self.root).into_bytes()
    }

    /// The key that says how often the objects went over into another store.
    pub(super) fn generation(&self) -> Vec<u8> {
        format!("{}!generation", self.root).into_bytes()
    }

    /// The key of the administrator's token.
    pub(super) fn administrator(&self) -> Vec<u8> {
        format!("{}!administrator", self.root).into_bytes()
    }

    /// A key that nobody writes: a read of it asks for the revision alone.
    pub(super) fn nothing(&self) -> Span {
        let start = format!("{}!nothing", self.root).into_bytes();
        Span { end: next(&start), start }
    }

    fn marks(&self, uid: &str) -> String {
        format!("{}!owners/{uid}/", self.root)
    }
}

/// The key after this one, when keys are in order.
pub(super) fn next(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

/// Whether a span of several resources has this key by chance only.
pub(super) fn wanted(key: &Key, resources: &[String], namespace: Option<&str>) -> bool {
    concerns(key, resources, namespace)
}

fn path(key: &Key) -> String {
    let namespace = if key.namespace.is_empty() { CLUSTER } else { &key.namespace };
    format!("{}/{namespace}/{}", key.resource, key.name)
}

fn parsed(path: &str) -> Option<Key> {
    let mut parts = path.splitn(3, '/');
    let (resource, namespace, name) = (parts.next()?, parts.next()?, parts.next()?);
    let namespace = if namespace == CLUSTER { "" } else { namespace };
    (!resource.starts_with('!')).then(|| Key::new(resource, namespace, name))
}

/// The first key that does not begin with this prefix, which ends with `/`.
fn after(prefix: &str) -> Vec<u8> {
    let mut bytes = prefix.as_bytes().to_vec();
    if let Some(last) = bytes.last_mut() {
        *last += 1;
    }
    bytes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn layout() -> Layout {
        Layout::new("/evenkeel/")
    }

    fn text(bytes: &[u8]) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    fn has(span: &Span, key: &[u8]) -> bool {
        span.start.as_slice() <= key && key < span.end.as_slice()
    }

    #[test]
    fn a_key_is_read_back_as_it_was_written() {
        for (key, written) in [
            (Key::new("secrets", "default", "a"), "/evenkeel/v1/secrets/default/a"),
            (Key::new("dockerhosts.evenkeel.dev", "", "local"), "/evenkeel/v1/dockerhosts.evenkeel.dev/-/local"),
            (Key::new("toys", "n", "odd/name"), "/evenkeel/v1/toys/n/odd/name"),
        ] {
            let bytes = layout().object(&key).unwrap();
            assert_eq!((text(&bytes), layout().parse(&bytes)), (written, Some(key)));
        }
    }

    #[test]
    fn names_that_would_be_another_object_are_refused() {
        for key in
            [Key::new("a/b", "n", "x"), Key::new("a", "n/m", "x"), Key::new("a", "-", "x"), Key::new("!a", "", "x")]
        {
            assert!(matches!(layout().object(&key), Err(Error::Malformed { .. })), "{key}");
        }
    }

    #[test]
    fn a_span_has_its_objects_and_no_others() {
        let object = |resource, namespace, name| layout().object(&Key::new(resource, namespace, name)).unwrap();
        let (wide, narrow, top) =
            (layout().of("toys", None), layout().of("toys", Some("a")), layout().of("toys", Some("")));
        assert!(has(&wide, &object("toys", "a", "x")) && has(&wide, &object("toys", "", "x")));
        assert!(!has(&wide, &object("toysx", "a", "x")) && !has(&wide, &object("toy", "a", "x")));
        assert!(has(&narrow, &object("toys", "a", "x")) && !has(&narrow, &object("toys", "a-b", "x")));
        assert!(has(&top, &object("toys", "", "x")) && !has(&top, &object("toys", "a", "x")));
        let both = layout().around(&["toys".to_owned(), "cars".to_owned()], Some("a"));
        assert!(has(&both, &object("toys", "a", "x")) && has(&both, &object("cars", "a", "x")));
    }

    #[test]
    fn keys_of_the_store_itself_are_no_objects() {
        let key = Key::new("toys", "n", "x");
        let own = [
            layout().leader(),
            layout().generation(),
            layout().administrator(),
            layout().nothing().start,
            layout().mark("uid", &key),
        ];
        for own in own {
            assert!(layout().parse(&own).is_none() && !has(&layout().objects(), &own), "{}", text(&own));
        }
        assert!(has(&layout().objects(), &layout().object(&key).unwrap()));
    }

    #[test]
    fn a_mark_leads_to_its_object() {
        let key = Key::new("toys", "", "x");
        let mark = layout().mark("one", &key);
        assert_eq!((layout().marked("one", &mark), layout().marked("on", &mark)), (Some(key), None));
        assert!(has(&layout().owned("one"), &mark) && !has(&layout().owned("on"), &mark));
    }
}
