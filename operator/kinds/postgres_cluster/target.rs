//! What a spec says of a recovery, in the words of the archive. Pure.
//!
//! It is not in the room of the archive: that one runs in containers, and a change of the API must not replace them.

use crate::api::invalid::Invalid;
use crate::api::postgres_bootstrap::RecoveryTarget;
use crate::archive::target::{Recovery, Target};

impl TryFrom<&RecoveryTarget> for Recovery {
    type Error = Invalid;

    /// What a spec declares. Errors: a field that does not mean anything; the API refuses such a spec.
    fn try_from(declared: &RecoveryTarget) -> Result<Self, Invalid> {
        let target = match (declared.timestamp()?, declared.position()?, declared.xid, &declared.name) {
            (Some(time), _, _, _) => Target::Time(time),
            (_, Some(lsn), _, _) => Target::Lsn(lsn),
            (_, _, Some(xid), _) => Target::Xid(xid),
            (_, _, _, Some(name)) => Target::Name(name.clone()),
            _ if declared.immediate => Target::Immediate,
            _ => Target::Latest,
        };
        Ok(Self {
            backup_id: declared.backup_id.clone(),
            target,
            exclusive: declared.exclusive,
            timeline: declared.timeline_number()?,
            verify: false,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_declared_target_is_read_as_it_is_meant() {
        let read = |yaml: &str| Recovery::try_from(&serde_saphyr::from_str::<RecoveryTarget>(yaml).unwrap());
        assert_eq!(read("{}"), Ok(Recovery::default()));
        let time = read("{time: '2026-11-28T04:14:15+01:00', exclusive: true, timeline: 3}").unwrap();
        assert_eq!(time.target, Target::Time("2026-11-28T03:14:15Z".parse().unwrap()));
        assert_eq!((time.exclusive, time.timeline), (true, Some(3)));
        assert_eq!(read("{lsn: 16/B374D848}").unwrap().target, Target::Lsn("16/B374D848".parse().unwrap()));
        assert_eq!(read("{xid: 1000}").unwrap().target, Target::Xid(1000));
        assert_eq!(read("{name: before}").unwrap().target, Target::Name("before".into()));
        assert_eq!(read("{immediate: true}").unwrap().target, Target::Immediate);
        assert_eq!(read("{time: yesterday}").unwrap_err().path, "spec.bootstrap.recovery.target.time");
    }
}
