//! Judges changed settings before the server gets them. A throw-away server on a new directory is started with them, and
//! a session is opened with it: what PostgreSQL refuses there would have ended the next start, or the next session.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::conf::{self, Facts};
use super::jobs::{Site, chain, remove_tree};
use super::listen::listen;
use super::process;
use super::sql::{self, Session};
use super::state::{Config, Judged, Settings};
use super::tools;
use crate::api::postgres_settings::{FILES, judged_by_a_start};

/// Time-out of the throw-away server's start, with one session.
const START: Duration = Duration::from_secs(20);
/// Time-out of its stop; then its processes are killed.
const STOP: Duration = Duration::from_secs(2);
/// Time-out of initdb.
const INITDB: Duration = Duration::from_secs(60);
/// Bytes that the throw-away directory needs at most.
const ROOM: u64 = 512 << 20;
/// With more changed settings than this, all are blamed if the message names none of them.
const SUSPECTS: usize = 12;
/// Bytes kept of the first part of the server's output.
const OUTPUT: u64 = 64 << 10;

/// Inputs of a judgement.
#[derive(Debug)]
pub struct Judge {
    /// Where and how programs run.
    pub site: Site,
    /// Name of the member.
    pub member: String,
    /// The settings that the server has now. They are not judged.
    pub in_force: Settings,
    /// The settings of the order.
    pub asked: Settings,
    /// The server has certificates; the throw-away one then starts with them.
    pub ssl: bool,
    /// Start a throw-away server if a start or a session could fail. Without it only the values are checked.
    pub start: bool,
}

/// PostgreSQL's refusal: the end of its output.
type Refusal = String;
/// A verdict, or the reason why there is none.
type Tried = Result<Result<(), Refusal>, String>;

impl Judge {
    /// The settings that PostgreSQL takes. A refused setting keeps its value in force. An error means that there is no
    /// verdict: try again later.
    pub async fn verdict(self) -> Result<Judged, String> {
        let judged = self.judge().await;
        if self.start {
            remove_tree(&self.site.place.scratch()).await.map_err(|failure| failure.words)?;
        }
        judged
    }

    async fn judge(&self) -> Result<Judged, String> {
        let mut accepted = self.asked.clone();
        let mut errors = Vec::new();
        loop {
            let changed = differing(&self.in_force, &accepted);
            if changed.is_empty() {
                break;
            }
            let Err(said) = self.try_settings(&accepted, &changed).await? else { break };
            let why = words(&said);
            let mut blamed = blamed(&said, &accepted, &changed);
            if blamed.is_empty() && (2..SUSPECTS).contains(&changed.len()) {
                for name in &changed {
                    let without = self.without(&accepted, name);
                    if self.try_settings(&without, &differing(&self.in_force, &without)).await?.is_ok() {
                        blamed.push((name.clone(), why.clone()));
                        break;
                    }
                }
            }
            if blamed.is_empty() {
                blamed = changed.into_iter().map(|name| (name, why.clone())).collect();
            }
            for (name, why) in blamed {
                tracing::warn!(setting = %name, reason = %why, "PostgreSQL refuses a setting");
                accepted = self.without(&accepted, &name);
                errors.push(format!("{name}: {why}"));
            }
        }
        Ok(Judged { asked: self.asked.clone(), accepted, errors })
    }

    /// The settings with this one as it is in force.
    fn without(&self, settings: &Settings, name: &str) -> Settings {
        let mut settings = settings.clone();
        match self.in_force.get(name) {
            Some(value) => settings.insert(name.to_owned(), value.clone()),
            None => settings.remove(name),
        };
        settings
    }

    async fn try_settings(&self, settings: &Settings, changed: &[String]) -> Tried {
        let Site { place, reaper } = &self.site;
        let mut settings = settings.clone();
        for (name, default) in FILES {
            // Relative to the real data directory, not to the throw-away one.
            let file = settings.get(name).map_or(default, String::as_str);
            if !file.is_empty() {
                let file = place.pgdata().join(file).display().to_string();
                settings.insert(name.to_owned(), file);
            }
        }
        let (config, minima) = (Config { settings, ..Config::default() }, BTreeMap::new());
        let facts = Facts {
            member: &self.member,
            incarnation: "",
            generation: 0,
            minima: &minima,
            settings: &config.settings,
            passfile: &place.passfile(),
            certificates: &place.configuration(),
            ssl: self.ssl,
            listen: listen(),
        };
        place.write_configuration("try.conf", &conf::postgresql_conf(&config, &facts))?;
        let file = place.configuration().join("try.conf");
        if let Err(said) = tools::check_configuration(place, reaper, &file).await {
            return if said.contains(':') { Ok(Err(said)) } else { Err("the check was interrupted".to_owned()) };
        }
        if !self.start || self.needs_no_start(changed).await {
            return Ok(Ok(()));
        }
        self.make_directory().await?;
        match self.memory(&file).await {
            Ok(Some(short)) => return Ok(Err(short)),
            Ok(None) => {}
            Err(tools::Error::Failed { output, .. }) if !words(&output).is_empty() => return Ok(Err(output)),
            Err(error) => return Err(chain(&error)),
        }
        self.start_and_connect(&file).await
    }

    /// A reload takes all these settings, and no value of them can fail later.
    async fn needs_no_start(&self, changed: &[String]) -> bool {
        if changed.iter().any(|name| judged_by_a_start(name)) {
            return false;
        }
        let asked = async { Session::open().await?.reloadable(changed).await };
        asked.await.unwrap_or(false)
    }

    fn data(&self) -> PathBuf {
        self.site.place.scratch().join("data")
    }

    async fn make_directory(&self) -> Result<(), String> {
        let Site { place, reaper } = &self.site;
        if place.theirs().exists(&self.data().join("global/pg_control")) {
            return Ok(());
        }
        if place.disk_free() < ROOM {
            return Err(format!("a dry start needs {} MiB on the data volume", ROOM >> 20));
        }
        remove_tree(&place.scratch()).await.map_err(|failure| failure.words)?;
        place.directory(&place.scratch(), place.uid, 0o700).map_err(|error| chain(&error))?;
        let control = tools::control(place, reaper).await.map_err(|error| chain(&error))?;
        let mut command = place.tool("initdb");
        command.arg("-D").arg(self.data()).args(["-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"]);
        command.args(["--no-instructions", "--no-sync"]).arg(format!("--wal-segsize={}", control.segment >> 20));
        tools::run_within(reaper, command, INITDB).await.map(drop).map_err(|error| chain(&error))
    }

    /// Words about memory that this machine or this container does not have. PostgreSQL computes what it asks for (from 15
    /// on); the kernel would grant more than there is, and kill the server when it uses it.
    async fn memory(&self, file: &std::path::Path) -> Result<Option<Refusal>, tools::Error> {
        let Site { place, reaper } = &self.site;
        let asks = async |file: &std::path::Path| {
            let mut command = place.tool("postgres");
            command.arg("-D").arg(self.data()).arg("-c").arg(format!("config_file={}", file.display()));
            command.args(["-c", "huge_pages=off", "-C", "shared_memory_size"]);
            let output = tools::run_within(reaper, command, START).await?;
            Ok::<_, tools::Error>(output.lines().last().and_then(|line| line.trim().parse::<u64>().ok()))
        };
        let asked = match asks(file).await {
            Err(tools::Error::Failed { output, .. }) if output.contains("\"shared_memory_size\"") => None,
            asked => asked?,
        };
        let Some(asked) = asked else { return Ok(None) };
        let has = asks(&place.configuration().join("postgresql.conf")).await.ok().flatten().unwrap_or_default();
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let limit = text("/sys/fs/cgroup/memory.max").trim().parse::<u64>().ok().map(|bytes| bytes >> 20);
        Ok(short_of_memory(
            asked,
            has,
            limit,
            &text("/proc/meminfo"),
            &std::fs::read_to_string(file).unwrap_or_default(),
        ))
    }

    /// Starts the throw-away server and opens a session with it; no process of it is left afterwards.
    async fn start_and_connect(&self, file: &std::path::Path) -> Tried {
        let Site { place, reaper } = &self.site;
        let mut command = place.tool("postgres");
        command.arg("-D").arg(self.data()).current_dir(self.data());
        let sockets = place.scratch().display().to_string();
        for (setting, value) in [
            ("config_file", file.display().to_string()),
            ("listen_addresses", String::new()),
            ("unix_socket_directories", sockets),
            // Its WAL is nobody's, and huge pages would be taken from the real server: they were counted.
            ("archive_mode", "off".into()),
            ("huge_pages", "off".into()),
        ] {
            command.arg("-c").arg(format!("{setting}={value}"));
        }
        let child = reaper.spawn(command, None).map_err(|error| error.to_string())?;
        let pipe = pipe::Receiver::from_owned_fd(child.output).map_err(|error| error.to_string())?;
        let (told, output) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let mut kept = Vec::new();
            let mut pipe = pipe;
            let read = (&mut pipe).take(OUTPUT).read_to_end(&mut kept).await;
            // An error means that nobody waits for it.
            let _ = told.send(read.map(|_| String::from_utf8_lossy(&kept).into_owned()).unwrap_or_default());
            let _ = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await;
        });
        let mut exit = child.exit;
        let (folder, mut refused) = (place.scratch(), None);
        let connected = tokio::select! {
            biased;
            status = &mut exit => Some(status),
            session = tokio::time::timeout(START, sql::first_session(&folder)) => {
                refused = match session {
                    Ok(Ok(())) => None,
                    Ok(Err(why)) => Some(format!("FATAL:  {why}")),
                    Err(_) => Some(format!("FATAL:  a server with it takes no session within {START:?}")),
                };
                None
            }
        };
        if connected.is_none() {
            // If it is already gone, that is fine.
            let _ = kill(child.pid, Signal::SIGQUIT);
            if tokio::time::timeout(STOP, &mut exit).await.is_err() {
                process::kill_with_children(child.pid);
            }
        }
        match connected {
            None => Ok(refused.map_or(Ok(()), Err)),
            Some(Ok(nix::sys::wait::WaitStatus::Exited(..))) => {
                Ok(Err(tokio::time::timeout(STOP, output).await.ok().and_then(Result::ok).unwrap_or_default()))
            }
            Some(status) => Err(format!(
                "the dry start was interrupted ({})",
                status.map_or_else(|_| "lost".to_owned(), process::describe)
            )),
        }
    }
}

/// The names whose values differ.
fn differing(one: &Settings, other: &Settings) -> Vec<String> {
    let names: std::collections::BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    names.into_iter().filter(|name| one.get(*name) != other.get(*name)).cloned().collect()
}

/// What to say if there is too little memory; all sizes are in MiB. `has`: what the running server has already.
fn short_of_memory(asked: u64, has: u64, limit: Option<u64>, meminfo: &str, conf: &str) -> Option<Refusal> {
    let field = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    if let Some(limit) = limit.filter(|limit| asked > *limit) {
        return Some(format!(
            "FATAL:  it asks for {asked} MiB of shared memory, and the container may use {limit} MiB"
        ));
    }
    let free = field("MemAvailable:").unwrap_or(u64::MAX) >> 10;
    if asked.saturating_sub(has) > free {
        return Some(format!(
            "FATAL:  it asks for {asked} MiB of shared memory, {} MiB more than now, and this machine has {free} MiB free",
            asked.saturating_sub(has)
        ));
    }
    let huge = (field("HugePages_Total:").unwrap_or_default() * field("Hugepagesize:").unwrap_or_default()) >> 10;
    (conf.lines().any(|line| line == "huge_pages = 'on'") && huge < asked).then(|| {
        format!(
            "FATAL:  \"huge_pages\" is on and {asked} MiB are needed, but this machine has {huge} MiB of huge pages"
        )
    })
}

/// The message in a server's output: its first error, else its last line.
pub fn words(said: &str) -> String {
    fn error(line: &str) -> Option<&str> {
        ["FATAL:", "PANIC:", "ERROR:"].iter().find_map(|level| Some(line.split_once(level)?.1))
    }
    let last = || said.lines().rev().find(|line| !line.trim().is_empty());
    said.lines().find_map(error).or_else(last).unwrap_or_default().trim().chars().take(400).collect()
}

/// The suspected settings that a refusal is about, with its message: those that it names, else those whose value it has.
pub fn blamed(said: &str, settings: &Settings, suspects: &[String]) -> Vec<(String, String)> {
    let named = |name: &String| {
        let line = said.lines().find(|line| line.contains(&format!("\"{name}\"")))?;
        let words = ["LOG:", "FATAL:", "ERROR:"].iter().find_map(|level| Some(line.split_once(level)?.1.trim()));
        // The message names a file of the supervisor, which means nothing to the user.
        let words = words.unwrap_or(line).split(" in file \"").next().unwrap_or_default();
        Some((name.clone(), words.to_owned()))
    };
    let by_name: Vec<_> = suspects.iter().filter_map(named).collect();
    if !by_name.is_empty() {
        return by_name;
    }
    let why = words(said);
    let has = |name: &&String| {
        let value = settings.get(*name).map_or("", String::as_str);
        let mut parts = value.split(',').map(|part| part.trim().trim_matches('"'));
        parts.any(|part| part.len() > 3 && why.contains(part))
    };
    suspects.iter().filter(has).map(|name| (name.clone(), why.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn names(said: &str, asked: &[(&str, &str)]) -> Vec<String> {
        let asked = settings(asked);
        let suspects: Vec<String> = asked.keys().cloned().collect();
        blamed(said, &asked, &suspects).into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn a_refused_setting_is_found_with_its_reason() {
        let said = "2026 GMT [7] LOG:  invalid value for parameter \"max_connections\": \"many\"\n\
                    2026 GMT [7] FATAL:  configuration file \"/v/try.conf\" contains errors\n";
        let asked = settings(&[("max_connections", "many"), ("work_mem", "8MB")]);
        let expected = vec![(
            "max_connections".to_owned(),
            "invalid value for parameter \"max_connections\": \"many\"".to_owned(),
        )];
        assert_eq!(blamed(said, &asked, &["max_connections".into(), "work_mem".into()]), expected);
    }

    #[test]
    fn a_setting_is_found_by_its_value_if_the_message_does_not_name_it() {
        let library = "2026 [1] FATAL:  could not access file \"nonsuch\": No such file or directory\n";
        assert_eq!(
            names(library, &[("shared_preload_libraries", "pg_stat_statements, nonsuch"), ("work_mem", "8MB")]),
            ["shared_preload_libraries"]
        );
        let key =
            "2026 [1] FATAL:  could not load server certificate file \"/etc/no.crt\": No such file or directory\n";
        assert_eq!(names(key, &[("ssl", "on"), ("ssl_cert_file", "/etc/no.crt")]), ["ssl_cert_file"]);
        let memory = "2026 [1] FATAL:  could not map anonymous shared memory: Cannot allocate memory\n";
        assert_eq!(names(memory, &[("shared_buffers", "900GB"), ("max_connections", "90")]), Vec::<String>::new());
    }

    #[test]
    fn memory_that_the_machine_or_the_container_lacks_is_told_before_a_server_uses_it() {
        let meminfo = "MemTotal:  8000000 kB\nMemAvailable:  4096000 kB\nHugePages_Total:  10\nHugepagesize: 2048 kB\n";
        let short = |asked, has, limit, conf| short_of_memory(asked, has, limit, meminfo, conf).unwrap_or_default();
        assert_eq!(short(150, 150, None, ""), "");
        assert!(short(5000, 150, None, "").contains("asks for 5000 MiB of shared memory, 4850 MiB more than now"));
        assert!(short(600, 150, Some(512), "").contains("the container may use 512 MiB"));
        assert!(short(150, 150, None, "huge_pages = 'on'").contains("20 MiB of huge pages"));
        assert_eq!(short(15, 15, None, "huge_pages = 'on'"), "");
    }

    #[test]
    fn the_first_error_is_what_a_server_says() {
        let said = "2026 [1] FATAL:  no such thing\n2026 [1] LOG:  database system is shut down\n";
        assert_eq!(words(said), "no such thing");
        assert_eq!(
            words("postgres: superuser_reserved_connections (3) must be less\n"),
            "postgres: superuser_reserved_connections (3) must be less"
        );
    }
}
