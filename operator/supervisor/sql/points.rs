//! Statements about restore points.

use serde::Deserialize;

use crate::api::lsn::Lsn;
use crate::supervisor::sql::{Error, LONG, Session, within};

/// A restore point that was made.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Made {
    /// Where its record ends.
    pub lsn: Lsn,
    /// The timeline.
    pub timeline: u32,
    /// Bytes of a segment.
    pub segment_size: u64,
}

const POINT: &str = r"
SELECT json_build_object('lsn', lsn, 'timeline', ('x' || left(pg_walfile_name(lsn), 8))::bit(32)::int,
  'segmentSize', (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_segment_size'))::text
FROM pg_create_restore_point($1) AS lsn";

impl Session {
    /// Makes a restore point of this name.
    pub async fn restore_point(&mut self, name: &str) -> Result<Made, Error> {
        let doing = "making a restore point";
        let text: String = within(LONG, doing, sqlx::query_scalar(POINT).bind(name).fetch_one(&mut self.0)).await?;
        serde_json::from_str(&text).map_err(|source| Error::Answer { doing, source })
    }
}
