//! Secrets: what is under their keys, and how one looks that is made for an object. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value, json};

use super::object::Object;

/// What is under a key of a Secret; `None` if that is nothing, or no base64.
pub fn bytes(secret: &Value, key: &str) -> Option<Vec<u8>> {
    BASE64.decode(secret["data"][key].as_str()?).ok()
}

/// The text under a key of a Secret.
pub fn text(secret: &Value, key: &str) -> Option<String> {
    String::from_utf8(bytes(secret, key)?).ok()
}

/// A Secret with these texts by key. It belongs to the object, and is deleted with it.
pub fn owned<Owner: Object>(object: &Owner, name: &str, texts: &[(&str, &str)]) -> Value {
    let data: Map<String, Value> =
        texts.iter().map(|(key, text)| ((*key).to_owned(), json!(BASE64.encode(text)))).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {
            "name": name,
            "namespace": object.namespace(),
            "ownerReferences": [{
                "apiVersion": "evenkeel.dev/v1alpha1",
                "kind": Owner::KIND,
                "name": object.name(),
                "uid": object.metadata().uid,
                "controller": true,
            }],
        },
        "data": data,
    })
}
