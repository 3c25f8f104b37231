//! Decides what is due for the certificates of an object: its CA, the server certificate that all members show, and the
//! client certificate by which they connect to each other, if that is another one. Pure.
//!
//! A CA is changed in two phases, so that at every moment each instance trusts what every other one shows. The next CA is
//! made and joins the CA certificates everywhere. When every instance holds them, new certificates are made by the next CA.
//! When every instance holds those, the old CA leaves the CA certificates.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::api::object::Object;
use crate::api::postgres_tls::{
    CaPhase, CaStatus, CertificatesStatus, ROTATE_CA_ANNOTATION, SecretRef, ServerCertificateStatus,
};

const DAY: Duration = Duration::from_secs(86_400);
/// Life of a CA, and of the certificates that it makes. Each is replaced when a third of its life is left.
pub const CA_LIFE: Duration = DAY.saturating_mul(3650);
pub const LEAF_LIFE: Duration = DAY.saturating_mul(90);
/// Time that applications have to learn of the next CA before it is used, unless a user asked for the change.
const ANNOUNCED: Duration = DAY.saturating_mul(30);
/// What ends within this time is told.
const ENDS_SOON: Duration = DAY.saturating_mul(14);

/// An object whose members have certificates.
pub trait Certified: Object {
    /// The client certificate by which members connect to each other: the end of the name of its Secret, and its name. `None`:
    /// the server certificate serves for that, too.
    const CLIENT: Option<(&'static str, &'static str)>;

    /// The user's Secret with a server certificate, if the object names one.
    fn given(&self) -> Option<&SecretRef>;

    /// Its members, each with its address once it has one; none before they are decided.
    fn members(&self) -> Vec<(&str, Option<Ipv4Addr>)>;

    /// The names or addresses that the members verify each other by. A user's certificate must have them.
    fn verified_by(&self) -> Vec<String> {
        member_names(self)
    }

    /// Names and addresses besides those of its members under which clients reach it.
    fn more_names(&self) -> Vec<String> {
        Vec::new()
    }
}

/// What was read of the certificates, without keys.
#[derive(Debug, Clone, PartialEq)]
pub struct CertificatesSeen {
    /// The CA: `None` if there is no Secret, or what is wrong with it or with the owner of a Secret.
    pub ca: Result<Option<CaSeen>, String>,
    /// The certificate that the members show; `None` if it is missing or unusable.
    pub server: Option<LeafSeen>,
    /// The client certificate of [`Certified::CLIENT`]; the same.
    pub client: Option<LeafSeen>,
    /// The user's own server certificate, if the object names one, or what is wrong with it.
    pub given: Option<Result<LeafSeen, String>>,
    /// The Secrets with certificates have the CA certificates of now.
    pub told: bool,
    /// Hash of what every member should hold; `None` while something is missing.
    pub hash: Option<String>,
}

/// A CA.
#[derive(Debug, Clone, PartialEq)]
pub struct CaSeen {
    /// The end of its life.
    pub until: Timestamp,
    /// Its key is there.
    pub issues: bool,
    /// The next CA is trusted, and was made at this time.
    pub next: Option<Timestamp>,
    /// The CA before it is still trusted.
    pub old: bool,
    /// The user's last request for another CA that was heard.
    pub request: Option<String>,
}

/// A certificate.
#[derive(Debug, Clone, PartialEq)]
pub struct LeafSeen {
    /// Its life.
    pub from: Timestamp,
    pub until: Timestamp,
    /// Made by the CA that makes certificates now.
    pub current: bool,
    /// A copy of the user's.
    pub copied: bool,
    /// The CA of the user's certificate before it is still trusted.
    pub former_ca: bool,
    /// Names that it should have and has not.
    pub lacks: Vec<String>,
    /// Hash of the certificate, its key and its CA.
    pub content: String,
}

/// One change of the certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Make the first CA, or the next one if the Secret with the CA's key was deleted.
    Ca,
    /// Make the next CA, which is only trusted at first.
    NextCa,
    /// Let the next CA make certificates.
    ChangeCa,
    /// Trust the old CA no more.
    DropOldCa,
    /// Trust the CA of the server certificate before no more.
    DropFormerCa,
    /// Write the certificates, with the CA certificates of now.
    Leaves { server: Server, client: bool },
}

/// What becomes of the server certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// It stays.
    Keep,
    /// A new one is made.
    Make,
    /// The user's is copied.
    Copy,
}

impl Due {
    /// The reason of the Event for a change, if it deserves one.
    pub fn event_reason(&self) -> Option<&'static str> {
        match self {
            Self::NextCa | Self::ChangeCa | Self::DropOldCa => Some("ChangingCA"),
            Self::Leaves { server: Server::Copy, .. } => Some("TakingCertificate"),
            Self::Ca | Self::DropFormerCa | Self::Leaves { .. } => None,
        }
    }
}

impl fmt::Display for Due {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ca => "make a CA",
            Self::NextCa => "make the next CA",
            Self::ChangeCa => "let the next CA make certificates",
            Self::DropOldCa => "trust the old CA no more",
            Self::DropFormerCa => "trust the CA of the former server certificate no more",
            Self::Leaves { server: Server::Copy, .. } => "take the server certificate of spec.tls.serverSecret",
            Self::Leaves { server: Server::Keep, client: false } => "write the CA certificates",
            Self::Leaves { .. } => "make certificates",
        })
    }
}

/// Every name and address under which clients reach a member; `None` while an address is not known.
pub fn names(object: &impl Certified) -> Option<Vec<String>> {
    let members = object.members();
    if members.is_empty() {
        return None;
    }
    let local = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let named = [object.name()].into_iter().chain(members.iter().map(|(name, _)| *name));
    let mut names: Vec<String> =
        named.flat_map(|name| [name.to_owned(), format!("{name}.{}", object.namespace())]).chain(local).collect();
    let addresses: Option<Vec<String>> = members.iter().map(|(_, address)| Some((*address)?.to_string())).collect();
    names.extend(addresses?.into_iter().chain(object.more_names()));
    let mut seen = BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    Some(names)
}

/// The names of the members.
pub fn member_names<O: Certified + ?Sized>(object: &O) -> Vec<String> {
    object.members().into_iter().map(|(name, _)| name.to_owned()).collect()
}

/// What a member says of its certificates.
pub struct Holding<'a> {
    /// Its name.
    pub member: &'a str,
    /// Its supervisor can be reached now; otherwise the rest is not known.
    pub live: bool,
    /// Hash of the certificates in force.
    pub hash: Option<&'a str>,
    /// Why it does not load those that it was given.
    pub problem: Option<&'a str>,
}

impl Holding<'_> {
    fn holds(&self, seen: &CertificatesSeen) -> bool {
        self.live && seen.hash.is_some() && self.hash == seen.hash.as_deref()
    }
}

/// Which members hold the certificates of now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holders {
    /// Every one.
    pub all: bool,
    /// Every one that can be reached.
    pub reached: bool,
}

impl Holders {
    fn of(members: &[Holding], seen: &CertificatesSeen) -> Self {
        let holds = |member: &Holding| member.holds(seen);
        Self { all: members.iter().all(holds), reached: members.iter().all(|member| !member.live || holds(member)) }
    }
}

/// The change that is due now.
pub fn due<O: Certified>(object: &O, members: &[Holding], seen: &CertificatesSeen, now: Timestamp) -> Option<Due> {
    due_by(object, seen, Holders::of(members, seen), now)
}

/// [`due`], by which members hold the certificates of now.
pub fn due_by<O: Certified>(object: &O, seen: &CertificatesSeen, held: Holders, now: Timestamp) -> Option<Due> {
    let ca = match &seen.ca {
        // Another CA instead of a damaged one would end the trust in all that it made: people must look at it.
        Err(_) => return None,
        Ok(None) => return Some(Due::Ca),
        Ok(Some(ca)) => ca,
    };
    // While the addresses are not known, nothing is made for want of them.
    let named = names(object).is_some();
    let stale =
        |leaf: &LeafSeen| !leaf.current || named && !leaf.lacks.is_empty() || left(leaf.until, now) < LEAF_LIFE / 3;
    let makes = |leaf: &Option<LeafSeen>| ca.issues && named && leaf.as_ref().is_none_or(stale);
    let server = match (&seen.server, &seen.given) {
        // The instances trust the user's CA before one of them shows a certificate of it.
        (Some(leaf), Some(Ok(given)))
            if held.reached && refusal(given, now).is_none() && leaf.content != given.content =>
        {
            Server::Copy
        }
        // With an expired certificate no standby could connect again, so Evenkeel's takes its place.
        (Some(leaf), given) if leaf.copied => {
            let over = given.is_none() || now >= leaf.until;
            if over && ca.issues && named { Server::Make } else { Server::Keep }
        }
        (leaf, _) if makes(leaf) => Server::Make,
        _ => Server::Keep,
    };
    let leaves = || [&seen.server].into_iter().chain(O::CLIENT.map(|_| &seen.client));
    let client = O::CLIENT.is_some() && makes(&seen.client);
    if server != Server::Keep || client || !seen.told && leaves().all(Option::is_some) {
        return Some(Due::Leaves { server, client });
    }
    if held.all && seen.server.as_ref().is_some_and(|leaf| leaf.former_ca) {
        return Some(Due::DropFormerCa);
    }
    let request = object.annotation(ROTATE_CA_ANNOTATION);
    let asked = request.is_some() && request != ca.request.as_deref();
    let ageing = left(ca.until, now) < CA_LIFE / 3;
    match ca.next {
        Some(made) => {
            // Without the key of the CA only the next one can make what is missing, which nobody can hold, or about to end.
            let ending = |leaf: &LeafSeen| held.reached && left(leaf.until, now) < ENDS_SOON;
            let gone = |leaf: &Option<LeafSeen>| leaf.as_ref().is_none_or(ending);
            let pressing = !ca.issues && leaves().any(gone);
            let announced = now.duration_since(made).unsigned_abs() >= ANNOUNCED || left(ca.until, now) < ENDS_SOON;
            (pressing || held.all && (announced || asked || !ageing)).then_some(Due::ChangeCa)
        }
        None if ca.old => {
            let by_this = |leaf: &Option<LeafSeen>| leaf.as_ref().is_some_and(|leaf| leaf.current || leaf.copied);
            (held.all && leaves().all(by_this)).then_some(Due::DropOldCa)
        }
        None => (asked || ageing).then_some(Due::NextCa),
    }
}

/// The rest of a life; zero after its end.
fn left(until: Timestamp, now: Timestamp) -> Duration {
    let left = until.duration_since(now);
    if left > SignedDuration::ZERO { left.unsigned_abs() } else { Duration::ZERO }
}

/// Why the user's Secret is not used, if the object names one.
pub fn refused(seen: &CertificatesSeen, now: Timestamp) -> Option<String> {
    match seen.given.as_ref()? {
        Err(why) => Some(why.clone()),
        Ok(given) => refusal(given, now),
    }
}

/// Why a user's certificate is not used.
fn refusal(given: &LeafSeen, now: Timestamp) -> Option<String> {
    if now >= given.until {
        Some(format!("it expired at {}", given.until))
    } else if now < given.from {
        Some(format!("it is valid only from {}", given.from))
    } else if !given.lacks.is_empty() {
        let lacks = given.lacks.join(", ");
        let addresses = given.lacks.iter().all(|name| name.parse::<IpAddr>().is_ok());
        let (what, form) = if addresses { ("", "IP addresses") } else { ("the names ", "DNS names") };
        Some(format!("it lacks {what}{lacks}, by which the instances verify each other: add them as {form}"))
    } else {
        None
    }
}

/// What people must know about the certificates: reason and message.
pub fn problem(members: &[Holding], seen: &CertificatesSeen, now: Timestamp) -> Option<(&'static str, String)> {
    if let Err(why) = &seen.ca {
        let then = "the instances keep the certificates that they have, and no new one is made";
        return Some(("SecretUnusable", format!("{why}: {then}")));
    }
    if let Some(why) = refused(seen, now) {
        let kept = match seen.server.as_ref().is_some_and(|leaf| leaf.copied) {
            true => "the instances keep the certificate that they have",
            false => "the instances show a certificate of Evenkeel",
        };
        return Some(("ServerSecretRefused", format!("spec.tls.serverSecret: {why}; {kept}")));
    }
    let refused = members.iter().filter(|member| member.live).find_map(|member| {
        let why = member.problem?;
        Some(format!("{} does not load its certificates and keeps the former ones: {why}", member.member))
    });
    if let Some(why) = refused {
        return Some(("NotInForce", why));
    }
    let ca = seen.ca.as_ref().ok()?.as_ref().map(|ca| ("CA", ca.until));
    let leaf = |what: &'static str, leaf: &Option<LeafSeen>| leaf.as_ref().map(|leaf| (what, leaf.until));
    let all = [leaf("server", &seen.server), leaf("replication", &seen.client), ca];
    let (what, until) = all.into_iter().flatten().find(|(_, until)| left(*until, now) < ENDS_SOON)?;
    let why = match what {
        "server" if seen.given.is_some() => "put a newer one into the Secret of spec.tls.serverSecret".to_owned(),
        _ => {
            let waiting: Vec<_> = members.iter().filter(|one| !one.holds(seen)).map(|one| one.member).collect();
            format!("it is renewed when every instance has the certificates of now; missing: {}", waiting.join(", "))
        }
    };
    Some(("Expiring", format!("the {what} certificate ends at {until}: {why}")))
}

/// The part of the status about certificates.
pub fn status(object: &impl Certified, seen: &CertificatesSeen) -> Option<CertificatesStatus> {
    let ca = seen.ca.as_ref().ok()?.as_ref()?;
    let phase = match (ca.next, ca.old) {
        (Some(_), _) => CaPhase::NextTrusted,
        (None, true) => CaPhase::OldTrusted,
        (None, false) => CaPhase::Settled,
    };
    let named = object.given().map(|secret| format!("Secret {}", secret.name));
    let server = seen.server.as_ref().map(|leaf| ServerCertificateStatus {
        not_after: leaf.until,
        source: named.filter(|_| leaf.copied).unwrap_or_else(|| "Evenkeel".to_owned()),
    });
    Some(CertificatesStatus { ca: CaStatus { not_after: ca.until, phase }, server })
}
