//! Children of a postmaster that are still authenticating.

use nix::unistd::{Pid, Uid};

use super::process::all_of;
use super::secrets::REPLICATION_ROLE;
use super::sql::ROLE;

/// A child of a postmaster that is still authenticating.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authenticating {
    /// It says that it is a client of users.
    Client,
    /// It says that it is a standby or a supervisor. It has not proved it.
    Member,
}

/// Children of a postmaster that are still authenticating and are in no view of the server yet. Otherwise a session
/// that the old pg_hba.conf admitted could appear after the gate was shut and all sessions were ended.
pub fn authenticating(postmaster: Pid, uid: Uid) -> Vec<(Pid, Authenticating)> {
    let authenticates = |pid: Pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse::<i32>().ok());
        let title = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let who = who_authenticates(&String::from_utf8_lossy(&title))?;
        (parent == Some(postmaster.as_raw())).then_some((pid, who))
    };
    all_of(uid).into_iter().filter_map(authenticates).collect()
}

/// Reads the process title `postgres: CLUSTER_NAME: USER DATABASE HOST authentication`. The title of a standby's
/// connection has the words `walsender USER` in the place of user and database. Any other title is a client's.
fn who_authenticates(title: &str) -> Option<Authenticating> {
    let title = title.trim_end_matches('\0').trim_end();
    let mut words = title.strip_prefix("postgres: ")?.rsplit(' ');
    (words.next() == Some("authentication")).then_some(())?;
    let (_host, database, user) = (words.next(), words.next(), words.next());
    let member = [Some(ROLE), Some(REPLICATION_ROLE)].contains(&user);
    let standby = (user, database) == (Some("walsender"), Some(REPLICATION_ROLE));
    Some(if member || standby { Authenticating::Member } else { Authenticating::Client })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression 39: the title of a standby's connection has another form, so the supervisor took it for a client and ended
    /// it while it authenticated. The standby connected again some 45 ms later, which delayed the first commit.
    #[test]
    fn the_title_of_a_process_says_who_authenticates() {
        let (client, member) = (Some(Authenticating::Client), Some(Authenticating::Member));
        assert_eq!(who_authenticates("postgres: db-1: app shop 172.18.0.9(41620) authentication\0"), client);
        assert_eq!(who_authenticates("postgres: authentication"), client);
        assert_eq!(who_authenticates("postgres: db-1: evenkeel_app shop 172.18.0.9(41620) authentication"), client);
        assert_eq!(
            who_authenticates("postgres: db-1: app evenkeel_replication 172.18.0.9(41620) authentication"),
            client
        );
        assert_eq!(who_authenticates("postgres: evenkeel-db-1: evenkeel postgres [local] authentication"), member);
        assert_eq!(
            who_authenticates("postgres: db-1: walsender evenkeel_replication 172.18.0.3(50112) authentication"),
            member
        );
        assert_eq!(who_authenticates("postgres: db-1: app shop 172.18.0.9(41620) idle"), None);
        assert_eq!(who_authenticates("postgres: db-1: walwriter "), None);
    }
}
