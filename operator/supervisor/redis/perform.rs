//! Performs one act of `next`. Each act may be repeated; the next observation shows the result.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use nix::sys::signal::{Signal, kill};
use redis::aio::MultiplexedConnection;
use redis::{RedisError, RedisResult, Value, cmd};

use crate::supervisor::clock::boottime_ms;
use crate::supervisor::listen;
use crate::supervisor::redis::client::{self, within};
use crate::supervisor::redis::conf;
use crate::supervisor::redis::info::{self, Info};
use crate::supervisor::redis::kept;
use crate::supervisor::redis::log;
use crate::supervisor::redis::shell::{HURRY_MS, PATIENCE, Process, Proof, Shell, key, listen, pause_writes};
use crate::supervisor::redis::state::{Act, Pause};
use crate::supervisor::redis::wire::{Address, PORT, Position, Role, Task};

impl Shell {
    /// Whether the supervisor ends. The error is what the report says.
    pub async fn perform(&mut self, act: Act) -> Result<bool, String> {
        if act != Act::Wait {
            tracing::debug!(?act, "next");
        }
        match act {
            Act::Wait => {}
            Act::Exit => return Ok(true),
            Act::Start(master) => self.start(master)?,
            Act::Stop => self.signal(Signal::SIGTERM),
            Act::Kill => {
                tracing::warn!("the server does not answer, and will not, or must not go on in its role: SIGKILL");
                self.signal(Signal::SIGKILL);
            }
            Act::Follow(master) => self.follow(master).await?,
            Act::Pause(pause) => self.pause_for(pause).await?,
            Act::Resume => self.resume().await?,
            Act::Tune => self.tune().await?,
        }
        Ok(false)
    }

    fn signal(&mut self, signal: Signal) {
        self.cut_off("the server of this member is being stopped");
        if let Some(process) = &mut self.process {
            // It may have ended meanwhile.
            let _ = kill(process.pid, signal);
            process.stopping.get_or_insert(boottime_ms());
        }
    }

    fn start(&mut self, master: Option<Address>) -> Result<(), String> {
        let order = self.durable.order.clone().ok_or("there is no order")?;
        let login = self.login().ok_or("there are no passwords")?;
        let file = |doing: &'static str| move |error: std::io::Error| format!("{doing}: {error}");
        // What it has made so far is not whole, and the file is removed below.
        self.cut_off("the server of this member starts");
        let at = listen::listen_or(PORT);
        let free = listen::check(at);
        self.problems.port_taken = matches!(free, Err(listen::Error::Taken { .. }));
        free.map_err(|error| error.to_string())?;
        kept::tidy(&self.place).map_err(file("removing unfinished files"))?;
        let mut live = self.wanted();
        if let Some(good) = self.durable.good.as_ref().filter(|_| self.fallback) {
            live.retain(|name, _| !order.config.directives.contains_key(name));
            live.extend(good.clone());
        }
        let nothing = conf::keeps_nothing(&order.config.directives);
        if nothing {
            kept::forget(&self.place).map_err(file("removing data that is not to be kept"))?;
        }
        // It reads the data from where it was written last; then it is switched to where it shall be.
        let files = kept::on_disk(&self.place);
        let appends = match self.durable.appends.filter(|_| !nothing) {
            Some(true) if files.log => true,
            Some(false) if files.snapshot => false,
            _ => conf::appends(&order.config.directives) && (files.log || !files.snapshot),
        };
        live.insert("appendonly".to_owned(), if appends { "yes" } else { "no" }.to_owned());
        if let Some(tls) = login.0.tls.as_ref().filter(|_| order.config.tls) {
            let written = self.place.write_certificates(tls, &conf::prefix(&tls.hash));
            written.map_err(file("writing the certificates"))?;
        }
        let (data, socket, path) =
            (self.place.data(), self.place.socket(), self.place.configuration().join("redis.conf"));
        let text = conf::render(&order.config, &live, &login.0, (&data, &socket), at, master);
        let theirs = self.place.theirs();
        theirs.remove(&socket).map_err(file("removing the old socket"))?;
        theirs.write(&path, &text).map_err(file("writing redis.conf"))?;
        let mut command = self.place.server();
        command.arg(&path);
        let child = self.reaper.spawn(command, None).map_err(file("starting the server"))?;
        let lines = Arc::new(Mutex::new(VecDeque::new()));
        log::pass_on(child.output, listen(lines.clone(), self.notes.clone(), self.run()));
        let now = boottime_ms();
        // Started as a master without an order: nobody else can be one.
        let permitted = order.run == self.run() && matches!(order.task, Task::Lead { .. });
        let promoted = (master.is_none() && !permitted).then_some(order.epoch);
        tracing::info!(pid = child.pid.as_raw(), run = %self.run(), replica_of = ?master, appends, "the server is started");
        self.process = Some(Process {
            pid: child.pid,
            exit: child.exit,
            stopping: None,
            began_with: master,
            connection: None,
            info: None,
            answered_at: now,
            ready: false,
            synced: false,
            promoted,
            promoted_offset: 0,
            promoted_replid: None,
            data_end: 0,
            settled: key(Some(&order)),
            paused: None,
            renewed_at: 0,
            applied: live,
            refused: BTreeMap::new(),
            login,
            lines,
            confirmed: None,
            proof: Proof::default(),
            switched: None,
        });
        (self.clocks.hurry_until, self.clocks.poll_at) = (now + HURRY_MS, now);
        Ok(())
    }

    fn connection(&mut self) -> Result<&mut MultiplexedConnection, String> {
        let connection = self.process.as_mut().and_then(|process| process.connection.as_mut());
        connection.ok_or_else(|| "the server does not answer".to_owned())
    }

    /// Sends these commands at once; each has its own result.
    async fn send(&mut self, doing: &str, commands: Vec<redis::Cmd>) -> Result<Vec<RedisResult<Value>>, String> {
        let mut pipe = redis::pipe();
        pipe.ignore_errors();
        for command in commands {
            pipe.add_command(command);
        }
        let failed = |error: RedisError| format!("{doing}: {}", client::words(&error));
        within(PATIENCE, pipe.query_async(self.connection()?)).await.map_err(failed)
    }

    async fn follow(&mut self, master: Address) -> Result<(), String> {
        let order = self.durable.order.clone();
        let refused = |error: RedisError| format!("REPLICAOF: {}", client::words(&error));
        let replicaof = cmd("REPLICAOF").arg(master.ip.to_string()).arg(master.port).to_owned();
        let process = self.process.as_ref();
        if process.and_then(|process| process.info.as_ref()).is_some_and(|info| info.role == Some(Role::Master)) {
            // Nothing is acknowledged between the word of where its data ends and the end of its being a master.
            let mut commands = vec![cmd("MULTI"), cmd("INFO"), replicaof, cmd("EXEC")];
            // In this order a client that waits is told that it may not write here, before its connection ends.
            commands.push(cmd("CLIENT").arg("UNPAUSE").to_owned());
            for kind in ["normal", "pubsub"] {
                commands.push(cmd("CLIENT").arg("KILL").arg("TYPE").arg(kind).to_owned());
            }
            let executed = self.send("REPLICAOF", commands).await?.into_iter().nth(3).unwrap_or(Ok(Value::Nil));
            let read = redis::from_redis_value::<(String, RedisResult<Value>)>(executed.map_err(refused)?);
            let (text, result) = read.map_err(|error| format!("REPLICAOF: {error}"))?;
            result.map_err(refused)?;
            self.demoted(info::read(&text));
        } else {
            self.send("REPLICAOF", vec![replicaof])
                .await?
                .into_iter()
                .collect::<RedisResult<Vec<_>>>()
                .map_err(refused)?;
        }
        tracing::info!(%master, "the server follows");
        if let Some(process) = &mut self.process {
            (process.settled, process.paused, process.promoted) = (key(order.as_ref()), None, None);
        }
        let now = boottime_ms();
        (self.clocks.hurry_until, self.clocks.poll_at) = (now + HURRY_MS, now);
        Ok(())
    }

    /// Takes over where the data of a master ended that is a replica now. `last`: what it said just before.
    fn demoted(&mut self, last: Info) {
        let epoch = key(self.durable.order.as_ref()).0;
        let (leads, replid) = (last.role == Some(Role::Master), last.replid.clone());
        self.heard_from_server(last);
        if let Some(process) = self.process.as_ref().filter(|_| leads) {
            tracing::info!(offset = process.data_end, "its data as a master ended");
            self.kept.demoted = Some(Position { epoch, offset: process.data_end, replid });
            self.keep(true);
        }
    }

    async fn pause_for(&mut self, pause: Pause) -> Result<(), String> {
        let results = self.send("CLIENT PAUSE", vec![pause_writes(), cmd("INFO")]).await?;
        let mut results = results.into_iter();
        results.next().unwrap_or(Ok(Value::Nil)).map_err(|error| format!("CLIENT PAUSE: {}", client::words(&error)))?;
        let text: String = match results.next() {
            Some(Ok(text)) => redis::from_redis_value(text).map_err(|error| error.to_string())?,
            _ => return Err("INFO is not answered".to_owned()),
        };
        tracing::info!(?pause, "writes are paused");
        let now = boottime_ms();
        if let Some(process) = &mut self.process {
            (process.paused, process.renewed_at) = (Some(pause), now);
        }
        // The offset was read after the pause, so it stands still.
        self.heard_from_server(info::read(&text));
        self.clocks.hurry_until = now + HURRY_MS;
        Ok(())
    }

    async fn resume(&mut self) -> Result<(), String> {
        let results = self.send("CLIENT UNPAUSE", vec![cmd("CLIENT").arg("UNPAUSE").to_owned()]).await?;
        results.into_iter().collect::<RedisResult<Vec<_>>>().map_err(|error| client::words(&error))?;
        tracing::info!("writes are resumed");
        let was = self.process.as_mut().and_then(|process| process.paused.take());
        if matches!(was, Some(Pause::Switchover(_))) {
            self.lift();
        }
        self.confirmed();
        Ok(())
    }

    /// Brings passwords and directives into force.
    async fn tune(&mut self) -> Result<(), String> {
        let wanted = self.login().ok_or("there are no passwords")?;
        let Some(process) = &self.process else { return Ok(()) };
        let mut changes = self.differing();
        // They may have come before the order that wants them.
        let read = changes.iter().any(|(name, _)| name == conf::CERTIFICATE);
        if let Some(tls) = wanted.0.tls.as_ref().filter(|_| read) {
            let written = self.place.write_certificates(tls, &conf::prefix(&tls.hash));
            written.map_err(|error| format!("writing the certificates: {error}"))?;
        }
        if process.login != wanted {
            self.users(&wanted.1).await?;
        }
        // A certificate and its key change together, and the port with TLS with that without. The one in use is closed first.
        let tls = |name: &str| name == "port" || name.starts_with("tls-");
        let mut files: Vec<(String, String)> = changes.extract_if(.., |(name, _)| tls(name)).collect();
        if files.iter().any(|(name, value)| name == conf::TLS_PORT && value == "0") {
            files.reverse();
        }
        let mut groups: Vec<Vec<(String, String)>> = changes.into_iter().map(|change| vec![change]).collect();
        groups.extend(Some(files).filter(|files| !files.is_empty()));
        for group in groups {
            self.set(group).await?;
        }
        if let Some(process) = &mut self.process {
            process.login = wanted;
        }
        Ok(())
    }

    async fn users(&mut self, username: &str) -> Result<(), String> {
        let credentials = self.credentials.clone().ok_or("there are no passwords")?;
        let users = conf::users(username, &credentials);
        let set = |(name, rules): &(String, Vec<String>)| {
            cmd("ACL").arg("SETUSER").arg(name).arg("reset").arg(rules).to_owned()
        };
        let mut commands: Vec<redis::Cmd> = users.iter().map(set).collect();
        commands.push(cmd("ACL").arg("USERS").to_owned());
        let results = self.send("ACL SETUSER", commands).await?;
        let answers: RedisResult<Vec<Value>> = results.into_iter().collect();
        let answers = answers.map_err(|error| format!("ACL SETUSER: {}", client::words(&error)))?;
        let there: Vec<String> =
            answers.into_iter().last().and_then(|last| redis::from_redis_value(last).ok()).unwrap_or_default();
        let old = there.iter().filter(|old| *old != "default" && !users.iter().any(|(name, _)| name == *old));
        let delete = old.map(|old| cmd("ACL").arg("DELUSER").arg(old).to_owned()).collect::<Vec<_>>();
        if !delete.is_empty() {
            self.send("ACL DELUSER", delete).await?;
        }
        tracing::info!("users and passwords are set");
        Ok(())
    }

    /// Sets directives; all of them, or none.
    async fn set(&mut self, group: Vec<(String, String)>) -> Result<(), String> {
        let mut command = cmd("CONFIG");
        command.arg("SET");
        for (name, value) in &group {
            command.arg(name).arg(conf::bare(value));
        }
        let names = group.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
        let port = group.iter().any(|(name, _)| name == "port");
        let log_off = group.iter().any(|(name, value)| name == "appendonly" && value == "no");
        let result = self.send(&format!("CONFIG SET {names}"), vec![command]).await?.into_iter().next();
        let Some(process) = &mut self.process else { return Ok(()) };
        match result {
            Some(Err(error)) => {
                let words = client::words(&error);
                tracing::warn!(%names, problem = %words, "the server refuses directives");
                process.refused.extend(group.into_iter().map(|(name, value)| (name, (value, words.clone()))));
            }
            _ => {
                tracing::info!(%names, "directives are set");
                for (name, value) in group {
                    process.refused.remove(&name);
                    process.applied.insert(name, value);
                }
            }
        }
        if log_off {
            // The data must be in a snapshot before the log counts no more.
            process.switched = process.info.as_ref().map(|info| info.saved.max(1));
            self.send("BGSAVE", vec![cmd("BGSAVE")]).await?;
        }
        if port {
            // Connections stay, but that of a replica begins anew at once, as it will from now on.
            let kill = cmd("CLIENT").arg("KILL").arg("TYPE").arg("master").to_owned();
            let results = self.send("CLIENT KILL", vec![kill, cmd("INFO")]).await?;
            // The next report must not say that the link is up because it was.
            if let Some(Ok(text)) = results.into_iter().nth(1) {
                let text: String = redis::from_redis_value(text).map_err(|error| error.to_string())?;
                self.heard_from_server(info::read(&text));
            }
        }
        Ok(())
    }
}
