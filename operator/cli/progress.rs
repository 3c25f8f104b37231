//! Progress of objects towards Ready: bars on a terminal, else one line per change.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::Value;
use tracing_subscriber::fmt::MakeWriter;

use super::error::Error;
use super::render;
use super::wait::Goal;

/// The progress of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Ready, by the Ready condition for the current generation.
    pub ready: bool,
    /// One line: the phase, and the current action or problem.
    pub line: String,
}

/// Computes the progress of an object from its status.
pub fn standing(object: &Value) -> Standing {
    let ready = Goal::Condition { kind: "Ready".to_owned(), status: "True".to_owned() }.reached(Some(object));
    let condition = |kind: &str, status: &str| {
        let all = object["status"]["conditions"].as_array().into_iter().flatten();
        all.filter(|condition| condition["type"] == kind && condition["status"] == status)
            .map(|condition| render::cell(&condition["message"]))
            .find(|message| !message.is_empty())
    };
    let message = if ready {
        condition("Ready", "True")
    } else {
        condition("Progressing", "True")
            .or_else(|| condition("Degraded", "True"))
            .or_else(|| condition("Ready", "False"))
    };
    let phase = object["status"]["phase"].as_str().filter(|phase| !phase.is_empty());
    let phase = phase.unwrap_or(if ready { "Ready" } else { "Pending" });
    let line = match message {
        Some(message) => format!("{phase}: {message}"),
        None => phase.to_owned(),
    };
    Standing { ready, line }
}

/// The problem of an object that needs help from a user: its Ready condition, if its reason is a problem.
pub fn problem(object: &Value) -> Option<String> {
    let ready = object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == "Ready")?;
    let progressing = object["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == "Progressing");
    let stuck = ready["status"] == "False" && progressing.is_some_and(|condition| condition["status"] == "False");
    stuck.then(|| format!("{}: {}", render::cell(&ready["reason"]), render::cell(&ready["message"])))
}

/// Shows the progress of several objects.
pub enum Display {
    /// Live bars, one per object.
    Bars(MultiProgress, Vec<ProgressBar>),
    /// Lines; the last line of each object is kept so that no line is repeated.
    Lines(Vec<(String, String)>),
}

impl Display {
    /// Bars if stderr is a terminal, else lines. Without objects yet.
    pub fn new() -> Self {
        match std::io::stderr().is_terminal() {
            true => Self::Bars(MultiProgress::new(), Vec::new()),
            false => Self::Lines(Vec::new()),
        }
    }

    /// The bars, so that log lines can be written above them.
    pub fn bars(&self) -> Option<MultiProgress> {
        match self {
            Self::Bars(multi, _) => Some(multi.clone()),
            Self::Lines(_) => None,
        }
    }

    /// Sets the names of the objects to show, in order.
    pub fn begin(&mut self, names: &[String]) {
        match self {
            Self::Lines(last) => last.extend(names.iter().map(|name| (name.clone(), String::new()))),
            Self::Bars(multi, bars) => {
                let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
                // The template is a constant; if it were invalid, the bar would only look plainer.
                let style = ProgressStyle::with_template("{spinner} {prefix}  {elapsed:>4}  {wide_msg}");
                let style = style.unwrap_or_else(|_| ProgressStyle::default_spinner());
                for name in names {
                    let bar = multi.add(ProgressBar::new_spinner().with_style(style.clone()));
                    bar.set_prefix(format!("{name:width$}"));
                    bar.enable_steady_tick(Duration::from_millis(120));
                    bars.push(bar);
                }
            }
        }
    }

    /// Shows the progress of the object at `index`.
    pub fn show(&mut self, index: usize, standing: &Standing, out: &mut (dyn Write + Send)) -> Result<(), Error> {
        match self {
            Self::Bars(_, bars) => {
                let Some(bar) = bars.get(index) else { return Ok(()) };
                match standing.ready {
                    true => bar.finish_with_message(standing.line.clone()),
                    false => bar.set_message(standing.line.clone()),
                }
            }
            Self::Lines(last) => {
                let Some((name, line)) = last.get_mut(index).filter(|(_, line)| *line != standing.line) else {
                    return Ok(());
                };
                writeln!(out, "{name}  {}", standing.line)?;
                out.flush()?;
                line.clone_from(&standing.line);
            }
        }
        Ok(())
    }

    /// Prints a sentence above the progress.
    pub fn say(&self, sentence: &str, out: &mut (dyn Write + Send)) -> Result<(), Error> {
        match self {
            Self::Bars(multi, _) => Ok(multi.suspend(|| writeln!(out, "{sentence}"))?),
            Self::Lines(_) => Ok(writeln!(out, "{sentence}")?),
        }
    }
}

impl Default for Display {
    fn default() -> Self {
        Self::new()
    }
}

/// Writes lines of the log above the bars.
#[derive(Clone)]
pub struct AboveBars(pub MultiProgress);

impl Write for AboveBars {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.suspend(|| std::io::stderr().write_all(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

impl<'a> MakeWriter<'a> for AboveBars {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(phase: &str, seen: i64, conditions: &[(&str, &str, &str)]) -> Value {
        let condition = |(kind, status, message): &(&str, &str, &str)| json!({"type": kind, "status": status, "reason": "Why", "message": message, "observedGeneration": seen});
        let conditions: Vec<Value> = conditions.iter().map(condition).collect();
        json!({"metadata": {"generation": 2}, "status": {"phase": phase, "conditions": conditions}})
    }

    #[test]
    fn the_line_tells_what_is_being_done_then_what_is_wrong_then_that_it_is_ready() {
        let progressing = ("Progressing", "True", "cloning db-2");
        let degraded = ("Degraded", "True", "db-3 is away");
        let seen = [
            json!({"metadata": {"generation": 1}}),
            object("Bootstrapping", 2, &[("Ready", "False", "not yet"), progressing]),
            object("Degraded", 2, &[("Ready", "False", "no primary"), degraded]),
            object("Healthy", 1, &[("Ready", "True", "3 of 3 serve")]),
            object("Healthy", 2, &[("Ready", "True", "3 of 3 serve"), degraded]),
        ];
        let lines: String = seen.iter().map(|object| format!("{:?}\n", standing(object))).collect();
        expect_test::expect![[r#"
            Standing { ready: false, line: "Pending" }
            Standing { ready: false, line: "Bootstrapping: cloning db-2" }
            Standing { ready: false, line: "Degraded: db-3 is away" }
            Standing { ready: false, line: "Healthy" }
            Standing { ready: true, line: "Healthy: 3 of 3 serve" }
        "#]]
        .assert_eq(&lines);
    }

    #[test]
    fn a_problem_is_what_nobody_is_working_on() {
        let stuck = [("Ready", "False", "image postgres:99 cannot be had"), ("Progressing", "False", "")];
        assert_eq!(problem(&object("Pending", 2, &stuck)).as_deref(), Some("Why: image postgres:99 cannot be had"));
        let working = [("Ready", "False", "not yet"), ("Progressing", "True", "cloning")];
        assert_eq!(problem(&object("Pending", 2, &working)), None);
        assert_eq!(problem(&json!({})), None);
    }

    #[test]
    fn lines_are_said_once_each_change() {
        let mut display = Display::Lines(Vec::new());
        display.begin(&["pg/db".to_owned()]);
        let mut out = Vec::new();
        for line in ["Pending", "Pending", "Healthy: 3 of 3 serve"] {
            let standing = Standing { ready: false, line: line.to_owned() };
            assert!(display.show(0, &standing, &mut out).is_ok());
        }
        assert_eq!(String::from_utf8_lossy(&out), "pg/db  Pending\npg/db  Healthy: 3 of 3 serve\n");
    }
}
