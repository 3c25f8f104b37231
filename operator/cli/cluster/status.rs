//! `evenkeel cluster status`: the nodes, and how many of them may be lost now.

use crate::api::cluster::{CLUSTER, ClusterStatus, NodeStatus};
use crate::cli::client::JSON;
use crate::cli::error::Error;
use crate::cli::render;
use crate::cli::session::Session;

/// How the nodes are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// One line a node, and the verdict
    Table,
    /// Everything
    Json,
    /// Everything
    Yaml,
}

/// Prints the nodes.
pub async fn run(format: Format, session: &mut Session<'_>) -> Result<(), Error> {
    let body = session.client.get(CLUSTER, &[], JSON).await?;
    match format {
        Format::Json => writeln!(session.out, "{body:#}")?,
        Format::Yaml => write!(session.out, "{}", render::yaml(&body)?)?,
        Format::Table => {
            let status: ClusterStatus = serde_json::from_value(body)
                .map_err(|error| Error::Failed(format!("the server's answer cannot be understood: {error}")))?;
            write!(session.out, "{}", table(&status))?;
            if let Some(problem) = &status.problem {
                writeln!(session.err, "Warning: {problem}")?;
            }
            writeln!(session.out, "{}", status.verdict)?;
        }
    }
    Ok(())
}

fn table(status: &ClusterStatus) -> String {
    let heading = ["NODE", "ADDRESS", "VERSION", "LEADS", "ETCD", "DB SIZE", "LAG"];
    render::table("", &heading, &status.nodes.iter().map(row).collect::<Vec<_>>())
}

fn row(node: &NodeStatus) -> Vec<String> {
    let none = || "-".to_owned();
    let (operator, etcd) = (node.operator.as_ref(), node.etcd.as_ref());
    let size = |bytes: i64| match bytes {
        ..1_000_000 => format!("{} kB", bytes / 1000),
        _ => format!("{}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10),
    };
    vec![
        node.name.clone(),
        operator.map_or_else(|| "no operator".to_owned(), |operator| operator.address.clone()),
        operator.map_or_else(none, |operator| operator.version.clone()),
        if node.leads { "yes".to_owned() } else { none() },
        etcd.map_or_else(none, |member| member.role.to_string()),
        etcd.and_then(|member| member.db_size).map_or_else(none, size),
        etcd.and_then(|member| member.lag).map_or_else(none, |lag| lag.to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::cluster::{MemberStatus, NodeInfo, Role};

    #[test]
    fn a_line_a_node_shows_its_operator_and_its_member_of_etcd() {
        let member = |name: &str, role, lag: Option<u64>| MemberStatus {
            id: "1".into(),
            name: name.into(),
            peer: String::new(),
            client: None,
            role,
            voter: true,
            version: None,
            db_size: lag.map(|lag| if lag == 0 { 25_390_000 } else { 20_480 }),
            lag,
        };
        let operator = |name: &str| NodeInfo {
            name: name.into(),
            address: format!("{name}:7443"),
            version: "0.1.0".into(),
            started: String::new(),
        };
        let node = |name: &str, runs, leads, role, lag| NodeStatus {
            name: name.into(),
            operator: Some(operator(name)).filter(|_| runs),
            leads,
            etcd: Some(member(name, role, lag)),
        };
        let nodes = vec![
            node("one", true, true, Role::Leader, Some(0)),
            node("two", true, false, Role::Follower, Some(3)),
            node("three", false, false, Role::Down, None),
        ];
        let status = ClusterStatus { managed: true, tolerates: 0, verdict: String::new(), nodes, problem: None };
        expect_test::expect![[r#"
            NODE    ADDRESS       VERSION   LEADS   ETCD       DB SIZE   LAG
            one     one:7443      0.1.0     yes     leader     25.3 MB   0
            two     two:7443      0.1.0     -       follower   20 kB     3
            three   no operator   -         -       down       -         -
        "#]]
        .assert_eq(&table(&status));
    }
}
