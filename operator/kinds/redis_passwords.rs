//! The passwords of an object of Redis: made once, kept in the Secrets `NAME-internal` (its members') and `NAME-app` (the
//! application's), and never shown.

use serde_json::Value;

use crate::api::failure::{Class, Failure};
use crate::api::object::Object;
use crate::api::redis_sentinel::Auth;
use crate::api::secret::text;
use crate::kinds::owned_secret::write;
use crate::store::clock;
use crate::store::objects::Objects;
use crate::store::{Clock, Error, Key};
use crate::supervisor::redis::wire::Address;

/// Length of a password that is made, in bytes.
pub const LENGTH: usize = 32;
/// Longest password of a user's, in bytes.
const LONGEST: usize = 512;

/// The key of the Secret `NAME-END`.
pub fn own(object: &impl Object, end: &str) -> Key {
    Key::beside(object, "secrets", &format!("{}-{end}", object.name()))
}

/// The Secret that the user named for the application's password, if any.
fn given(object: &impl Object, auth: &Auth) -> Option<Key> {
    auth.secret.as_ref().map(|named| Key::beside(object, "secrets", &named.name))
}

/// The keys of all Secrets that are read.
pub fn keys<O: Object>(object: &O, auth: &Auth) -> impl Iterator<Item = Key> + use<O> {
    let given = given(object, auth);
    [own(object, "app"), own(object, "internal")].into_iter().chain(given)
}

/// The application's password from the user's Secret, if one is named; or the problem with that Secret.
pub async fn source(
    objects: &Objects,
    object: &impl Object,
    auth: &Auth,
) -> Result<Result<Option<String>, String>, Error> {
    let Some(key) = given(object, auth) else { return Ok(Ok(None)) };
    let (path, name, declared) = ("spec.auth.secret", &key.name, &auth.username);
    if [own(object, "app"), own(object, "internal")].contains(&key) {
        return Ok(Err(format!("{path} names Secret {name}, which Evenkeel writes itself: use another name")));
    }
    let Some(secret) = objects.get::<Value>(&key).await? else {
        return Ok(Err(format!("{path} names Secret {name}, which does not exist: create it with the key password")));
    };
    if let Some(username) = text(&secret, "username").filter(|username| username != declared) {
        let problem =
            format!("{path}: username in Secret {name} is {username:?}, but spec.auth.username is {declared}");
        return Ok(Err(problem));
    }
    Ok(match text(&secret, "password") {
        None => Err(format!("{path}: Secret {name} has no key password")),
        Some(password) if password.is_empty() => Err(format!("{path}: password in Secret {name} is empty")),
        Some(password) if password.contains(char::is_control) => Err(format!(
            "{path}: password in Secret {name} has a line break or another control character, which clients cannot send"
        )),
        Some(password) if password.len() > LONGEST => {
            Err(format!("{path}: password in Secret {name} is longer than {LONGEST} bytes"))
        }
        Some(password) => Ok(Some(password)),
    })
}

/// The passwords in use, those of `NAME-internal` with these keys, and the application's; `None` until they are created. While
/// the user's Secret has a problem, the password before stays.
pub async fn read<const N: usize>(
    objects: &Objects,
    object: &impl Object,
    auth: &Auth,
    internal: [&str; N],
) -> Result<Option<([String; N], String)>, Error> {
    let app: Option<Value> = objects.get(&own(object, "app")).await?;
    let secret: Option<Value> = objects.get(&own(object, "internal")).await?;
    let given = source(objects, object, auth).await?.ok().flatten();
    Ok(app.zip(secret).and_then(|(app, secret)| {
        let internal: Vec<String> = internal.iter().map(|key| text(&secret, key)).collect::<Option<_>>()?;
        Some((internal.try_into().ok()?, given.or_else(|| text(&app, "password"))?))
    }))
}

/// Writes `NAME-internal`: existing passwords stay. Returns the application's password.
pub async fn ensure<const N: usize>(
    objects: &Objects,
    clock: &dyn Clock,
    object: &impl Object,
    auth: &Auth,
    internal: [&str; N],
) -> Result<String, Failure> {
    let generate = || clock::password(clock, LENGTH);
    let given = source(objects, object, auth).await?.map_err(|problem| Failure::new(Class::Terminal, problem))?;
    let old: Option<Value> = objects.get(&own(object, "internal")).await?;
    let kept = internal.map(|key| old.as_ref().and_then(|secret| text(secret, key)));
    if kept.iter().any(Option::is_none) {
        let passwords = kept.map(|kept| kept.unwrap_or_else(generate));
        let fields: Vec<_> = internal.into_iter().zip(passwords.iter().map(String::as_str)).collect();
        write(objects, object, &own(object, "internal"), "Opaque", None, &fields).await?;
    }
    let old: Option<Value> = objects.get(&own(object, "app")).await?;
    Ok(given.or_else(|| text(old.as_ref()?, "password")).unwrap_or_else(generate))
}

/// Writes the application's Secret.
pub async fn write_app(objects: &Objects, object: &impl Object, fields: &[(&str, String)]) -> Result<(), Failure> {
    let fields: Vec<(&str, &str)> = fields.iter().map(|(key, value)| (*key, value.as_str())).collect();
    Ok(write(objects, object, &own(object, "app"), "Opaque", None, &fields).await?)
}

/// An address as the application's Secret has it.
pub fn address(text: &str) -> Option<Address> {
    let (ip, port) = text.split_once(':')?;
    Some(Address { ip: ip.parse().ok()?, port: port.parse().ok()? })
}
