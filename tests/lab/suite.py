"""Runs the lab's scenarios: `suite.py BINARY [--quick] [--name LAB] [WORDS...]`, those whose name contains one of the words.

Each scenario gets a whole lab of three Docker hosts; after it everything is healed, and nothing may be on two hosts under
one identity. Prints one line a scenario and ends with `N passed, N failed`. What tells why one failed is kept under
target/lab/. Everything that was made is removed.
"""

import argparse
import functools
import pathlib
import shutil
import signal
import sys

TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path[1:1] = [str(TESTS / "e2e"), str(TESTS / "chaos")]

import scenarios_agent
import scenarios_deployment
import scenarios_drain
import scenarios_lab
import scenarios_managed
import scenarios_operators
import scenarios_postgres
import scenarios_redis
import scenarios_redis_operators
import scenarios_restore
import scenarios_web
from harness import ROOT, Failed
from lab import Lab
from managed import ManagedLab
from runner import attempt, chosen
from shared import SharedLab

SAVED = ROOT / "target" / "lab"
SCENARIOS = [
    *scenarios_lab.SCENARIOS,
    *scenarios_agent.SCENARIOS,
    *scenarios_deployment.SCENARIOS,
    *scenarios_web.SCENARIOS,
    *scenarios_drain.SCENARIOS,
    *scenarios_postgres.SCENARIOS,
    *scenarios_redis.SCENARIOS,
]
QUICK = [
    *scenarios_lab.SCENARIOS,
    *scenarios_agent.SCENARIOS[:2],
    *scenarios_deployment.SCENARIOS,
    *scenarios_postgres.QUICK,
]
# The scenarios of each kind of lab, and its quick ones.
LABS = [
    (Lab, SCENARIOS, QUICK),
    (
        SharedLab,
        [*scenarios_operators.SCENARIOS, *scenarios_redis_operators.SCENARIOS, *scenarios_restore.SCENARIOS],
        scenarios_operators.SCENARIOS[:1],
    ),
    (ManagedLab, [*scenarios_managed.SCENARIOS, *scenarios_restore.SCENARIOS], scenarios_managed.SCENARIOS[:1]),
]


def healed(scenario):
    """The scenario, and then the lab as it was before."""

    @functools.wraps(scenario)
    def whole(lab):
        note = scenario(lab)
        lab.heal()
        lab.nothing_twice()
        return note

    return whole


def run(make, scenarios):
    """Runs the scenarios in one lab that this makes. Returns (passed, failed)."""
    passed = failed = 0
    if not scenarios:
        return passed, failed
    lab = make()
    try:
        lab.begin()
        print("a lab of 3 hosts: " + ", ".join(f"{what} after {took:.1f} s" for what, took in lab.took.items()), flush=True)
        for scenario in scenarios:
            if attempt(lab, healed(scenario), SAVED):
                passed += 1
                continue
            failed += 1
            try:
                lab.clear()
            except Failed as problem:
                # A broken lab would fail every later scenario; they get a new one.
                print(f"     the lab did not recover ({problem}); making a new one", flush=True)
                lab.stop()
                lab = make()
                lab.begin()
    finally:
        lab.stop()
    return passed, failed


def main():
    """Runs the suite and exits 1 when a scenario failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("words", nargs="*", help="words of names of scenarios")
    parser.add_argument("--quick", action="store_true", help="only the short part")
    parser.add_argument("--name", default="evenkeel-lab", help="name of the lab")
    args = parser.parse_intermixed_args()
    # A SIGTERM also cleans up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    shutil.rmtree(SAVED, ignore_errors=True)
    passed = failed = 0
    for kind, all_of_it, short in LABS:
        results = run(functools.partial(kind, args.binary, name=args.name), chosen(args.words, short if args.quick else all_of_it))
        passed, failed = passed + results[0], failed + results[1]
    print(f"{passed} passed, {failed} failed", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
