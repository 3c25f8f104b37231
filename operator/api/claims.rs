//! The names that objects take in Docker, and which objects would take the same.
//!
//! Every name begins with the namespace and a dot. A namespace has no dot, so objects of two namespaces share no name. The
//! networks of databases and of namespaces do not clash either: the first have a dot, the others none.

/// The form of the names of an object's containers and volumes, after `NAMESPACE.`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// `NAME-N` for each member N.
    Members,
    /// `NAME-N` for each data member N, and `NAME-sentinel-N` for each Sentinel N.
    MembersAndSentinels,
    /// `NAME-HASH-N` for each pod, and `NAME-HASH-N.PART` for what belongs to a pod.
    Pods,
}

impl Claim {
    /// The names of the object `name` as text for people.
    pub fn shown(self, name: &str) -> String {
        match self {
            Self::Members => format!("{name}-1, {name}-2 ..."),
            Self::MembersAndSentinels => format!("{name}-1, {name}-2 ..., {name}-sentinel-1 ..."),
            Self::Pods => format!("{name}-HASH-1, {name}-HASH-2 ..."),
        }
    }
}

/// Whether two objects of one namespace would take the same name. Two of one kind and name are the same object.
pub fn clash((one, name): (Claim, &str), (other, other_name): (Claim, &str)) -> bool {
    match (one, other) {
        // The names of pods end in a number; what is before it is equal only for equal objects.
        (Claim::Pods, Claim::Pods) => name == other_name,
        (Claim::Pods, _) => groups(other, other_name).iter().any(|group| member_is_pod(group, name)),
        (_, Claim::Pods) => groups(one, name).iter().any(|group| member_is_pod(group, other_name)),
        // The same holds for each group of members.
        _ => groups(one, name).iter().any(|group| groups(other, other_name).contains(group)),
    }
}

/// The names of members without their numbers.
fn groups(claim: Claim, name: &str) -> Vec<String> {
    match claim {
        Claim::Pods => Vec::new(),
        Claim::Members => vec![name.to_owned()],
        Claim::MembersAndSentinels => vec![name.to_owned(), format!("{name}-sentinel")],
    }
}

/// Whether a member of the object `name` can have the name of a pod of `deployment`, or of a part of one.
fn member_is_pod(name: &str, deployment: &str) -> bool {
    /// Hex digits of the hash in a pod's name.
    const DIGITS: usize = 10;
    let rest = name.strip_prefix(deployment).and_then(|rest| rest.strip_prefix('-'));
    let Some((hash, rest)) = rest.and_then(|rest| rest.split_at_checked(DIGITS)) else { return false };
    let ordinal = rest.strip_prefix('-').and_then(|rest| rest.split_once('.')).map(|(ordinal, _)| ordinal);
    let pod = rest.is_empty() || ordinal.is_some_and(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    pod && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::Claim::{Members, MembersAndSentinels, Pods};
    use super::*;

    /// Regression 96: a LoadBalancer and a PostgresCluster of the same name were accepted. Docker had one name for the
    /// containers of both, so the second one never started.
    #[test]
    fn objects_whose_containers_would_share_a_name_clash() {
        for (name, kind, other, other_kind) in [
            ("db", Members, "db", Members),
            ("web-0123456789", Members, "web", Pods),
            ("web-0123456789-0.app", Members, "web", Pods),
            ("a-b-00ff00ff00", Members, "a-b", Pods),
        ] {
            assert!(clash((kind, name), (other_kind, other)), "{name} {other}");
            assert!(clash((other_kind, other), (kind, name)), "{other} {name}");
        }
    }

    /// Regression 345: a RedisSentinel `cache` and an object `cache-sentinel` were accepted, also of the same kind. Both have a
    /// container `cache-sentinel-1`.
    #[test]
    fn sentinels_clash_with_the_members_of_an_object_of_their_name() {
        for (other, kind) in [
            ("cache-sentinel", Members),
            ("cache-sentinel", MembersAndSentinels),
            ("cache", Members),
            ("cache", MembersAndSentinels),
        ] {
            assert!(clash((MembersAndSentinels, "cache"), (kind, other)), "{other}");
            assert!(clash((kind, other), (MembersAndSentinels, "cache")), "{other}");
        }
        assert!(clash((MembersAndSentinels, "web-0123456789"), (Pods, "web")));
        for (other, kind) in [("cache-sentinel-1", Members), ("other", MembersAndSentinels), ("cache", Pods)] {
            assert!(!clash((MembersAndSentinels, "cache"), (kind, other)), "{other}");
        }
    }

    #[test]
    fn names_that_only_look_alike_do_not_clash() {
        for (name, kind, other, other_kind) in [
            ("db", Members, "db-1", Members),
            ("a.b", Members, "a", Members),
            ("web", Members, "web", Pods),
            ("web-1", Members, "web", Pods),
            ("web-0123456789-0", Members, "web", Pods),
            ("web-012345678g", Members, "web", Pods),
            ("web-0123456789-x.app", Members, "web", Pods),
            ("web", Pods, "web-0123456789", Pods),
            ("web-ééééé", Members, "web", Pods),
        ] {
            assert!(!clash((kind, name), (other_kind, other)), "{name} {other}");
        }
    }
}
