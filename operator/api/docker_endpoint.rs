//! The address of a Docker API: a socket of this machine, a TCP port, or a socket of another machine through ssh.

use std::fmt;
use std::str::FromStr;

/// Docker's own socket.
pub const SOCKET: &str = "/var/run/docker.sock";
const SSH_PORT: u16 = 22;

/// The address of a Docker API.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Endpoint {
    /// A unix socket.
    Unix {
        /// Absolute path of the socket.
        path: String,
    },
    /// A TCP port, plain or with TLS.
    Tcp {
        /// Host name or address; an IPv6 address in brackets.
        host: String,
        /// Port.
        port: u16,
    },
    /// A unix socket of another machine, forwarded by ssh.
    Ssh {
        /// The user there; `None`: the one that the operator runs as.
        user: Option<String>,
        /// Host name or address; an IPv6 address in brackets.
        host: String,
        /// Port of its SSH server.
        port: u16,
        /// Absolute path of the socket there.
        socket: String,
    },
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') && path.len() > 1 => Ok(Self::Unix { path: path.to_owned() }),
            Some(("unix", _)) => Err(format!("`{text}` names no socket; write unix:///var/run/docker.sock")),
            Some(("tcp", address)) => {
                tcp(address).ok_or_else(|| format!("`{text}` needs a host and a port: tcp://host:port"))
            }
            // A password would be shown to everyone who may read the object.
            Some(("ssh", rest)) if rest.split('/').next().is_some_and(|way| way.contains(':') && password(way)) => {
                Err("the endpoint has a password in it; remove it and name a key in spec.ssh".to_owned())
            }
            Some(("ssh", rest)) => ssh(rest).ok_or_else(|| {
                format!("`{text}` needs a host, and may have a user, a port and a socket: ssh://user@host:22{SOCKET}")
            }),
            _ => Err(format!(
                "`{text}` is not a Docker endpoint; write unix:///path, tcp://host:port or ssh://user@host"
            )),
        }
    }
}

fn tcp(address: &str) -> Option<Endpoint> {
    let (host, port) = address.trim_end_matches('/').rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    is_host(host).then(|| Endpoint::Tcp { host: host.to_owned(), port })
}

fn password(way: &str) -> bool {
    way.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
}

fn ssh(rest: &str) -> Option<Endpoint> {
    let (way, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let (user, address) = way.split_once('@').map_or((None, way), |(user, address)| (Some(user), address));
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !address.ends_with(']') => (host, port.parse().ok().filter(|port| *port != 0)?),
        _ => (address, SSH_PORT),
    };
    // What begins with a dash would be an option of ssh; its forwards are separated by colons.
    let word = |text: &str| {
        !text.is_empty()
            && !text.starts_with('-')
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
    };
    let is_path = |path: &str| path.chars().all(|c| c.is_ascii_graphic() && !":\\\"'%$`".contains(c));
    let socket = if matches!(path, "" | "/") { SOCKET } else { path };
    (user.is_none_or(word) && is_host(host) && is_path(socket)).then(|| Endpoint::Ssh {
        user: user.map(str::to_owned),
        host: host.to_owned(),
        port,
        socket: socket.to_owned(),
    })
}

fn is_host(host: &str) -> bool {
    let inside = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let plain = !host.starts_with('-') && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    !host.is_empty() && (plain || inside.is_some_and(|inside| inside.parse::<std::net::Ipv6Addr>().is_ok()))
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix { path } => write!(f, "unix://{path}"),
            Self::Tcp { host, port } => write!(f, "tcp://{host}:{port}"),
            Self::Ssh { user, host, port, socket } => {
                let user = user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
                write!(f, "ssh://{user}{host}:{port}{socket}")
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_ssh_endpoint_has_the_usual_port_and_socket_unless_it_names_others() {
        let read = |text: &str| text.parse::<Endpoint>().map_or_else(|error| error, |endpoint| endpoint.to_string());
        let told = [
            "ssh://db-2",
            "ssh://ops@10.0.0.7:2222/run/user/1000/docker.sock",
            "ssh://ops@[fd00::7]:2222/",
            "ssh://[fd00::7]",
            "ssh://",
            "ssh://-oProxyCommand=x",
            "ssh://-l@db",
            "ssh://ops@db:0",
            "ssh://ops@db/run/a:b.sock",
            "ssh://ops:secret@db",
            "tcp://-x:2376",
        ]
        .map(read);
        expect_test::expect![[r#"
            ssh://db-2:22/var/run/docker.sock
            ssh://ops@10.0.0.7:2222/run/user/1000/docker.sock
            ssh://ops@[fd00::7]:2222/var/run/docker.sock
            ssh://[fd00::7]:22/var/run/docker.sock
            `ssh://` needs a host, and may have a user, a port and a socket: ssh://user@host:22/var/run/docker.sock
            `ssh://-oProxyCommand=x` needs a host, and may have a user, a port and a socket: ssh://user@host:22/var/run/docker.sock
            `ssh://-l@db` needs a host, and may have a user, a port and a socket: ssh://user@host:22/var/run/docker.sock
            `ssh://ops@db:0` needs a host, and may have a user, a port and a socket: ssh://user@host:22/var/run/docker.sock
            `ssh://ops@db/run/a:b.sock` needs a host, and may have a user, a port and a socket: ssh://user@host:22/var/run/docker.sock
            the endpoint has a password in it; remove it and name a key in spec.ssh
            `tcp://-x:2376` needs a host and a port: tcp://host:port"#]]
        .assert_eq(&told.join("\n"));
    }
}
