//! `evenkeel backups`: what the archives of PostgresClusters hold, and what their retention would delete.

use jiff::Timestamp;
use serde_json::Value;

use super::error::Error;
use super::outlook;
use super::render;
use super::session::Session;
use crate::api::archive_outlook::ArchiveView;
use crate::api::quantity::shown;

/// Lists the base backups in the archives of PostgresClusters.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The PostgresCluster [default: all in the namespace]
    cluster: Option<String>,
}

/// Runs the verb.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<(), Error> {
    let catalog = session.client.catalog().await?;
    let clusters = catalog.resolve("postgresclusters.evenkeel.dev")?;
    let objects = match &args.cluster {
        Some(name) => {
            let found = session.client.object(clusters, &session.namespace, name).await?;
            let missing = || Error::NotFound(format!("no PostgresCluster {name:?} in namespace {}", session.namespace));
            vec![found.ok_or_else(missing)?]
        }
        None => {
            let path = clusters.path(Some(&session.namespace), None);
            let list = session.client.get(&path, &[], super::client::JSON).await?;
            let declared = |object: &&Value| object["spec"]["backup"].is_object();
            list["items"].as_array().into_iter().flatten().filter(declared).cloned().collect()
        }
    };
    for object in &objects {
        let name = render::cell(&object["metadata"]["name"]);
        let text = match outlook::of_cluster(object, session).await?.own {
            Some(archive) => text(&name, &archive, (session.now)()),
            None => format!("{name}: it has no archive: it has no spec.backup, or has archived nothing yet\n"),
        };
        write!(session.out, "{text}")?;
    }
    if objects.is_empty() {
        writeln!(session.err, "no PostgresCluster in namespace {} has spec.backup", session.namespace)?;
    }
    Ok(())
}

/// An archive, for people.
pub fn text(cluster: &str, archive: &ArchiveView, now: Timestamp) -> String {
    let ArchiveView { path, problem, backups, unfinished, first_point, last_point, gaps, unusable, deletes } = archive;
    if let Some(problem) = problem {
        return format!("{cluster}: {path}: {problem}\n");
    }
    let mut text = format!("{cluster}: {path}\n");
    let is_encrypted = backups.iter().any(|one| one.age_fingerprint.is_some());
    let mut titles = vec!["ID", "SIZE", "TIMELINE", "END", "KEPT", "AGE"];
    titles.extend(is_encrypted.then_some("KEY"));
    let rows: Vec<Vec<String>> = backups
        .iter()
        .map(|one| {
            let kept = if one.kept { "yes" } else { "" };
            let age = render::age(&one.ended.to_string(), now);
            let key = one.age_fingerprint.as_deref().unwrap_or("none");
            [&one.id, &shown(one.size), &one.timeline.to_string(), &one.end.to_string(), kept, &age, key]
                [..titles.len()]
                .iter()
                .map(|cell: &&str| (*cell).to_owned())
                .collect()
        })
        .collect();
    if rows.is_empty() {
        text.push_str("  no complete base backup: nothing can be restored\n");
    } else {
        text.push_str(&render::table("  ", &titles, &rows));
    }
    let mut line = |what: &str, said: String| text.push_str(&format!("  {what}: {said}\n"));
    if let Some((first, last)) = first_point.as_ref().zip(last_point.as_ref()) {
        line("can be restored", format!("every time from {first} to {last}"));
    }
    unfinished.iter().for_each(|id| line("not complete", id.clone()));
    gaps.iter().for_each(|gap| line("WAL is missing", gap.clone()));
    unusable.iter().for_each(|what| line("unusable", what.clone()));
    deletes.iter().for_each(|what| line("retention deletes", what.clone()));
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::api::archive_outlook::BackupView;

    #[test]
    fn an_archive_is_shown_with_what_can_be_restored_and_what_is_about_to_go() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let backup = |id: &str, kept| BackupView {
            id: id.into(),
            ended: at("2026-11-28T03:00:00Z"),
            size: 32 << 20,
            timeline: 2,
            end: "0/5000100".parse().unwrap(),
            kept,
            age_fingerprint: None,
        };
        let archive = ArchiveView {
            path: "default.db/7412-5f0c01aa".into(),
            backups: vec![backup("20261127T030000", true), backup("20261128T030000", false)],
            unfinished: vec!["20261129T030000".into()],
            first_point: Some(at("2026-11-27T03:00:00Z")),
            last_point: Some(at("2026-11-29T03:00:00Z")),
            gaps: vec!["A-B".into()],
            deletes: vec!["backup 20261101T030000 (base/20261101T030000/backup.info)".into()],
            ..ArchiveView::default()
        };
        expect_test::expect![[r#"
            db: default.db/7412-5f0c01aa
              ID                SIZE   TIMELINE   END         KEPT   AGE
              20261127T030000   32Mi   2          0/5000100   yes    24h
              20261128T030000   32Mi   2          0/5000100          24h
              can be restored: every time from 2026-11-27T03:00:00Z to 2026-11-29T03:00:00Z
              not complete: 20261129T030000
              WAL is missing: A-B
              retention deletes: backup 20261101T030000 (base/20261101T030000/backup.info)
        "#]]
        .assert_eq(&text("db", &archive, at("2026-11-29T03:00:00Z")));
        let mut backups = [backup("20261127T030000", false), backup("20261128T030000", false)];
        backups[1].age_fingerprint = Some("ad225781efede36c".into());
        let encrypted =
            ArchiveView { path: "default.db/7412-5f0c01aa".into(), backups: backups.into(), ..ArchiveView::default() };
        expect_test::expect![[r#"
            db: default.db/7412-5f0c01aa
              ID                SIZE   TIMELINE   END         KEPT   AGE   KEY
              20261127T030000   32Mi   2          0/5000100          24h   none
              20261128T030000   32Mi   2          0/5000100          24h   ad225781efede36c
        "#]]
        .assert_eq(&text("db", &encrypted, at("2026-11-29T03:00:00Z")));
        let empty = ArchiveView { path: "default.db/7412-5f0c01aa".into(), ..ArchiveView::default() };
        expect_test::expect![[r#"
            db: default.db/7412-5f0c01aa
              no complete base backup: nothing can be restored
        "#]]
        .assert_eq(&text("db", &empty, at("2026-11-29T03:00:00Z")));
    }
}
