//! A range of ports, as people write it.

use serde::{Deserialize, Serialize};

/// A range of ports, written as `FIRST-LAST`. A text that is no such range gives one without a port, which the validation
/// refuses by the path of its field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct PortRange {
    /// The first port.
    pub first: u16,
    /// The last port.
    pub last: u16,
}

impl Default for PortRange {
    fn default() -> Self {
        Self { first: 20_000, last: 29_999 }
    }
}

impl PortRange {
    /// Whether a port is in it.
    pub fn has(&self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl From<String> for PortRange {
    fn from(text: String) -> Self {
        let ports = text.split_once('-').and_then(|(first, last)| {
            let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port >= 1024);
            Some((port(first)?, port(last)?)).filter(|(first, last)| first <= last)
        });
        let (first, last) = ports.unwrap_or((u16::MAX, 0));
        Self { first, last }
    }
}

impl From<PortRange> for String {
    fn from(range: PortRange) -> Self {
        format!("{}-{}", range.first, range.last)
    }
}
