//! `evenkeel describe`: everything about an object on one page, its Events at the end. The page is a pure function.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::discovery;
use super::error::Error;
use super::events;
use super::session::Session;
use super::{render, timeline};
use crate::api::postgres_cluster::PostgresClusterStatus;
use crate::api::redis_cluster::{ClusterMemberStatus, RedisClusterStatus};
use crate::api::redis_sentinel::{RedisEndpoints, RedisMemberStatus, RedisSentinelStatus, SentinelStatus};

/// The slots of every Redis Cluster.
const SLOTS: u32 = 16384;

/// Shows objects in detail.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// KIND [NAME...] or KIND/NAME...
    #[arg(required = true, value_name = "KIND NAME")]
    words: Vec<String>,
}

/// Runs the verb.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<(), Error> {
    let catalog = session.client.catalog().await?;
    let mut first = true;
    for (kind, name) in discovery::targets(&args.words)? {
        let resource = catalog.resolve(&kind)?;
        let path = resource.path(Some(&session.namespace), name.as_deref());
        let answer = session.client.get(&path, &[], super::client::JSON).await?;
        let objects = match answer["items"].as_array() {
            Some(items) => items.clone(),
            None => vec![answer],
        };
        for object in objects {
            let happened = events::of(&session.client, &object).await?;
            let separator = if std::mem::take(&mut first) { "" } else { "\n\n" };
            write!(session.out, "{separator}{}", page(&object, &happened, (session.now)())?)?;
        }
    }
    Ok(())
}

/// The page of one object.
pub fn page(object: &Value, events: &[Value], now: Timestamp) -> Result<String, Error> {
    let mut text = heading(object, now);
    let mut section = |title: &str, body: &str| {
        if !body.is_empty() {
            text.push_str(&format!("\n{title}:\n{body}"));
        }
    };
    for (title, field) in [("Spec", "spec"), ("Type", "type"), ("Data", "data")] {
        section(title, &field_of(object, field)?);
    }
    // A status written by another version of the program is shown as plain YAML.
    match sections(object, now) {
        Some(sections) => sections.iter().for_each(|(title, body)| section(title, body)),
        None => section("Status", &status_of(object)?),
    }
    if object["status"]["conditions"].is_array() {
        section("Conditions", &render::conditions(object, now));
    }
    let rows: Vec<Vec<String>> = events.iter().map(|event| event_row(event, now)).collect();
    match rows.is_empty() {
        true => section("Events", "  none\n"),
        false => section("Events", &render::table("  ", &["LAST SEEN", "TYPE", "REASON", "MESSAGE"], &rows)),
    }
    Ok(text)
}

fn event_row(event: &Value, now: Timestamp) -> Vec<String> {
    let [seen, kind, reason, _, message] = render::event_cells(event, now);
    vec![seen, kind, reason, message]
}

fn heading(object: &Value, now: Timestamp) -> String {
    let metadata = &object["metadata"];
    let created = metadata["creationTimestamp"].as_str().unwrap_or_default();
    let generation = metadata["generation"].as_i64();
    let seen = object["status"]["observedGeneration"].as_i64();
    let mut lines = vec![
        ("Name", render::cell(&metadata["name"])),
        ("Namespace", render::cell(&metadata["namespace"])),
        ("Kind", format!("{} ({})", render::cell(&object["kind"]), render::cell(&object["apiVersion"]))),
        ("Labels", pairs(&metadata["labels"])),
        ("Annotations", pairs(&metadata["annotations"])),
        ("Created", format!("{created} ({} ago)", render::age(created, now))),
    ];
    match (generation, seen) {
        (Some(generation), Some(seen)) if seen < generation => {
            lines.push(("Generation", format!("{generation}, the status is still of {seen}")));
        }
        (Some(generation), _) => lines.push(("Generation", generation.to_string())),
        _ => {}
    }
    if let Some(since) = metadata["deletionTimestamp"].as_str() {
        let finalizers = metadata["finalizers"].as_array().into_iter().flatten().map(render::cell);
        let waits = finalizers.collect::<Vec<_>>().join(", ");
        lines.push(("Deleting", format!("since {} ago; waits for {waits}", render::age(since, now))));
    }
    if let Some(phase) = object["status"]["phase"].as_str() {
        lines.push(("Phase", phase.to_owned()));
    }
    let line = |(name, value): &(&str, String)| {
        let (first, rest) = value.split_once('\n').unwrap_or((value, ""));
        format!("{:<13} {first}\n{}", format!("{name}:"), render::indented("              ", rest))
    };
    lines.iter().filter(|(_, value)| !value.is_empty()).map(line).collect()
}

fn pairs(map: &Value) -> String {
    let pair = |(name, value): (&String, &Value)| format!("{name}={}", render::cell(value));
    map.as_object().map(|map| map.iter().map(pair).collect::<Vec<_>>().join("\n")).unwrap_or_default()
}

/// A field as indented YAML. The values of a Secret are not shown, only their length.
fn field_of(object: &Value, field: &str) -> Result<String, Error> {
    let value = &object[field];
    if object["kind"] == "Secret" && field == "data" {
        let size = |(key, value): (&String, &Value)| {
            let encoded = value.as_str().unwrap_or_default();
            let bytes = encoded.trim_end_matches('=').len() * 3 / 4;
            format!("  {key}: {bytes} bytes\n")
        };
        return Ok(value.as_object().map(|data| data.iter().map(size).collect()).unwrap_or_default());
    }
    match value {
        Value::Null => Ok(String::new()),
        value => Ok(render::indented("  ", &render::yaml(value)?)),
    }
}

/// The status as YAML, without the fields that have their own section on the page.
fn status_of(object: &Value) -> Result<String, Error> {
    let mut status = object["status"].clone();
    if let Some(fields) = status.as_object_mut() {
        for elsewhere in ["conditions", "phase", "observedGeneration"] {
            fields.remove(elsewhere);
        }
        if fields.is_empty() {
            return Ok(String::new());
        }
    }
    match status {
        Value::Null => Ok(String::new()),
        status => Ok(render::indented("  ", &render::yaml(&status)?)),
    }
}

/// A title, and the body below it.
type Section = (&'static str, String);

/// The sections of a kind with members.
fn sections(object: &Value, now: Timestamp) -> Option<Vec<Section>> {
    let status = &object["status"];
    let mut sections = match object["kind"].as_str()? {
        "PostgresCluster" => postgres(&PostgresClusterStatus::deserialize(status).ok()?),
        "RedisSentinel" => redis(&RedisSentinelStatus::deserialize(status).ok()?),
        "RedisCluster" => redis_cluster(&RedisClusterStatus::deserialize(status).ok()?),
        _ => return None,
    };
    if let Some(last) = Option::<timeline::Promotion>::deserialize(&status["lastFailover"]).ok()? {
        sections.push(("Last failover", timeline::promotion(&last, now)));
    }
    if let Some(last) = Option::<timeline::Switchover>::deserialize(&status["lastSwitchover"]).ok()? {
        sections.push(("Last switchover", timeline::switchover(&last, now)));
    }
    Some(sections)
}

/// Addresses as a line.
fn either(addresses: &[String]) -> String {
    if addresses.is_empty() { "none".to_owned() } else { addresses.join(", ") }
}

fn postgres(status: &PostgresClusterStatus) -> Vec<Section> {
    let mut sections = Vec::new();
    if !status.instances.is_empty() {
        let rows: Vec<Vec<String>> = status.instances.iter().map(instance_row).collect();
        let heading = ["NAME", "HOST", "ROLE", "STATE", "SYNC", "LAG", "ADDRESS", "NOTE"];
        sections.push(("Instances", render::table("  ", &heading, &rows)));
    }
    let endpoints = &status.endpoints;
    let (write, read) = (either(&endpoints.read_write), either(&endpoints.read_only));
    sections.push(("Endpoints", format!("  read-write  {write}\n  read-only   {read}\n")));
    let timeline = status.timeline.map_or("none".to_owned(), |timeline| timeline.to_string());
    sections.push(("Leadership", format!("  term      {}\n  timeline  {timeline}\n", status.term)));
    sections
}

fn redis(status: &RedisSentinelStatus) -> Vec<Section> {
    let mut sections = Vec::new();
    if !status.members.is_empty() {
        let rows: Vec<Vec<String>> = status.members.iter().map(member_row).collect();
        let heading = ["NAME", "HOST", "ROLE", "STATE", "OFFSET", "LAG", "MEMORY", "EVICTED", "ADDRESS", "NOTE"];
        sections.push(("Members", render::table("  ", &heading, &rows)));
    }
    if !status.sentinels.is_empty() {
        let rows: Vec<Vec<String>> = status.sentinels.iter().map(sentinel_row).collect();
        let heading = ["NAME", "HOST", "STATE", "MASTER", "EPOCH", "REPLICAS", "PEERS", "QUORUM", "ADDRESS", "NOTE"];
        sections.push(("Sentinels", render::table("  ", &heading, &rows)));
    }
    let RedisEndpoints { sentinels, master, replicas } = &status.endpoints;
    let (sentinels, master, replicas) = (either(sentinels), either(master), either(replicas));
    let endpoints = format!("  sentinels  {sentinels}\n  master     {master}\n  replicas   {replicas}\n");
    sections.push(("Endpoints", endpoints));
    let mut leadership = format!("  epoch         {}\n  config epoch  {}\n", status.epoch, status.config_epoch);
    if !status.stale_members.is_empty() {
        leadership += &format!("  stale         {}\n", status.stale_members.join(", "));
    }
    if let Some(loss) = &status.possible_loss {
        leadership += &format!("  loss          {loss}\n");
    }
    sections.push(("Leadership", leadership));
    sections
}

fn redis_cluster(status: &RedisClusterStatus) -> Vec<Section> {
    let mut sections = Vec::new();
    if !status.members.is_empty() {
        let rows: Vec<Vec<String>> = status.members.iter().map(node_row).collect();
        let heading =
            ["NAME", "HOST", "ROLE", "STATE", "MASTER", "SLOTS", "KEYS", "OFFSET", "MEMORY", "ADDRESS", "NOTE"];
        sections.push(("Members", render::table("  ", &heading, &rows)));
    }
    let mut slots = format!("  served  {} of {SLOTS}\n", status.slots_served);
    if let Some(migration) = &status.migration {
        slots += &format!("  moving  {} of {} are left\n", migration.left, migration.total);
    }
    if !status.stale_nodes.is_empty() {
        slots += &format!("  stale   {}\n", status.stale_nodes.join(", "));
    }
    sections.push(("Slots", slots));
    sections.push(("Endpoints", format!("  nodes  {}\n", either(&status.endpoints))));
    sections
}

fn node_row(member: &ClusterMemberStatus) -> Vec<String> {
    vec![
        member.name.clone(),
        member.host.clone(),
        member.role.to_string(),
        member.state.to_string(),
        member.master.clone().unwrap_or_default(),
        member.slots.to_string(),
        member.keys.to_string(),
        member.offset.to_string(),
        mib(member.used_memory),
        member.address.clone().unwrap_or_default(),
        notes(member.message.as_ref(), &[]),
    ]
}

fn member_row(member: &RedisMemberStatus) -> Vec<String> {
    let most = if member.max_memory == 0 { String::new() } else { format!(" of {}", mib(member.max_memory)) };
    vec![
        member.name.clone(),
        member.host.clone(),
        member.role.to_string(),
        member.state.to_string(),
        member.offset.to_string(),
        member.lag_bytes.map_or(String::new(), |lag| format!("{lag} B")),
        format!("{}{most}", mib(member.used_memory)),
        member.evicted_keys.to_string(),
        member.address.clone().unwrap_or_default(),
        notes(member.message.as_ref(), &member.pending_restart),
    ]
}

fn sentinel_row(sentinel: &SentinelStatus) -> Vec<String> {
    vec![
        sentinel.name.clone(),
        sentinel.host.clone(),
        sentinel.state.to_string(),
        sentinel.master.clone().unwrap_or_default(),
        sentinel.config_epoch.to_string(),
        sentinel.known_replicas.to_string(),
        sentinel.known_sentinels.to_string(),
        if sentinel.quorum_ok { "ok" } else { "no" }.to_owned(),
        sentinel.address.clone().unwrap_or_default(),
        notes(sentinel.message.as_ref(), &[]),
    ]
}

fn mib(bytes: u64) -> String {
    format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20))
}

/// The last column: the problem, and what waits for a restart.
fn notes(message: Option<&String>, pending_restart: &[String]) -> String {
    let restart = match pending_restart {
        [] => None,
        settings => Some(format!("waits for a restart: {}", settings.join(", "))),
    };
    message.cloned().into_iter().chain(restart).collect::<Vec<_>>().join("; ")
}

fn instance_row(instance: &crate::api::postgres_cluster::InstanceStatus) -> Vec<String> {
    vec![
        instance.name.clone(),
        instance.host.clone(),
        instance.role.to_string(),
        instance.state.to_string(),
        if instance.synchronous { "yes" } else { "" }.to_owned(),
        instance.lag_mib.map_or(String::new(), |lag| format!("{lag} MiB")),
        instance.address.clone().unwrap_or_default(),
        notes(instance.message.as_ref(), &instance.pending_restart),
    ]
}
