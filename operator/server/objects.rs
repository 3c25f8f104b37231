//! Objects over HTTP: read, create, replace, patch, delete. The rules of the store are not repeated here.

use std::sync::{Arc, Mutex};

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use super::admission::Policy;
use super::apply::Writer;
use super::authz::escalation;
use super::body::{self, Sent};
use super::paging::Page;
use super::params::{Effect, WriteOptions};
use super::patch::{Patch, patched};
use super::request::{Request, WriteError};
use super::selectors::Selector;
use super::status::{Cause, MODIFIED, Refusal};
use super::validate;
use super::view::warned;
use super::{claims, namespaces, routes, scale};
use crate::api::resource::Resource;
use crate::api::sync::lock;
use crate::store::objects::Part;
use crate::store::{self, Key, Store, clock, revision_of, rules};

/// Attempts of an apply while others create or delete the object.
const ATTEMPTS: usize = 3;

/// How a write is recorded in `managedFields`.
#[derive(Clone, Copy)]
enum Record {
    /// It owns what it changes.
    Update,
    /// An apply, which has recorded itself.
    Apply,
}

/// The object at a key in a store.
async fn get(store: Arc<dyn Store>, key: Key) -> Result<Option<Value>, store::Error> {
    store.get(&key).await
}

impl Request<'_> {
    pub(super) async fn get(&self) -> Result<Response, Refusal> {
        let key = self.key();
        let found = self.look(|store: Arc<dyn Store>| get(store, key.clone())).await;
        let (found, warnings) = found.map_err(|error| self.store_refusal(&error))?;
        let object = found.ok_or_else(|| Refusal::not_found(self.target.resource, &key.name))?;
        Ok(self.part(StatusCode::OK, object, &warnings))
    }

    pub(super) async fn list(&self) -> Result<Response, Refusal> {
        let page = Page::read(&self.params)?;
        let selector = self.params.selector(self.target.resource)?;
        let listed = self.look(|store| self.listed_in(store, &selector, &page)).await;
        let ((objects, revision), warnings) = listed.map_err(|error| self.list_refusal(&error, &page))?;
        if let Some(since) = self.params.revision()?.filter(|since| *since > revision) {
            return Err(self.store_refusal(&store::Error::Future { since, newest: revision }));
        }
        let (objects, metadata) = page.cut(objects, revision, selector == Selector::default());
        let list = self.view.list(self.target.resource, objects, metadata, self.server.clock.now());
        Ok(warned(list, &warnings))
    }

    pub(super) async fn create(&self) -> Result<Response, Refusal> {
        let (object, warnings) = self.created().await?;
        Ok(self.object(StatusCode::CREATED, object, &warnings))
    }

    /// Creates the object in the body.
    pub(super) async fn created(&self) -> Result<(Value, Vec<String>), Refusal> {
        let options = self.params.write_options(&self.headers)?;
        let Sent { value: mut object, repeated } = body::object(&self.headers, &self.body)?;
        self.identify(&mut object)?;
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("managedFields");
        }
        let created = self.insert(object, &options, &repeated, Record::Update).await;
        created.map_err(|error| self.write_refusal(error))
    }

    /// Who writes this request.
    fn writer<'a>(&self, options: &'a WriteOptions) -> Writer<'a> {
        let subresource = (self.target.part == routes::Part::Scale).then_some("scale");
        let (resource, now) = (self.target.resource, self.server.clock.now());
        Writer { manager: &options.manager, resource, subresource, now }
    }

    /// Stores a new object.
    async fn insert(
        &self,
        mut object: Value,
        options: &WriteOptions,
        repeated: &[String],
        record: Record,
    ) -> Result<(Value, Vec<String>), WriteError> {
        let resource = self.target.resource;
        if let (true, Some(fields)) = (resource.has_status, object.as_object_mut()) {
            fields.remove("status");
        }
        if resource.namespaced {
            let namespace = self.target.namespace.as_deref().unwrap_or_default();
            namespaces::require(self.server, resource, namespace).await?;
        }
        self.generate_name(&mut object);
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let policy = Policy::read(self.server, resource, &self.key()).await?;
        policy.complete(resource, None, &mut object);
        let mut admitted = validate::admit(resource, object, None, repeated, options.validation)?;
        admitted.warnings.extend(policy.judge(resource, None, &admitted.object)?);
        let key = Key { name, ..self.key() };
        self.judge_grant(None, &admitted.object)?;
        let _held = claims::hold(self.server, resource, &key).await?;
        let object = match record {
            Record::Update => self.writer(options).update(None, admitted.object),
            Record::Apply => admitted.object,
        };
        let object = match options.effect {
            Effect::Store => self.server.objects.create(&key, object).await?,
            Effect::DryRun => self.pretend_to_create(key, object).await?,
        };
        Ok((object, admitted.warnings))
    }

    /// Refuses a role or binding that grants more than its writer has.
    fn judge_grant(&self, old: Option<&Value>, new: &Value) -> Result<(), Refusal> {
        let resource = self.target.resource.qualified();
        escalation::judge(&self.permit.state().rules, &self.permit.user, &resource, old, new)
    }

    /// Gives the object a name after its `generateName`, before it is judged.
    fn generate_name(&self, object: &mut Value) {
        let metadata = &mut object["metadata"];
        let prefix = metadata["generateName"].as_str().unwrap_or_default().to_owned();
        if metadata["name"].as_str().unwrap_or_default().is_empty() && !prefix.is_empty() {
            metadata["name"] = format!("{prefix}{}", clock::suffix(&*self.server.clock, 5)).into();
        }
    }

    async fn pretend_to_create(&self, key: Key, object: Value) -> Result<Value, WriteError> {
        let clock = &*self.server.clock;
        if self.server.objects.get::<Value>(&key).await?.is_some() {
            return Err(store::Error::AlreadyExists { key }.into());
        }
        Ok(rules::created(&key, object, clock::uid(clock), clock.now())?)
    }

    pub(super) async fn replace(&self) -> Result<Response, Refusal> {
        let options = self.params.write_options(&self.headers)?;
        let resource = self.target.resource;
        let Sent { value: mut object, repeated } = body::object(&self.headers, &self.body)?;
        if self.target.part == routes::Part::Scale {
            let scaled = |old: &Value| scale::scaled(resource, old, &object);
            let changed = self.change(&options, &repeated, Record::Update, scaled).await;
            let (object, warnings) = changed.map_err(|error| self.write_refusal(error))?;
            return Ok(self.part(StatusCode::OK, object, &warnings));
        }
        self.identify(&mut object)?;
        let unversioned = object["metadata"]["resourceVersion"].as_str().is_none_or(str::is_empty);
        if unversioned && resource.definition.is_some() {
            let message = "Invalid value: must be specified for an update; read the object first";
            let causes = vec![Cause::invalid("metadata.resourceVersion", message)];
            return Err(Refusal::invalid(resource, &self.key().name, causes));
        }
        let changed = self.change(&options, &repeated, Record::Update, |_| Ok(object.clone())).await;
        let (object, warnings) = changed.map_err(|error| self.write_refusal(error))?;
        Ok(self.object(StatusCode::OK, object, &warnings))
    }

    pub(super) async fn patch(&self) -> Result<Response, Refusal> {
        let options = self.params.write_options(&self.headers)?;
        let (patch, repeated) = Patch::read(self.target.resource, &self.headers, &self.body)?;
        let done = match &patch {
            _ if self.target.part == routes::Part::Scale => {
                let scaled = |old: &Value| scale::scaled(self.target.resource, old, &patched(&scale::of(old), &patch)?);
                let changed = self.change(&options, &repeated, Record::Update, scaled).await;
                changed.map(|(object, warnings)| (StatusCode::OK, object, warnings))
            }
            Patch::Apply(wanted) => self.apply(wanted.clone(), &options, &repeated).await,
            _ => {
                let identical = |old: &Value| identical(self.target.resource, old, patched(old, &patch)?);
                let changed = self.change(&options, &repeated, Record::Update, identical).await;
                changed.map(|(object, warnings)| (StatusCode::OK, object, warnings))
            }
        };
        let (code, object, warnings) = done.map_err(|error| self.write_refusal(error))?;
        Ok(self.part(code, object, &warnings))
    }

    /// Server-side apply: creates the object if it does not exist.
    async fn apply(
        &self,
        mut wanted: Value,
        options: &WriteOptions,
        repeated: &[String],
    ) -> Result<(StatusCode, Value, Vec<String>), WriteError> {
        if self.params.get("fieldManager").is_none() {
            let message = "fieldManager: Required value: is required for apply patch";
            return Err(Refusal::unprocessable(message).into());
        }
        self.identify(&mut wanted)?;
        if wanted["metadata"].get("managedFields").is_some_and(|fields| !fields.is_null()) {
            return Err(Refusal::bad_request("metadata.managedFields must be nil").into());
        }
        let resource = self.target.resource;
        // The owned fields must equal the stored ones, or a later apply could not remove them. Defaults are filled in after
        // the merge: they are not what the manager wants.
        (resource.normalize)(&mut wanted);
        let writer = self.writer(options);
        let apply = |old: &Value| writer.apply(old, &wanted, options.force);
        let mut attempts = 0;
        loop {
            attempts += 1;
            match self.change(options, repeated, Record::Apply, apply).await {
                Err(WriteError::Store(store::Error::NotFound { .. })) => {}
                outcome => return outcome.map(|(object, warnings)| (StatusCode::OK, object, warnings)),
            }
            if wanted["metadata"].get("resourceVersion").is_some() {
                return Err(Refusal::conflict(resource, &self.key().name, MODIFIED).into());
            }
            let mut fresh = apply(&json!({"metadata": {}}))?;
            self.permit.require("create")?;
            for field in ["apiVersion", "kind"] {
                fresh[field] = wanted[field].clone();
            }
            fresh["metadata"]["name"] = wanted["metadata"]["name"].clone();
            match self.insert(fresh, options, repeated, Record::Apply).await {
                Err(WriteError::Store(store::Error::AlreadyExists { .. })) if attempts < ATTEMPTS => {}
                outcome => return outcome.map(|(object, warnings)| (StatusCode::CREATED, object, warnings)),
            }
        }
    }

    /// Reads the object, computes the new one with `make`, validates it and stores it.
    async fn change(
        &self,
        options: &WriteOptions,
        repeated: &[String],
        record: Record,
        make: impl Fn(&Value) -> Result<Value, Refusal> + Send + Sync,
    ) -> Result<(Value, Vec<String>), WriteError> {
        let key = self.key();
        let warnings = Mutex::new(Vec::new());
        let writer = self.writer(options);
        let policy = Policy::read(self.server, self.target.resource, &key).await?;
        let judged = |old: Value| -> Result<Value, WriteError> {
            let mut proposed = make(&old)?;
            policy.complete(self.target.resource, Some(&old), &mut proposed);
            let proposed = if self.target.resource.has_status { with_status_of(&old, proposed) } else { proposed };
            let resource = self.target.resource;
            let mut admitted = validate::admit(resource, proposed, Some(&old), repeated, options.validation)?;
            admitted.warnings.extend(policy.judge(resource, Some(&old), &admitted.object)?);
            self.judge_grant(Some(&old), &admitted.object)?;
            *lock(&warnings) = admitted.warnings;
            Ok(match record {
                Record::Update => writer.update(Some(&old), admitted.object),
                Record::Apply => admitted.object,
            })
        };
        let object = match options.effect {
            Effect::Store => self.server.objects.modify(&key, Part::Main, judged).await?,
            Effect::DryRun => self.pretend_to_change(&key, judged).await?,
        };
        let warnings = std::mem::take(&mut *lock(&warnings));
        Ok((object, warnings))
    }

    async fn pretend_to_change(
        &self,
        key: &Key,
        judged: impl Fn(Value) -> Result<Value, WriteError> + Send,
    ) -> Result<Value, WriteError> {
        let found = self.server.objects.get::<Value>(key).await?;
        let old = found.ok_or_else(|| store::Error::NotFound { key: key.clone() })?;
        let new = judged(old.clone())?;
        let (pinned, found) = (rules::pinned(key, &new)?, revision_of(&old));
        if let Some(expected) = pinned.filter(|revision| Some(*revision) != found) {
            return Err(store::Error::Conflict { key: key.clone(), expected, found }.into());
        }
        Ok(rules::updated(key, &old, new)?)
    }

    /// Checks that kind, namespace and name in the body equal those in the path, and fills them in: typed clients leave
    /// them out.
    fn identify(&self, object: &mut Value) -> Result<(), Refusal> {
        let resource = self.target.resource;
        for (field, expected) in [("apiVersion", resource.api_version()), ("kind", resource.kind.clone())] {
            let said = &object[field];
            if !said.is_null() && *said != "" && *said != *expected {
                let message =
                    format!("the {field} in the data ({said}) does not match the expected one ({expected:?})");
                return Err(Refusal::bad_request(message));
            }
            object[field] = expected.into();
        }
        let metadata = object.as_object_mut().map(|fields| fields.entry("metadata").or_insert_with(|| json!({})));
        let Some(metadata) = metadata.filter(|metadata| metadata.is_object()) else {
            return Err(Refusal::bad_request("metadata must be an object"));
        };
        for (field, expected) in [("namespace", &self.target.namespace), ("name", &self.target.name)] {
            let found = metadata[field].as_str().unwrap_or_default();
            match expected {
                Some(expected) if found.is_empty() => metadata[field] = expected.clone().into(),
                Some(expected) if found != expected => {
                    let message = format!(
                        "the {field} of the object ({found}) does not match the {field} on the URL ({expected})"
                    );
                    return Err(Refusal::bad_request(message));
                }
                _ => {}
            }
        }
        if resource.namespaced && self.target.namespace.is_none() {
            return Err(Refusal::bad_request("an empty namespace may not be set during creation"));
        }
        Ok(())
    }
}

/// A patched object, if the patch has not made another object of it; what it has removed of the identity comes back.
fn identical(resource: &Resource, old: &Value, mut patched: Value) -> Result<Value, Refusal> {
    let mut causes = Vec::new();
    for (pointer, path) in [
        ("/apiVersion", "apiVersion"),
        ("/kind", "kind"),
        ("/metadata/name", "metadata.name"),
        ("/metadata/namespace", "metadata.namespace"),
        ("/metadata/uid", "metadata.uid"),
    ] {
        let said = patched.pointer(pointer).filter(|said| !said.is_null());
        if said.is_some_and(|said| Some(said) != old.pointer(pointer)) {
            causes.push(Cause::invalid(path, "Invalid value: a patch cannot change it"));
        }
    }
    if !causes.is_empty() {
        return Err(Refusal::invalid(resource, old["metadata"]["name"].as_str().unwrap_or_default(), causes));
    }
    for field in ["apiVersion", "kind"] {
        patched[field] = old[field].clone();
    }
    Ok(patched)
}

/// Keeps the status as stored: only the operator writes it.
fn with_status_of(old: &Value, mut proposed: Value) -> Value {
    if let Some(fields) = proposed.as_object_mut() {
        fields.remove("status");
        fields.extend(old.get("status").map(|status| ("status".to_owned(), status.clone())));
    }
    proposed
}
