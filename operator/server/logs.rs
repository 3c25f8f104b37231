//! The `log` subresource of a pod: the log of one of its containers as plain text, streamed with `follow`.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use futures::{StreamExt as _, future};
use jiff::Timestamp;

use super::containers::{LogOptions, Output, door, meant};
use super::params::Params;
use super::request::Request;
use super::status::Refusal;
use crate::api::failure::Class;

/// Answers with the log.
pub async fn serve(request: Request<'_>) -> Result<Response, Refusal> {
    let (options, limit) = options(&request.params, request.server.clock.now())?;
    let meant = meant(&request).await?;
    let outputs = door(&request)?.logs(&meant.place, options).await.map_err(|failure| match failure.class {
        Class::NotFound if options.previous => Refusal::bad_request(format!(
            "previous terminated container {:?} in pod {:?} not found: the log of a container that was replaced is not kept",
            meant.name, meant.pod
        )),
        _ => meant.refused(&failure),
    })?;
    let end = request.ended();
    let mut left = limit;
    let pieces = outputs.map(|piece| match piece {
        Ok(Output::Stdout(bytes) | Output::Stderr(bytes)) => Some(bytes),
        Err(failure) => {
            // The response has started: it can only be ended.
            tracing::debug!(%failure, "a log broke off");
            None
        }
    });
    let pieces = pieces.take_while(|piece| future::ready(piece.is_some())).map(Option::unwrap_or_default);
    let pieces = pieces.map(move |bytes| cut(bytes, &mut left)).take_while(|bytes| future::ready(!bytes.is_empty()));
    let pieces = pieces.take_until(Box::pin(end)).map(Ok::<_, Infallible>);
    let mut response = Response::new(Body::from_stream(pieces));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
}

/// The part of a piece within the byte limit.
fn cut(mut bytes: Bytes, left: &mut u64) -> Bytes {
    bytes.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
    *left -= bytes.len() as u64;
    bytes
}

/// The options of a log request, and its byte limit.
fn options(params: &Params, now: Timestamp) -> Result<(LogOptions, u64), Refusal> {
    let number = |name: &str| {
        let parse = |text: &str| text.parse::<u64>().map_err(|_| wrong(name, text));
        params.get(name).map(parse).transpose()
    };
    let since = match (number("sinceSeconds")?, params.get("sinceTime")) {
        (Some(_), Some(_)) => {
            return Err(Refusal::bad_request("at most one of sinceTime or sinceSeconds may be given"));
        }
        (Some(seconds), None) => Some(now.as_second().saturating_sub(i64::try_from(seconds).unwrap_or(i64::MAX))),
        (None, Some(text)) => Some(text.parse::<Timestamp>().map_err(|_| wrong("sinceTime", text))?.as_second()),
        (None, None) => None,
    };
    let options = LogOptions {
        follow: params.flag("follow")?,
        tail: number("tailLines")?,
        since,
        timestamps: params.flag("timestamps")?,
        previous: params.flag("previous")?,
    };
    Ok((options, number("limitBytes")?.unwrap_or(u64::MAX)))
}

fn wrong(name: &str, text: &str) -> Refusal {
    Refusal::bad_request(format!("{name} {text:?} is not understood"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn of(query: &str) -> Result<(LogOptions, u64), u16> {
        let params = Params::parse(&format!("/x?{query}").parse().unwrap()).unwrap();
        options(&params, Timestamp::from_second(1000).unwrap()).map_err(|refusal| refusal.code.as_u16())
    }

    #[test]
    fn the_part_of_a_log_is_read_from_the_query() {
        let all = LogOptions::default();
        assert_eq!(of("container=a"), Ok((all, u64::MAX)));
        assert_eq!(
            of("follow=true&tailLines=5&sinceSeconds=60&timestamps=true&limitBytes=9"),
            Ok((LogOptions { follow: true, tail: Some(5), since: Some(940), timestamps: true, previous: false }, 9))
        );
        assert_eq!(of("sinceTime=1970-01-01T00:00:07Z"), Ok((LogOptions { since: Some(7), ..all }, u64::MAX)));
        for bad in ["tailLines=-1", "sinceTime=soon", "sinceSeconds=1&sinceTime=1970-01-01T00:00:07Z"] {
            assert_eq!(of(bad), Err(400), "{bad}");
        }
    }

    #[test]
    fn no_more_is_sent_than_asked_for() {
        let mut left = 5;
        let pieces = ["abc", "defg", "h"].map(|text| cut(Bytes::from_static(text.as_bytes()), &mut left));
        assert_eq!(pieces, [Bytes::from_static(b"abc"), Bytes::from_static(b"de"), Bytes::new()]);
    }
}
