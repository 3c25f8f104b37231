//! The protocol of `exec`: Kubernetes' channels in the messages of a WebSocket.

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
pub use tokio_tungstenite::tungstenite::Error;
pub use tokio_tungstenite::tungstenite::handshake::client::generate_key;
pub use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
pub use tokio_tungstenite::tungstenite::protocol::{Message, Role};

/// The newest subprotocol, in which a channel can be closed.
pub const V5: &str = "v5.channel.k8s.io";
/// Its predecessor.
pub const V4: &str = "v4.channel.k8s.io";

/// Channel of the process's stdin.
pub const STDIN: u8 = 0;
/// Channel of its stdout.
pub const STDOUT: u8 = 1;
/// Channel of its stderr.
pub const STDERR: u8 = 2;
/// Channel of the final Status.
pub const ENDED: u8 = 3;
/// Channel of the client's terminal sizes: `{"Width": 80, "Height": 24}`.
pub const RESIZE: u8 = 4;
/// Channel of the numbers of closed channels.
pub const CLOSED: u8 = 255;

/// Limit of a message in bytes.
const LIMIT: usize = 1 << 20;

/// The messages on a connection whose handshake is done. It answers pings itself.
pub async fn talk<S: AsyncRead + AsyncWrite + Unpin>(connection: S, role: Role) -> WebSocketStream<S> {
    let config = WebSocketConfig::default().max_message_size(Some(LIMIT)).max_frame_size(Some(LIMIT));
    WebSocketStream::from_raw_socket(connection, role, Some(config)).await
}

/// A message with data of a channel.
pub fn data(channel: u8, bytes: &[u8]) -> Message {
    let mut message = BytesMut::with_capacity(bytes.len() + 1);
    message.put_u8(channel);
    message.extend_from_slice(bytes);
    Message::Binary(message.freeze())
}

/// The last message: nothing went wrong. Without its code, clients report an error instead of the exit code.
pub fn close() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))
}

/// The channel and the data of a message; `None` for messages without: some clients send an empty one first.
pub fn channel(message: &Message) -> Option<(u8, Bytes)> {
    let bytes = match message {
        Message::Binary(bytes) => bytes.clone(),
        Message::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
        _ => return None,
    };
    Some((*bytes.first()?, bytes.slice(1..)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures::{SinkExt as _, StreamExt as _};

    use super::*;

    #[tokio::test]
    async fn messages_of_every_length_come_through_on_their_channel_and_too_long_ones_end_the_connection() {
        let (near, far) = tokio::io::duplex(1 << 16);
        let mut near = talk(near, Role::Client).await;
        let mut far = talk(far, Role::Server).await;
        near.send(Message::Ping(Bytes::new())).await.unwrap();
        near.send(Message::Binary(Bytes::new())).await.unwrap();
        let reading = async move {
            let mut lengths = Vec::new();
            while let Some(Ok(message)) = far.next().await {
                lengths.extend(channel(&message).map(|(number, bytes)| (number, bytes.len())));
            }
            lengths
        };
        let sending = async {
            for length in [0, 1, 125, 126, 70_000, LIMIT] {
                let _ = near.send(data(STDOUT, &vec![7; length])).await;
            }
            drop(near);
        };
        let (lengths, ()) = futures::future::join(reading, sending).await;
        assert_eq!(lengths, [0, 1, 125, 126, 70_000].map(|length| (STDOUT, length)));
    }
}
