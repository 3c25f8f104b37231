//! Secrets: reads the values of keys, writes one into a URI, and builds a Secret that belongs to an object. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value, json};

use super::object::Object;

/// The value of a key of a Secret; `None` if the key does not exist or its value is not base64.
pub fn bytes(secret: &Value, key: &str) -> Option<Vec<u8>> {
    BASE64.decode(secret["data"][key].as_str()?).ok()
}

/// The value of a key of a Secret as text.
pub fn text(secret: &Value, key: &str) -> Option<String> {
    String::from_utf8(bytes(secret, key)?).ok()
}

/// The field `data` with these texts by key.
pub fn encoded(texts: &[(&str, &str)]) -> Map<String, Value> {
    texts.iter().map(|(key, text)| ((*key).to_owned(), json!(BASE64.encode(text)))).collect()
}

/// A Secret with these texts by key. It belongs to the object and is deleted with it.
pub fn owned<Owner: Object>(object: &Owner, name: &str, texts: &[(&str, &str)]) -> Value {
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
        "data": encoded(texts),
    })
}

/// Percent-encodes every character that has a meaning in a connection URI.
pub fn percent(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::api::load_balancer::LoadBalancer;

    #[test]
    fn what_is_made_for_an_object_belongs_to_it_and_is_read_again() {
        let metadata = json!({"name": "edge", "namespace": "web", "uid": "u"});
        let object: LoadBalancer =
            serde_json::from_value(json!({"metadata": metadata, "spec": {"frontends": [], "backends": []}})).unwrap();
        let secret = owned(&object, "edge-stats", &[("password", "p@ss")]);
        let owner = &secret["metadata"]["ownerReferences"][0];
        assert_eq!((&owner["kind"], &owner["uid"]), (&json!("LoadBalancer"), &json!("u")));
        assert_eq!((text(&secret, "password").as_deref(), text(&secret, "username")), (Some("p@ss"), None));
        assert_eq!(bytes(&json!({"data": {"password": "?"}}), "password"), None);
    }

    #[test]
    fn what_a_uri_could_take_for_itself_is_encoded() {
        assert_eq!(percent("p@ss:w/ör d~"), "p%40ss%3Aw%2F%C3%B6r%20d~");
    }
}
