//! References to objects of a kind, by which tasks beside the loop name the object they work for, and wake it.

use std::fmt;
use std::sync::Arc;

use crate::api::labels::Owner;
use crate::api::object::Object;
use crate::store::Key;

/// An object of a kind, whether it exists or not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    /// Its kind, e.g. `PostgresCluster`.
    pub kind: &'static str,
    /// Its resource in the store, e.g. `postgresclusters.evenkeel.dev`.
    pub resource: &'static str,
    /// Its namespace; empty for cluster-scoped kinds.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ObjectRef {
    /// The object of type `T` with this namespace and name.
    pub fn new<T: Object>(namespace: &str, name: &str) -> Self {
        Self { kind: T::KIND, resource: T::RESOURCE, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// This object.
    pub fn of<T: Object>(object: &T) -> Self {
        Self::new::<T>(object.namespace(), object.name())
    }

    /// Its key in the store.
    pub fn key(&self) -> Key {
        self.sibling(self.resource, &self.name)
    }

    /// The owner that the labels of its containers, volumes and networks name.
    pub fn owner(&self) -> Owner {
        Owner { kind: self.kind.to_owned(), namespace: self.namespace.clone(), name: self.name.clone() }
    }

    /// The key of a Secret in its namespace.
    pub fn secret(&self, name: &str) -> Key {
        self.sibling("secrets", name)
    }

    /// The key of an object of another resource in its namespace.
    pub fn sibling(&self, resource: &str, name: &str) -> Key {
        Key { resource: resource.to_owned(), namespace: self.namespace.clone(), name: name.to_owned() }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => write!(f, "{} {}", self.kind, self.name),
            namespace => write!(f, "{} {namespace}/{}", self.kind, self.name),
        }
    }
}

/// Wakes objects: their reconcile is due at once. Cheap to clone; what tasks beside the loop are given.
#[derive(Clone)]
pub struct Wake(Arc<dyn Fn(&ObjectRef) + Send + Sync>);

impl Wake {
    /// Calls `wake` with each object that is woken.
    pub fn new(wake: impl Fn(&ObjectRef) + Send + Sync + 'static) -> Self {
        Self(Arc::new(wake))
    }

    /// Makes the object's reconcile due; it need not exist.
    pub fn object(&self, object: &ObjectRef) {
        (self.0)(object);
    }
}

impl fmt::Debug for Wake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wake").finish_non_exhaustive()
    }
}
