//! Authentication: who sends this request. A bearer token, else the client's certificate, else the unix socket.

pub mod certificate;
pub mod tokens;
pub mod user;

use axum::http::{HeaderMap, header};
use jiff::Timestamp;

use super::peer::Peer;
use tokens::Tokens;
use user::{MASTERS, User, Via};

/// The sender of a request; `None` if nothing that it shows is worth anything now. A wrong token is not replaced by
/// anything else that the client has.
pub fn authenticate(tokens: &Tokens, headers: &HeaderMap, peer: &Peer, now: Timestamp) -> Option<User> {
    let user = match (bearer(headers), peer) {
        (Some(token), _) => tokens.user(token),
        (None, Peer::Tcp { certificates, .. }) => certificate::user(certificates.first()?),
        // Root, or the user that the operator runs as: both can read all its files.
        (None, Peer::Unix { uid }) => (*uid == 0 || *uid == nix::unistd::geteuid().as_raw())
            .then(|| User::new("system:admin", vec![MASTERS.to_owned()], Via::Socket, None)),
    };
    user.filter(|user| end(tokens, user).is_some_and(|end| end.is_none_or(|end| now < end)))
}

/// When what the user has shown is worth nothing any more; `Some(None)` if never, `None` if it is revoked already.
pub fn end(tokens: &Tokens, user: &User) -> Option<Option<Timestamp>> {
    match &user.via {
        Via::Socket | Via::Certificate => Some(user.expires),
        Via::AdminToken(hash) => tokens.admin(hash),
        Via::Token(uid) => tokens.expires(uid),
    }
}

/// The token of a request.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let sent = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = sent.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
