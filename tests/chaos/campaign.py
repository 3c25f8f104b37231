"""The chaos tests on a real Docker Engine: `campaign.py BINARY [--minutes M] [--seed S] [--parallel P] [--only WORDS]`.

Clusters in parallel under one operator, each with clients and a sequence of faults drawn from the seed; WORDS
choose the faults whose name contains one of them. Writes target/chaos/report.md and report.json, and beside them what
tells why a round failed. Exits 1 when an acknowledged append was lost, a phantom, a duplicate or a wrong order
was read, two instances took writes at once, or a cluster did not heal.
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

import disks
import faults
import redis_faults
import report
from asynchronous import AsyncLane
from harness import ROOT, Failed
from lane import Lane
from machine import Machine
from redis_lane import RedisLane

# kind: its image, its lane, its faults
KINDS = {"postgres": ("postgres:15", Lane, faults.FAULTS), "redis": ("redis:7", RedisLane, redis_faults.FAULTS)}
OUT = pathlib.Path(os.environ.get("EVENKEEL_CHAOS_OUT", ROOT / "target" / "chaos"))
ASYNC_SHARE = 0.1  # share of the time, after the other rounds


def arguments():
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=1 << 30, help="stop after this many rounds of each cluster")
    parser.add_argument("--seed", default=str(random.SystemRandom().randrange(1_000_000)))
    parser.add_argument("--parallel", type=int, default=2, help="clusters at once")
    parser.add_argument("--kind", choices=KINDS, default="postgres")
    parser.add_argument("--only", default="", help="faults whose name has a word; `;` separates, -word excludes")
    parser.add_argument("--durability", default="required", help="other modes lose writes, which must be found")
    args = parser.parse_args()
    args.words = [word.strip() for word in args.only.split(";") if word.strip()]
    return args


def parallel(works):
    """Runs each function in its own thread and waits for all; raises the first error of any of them."""
    errors = []

    def guarded(work):
        try:
            work()
        except BaseException as error:  # otherwise the error of a thread would be lost
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


class Campaign:
    """The machine and the lanes of one run."""

    def __init__(self, args, folder):
        self.args = args
        self.began = time.monotonic()
        self.out = threading.Lock()
        self.records = []
        self.lanes = []
        image, lane, every = KINDS[args.kind]
        self.machine = Machine(args.binary, [image])
        private = self.machine.engine is not None
        possible = faults.possible(every, private, not self.machine.why_no_disks, disks.can_throttle())
        choices = faults.entries(possible, args.words)
        self.impossible = [fault.name for fault in every if fault not in possible]
        wanted = "async" in args.words or not any(not word.startswith("-") for word in args.words)
        wanted = wanted and args.kind == "postgres"
        self.asynchronous = AsyncLane(self.machine, args.seed) if wanted else None
        if not choices and not wanted:
            raise Failed(f"no fault's name contains one of {args.words}")
        for number in range(1, args.parallel + 1 if choices else 1):
            self.lanes.append(lane(self.machine, number, args.seed, choices, OUT, folder, args.durability))

    def run(self):
        """Runs all rounds."""
        for why in filter(None, (self.machine.why_no_engine, self.machine.why_no_disks)):
            print(f"left out, since {why}", flush=True)
        if self.impossible:
            print(f"faults that this machine cannot have: {', '.join(self.impossible)}", flush=True)
        parallel([lane.bring_up for lane in self.lanes])
        seconds = self.args.minutes * 60
        until = time.monotonic() + seconds * (1 - ASYNC_SHARE)
        parallel([lambda lane=lane: lane.run(until, self.args.rounds, self.tell) for lane in self.lanes])
        if self.asynchronous:
            self.asynchronous.bring_up()
            self.asynchronous.run(time.monotonic() + seconds * ASYNC_SHARE, self.tell)

    def tell(self, record):
        """Prints one line about a round."""
        with self.out:
            self.records.append(record)
            with open(OUT / "rounds.jsonl", "a", encoding="utf-8") as rounds:
                rounds.write(json.dumps(record) + "\n")
            print(report.line(record, time.monotonic() - self.began), flush=True)

    def remove(self):
        """Removes everything that was created. Lanes that are still running can disturb nothing from here on."""
        self.machine.turn.acquire()
        self.machine.operator.stop()
        for lane in filter(None, [*self.lanes, self.asynchronous]):
            try:
                lane.take_down()
            except (Failed, OSError) as problem:
                print(f"{lane.name} could not be taken down: {problem}", flush=True)
        self.machine.remove()


def command(args):
    """Prints how to repeat this run."""
    only = f' ONLY="{";".join(args.words)}"' if args.words else ""
    kind = "" if args.kind == "postgres" else f" KIND={args.kind}"
    return f"make chaos MINUTES={args.minutes:g} SEED={args.seed} PARALLEL={args.parallel}{kind}{only}"


def main():
    """Runs the campaign."""
    args = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # The operator's steps are parsed from its log.
    os.environ["EVENKEEL_LOG"] = "evenkeel::runtime=debug,info"
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    print(f"seed {args.seed}; again: {command(args)}", flush=True)
    folder = tempfile.mkdtemp(prefix="evenkeel-chaos-disks-", dir="/var/tmp")
    campaign = None
    try:
        campaign = Campaign(args, folder)
        campaign.run()
    finally:
        if campaign:
            campaign.remove()
        shutil.rmtree(folder, ignore_errors=True)
        if campaign:
            totals = [lane.totals for lane in campaign.lanes]
            failed = report.write(OUT, campaign.records, totals, command(args), campaign.impossible)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
