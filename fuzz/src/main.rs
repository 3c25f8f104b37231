//! The fuzzer of every target of `operator/fuzzing/`: the environment names one, so that one program is linked, not 15.
#![no_main]

use std::sync::LazyLock;

use evenkeel::fuzzing::{TARGETS, Target};

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("EVENKEEL_FUZZ").unwrap_or_default();
    let found = TARGETS.iter().find(|(target, _)| *target == name);
    found.unwrap_or_else(|| panic!("EVENKEEL_FUZZ={name} is no target")).1
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| TARGET(bytes));
