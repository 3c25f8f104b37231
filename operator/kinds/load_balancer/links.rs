//! Links to balancers: one open stream each, because each new stream costs a `docker exec`. A link lives in the
//! background as long as its container, with what this operator knows of the configuration in it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout};

use super::dialect::Dialect;
use super::names::RUN_DIR;
use super::{ConfigFiles, Signalled};
use crate::engine::{Conversation, Engine};
use crate::runtime::clock;

/// Time-out of an answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Time-out of opening a stream, which needs a `docker exec`.
const DIAL: Duration = Duration::from_secs(5);
/// Wait after a failed request, so that other balancers are not delayed by this one each time.
const REST: Duration = Duration::from_millis(500);
/// Most commands that HAProxy takes in one line.
const LINE: usize = 16;
/// Longest answer to one command, in bytes: enough for 2,000 servers.
const ANSWER: usize = 1 << 20;
/// Longest answer to a line of commands, and to a question for sessions.
const ANSWERS: usize = 8 << 20;
/// The command whose answer grows with the number of sessions, not of servers.
pub const SESSIONS: &str = "show sess";
/// The prompt of HAProxy's master process; the second one after a failed reload.
const PROMPTS: [&str; 2] = ["master> ", "master[ReloadFailed]> "];

/// The container of a balancer; a recreated container is another one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkId {
    /// Its host.
    pub host: String,
    /// Its name.
    pub container: String,
    /// Its id.
    pub id: String,
}

/// What is kept about a container while it exists.
#[derive(Default)]
pub struct Link {
    stream: tokio::sync::Mutex<Stream>,
    /// What is known of its configuration.
    pub known: Mutex<ConfigCache>,
}

/// What this operator knows of the configuration in a container without reading it.
#[derive(Default)]
pub struct ConfigCache {
    /// The files, once they were read or written; `None` after a step that may or may not have been done.
    pub files: Option<ConfigFiles>,
    /// The last reload that was requested.
    pub signalled: Option<Signalled>,
}

#[derive(Default)]
struct Stream {
    open: Option<Box<dyn Conversation>>,
    failed: Option<(Instant, String)>,
}

/// A container that the operator can talk to.
pub struct ContainerRef {
    /// The engine of its host.
    pub engine: Arc<dyn Engine>,
    /// The dialect of its engine.
    pub dialect: &'static Dialect,
    /// Its identity.
    pub id: LinkId,
    /// Its link.
    pub link: Arc<Link>,
}

impl ContainerRef {
    /// Sends these commands to HAProxy's master process; returns its answers, in order. The commands may be sent twice.
    pub async fn tell(&self, commands: &[String]) -> Result<Vec<String>, String> {
        if let Some(odd) = commands.iter().find(|command| command.contains([';', '\n', '\r'])) {
            return Err(format!("not sent, because it would be more than one command: {odd:?}"));
        }
        self.link.stream.lock().await.talk(self, "master", &Request::Commands(commands)).await
    }

    /// Gets a page from nginx's admin socket.
    pub async fn page(&self, page: &str) -> Result<String, String> {
        Ok(self.link.stream.lock().await.talk(self, "admin", &Request::Page(page)).await?.concat())
    }
}

/// A request to an engine.
enum Request<'a> {
    /// Commands for HAProxy's master process.
    Commands(&'a [String]),
    /// A page of nginx.
    Page(&'a str),
}

impl Request<'_> {
    async fn on(&self, stream: &mut Box<dyn Conversation>, fresh: bool) -> Result<Vec<String>, String> {
        match self {
            Self::Commands(commands) => {
                if fresh {
                    say(stream, b"prompt\n").await?;
                    let prompted = |heard: &[u8]| PROMPTS.iter().any(|prompt| heard.ends_with(prompt.as_bytes()));
                    until(stream, ANSWER, prompted).await?;
                }
                let mut answers = Vec::new();
                for some in commands.chunks(LINE) {
                    say(stream, (some.join(";") + "\n").as_bytes()).await?;
                    let sessions = some.iter().any(|command| command.ends_with(SESSIONS));
                    let most = if sessions { ANSWERS } else { ANSWERS.min(some.len() * ANSWER) };
                    let heard = until(stream, most, |heard| split(heard).len() >= some.len()).await?;
                    answers.extend(split(&heard));
                }
                Ok(answers)
            }
            Self::Page(page) => {
                say(stream, format!("GET {page} HTTP/1.1\r\nHost: evenkeel\r\n\r\n").as_bytes()).await?;
                let heard = until(stream, ANSWER, |heard| body(heard).is_some()).await?;
                Ok(body(&heard).map(|body| String::from_utf8_lossy(body).into_owned()).into_iter().collect())
            }
        }
    }
}

impl Stream {
    /// Sends the request on the open stream, and if that fails once more on a new one: a reload ends streams.
    async fn talk(&mut self, at: &ContainerRef, socket: &str, request: &Request<'_>) -> Result<Vec<String>, String> {
        if let Some((since, why)) = self.failed.as_ref().filter(|(since, _)| since.elapsed() < REST) {
            tracing::trace!(container = at.id.container, "left alone since {:?}", since.elapsed());
            return Err(why.clone());
        }
        self.failed = None;
        if let Some(mut stream) = self.open.take()
            && let Ok(said) = request.on(&mut stream, false).await
        {
            self.open = Some(stream);
            return Ok(said);
        }
        let address = format!("unix:{RUN_DIR}/{socket}.sock");
        let outcome = match timeout(DIAL, at.engine.dial(&at.id.container, &address)).await {
            Err(_) => Err("it takes no connection".to_owned()),
            Ok(Err(error)) => Err(crate::api::failure::Failure::from(error).message),
            Ok(Ok(mut stream)) => request.on(&mut stream, true).await.map(|said| (stream, said)),
        };
        match outcome {
            Ok((stream, said)) => {
                self.open = Some(stream);
                Ok(said)
            }
            Err(why) => {
                self.failed = Some((clock::instant(), why.clone()));
                Err(why)
            }
        }
    }
}

async fn say(stream: &mut Box<dyn Conversation>, words: &[u8]) -> Result<(), String> {
    stream.write_all(words).await.map_err(|error| error.to_string())?;
    stream.flush().await.map_err(|error| error.to_string())
}

/// Reads until `done` holds for the bytes so far, which are at most `most`.
async fn until(
    stream: &mut Box<dyn Conversation>,
    most: usize,
    done: impl Fn(&[u8]) -> bool,
) -> Result<Vec<u8>, String> {
    let reading = async {
        let mut heard = Vec::new();
        while !done(&heard) {
            if heard.len() >= most {
                return Err(format!("its answer is longer than {} MiB", most >> 20));
            }
            let room = most - heard.len();
            match stream.take(room as u64).read_buf(&mut heard).await {
                Ok(0) => return Err("closed by the other side".to_owned()),
                Ok(_) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(heard)
    };
    timeout(PATIENCE, reading).await.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")))
}

/// The complete answers: each ends with a prompt.
pub fn split(heard: &[u8]) -> Vec<String> {
    // Checked only when an answer may be complete, because answers arrive in pieces.
    if !heard.ends_with(b"> ") {
        return Vec::new();
    }
    let [prompt, failed] = PROMPTS.map(|prompt| format!("\n{prompt}"));
    let text = String::from_utf8_lossy(heard).replace(&failed, &prompt);
    let mut answers: Vec<String> = text.split(&prompt).map(str::to_owned).collect();
    answers.pop();
    answers
}

/// The body of an HTTP answer, once it is complete.
pub fn body(heard: &[u8]) -> Option<&[u8]> {
    let head = heard.windows(4).position(|window| window == b"\r\n\r\n")?;
    let text = String::from_utf8_lossy(&heard[..head]).to_ascii_lowercase();
    let length: usize = text.lines().find_map(|line| line.strip_prefix("content-length:"))?.trim().parse().ok()?;
    heard.get(head + 4..)?.get(..length)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_when_its_length_is_there() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
        assert_eq!((body(whole), body(&whole[..whole.len() - 1])), (Some(b"abc".as_slice()), None));
        // Regression 75: a length beyond all bounds overflowed when it was added to the length of the head.
        assert_eq!(body(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\nabc", u64::MAX).as_bytes()), None);
    }

    /// Regression 103: a balancer's container that was taken over was listened to for 8 MiB, in each observation, whatever
    /// the question was. An answer has the bound of its question.
    #[tokio::test(start_paused = true)]
    async fn an_answer_without_end_is_read_to_the_bound_of_its_question() {
        let cases = [
            (Request::Page("/state"), 1),
            (Request::Commands(&["show info".to_owned(), "show proc".to_owned()]), 2),
            (Request::Commands(&[format!("@!7 {SESSIONS}")]), 8),
        ];
        for (request, mib) in cases {
            let (ours, mut theirs) = tokio::io::duplex(64 << 10);
            let endless = tokio::spawn(async move {
                let mut written = 0;
                while theirs.write_all(&[b'x'; 4096]).await.is_ok() {
                    written += 4096;
                }
                written
            });
            let mut stream: Box<dyn Conversation> = Box::new(ours);
            let refused = request.on(&mut stream, false).await.unwrap_err();
            assert_eq!(refused, format!("its answer is longer than {mib} MiB"));
            drop(stream);
            assert!(endless.await.unwrap() <= (mib << 20) + (128 << 10));
        }
    }

    #[test]
    fn an_answer_ends_with_a_prompt_also_after_a_reload_that_failed() {
        assert_eq!(split(b"a\nb\nmaster> \nmaster[ReloadFailed]> "), ["a\nb", ""]);
        assert_eq!(split(b"a\nmaster> b"), [""; 0]);
    }
}
