//! Formats values for people: tables, ages, YAML, conditions, events. Pure; no colours, no terminal width.

use jiff::Timestamp;
use serde_json::Value;

use super::error::Error;

/// The widest column: Rust pads to no more, and no screen shows it.
const WIDEST: usize = u16::MAX as usize;

/// Column widths that only grow, so that later rows line up with rows already printed.
#[derive(Debug, Clone, Default)]
pub struct Layout {
    widths: Vec<usize>,
}

impl Layout {
    /// Widens the columns for these cells.
    pub fn fit(&mut self, cells: &[String]) {
        self.widths.resize(self.widths.len().max(cells.len()), 0);
        for (width, cell) in self.widths.iter_mut().zip(cells) {
            *width = (*width).max(cell.chars().count()).min(WIDEST);
        }
    }

    /// The cells as one line, without trailing blanks.
    pub fn line(&self, cells: &[String]) -> String {
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(&self.widths) {
            line.push_str(&format!("{cell:width$}   "));
        }
        line.truncate(line.trim_end().len());
        line
    }
}

/// A table with a heading, each line indented by `indent`.
pub fn table(indent: &str, heading: &[&str], rows: &[Vec<String>]) -> String {
    let heading: Vec<String> = heading.iter().map(|&title| title.to_owned()).collect();
    let mut layout = Layout::default();
    let all: Vec<&Vec<String>> = std::iter::once(&heading).chain(rows).collect();
    all.iter().for_each(|cells| layout.fit(cells));
    all.iter().map(|cells| format!("{indent}{}\n", layout.line(cells))).collect()
}

/// A cell of the server's Table, or a field: text without quotes, nothing for null.
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.replace(['\n', '\r'], " "),
        other => other.to_string(),
    }
}

/// Age as kubectl prints it: `45s`, `5m12s`, `3h`, `12d`. `<unknown>` if `then` is not a time.
pub fn age(then: &str, now: Timestamp) -> String {
    match then.parse::<Timestamp>() {
        Ok(then) => span(now.duration_since(then).as_secs()),
        Err(_) => "<unknown>".to_owned(),
    }
}

fn span(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let pair = |big: i64, unit: char, small: i64, small_unit: char| match small {
        0 => format!("{big}{unit}"),
        _ => format!("{big}{unit}{small}{small_unit}"),
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => pair(minutes, 'm', seconds % 60, 's'),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => pair(hours, 'h', minutes % 60, 'm'),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => pair(days, 'd', hours % 24, 'h'),
        691_200..63_072_000 => format!("{days}d"),
        _ => pair(days / 365, 'y', days % 365, 'd'),
    }
}

/// A value as YAML.
pub fn yaml(value: &Value) -> Result<String, Error> {
    serde_saphyr::to_string(value).map_err(|error| Error::Failed(format!("cannot write this as YAML: {error}")))
}

/// Lines, each indented; empty ones stay empty.
pub fn indented(indent: &str, text: &str) -> String {
    let line = |line: &str| if line.is_empty() { "\n".to_owned() } else { format!("{indent}{line}\n") };
    text.lines().map(line).collect()
}

/// `status.conditions` as a table.
pub fn conditions(object: &Value, now: Timestamp) -> String {
    let generation = object["metadata"]["generation"].as_i64();
    let row = |condition: &Value| {
        let seen = condition["observedGeneration"].as_i64();
        let stale = matches!((seen, generation), (Some(seen), Some(generation)) if seen < generation);
        let message = cell(&condition["message"]);
        vec![
            cell(&condition["type"]),
            cell(&condition["status"]),
            cell(&condition["reason"]),
            age(condition["lastTransitionTime"].as_str().unwrap_or_default(), now),
            if stale { format!("(of an older spec) {message}") } else { message },
        ]
    };
    let rows: Vec<Vec<String>> = object["status"]["conditions"].as_array().into_iter().flatten().map(row).collect();
    match rows.as_slice() {
        [] => "  none yet\n".to_owned(),
        rows => table("  ", &["TYPE", "STATUS", "REASON", "AGE", "MESSAGE"], rows),
    }
}

/// The heading above [`event_cells`].
pub const EVENT_HEADING: [&str; 5] = ["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"];

/// One Event as cells.
pub fn event_cells(event: &Value, now: Timestamp) -> [String; 5] {
    let object = &event["involvedObject"];
    let count = event["count"].as_i64().or_else(|| event["series"]["count"].as_i64()).unwrap_or(1);
    let seen = event_time(event).map_or_else(|| "<unknown>".to_owned(), |at| age(&at.to_string(), now));
    [
        if count > 1 { format!("{seen} (x{count})") } else { seen },
        cell(&event["type"]),
        cell(&event["reason"]),
        format!("{}/{}", cell(&object["kind"]).to_lowercase(), cell(&object["name"])),
        cell(&event["message"]),
    ]
}

/// Time of the last occurrence of an Event: the latest time in it, of any precision.
pub fn event_time(event: &Value) -> Option<Timestamp> {
    let times = [
        &event["eventTime"],
        &event["lastTimestamp"],
        &event["series"]["lastObservedTime"],
        &event["metadata"]["creationTimestamp"],
    ];
    times.iter().filter_map(|time| time.as_str()?.parse().ok()).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression 127: `evenkeel describe` panicked when a cell had more than 65,535 characters, such as a long message.
    #[test]
    fn a_cell_of_any_length_is_shown() {
        let shown = table("", &["A", "B"], &[vec!["x".repeat(70_000), "y".to_owned()]]);
        assert_eq!(shown.lines().nth(1).map(str::len), Some(70_000 + 3 + 1));
    }

    #[test]
    fn ages_get_coarser_as_they_grow() {
        let ages = [0, 59, 119, 120, 125, 3599, 10_800, 11_000, 172_000, 180_000, 900_000, 70_000_000].map(span);
        expect_test::expect!["0s 59s 119s 2m 2m5s 59m 3h 3h3m 47h 2d2h 10d 2y80d"].assert_eq(&ages.join(" "));
        assert_eq!(span(-5), "0s", "a server whose clock is ahead");
        assert_eq!(age("soon", Timestamp::UNIX_EPOCH), "<unknown>");
    }

    #[test]
    fn later_rows_line_up_with_those_that_are_out() {
        let cells = |texts: [&str; 2]| texts.map(str::to_owned).to_vec();
        let mut layout = Layout::default();
        layout.fit(&cells(["NAME", "AGE"]));
        layout.fit(&cells(["awx-db", "5m"]));
        assert_eq!(layout.line(&cells(["a", "5m"])), "a        5m");
        layout.fit(&cells(["a-longer-name", "5m"]));
        assert_eq!(layout.line(&cells(["a", ""])), "a");
    }
}
