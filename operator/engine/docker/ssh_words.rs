//! What ssh says when it fails, in plain words with what to do. Pure.

use super::super::Trouble;

/// The other side of a forward.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Peer {
    /// Name of the DockerHost.
    pub(super) name: String,
    /// The user there; `None`: the operator's.
    pub(super) user: Option<String>,
    /// Host name or address; an IPv6 address in brackets.
    pub(super) host: String,
    /// Port of its SSH server.
    pub(super) port: u16,
    /// Path of the Docker socket there.
    pub(super) socket: String,
}

impl Peer {
    /// The address as ssh takes it.
    pub(super) fn address(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    fn who(&self) -> String {
        self.user.as_ref().map_or_else(|| "the operator's own user".to_owned(), |user| format!("user {user}"))
    }
}

/// Why a process ended, from what it said.
pub(super) fn why(peer: &Peer, said: &[String]) -> Trouble {
    let says = |words: &str| said.iter().any(|line| line.contains(words));
    let (host, port) = (peer.address(), peer.port);
    let scan = format!("ssh-keyscan -p {port} {host}");
    if says("REMOTE HOST IDENTIFICATION HAS CHANGED") || says("Offending ") {
        let message = format!(
            "the host key of {host} is not the one in known_hosts of the Secret: it was reinstalled, or another machine \
             answers. If that is right, replace its line by what this prints: {scan}"
        );
        return Trouble { reason: "HostKeyUnknown", message };
    }
    if says("host key is known for") || says("Host key verification failed") {
        let message = format!(
            "the host key of {host} is not in known_hosts of the Secret. Add what this prints, after a comparison with the \
             host itself: {scan}"
        );
        return Trouble { reason: "HostKeyUnknown", message };
    }
    if let Some(line) = said.iter().find(|line| line.starts_with("Load key") || line.contains("passphrase")) {
        let what = line.rsplit(": ").next().unwrap_or_default();
        let message = format!(
            "ssh-privatekey of the Secret cannot be used ({what}); it must be a private key without a passphrase"
        );
        return Trouble { reason: "AuthenticationFailed", message };
    }
    if says("Permission denied (") || says("Too many authentication failures") {
        let who = peer.who();
        let message = format!(
            "{host} does not accept the key of the Secret for {who}: add its public half (ssh-keygen -y -f KEY) to \
             ~/.ssh/authorized_keys of that user"
        );
        return Trouble { reason: "AuthenticationFailed", message };
    }
    let last = said.iter().rev().find(|line| !line.trim().is_empty());
    let message = last.map_or_else(
        || format!("the connection of ssh to {host} port {port} ended"),
        |line| format!("ssh to {host} port {port}: {}", line.trim()),
    );
    Trouble { reason: "Unreachable", message }
}

/// Why the other side did not open the socket, if a line of the process says so.
pub(super) fn refusal(peer: &Peer, line: &str) -> Option<Trouble> {
    let (_, said) = line.split_once("open failed: ")?;
    let (host, socket, who) = (peer.address(), &peer.socket, peer.who());
    let message = if said.starts_with("administratively prohibited") {
        format!(
            "the SSH server of {host} does not forward sockets for {who}: allow it in sshd_config \
             (AllowStreamLocalForwarding yes, DisableForwarding no) and in authorized_keys"
        )
    } else {
        format!(
            "{host} lets {who} in and does not open {socket} ({}): see whether Docker runs there, whether the user may use \
             the socket (group docker), and AllowStreamLocalForwarding in sshd_config",
            said.trim()
        )
    };
    Some(Trouble { reason: "ForwardingRefused", message })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Peer {
        Peer {
            name: "far".into(),
            user: Some("ops".into()),
            host: "[fd00::7]".into(),
            port: 2222,
            socket: "/var/run/docker.sock".into(),
        }
    }

    #[test]
    fn what_ssh_says_becomes_what_to_do() {
        let told = [
            "No ED25519 host key is known for [fd00::7]:2222 and you have requested strict checking.\nHost key verification failed.",
            "@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\nHost key verification failed.",
            "Load key \"/run/key\": error in libcrypto\nops@fd00::7: Permission denied (publickey).",
            "ops@fd00::7: Permission denied (publickey,password).",
            "ssh: connect to host fd00::7 port 2222: Connection refused",
            "Timeout, server fd00::7 not responding.",
            "",
        ]
        .map(|said| {
            let said: Vec<_> = said.lines().map(str::to_owned).collect();
            let Trouble { reason, message } = why(&peer(), &said);
            format!("{reason}: {message}\n")
        });
        expect_test::expect![[r#"
            HostKeyUnknown: the host key of fd00::7 is not in known_hosts of the Secret. Add what this prints, after a comparison with the host itself: ssh-keyscan -p 2222 fd00::7
            HostKeyUnknown: the host key of fd00::7 is not the one in known_hosts of the Secret: it was reinstalled, or another machine answers. If that is right, replace its line by what this prints: ssh-keyscan -p 2222 fd00::7
            AuthenticationFailed: ssh-privatekey of the Secret cannot be used (error in libcrypto); it must be a private key without a passphrase
            AuthenticationFailed: fd00::7 does not accept the key of the Secret for user ops: add its public half (ssh-keygen -y -f KEY) to ~/.ssh/authorized_keys of that user
            Unreachable: ssh to fd00::7 port 2222: ssh: connect to host fd00::7 port 2222: Connection refused
            Unreachable: ssh to fd00::7 port 2222: Timeout, server fd00::7 not responding.
            Unreachable: the connection of ssh to fd00::7 port 2222 ended
        "#]].assert_eq(&told.concat());
    }

    #[test]
    fn a_refused_socket_is_told_apart_from_other_lines() {
        let told = [
            "channel 2: open failed: administratively prohibited: open failed",
            "channel 2: open failed: connect failed: open failed",
            "Connection closed",
        ]
        .map(|line| {
            refusal(&peer(), line)
                .map_or_else(|| "-\n".to_owned(), |trouble| format!("{}: {trouble}\n", trouble.reason))
        });
        expect_test::expect![[r#"
            ForwardingRefused: the SSH server of fd00::7 does not forward sockets for user ops: allow it in sshd_config (AllowStreamLocalForwarding yes, DisableForwarding no) and in authorized_keys
            ForwardingRefused: fd00::7 lets user ops in and does not open /var/run/docker.sock (connect failed: open failed): see whether Docker runs there, whether the user may use the socket (group docker), and AllowStreamLocalForwarding in sshd_config
            -
        "#]].assert_eq(&told.concat());
    }
}
