//! The listening ports in the kernel's tables `/proc/net/tcp` and `/proc/net/tcp6`. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The state of a listening socket, in the tables.
const LISTEN: &str = "0A";

/// The port of a line of a table, if a server that listens on `own` and on loopback could not have it, too.
pub fn occupied(line: &str, own: Ipv4Addr) -> Option<u16> {
    let mut words = line.split_ascii_whitespace();
    let (local, state) = (words.nth(1)?, words.nth(1)?);
    let (address, port) = local.split_once(':')?;
    let collides = match address_of(address)? {
        IpAddr::V4(address) => address.is_unspecified() || address == own || address == Ipv4Addr::LOCALHOST,
        IpAddr::V6(address) => address.is_unspecified(),
    };
    (state == LISTEN && collides).then(|| u16::from_str_radix(port, 16).ok())?
}

/// An address as the kernel writes it: words of 32 bits, each in the byte order of the machine.
fn address_of(text: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(text.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for at in 0..4 {
                bytes[4 * at..4 * at + 4].copy_from_slice(&word(8 * at)?);
            }
            // An IPv4 address within IPv6 is that IPv4 address.
            Some(Ipv6Addr::from(bytes).to_canonical())
        }
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A line of the table, with a local address as the kernel of this machine writes it.
    fn line(address: IpAddr, port: u16, state: &str) -> String {
        let bytes = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let words = bytes.chunks(4).map(|word| format!("{:08X}", u32::from_ne_bytes(word.try_into().unwrap())));
        let local: String = words.collect();
        format!(
            "   4: {local}:{port:04X} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000   101        0 1"
        )
    }

    #[test]
    fn a_port_is_occupied_if_a_server_on_the_hosts_address_and_on_loopback_cannot_have_it() {
        let own = Ipv4Addr::new(10, 0, 0, 7);
        let seen = |address: &str, state: &str| occupied(&line(address.parse().unwrap(), 20_100, state), own);
        for address in ["0.0.0.0", "10.0.0.7", "127.0.0.1", "::", "::ffff:10.0.0.7"] {
            assert_eq!(seen(address, "0A"), Some(20_100), "{address}");
        }
        for address in ["172.17.0.1", "127.0.0.53", "::1", "fe80::1"] {
            assert_eq!(seen(address, "0A"), None, "{address}");
        }
        assert_eq!(seen("10.0.0.7", "01"), None, "an established connection is no listener");
    }

    #[test]
    fn a_line_that_is_no_socket_is_none() {
        let own = Ipv4Addr::LOCALHOST;
        let heading =
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
        for line in [heading, "", "0: 1:2 3 0A", "0: zzzzzzzz:4E20 0:0 0A", "0: 00000000:FFFFF 0:0 0A"] {
            assert_eq!(occupied(line, own), None, "{line}");
        }
    }
}
