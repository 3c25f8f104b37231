//! `evenkeel restore`: a new PostgresCluster from the archive of another one. Shows how that goes before anything is made.

use std::time::Duration;

use serde_json::{Value, json};

use super::error::Error;
use super::outlook;
use super::render;
use super::session::{Session, duration};
use super::wait::{Goal, until};
use crate::api::archive_outlook::RecoveryView;
use crate::api::quantity::shown;

/// Restores the data of a PostgresCluster into a new one.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The name of the new PostgresCluster
    new: String,
    /// The PostgresCluster whose archive is read; the new one gets its spec
    #[arg(long, value_name = "CLUSTER")]
    from: String,
    #[command(flatten)]
    target: Target,
    /// Stop just before --to-time, --to-lsn or --to-xid, and not just after it
    #[arg(long)]
    exclusive: bool,
    /// The base backup to begin with [default: the newest one from which the target can be reached]
    #[arg(long, value_name = "ID")]
    backup_id: Option<String>,
    /// Show the base backup, the way over the timelines, the WAL and an estimate; create nothing
    #[arg(long)]
    dry_run: bool,
    /// Wait until the new cluster is Ready
    #[arg(long)]
    wait: bool,
    /// How long to wait
    #[arg(long, value_parser = duration, default_value = "24h", value_name = "TIME", requires = "wait")]
    timeout: Duration,
}

/// Where the recovery stops.
#[derive(Debug, Default, clap::Args)]
#[group(multiple = false)]
struct Target {
    /// What was committed until this time, with its offset, such as 2026-11-28T03:14:15Z [default: everything]
    #[arg(long, value_name = "TIME")]
    to_time: Option<String>,
    /// Up to this position in the WAL
    #[arg(long, value_name = "LSN")]
    to_lsn: Option<String>,
    /// Up to the commit of this transaction
    #[arg(long, value_name = "XID")]
    to_xid: Option<u64>,
    /// Up to this restore point
    #[arg(long, value_name = "NAME")]
    to_name: Option<String>,
    /// The base backup alone
    #[arg(long)]
    to_backup: bool,
}

impl Args {
    fn target(&self) -> Value {
        let Target { to_time, to_lsn, to_xid, to_name, to_backup } = &self.target;
        let given = [
            ("time", json!(to_time)),
            ("lsn", json!(to_lsn)),
            ("xid", json!(to_xid)),
            ("name", json!(to_name)),
            ("immediate", if *to_backup { json!(true) } else { Value::Null }),
            ("exclusive", if self.exclusive { json!(true) } else { Value::Null }),
            ("backupID", json!(self.backup_id)),
        ];
        given.into_iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// Runs the verb.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<(), Error> {
    let catalog = session.client.catalog().await?;
    let clusters = catalog.resolve("postgresclusters.evenkeel.dev")?.clone();
    let source = session.client.object(&clusters, &session.namespace, &args.from).await?.ok_or_else(|| {
        Error::NotFound(format!(
            "no PostgresCluster {:?} in namespace {}: if it is gone, declare spec.bootstrap.recovery with source.store and source.path",
            args.from, session.namespace
        ))
    })?;
    let new = manifest(&args.new, &source, args.target());
    let path = clusters.path(Some(&session.namespace), None);
    let query = [("fieldManager", "evenkeel-restore"), ("fieldValidation", "Strict"), ("dryRun", "All")];
    // The server's own checks, and its defaults.
    let checked = session.client.post(&path, &query, &new).await?.body;
    let outlook = outlook::of_cluster(&checked, session).await?;
    let view = outlook.recovery.unwrap_or_default();
    write!(session.out, "{}", text(&view))?;
    if let Some(problem) = view.problem {
        let message = format!("{} cannot be restored from {}: {problem}", args.new, args.from);
        return Err(Error::Failed(message));
    }
    if args.dry_run {
        return Ok(());
    }
    session.client.post(&path, &query[..2], &new).await?;
    writeln!(session.out, "postgrescluster/{} created", args.new)?;
    if source["spec"]["expose"].is_object() {
        writeln!(session.err, "spec.expose was left out: {} has those ports", args.from)?;
    }
    if !args.wait {
        return Ok(());
    }
    let goal = Goal::Condition { kind: "Ready".to_owned(), status: "True".to_owned() };
    let mut last = None;
    match tokio::time::timeout(args.timeout, until(&goal, &clusters, &args.new, &mut last, session)).await {
        Ok(done) => {
            done?;
            Ok(writeln!(session.out, "postgrescluster/{} is ready", args.new)?)
        }
        Err(_) => {
            let what = format!("postgrescluster/{}, which goes on", args.new);
            Err(session.timed_out(what, args.timeout, last.as_ref())?)
        }
    }
}

/// The new cluster: the spec of its source, but for its ports, which the source has.
fn manifest(name: &str, source: &Value, target: Value) -> Value {
    let mut spec = source["spec"].clone();
    let bootstrap = ["recovery", "initdb"].map(|part| &source["spec"]["bootstrap"][part]);
    let known = bootstrap.into_iter().find(|part| part.is_object()).cloned().unwrap_or_default();
    let mut recovery = json!({"source": {"cluster": source["metadata"]["name"]}});
    // A directory of hosts is mounted by its path.
    if source["spec"]["backup"]["store"]["directory"].is_object() {
        recovery["source"] =
            json!({"store": source["spec"]["backup"]["store"], "path": source["status"]["backup"]["archive"]});
        if source["spec"]["backup"]["encryption"].is_object() {
            recovery["source"]["encryption"] = source["spec"]["backup"]["encryption"].clone();
        }
    }
    for field in ["database", "owner", "secret"] {
        if !known[field].is_null() {
            recovery[field] = known[field].clone();
        }
    }
    if target.as_object().is_some_and(|target| !target.is_empty()) {
        recovery["target"] = target;
    }
    spec["bootstrap"] = json!({"recovery": recovery});
    if let Some(spec) = spec.as_object_mut() {
        spec.remove("expose");
    }
    json!({
        "apiVersion": "evenkeel.dev/v1alpha1", "kind": "PostgresCluster",
        "metadata": {"name": name, "namespace": source["metadata"]["namespace"]}, "spec": spec,
    })
}

/// How a recovery would go, for people.
pub fn text(view: &RecoveryView) -> String {
    let mut text = format!("archive:      {}\n", view.path);
    let mut line = |what: &str, said: String| text.push_str(&format!("{what:<13} {said}\n"));
    let last = view.last_point.map(|last| format!(", last commit at {last}")).unwrap_or_default();
    if let Some(ended) = view.backup_ended {
        let (size, stored, wal) = view.bytes;
        line("base backup:", format!("{}, which ended at {ended}, {}", view.backup, shown(size)));
        line("way:", view.timelines.join(", then "));
        if let Some((first, end)) = &view.segments {
            line("WAL:", format!("{} segments, {first} to {end}{last}", view.count));
        }
        line("missing:", "nothing".to_owned());
        let estimate =
            view.download_seconds.map(|seconds| format!("about {seconds} s to download")).unwrap_or_default();
        line("estimate:", format!("{estimate} {} and {} of WAL; then it is replayed", shown(stored), shown(wal)));
    } else {
        view.missing.iter().for_each(|segment| line("missing:", segment.clone()));
        if let Some(last) = view.last_point {
            line("last commit:", last.to_string());
        }
        view.archives.iter().for_each(|archive| line("there is:", archive.clone()));
    }
    text
}

/// A recovery that a manifest declares, as `evenkeel plan` shows it.
pub fn indented(view: &RecoveryView) -> String {
    let problem = view.problem.iter().map(|problem| format!("impossible:   {problem}\n")).collect::<String>();
    render::indented("     ", &(text(view) + &problem))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_new_cluster_is_declared_like_its_source_without_its_ports() {
        let source = json!({
            "metadata": {"name": "db", "namespace": "prod", "uid": "1"},
            "spec": {
                "image": "postgres:15", "instances": 3, "expose": {"primary": 5432},
                "backup": {"store": {"s3": {"bucket": "b"}}}, "bootstrap": {"initdb": {"database": "awx", "owner": "a", "locale": "C"}},
            },
        });
        expect_test::expect![[r#"
            apiVersion: evenkeel.dev/v1alpha1
            kind: PostgresCluster
            metadata:
              name: new
              namespace: prod
            spec:
              backup:
                store:
                  s3:
                    bucket: b
              bootstrap:
                recovery:
                  database: awx
                  owner: a
                  source:
                    cluster: db
                  target:
                    xid: 7
              image: postgres:15
              instances: 3
        "#]]
        .assert_eq(&render::yaml(&manifest("new", &source, json!({"xid": 7}))).unwrap());
        let mut directory = json!({
            "metadata": {"name": "db", "namespace": "prod"},
            "spec": {"backup": {"store": {"directory": {"path": "/srv"}}}},
            "status": {"backup": {"archive": "prod.db/7-5"}},
        });
        let recovery = manifest("new", &directory, json!({}))["spec"]["bootstrap"]["recovery"].clone();
        let mut source = json!({"store": {"directory": {"path": "/srv"}}, "path": "prod.db/7-5"});
        assert_eq!(recovery, json!({"source": source}));
        let encryption = json!({"secretName": "key"});
        directory["spec"]["backup"]["encryption"] = encryption.clone();
        source["encryption"] = encryption;
        let recovery = manifest("new", &directory, json!({}))["spec"]["bootstrap"]["recovery"].clone();
        assert_eq!(
            recovery,
            json!({"source": source}),
            "a directory is mounted by its path, and read with the same keys"
        );
    }

    #[test]
    fn a_recovery_is_shown_with_its_way_and_what_it_costs() {
        let view = RecoveryView {
            path: "prod.db/7412-5f0c01aa".into(),
            backup: "20261128T030000".into(),
            backup_ended: Some("2026-11-28T03:00:10Z".parse().unwrap()),
            timelines: vec!["timeline 1 up to 0/5000100".into(), "timeline 2".into()],
            segments: Some(("000000010000000000000004".into(), "000000020000000000000009".into())),
            count: 6,
            bytes: (32 << 20, 4 << 20, 3 << 20),
            download_seconds: Some(2),
            last_point: Some("2026-11-28T04:00:00Z".parse().unwrap()),
            ..RecoveryView::default()
        };
        expect_test::expect![[r#"
            archive:      prod.db/7412-5f0c01aa
            base backup:  20261128T030000, which ended at 2026-11-28T03:00:10Z, 32Mi
            way:          timeline 1 up to 0/5000100, then timeline 2
            WAL:          6 segments, 000000010000000000000004 to 000000020000000000000009, last commit at 2026-11-28T04:00:00Z
            missing:      nothing
            estimate:     about 2 s to download 4Mi and 3Mi of WAL; then it is replayed
        "#]].assert_eq(&text(&view));
        let impossible = RecoveryView {
            path: "prod.db/7412-5f0c01aa".into(),
            problem: Some("a segment is not in the archive".into()),
            missing: vec!["000000010000000000000005".into()],
            ..RecoveryView::default()
        };
        expect_test::expect![[r#"
            archive:      prod.db/7412-5f0c01aa
                 missing:      000000010000000000000005
                 impossible:   a segment is not in the archive
        "#]]
        .assert_eq(indented(&impossible).trim_start());
    }
}
