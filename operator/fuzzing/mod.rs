//! What others may send: one function per place where it is read. Each takes any bytes and panics if the property in its
//! comment does not hold. `make fuzz` searches for such bytes; the test below runs the seeds and small changes of them.
#![allow(clippy::unwrap_used)]

mod balancers;
mod databases;
mod requests;
mod supervisors;

/// A function that takes any bytes.
pub type Target = fn(&[u8]);

/// All of them, by the name of the folder with their seeds, `fuzz/seeds/NAME`.
pub const TARGETS: [(&str, Target); 15] = [
    ("admit_yaml", requests::admit_yaml),
    ("apply_managed_fields", requests::apply_managed_fields),
    ("balancer_answer", balancers::answer),
    ("balancer_config", balancers::config),
    ("command_line", supervisors::command_line),
    ("conf_roundtrip", supervisors::conf_roundtrip),
    ("controldata_waldump", supervisors::controldata_waldump),
    ("json_patch", requests::json_patch),
    ("params_selector", requests::params_selector),
    ("pg_backend_messages", supervisors::pg_backend_messages),
    ("rdb_stream", supervisors::rdb_stream),
    ("report_line", databases::report_line),
    ("route", requests::route),
    ("strategic_merge", requests::strategic_merge),
    ("ws_frame", requests::ws_frame),
];

/// Any JSON value; deeper ones than the API takes are refused.
fn json(bytes: &[u8]) -> Option<serde_json::Value> {
    crate::server::body::json(bytes).ok().map(|sent| sent.value)
}

/// The lines of an input.
fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|byte| *byte == b'\n')
}

/// The result of work that waits for nothing: its input is in memory.
fn at_once<T>(work: impl Future<Output = T>) -> T {
    futures::FutureExt::now_or_never(work).unwrap()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::Index;
    use proptest::test_runner::TestRunner;

    use super::*;

    fn seeds(name: &str) -> Vec<Vec<u8>> {
        let folder = format!("{}/fuzz/seeds/{name}", env!("CARGO_MANIFEST_DIR"));
        let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder}: {error}"));
        files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect()
    }

    /// Replaces some bytes: by others, by a part of any seed, or by nothing.
    fn changed(seeds: &[Vec<u8>], of: Index, changes: &[(Index, usize, Index, Index, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = of.get(seeds).clone();
        for (at, length, other, from, new) in changes {
            let at = at.index(bytes.len() + 1);
            let end = (at + length).min(bytes.len());
            let source = other.get(seeds);
            let from = from.index(source.len() + 1);
            let part = &source[from..(from + length).min(source.len())];
            bytes.splice(at..end, if new.is_empty() { part.to_vec() } else { new.clone() });
        }
        bytes
    }

    #[test]
    fn every_property_holds_for_the_seeds_and_for_small_changes_of_them() {
        for (name, target) in TARGETS {
            let seeds = seeds(name);
            seeds.iter().for_each(|seed| target(seed));
            let bytes = prop::collection::vec(any::<u8>(), 0..4);
            let change = (any::<Index>(), 0..12_usize, any::<Index>(), any::<Index>(), bytes);
            let input = (any::<Index>(), prop::collection::vec(change, 1..6));
            let mut runner =
                TestRunner::new(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() });
            let run = runner.run(&input, |(of, changes)| {
                target(&changed(&seeds, of, &changes));
                Ok(())
            });
            if let Err(proptest::test_runner::TestError::Fail(why, (of, changes))) = run {
                panic!("{name}: {why}: {:?}", String::from_utf8_lossy(&changed(&seeds, of, &changes)));
            }
        }
    }
}
