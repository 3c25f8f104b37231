//! What goes through a pod besides commands, over real TLS: connections to its ports, its own output, evictions.
#![allow(clippy::unwrap_used)]

use evenkeel::api::websocket::{self, Message, Role};
use futures::{SinkExt as _, StreamExt as _};
use reqwest::{Method, RequestBuilder};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};

use super::api_pods::{PODS, WEB, key, with_pods};
use super::api_server::{Api, answer};

fn upgrading(api: &Api, method: Method, path: &str, upgrade: &str, protocol: &str) -> RequestBuilder {
    api.request(method, &format!("{PODS}/web-aa-1/{path}"))
        .header("Connection", "Upgrade")
        .header("Upgrade", upgrade)
        .header("X-Stream-Protocol-Version", protocol)
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("Sec-WebSocket-Protocol", protocol)
}

/// A frame of SPDY that opens a stream. The headers are not compressed; the first frame of a connection says which
/// dictionary it would use.
fn open(stream: u32, first: bool, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut plain = (headers.len() as u32).to_be_bytes().to_vec();
    for text in headers.iter().flat_map(|(name, value)| [name, value]) {
        plain.extend((text.len() as u32).to_be_bytes());
        plain.extend(text.bytes());
    }
    let mut packed = if first { vec![0x78, 0xbb, 0xe3, 0xc6, 0xa7, 0xc2] } else { Vec::new() };
    packed.push(0);
    packed.extend((plain.len() as u16).to_le_bytes());
    packed.extend((!(plain.len() as u16)).to_le_bytes());
    packed.extend(plain);
    let mut frame = vec![0x80, 3, 0, 1];
    frame.extend((10 + packed.len() as u32).to_be_bytes());
    frame.extend(stream.to_be_bytes());
    frame.extend([0; 6]);
    frame.extend(packed);
    frame
}

fn data(stream: u32, bytes: &[u8], last: bool) -> Vec<u8> {
    let length = u32::from(last) << 24 | bytes.len() as u32;
    [&stream.to_be_bytes()[..], &length.to_be_bytes(), bytes].concat()
}

/// The next frame: stream, bytes and whether it is the last; `None` for an answer without data.
async fn next(talk: &mut (impl AsyncRead + Unpin)) -> (u32, Option<(Vec<u8>, bool)>) {
    let (first, second) = (talk.read_u32().await.unwrap(), talk.read_u32().await.unwrap());
    let mut body = vec![0; (second & 0xff_ffff) as usize];
    talk.read_exact(&mut body).await.unwrap();
    match first >> 31 {
        0 => (first, Some((body, second >> 24 == 1))),
        _ => (u32::from_be_bytes(body[..4].try_into().unwrap()), None),
    }
}

/// Regression 68: `kubectl port-forward` got 404. It opens two streams of SPDY for each connection and waits for an answer
/// to both, and at the end for the end of both.
#[tokio::test]
async fn a_connection_is_two_streams_of_spdy_which_end_with_it() {
    let api = with_pods().await;
    let path = "portforward";
    let response = upgrading(&api, Method::POST, path, "SPDY/3.1", "portforward.k8s.io").send().await.unwrap();
    assert_eq!(response.status(), 101);
    assert_eq!(response.headers()["x-stream-protocol-version"], "portforward.k8s.io");
    let mut talk = response.upgrade().await.unwrap();
    let of = |kind: &'static str, port: &'static str| [("streamtype", kind), ("port", port), ("requestid", "0")];
    let ping = [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 9];
    let sent = [open(1, true, &of("error", "80")), open(3, false, &of("data", "80")), ping.to_vec()].concat();
    talk.write_all(&[sent, data(3, b"hello", false), data(3, b"", true)].concat()).await.unwrap();
    for expected in [1, 3, 9] {
        assert_eq!(next(&mut talk).await, (expected, None));
    }
    assert_eq!(next(&mut talk).await, (3, Some((b"hello".to_vec(), false))));
    assert_eq!(next(&mut talk).await, (3, Some((vec![], true))));
    assert_eq!(next(&mut talk).await, (1, Some((vec![], true))), "no error");

    // Nothing listens: the error is told, and both end.
    let refused = [open(5, false, &of("error", "81")), open(7, false, &of("data", "81"))].concat();
    talk.write_all(&refused).await.unwrap();
    assert_eq!([next(&mut talk).await, next(&mut talk).await], [(5, None), (7, None)]);
    assert_eq!(next(&mut talk).await, (7, Some((vec![], true))));
    assert_eq!(next(&mut talk).await, (5, Some((b"nothing listens on port 81".to_vec(), true))));

    // The client gives the connection up: its stream for errors ends, too.
    let given_up = [open(9, false, &of("error", "80")), open(11, false, &of("data", "80"))].concat();
    let reset = [0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 11, 0, 0, 0, 5];
    talk.write_all(&[given_up, reset.to_vec()].concat()).await.unwrap();
    assert_eq!([next(&mut talk).await, next(&mut talk).await], [(9, None), (11, None)]);
    assert_eq!(next(&mut talk).await, (11, Some((vec![], true))));
    assert_eq!(next(&mut talk).await, (9, Some((vec![], true))));
    api.stop().await;
}

#[tokio::test]
async fn spdy_goes_through_a_websocket_in_pieces_of_any_size() {
    let api = with_pods().await;
    let protocol = "SPDY/3.1+portforward.k8s.io";
    let response = upgrading(&api, Method::GET, "portforward", "websocket", protocol).send().await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["sec-websocket-protocol"]),
        (101, &protocol.parse().unwrap())
    );
    let mut talk = websocket::talk(response.upgrade().await.unwrap(), Role::Client).await;
    let opened = open(1, true, &[("streamtype", "data"), ("port", "80"), ("requestid", "0")]);
    for piece in [opened, data(1, b"hello", true)].concat().chunks(7) {
        talk.send(Message::Binary(piece.to_vec().into())).await.unwrap();
    }
    let mut told = Vec::new();
    // The answer has 32 bytes.
    while told.len() < 32 + 13 + 8 {
        told.extend(talk.next().await.unwrap().unwrap().into_data());
    }
    assert_eq!(told.split_off(32), [data(1, b"hello", false), data(1, b"", true)].concat());
    api.stop().await;
}

/// Regression 69: client libraries forward ports by the older channels; they got 404, too.
#[tokio::test]
async fn the_older_channels_begin_with_their_port_and_tell_data_and_errors() {
    let api = with_pods().await;
    let refused = answer(upgrading(&api, Method::GET, "portforward", "websocket", websocket::V4)).await;
    assert_eq!(refused.code, 400, "no ports: {}", refused.body);
    let path = "portforward?ports=80,81";
    let response = upgrading(&api, Method::GET, path, "websocket", websocket::V4).send().await.unwrap();
    let mut talk = websocket::talk(response.upgrade().await.unwrap(), Role::Client).await;
    talk.send(websocket::data(0, b"hello")).await.unwrap();
    let mut told = Vec::new();
    while told.len() < 6 {
        told.push(websocket::channel(&talk.next().await.unwrap().unwrap()).unwrap());
    }
    told.sort();
    let expected: [(u8, &[u8]); 6] =
        [(0, b"hello"), (0, &[80, 0]), (1, &[80, 0]), (2, &[81, 0]), (3, &[81, 0]), (3, b"nothing listens on port 81")];
    let expected: Vec<(u8, Vec<u8>)> = expected.map(|(channel, bytes)| (channel, bytes.to_vec())).into();
    let mut expected = expected;
    expected.sort();
    assert_eq!(told.into_iter().map(|(channel, bytes)| (channel, bytes.to_vec())).collect::<Vec<_>>(), expected);
    api.stop().await;
}

/// Regression 36: `kubectl attach` got 404. There is no stdin to attach to, and the refusal must say so also to the SPDY
/// request that kubectl makes after it.
#[tokio::test]
async fn an_attached_client_gets_the_output_and_is_told_that_there_is_no_input() {
    let api = with_pods().await;
    let refused = "attach?container=main&stdin=true";
    let refused = answer(upgrading(&api, Method::GET, refused, "websocket", websocket::V5)).await;
    assert!(refused.code == 400 && refused.body["message"].as_str().unwrap().contains("no stdin"), "{}", refused.body);
    let spdy = answer(upgrading(&api, Method::POST, "attach?container=main", "SPDY/3.1", "v4.channel.k8s.io")).await;
    assert!(spdy.body["message"].as_str().unwrap().starts_with("attach speaks WebSocket"), "{}", spdy.body);
    let path = "attach?container=main&stdout=true&stderr=true";
    let response = upgrading(&api, Method::GET, path, "websocket", websocket::V5).send().await.unwrap();
    let mut talk = websocket::talk(response.upgrade().await.unwrap(), Role::Client).await;
    let mut told = Vec::new();
    while let Some(Ok(message)) = talk.next().await {
        told.push(message);
    }
    let line = b"local default.web-aa-1.main Some(0)\n";
    let success = br#"{"metadata":{},"status":"Success"}"#;
    let data = websocket::data;
    let output = [data(websocket::STDOUT, line), data(websocket::STDERR, b"warning\n")];
    assert_eq!(told[..2], output);
    assert_eq!(told[2..], [data(websocket::ENDED, success), websocket::close()]);
    api.stop().await;
}

/// Regression 70: `kubectl drain` found no evictions, and deleted all pods of a host at once.
#[tokio::test]
async fn an_eviction_replaces_a_pod_when_all_others_are_ready() {
    let api = with_pods().await;
    let listed = api.get("/api/v1").await.body;
    let eviction = listed["resources"].as_array().unwrap().iter().find(|one| one["name"] == "pods/eviction").unwrap();
    assert_eq!(
        (&eviction["group"], &eviction["version"], &eviction["kind"]),
        (&json!("policy"), &json!("v1"), &json!("Eviction"))
    );
    let evict = async |name: &str| {
        let body =
            json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": "default"}});
        api.post(&format!("{PODS}/{name}/eviction"), &body).await
    };
    let early = evict("web-aa-1").await;
    assert_eq!((early.code, &early.body["details"]["causes"][0]["reason"]), (429, &json!("DisruptionBudget")));
    let why = early.body["details"]["causes"][0]["message"].as_str().unwrap();
    assert!(why.starts_with("1 of 2 pods of Deployment web are ready"), "{why}");
    let mut object = api.get(WEB).await.body;
    object["status"]["pods"][1]["ready"] = true.into();
    api.objects.update_status(&key(), object).await.unwrap();
    let done = evict("web-aa-1").await;
    assert_eq!((done.code, &done.body["status"]), (201, &json!("Success")), "{}", done.body);
    assert_eq!(api.get(WEB).await.body["metadata"]["annotations"]["evenkeel.dev/evict"], "web-aa-1");
    assert_eq!(evict("web-aa-2").await.code, 429, "the first one is still going");
    assert_eq!(evict("web-aa-9").await.code, 404);
    let other = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "web-aa-2"}});
    assert_eq!(api.post(&format!("{PODS}/web-aa-1/eviction"), &other).await.code, 400);
    api.stop().await;
}
