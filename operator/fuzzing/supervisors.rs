//! What a supervisor reads: the operator's commands, and what PostgreSQL and its programs say. And what it writes for
//! PostgreSQL to read.

use std::collections::BTreeMap;
use std::path::Path;

use super::at_once;
use crate::api::lsn::Lsn;
use crate::api::postgres_settings::{Rule, problem, rule};
use crate::archive::rdb::Checker;
use crate::supervisor::conf::{Facts, postgresql_conf};
use crate::supervisor::listen::Listen;
use crate::supervisor::next::{accept, next};
use crate::supervisor::state::{Config, Durable, Seen, Server, Source, Upstream};
use crate::supervisor::wire::{Command, Data, Postgres};
use crate::supervisor::{identify, tools};

/// A command is refused or understood completely; an order that is accepted is accepted again and leads to some act.
pub(super) fn command_line(bytes: &[u8]) {
    let Ok(command) = serde_json::from_slice::<Command>(bytes) else { return };
    assert_eq!(serde_json::from_str::<Command>(&serde_json::to_string(&command).unwrap()).unwrap(), command);
    let Command::Order(order) = command else { return };
    let durable = accept(&Durable::default(), &order, Some(1)).unwrap();
    assert_eq!(accept(&durable, &order, Some(1)).as_ref(), Ok(&durable));
    assert_eq!(durable.promised, order.term);
    let primary = Server { primary: true, timeline: 7, ..Server::default() };
    for server in [None, Some(Server::default()), Some(primary)] {
        for data in [Data::None, Data::Standby, Data::Primary, Data::Broken] {
            for postgres in [Postgres::Stopped, Postgres::Starting, Postgres::Standby, Postgres::Primary] {
                let (durable, server) = (durable.clone(), server.clone());
                let _ = next(&Seen { durable, data, server, postgres, ordered_since_stop: true, ..Seen::default() });
            }
        }
    }
}

/// PostgreSQL reads the values that the user chose (`name=value` in each line), and no setting more.
pub(super) fn conf_roundtrip(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let pairs = text.split('\n').filter_map(|line| line.split_once('='));
    let good = pairs.filter(|(name, value)| problem(name, value).is_none());
    let settings: BTreeMap<String, String> = good.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let (none, minima) = (BTreeMap::new(), BTreeMap::new());
    let upstream = Some(Upstream {
        source: Source::Plain { address: "10.0.0.1".into(), port: 5432 },
        slot: "evenkeel_db_1".into(),
    });
    let rendered = |settings: &BTreeMap<String, String>| {
        let facts = Facts {
            member: "db-1",
            incarnation: "5f0c",
            generation: 3,
            minima: &minima,
            settings,
            passfile: Path::new("/v/pgpass"),
            certificates: Path::new("/c"),
            ssl: true,
            listen: Listen::CONTAINER,
        };
        read(&postgresql_conf(&Config { upstream: upstream.clone(), ..Config::default() }, &facts))
    };
    let mut expected = rendered(&none);
    expected.extend(settings.clone());
    assert_eq!(rendered(&settings), expected);
    assert!(settings.keys().all(|name| !matches!(rule(name), Some(Rule::Ours(_) | Rule::Computed))));
}

/// A configuration file as PostgreSQL reads it (guc-file.l): `name = 'value'`, with `''` and backslashes in the value.
fn read(text: &str) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    for line in text.split('\n').filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, value) = line.split_once(" = '").unwrap();
        let letter = |c: char| c.is_ascii_alphabetic() || c == '_' || !c.is_ascii();
        let word =
            |word: &str| word.starts_with(letter) && word.chars().all(|c| letter(c) || c.is_ascii_digit() || c == '$');
        assert!(name.split('.').count() <= 2 && name.split('.').all(word), "{name:?} is no name of a setting");
        let mut rest = value.strip_suffix('\'').unwrap().chars().peekable();
        let mut value = String::new();
        while let Some(c) = rest.next() {
            value.push(match c {
                '\'' => rest.next().filter(|c| *c == '\'').unwrap(),
                '\\' => match rest.next().unwrap() {
                    'b' => '\u{8}',
                    'f' => '\u{c}',
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    digit @ '0'..='7' => {
                        let mut code = digit.to_digit(8).unwrap();
                        for _ in 0..2 {
                            let Some(next) = rest.next_if(|c| c.is_digit(8)) else { break };
                            code = code * 8 + next.to_digit(8).unwrap();
                        }
                        char::from_u32(code).unwrap()
                    }
                    other => other,
                },
                c => c,
            });
        }
        assert_eq!(settings.insert(name.to_owned(), value), None, "{name} is set twice");
    }
    settings
}

/// Whatever the programs print, the end of a record lies behind its beginning, not farther than a record can be long.
pub(super) fn controldata_waldump(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let control = tools::parse_control(&text);
    let Some(start) = control.shutdown_checkpoint else { return };
    let length = tools::record_length(&text).unwrap_or_default();
    let Lsn(end) = tools::end_of_record(start, length, control.segment);
    // A record has less than 1 GiB, and each page of it at most 40 bytes of head.
    assert!(end >= start.0 && end - start.0 < 1 << 31, "{start} {length}: {end:x}");
}

/// A row has no more than the server sent, and a stream that ends gives an error.
pub(super) fn pg_backend_messages(bytes: &[u8]) {
    let stream = tokio::io::join(bytes, tokio::io::sink());
    let Ok(columns) = at_once(identify::ask(stream, "postgres", "IDENTIFY_SYSTEM")) else { return };
    // What is no UTF-8 has up to three bytes for one.
    assert!(columns.iter().map(String::len).sum::<usize>() <= 3 * bytes.len());
    assert!(columns.len() <= bytes.len());
}

/// What a server sends as a snapshot is judged the same however it comes in pieces, and no text of it is long.
pub(super) fn rdb_stream(bytes: &[u8]) {
    let check = |piece: usize| {
        let mut checker = Checker::default();
        bytes.chunks(piece).for_each(|piece| checker.write(piece));
        checker.finish()
    };
    let whole = check(bytes.len().max(1));
    assert!([1, 5, 8, 100].map(check).iter().all(|other| *other == whole));
    if let Ok(header) = whole {
        assert!(header.server.chars().count() <= 100 && header.replid.chars().count() <= 100);
        assert!(!header.server.contains(char::is_control));
    }
}
