//! `evenkeel dial ADDRESS`: forwards stdin and stdout to a socket inside the container; the other end of
//! `Engine::dial`.
//!
//! One process runs for each open connection, so it uses two blocking threads and two small buffers, without a runtime.
//! It first sends [`CONNECTED`], so that the caller can distinguish a connection from an error text; after that only
//! the bytes of the socket.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

/// The first byte on stdout once the socket is connected (ASCII ACK).
pub const CONNECTED: u8 = 0x06;

/// Timeout for connecting to a local address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Grace for the last bytes of the other side after stdin has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);
const BUFFER: usize = 16 * 1024;
const STACK: usize = 64 * 1024;

/// The address to connect to, inside the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `unix:/path`.
    Unix(String),
    /// `tcp:host:port`; the host is an IP address or `localhost`, because a static binary cannot resolve
    /// names everywhere.
    Tcp(SocketAddr),
}

impl std::str::FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.starts_with('/') {
                Ok(Self::Unix(path.to_owned()))
            } else {
                Err(format!("{text}: a socket path starts with /"))
            };
        }
        let Some(address) = text.strip_prefix("tcp:") else {
            return Err(format!("{text}: an address is unix:/path or tcp:host:port"));
        };
        if let Some(port) = address.strip_prefix("localhost:") {
            let port = port.parse().map_err(|_| format!("{text}: {port} is not a port"))?;
            return Ok(Self::Tcp((Ipv4Addr::LOCALHOST, port).into()));
        }
        address
            .parse()
            .map(Self::Tcp)
            .map_err(|_| format!("{text}: the host is an IP address or localhost, then a port"))
    }
}

/// Forwards this process's stdin and stdout to `address` until either side ends.
pub fn run(address: &str) -> ExitCode {
    match address
        .parse()
        .and_then(|parsed| connect(&parsed).map_err(|error| format!("cannot connect to {address}: {error}")))
    {
        Ok(socket) => {
            bridge(socket, io::stdin(), RawStdout);
            ExitCode::SUCCESS
        }
        Err(message) => {
            // If stderr is closed, there is no way to report it.
            let _ = writeln!(io::stderr(), "{message}");
            ExitCode::FAILURE
        }
    }
}

enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

fn connect(address: &Address) -> io::Result<Socket> {
    match address {
        Address::Unix(path) => UnixStream::connect(path).map(Socket::Unix),
        Address::Tcp(address) => {
            let stream = TcpStream::connect_timeout(address, CONNECT_TIMEOUT)?;
            stream.set_nodelay(true)?;
            Ok(Socket::Tcp(stream))
        }
    }
}

impl Socket {
    fn reader(&self) -> io::Result<Box<dyn Read + Send>> {
        Ok(match self {
            Self::Unix(stream) => Box::new(stream.try_clone()?),
            Self::Tcp(stream) => Box::new(stream.try_clone()?),
        })
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.write_all(bytes),
            Self::Tcp(stream) => stream.write_all(bytes),
        }
    }

    fn end_writing(&self) {
        // The peer may have closed already; then the reader notices it.
        let _ = match self {
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
        };
    }
}

/// Stdout without the standard library's line buffer.
struct RawStdout;

impl Write for RawStdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(nix::unistd::write(io::stdout(), bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sends [`CONNECTED`] and copies in both directions. Returns when the socket or the output ends, or a moment
/// after the input ended.
fn bridge(socket: Socket, input: impl Read + Send + 'static, mut output: impl Write + Send + 'static) {
    let Ok(mut from_socket) = socket.reader() else { return };
    let (ended, wait) = mpsc::channel();
    let outward = ended.clone();
    let answers = move || {
        if output.write_all(&[CONNECTED]).is_ok() {
            let _ = copy(&mut from_socket, |bytes| output.write_all(bytes));
        }
        let _ = outward.send(End::Socket);
    };
    let questions = move || {
        let (mut input, mut socket) = (input, socket);
        let end = match copy(&mut input, |bytes| socket.write_all(bytes)) {
            Ok(()) => End::Input,
            Err(_) => End::Socket,
        };
        socket.end_writing();
        let _ = ended.send(end);
    };
    for work in [Box::new(answers) as Box<dyn FnOnce() + Send>, Box::new(questions)] {
        if std::thread::Builder::new().stack_size(STACK).spawn(work).is_err() {
            return;
        }
    }
    if let Ok(End::Input) = wait.recv() {
        let _ = wait.recv_timeout(LAST_WORDS);
    }
}

enum End {
    Input,
    Socket,
}

fn copy(from: &mut impl Read, mut to: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => to(&buffer[..length])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn an_address_is_a_socket_path_or_a_numeric_host_with_port() {
        for (text, expected) in [
            ("unix:/run/x.sock", "Unix(\"/run/x.sock\")"),
            ("tcp:127.0.0.1:5432", "Tcp(127.0.0.1:5432)"),
            ("tcp:[::1]:5432", "Tcp([::1]:5432)"),
            ("tcp:localhost:26379", "Tcp(127.0.0.1:26379)"),
            ("unix:x.sock", "unix:x.sock: a socket path starts with /"),
            ("tcp:db-1:5432", "tcp:db-1:5432: the host is an IP address or localhost, then a port"),
            ("tcp:localhost:none", "tcp:localhost:none: none is not a port"),
            ("5432", "5432: an address is unix:/path or tcp:host:port"),
        ] {
            let said = match text.parse::<Address>() {
                Ok(address) => format!("{address:?}"),
                Err(message) => message,
            };
            assert_eq!(said, expected);
        }
    }

    #[test]
    fn what_is_asked_before_the_input_ends_is_still_answered() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("echo.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            let mut asked = String::new();
            peer.read_to_string(&mut asked).unwrap();
            peer.write_all(format!("you said {asked}").as_bytes()).unwrap();
        });
        let socket = connect(&Address::Unix(path.to_str().unwrap().to_owned())).unwrap();
        let (mut heard, output) = UnixStream::pair().unwrap();
        bridge(socket, &b"hello"[..], output);
        server.join().unwrap();
        let mut answer = Vec::new();
        heard.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, [&[CONNECTED][..], b"you said hello"].concat());
    }

    #[test]
    fn the_bridge_ends_when_the_socket_does_though_the_input_stays_open() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (input, _kept_open) = UnixStream::pair().unwrap();
        drop(theirs);
        bridge(Socket::Unix(ours), input, io::sink());
    }
}
