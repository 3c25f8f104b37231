//! Which process listens on a TCP port of this machine, as far as `/proc` shows it.

use std::fs;

/// The process that listens on this port, for people: `process 12 (nginx)`, or `a process of user nobody`.
pub fn of(port: u16) -> Option<String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let (uid, inode) = tables.iter().find_map(|table| listener(table, port))?;
    Some(process(&inode).unwrap_or_else(|| {
        let user = nix::unistd::User::from_uid(uid.into()).ok().flatten();
        format!("a process of user {}", user.map_or(uid.to_string(), |user| user.name))
    }))
}

/// User id and inode of the socket that listens on the port.
fn listener(table: &str, port: u16) -> Option<(u32, String)> {
    table.lines().skip(1).find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let &[_, local, _, state, _, _, _, uid, _, inode, ..] = words.as_slice() else { return None };
        let found = u16::from_str_radix(local.rsplit(':').next()?, 16).ok()?;
        (found == port && state == "0A").then(|| Some((uid.parse().ok()?, inode.to_owned())))?
    })
}

/// The process that has the socket open; the kernel shows root those of all users.
fn process(inode: &str) -> Option<String> {
    let socket = format!("socket:[{inode}]");
    fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let id: u32 = process.file_name().to_str()?.parse().ok()?;
        let mut files = fs::read_dir(process.path().join("fd")).ok()?.flatten();
        files.find(|file| fs::read_link(file.path()).is_ok_and(|to| to.as_os_str() == socket.as_str()))?;
        let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        Some(format!("process {id} ({})", name.trim()))
    })
}

#[cfg(test)]
mod tests {
    use super::listener;

    #[test]
    fn only_the_listener_of_the_port_is_found() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
           0: 0100007F:1D13 0100007F:8888 01 00000000:00000000 00:00000000 00000000     0        0 11 1 0\n\
           1: 0100007F:1D13 00000000:0000 0A 00000000:00000000 00:00000000 00000000 65534        0 22 1 0\n";
        assert_eq!(listener(table, 7443), Some((65534, "22".to_owned())));
        assert_eq!(listener(table, 7444), None);
    }
}
