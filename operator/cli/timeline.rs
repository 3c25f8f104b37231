//! A promotion as text: old and new primary, cause, outage, and each step with its time. Pure.

use jiff::Timestamp;
use serde::Deserialize;

use super::render;
use crate::api::postgres_cluster::TimedStep;

/// A promotion, as every kind that has them writes it into its status.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Promotion {
    cause: String,
    /// The member that took writes before.
    pub from: String,
    /// The one that takes them now; empty until it is chosen.
    #[serde(default)]
    pub to: String,
    detected_at: Timestamp,
    #[serde(default)]
    steps: Vec<TimedStep>,
    /// Seconds without writes; absent until it is over.
    pub outage: Option<f64>,
    #[serde(alias = "possibleLoss")]
    loss: Option<String>,
}

/// The answer to the last request of a switchover.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Switchover {
    /// The value of the annotation that this answers.
    pub request: String,
    /// Why it was refused.
    pub refused: Option<String>,
    /// Its result.
    pub result: Option<Promotion>,
}

/// `0.412 s`; longer durations are printed with less precision.
pub fn seconds(seconds: f64) -> String {
    match seconds {
        seconds if seconds < 10.0 => format!("{seconds:.3} s"),
        seconds if seconds < 120.0 => format!("{seconds:.1} s"),
        seconds => format!("{:.0} min", seconds / 60.0),
    }
}

/// One promotion, indented by two.
pub fn promotion(went: &Promotion, now: Timestamp) -> String {
    let ago = render::age(&went.detected_at.to_string(), now);
    let to = if went.to.is_empty() { "(not chosen yet)" } else { &went.to };
    let outage = went.outage.map_or_else(|| "not over yet".to_owned(), seconds);
    let mut facts = vec![
        ("when", format!("{:.3} ({ago} ago)", went.detected_at)),
        ("from", went.from.clone()),
        ("to", to.to_owned()),
        ("cause", went.cause.clone()),
        ("outage", outage),
    ];
    if let Some(words) = &went.loss {
        facts.push(("loss", words.clone()));
    }
    let mut text: String = facts.iter().map(|(name, value)| format!("  {name:<7} {value}\n")).collect();
    if !went.steps.is_empty() {
        text.push_str(&steps(went));
    }
    text
}

fn steps(went: &Promotion) -> String {
    let mut at = 0.0;
    let mut rows = Vec::new();
    for step in &went.steps {
        rows.push(vec![format!("+{}", seconds(at)), seconds(step.took), step.step.clone()]);
        at += step.took;
    }
    if went.outage.is_some() {
        rows.push(vec![format!("+{}", seconds(at)), String::new(), "writes again".to_owned()]);
    }
    render::table("  ", &["AT", "TOOK", "STEP"], &rows)
}

/// The result of the last switchover request, indented by two.
pub fn switchover(last: &Switchover, now: Timestamp) -> String {
    match (&last.refused, &last.result) {
        (Some(why), _) => format!("  refused: {why}\n"),
        (None, Some(went)) => promotion(went, now),
        (None, None) => "  under way\n".to_owned(),
    }
}
