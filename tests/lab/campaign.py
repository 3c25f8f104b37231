"""Random faults of hosts and of the network between them: `campaign.py BINARY [--rounds N] [--seed S] [--only WORDS]`, with
`--operators` faults of three operators and their etcd.

One PostgresCluster over the lab's hosts, with clients on two nodes. Each round draws a fault from the seed, lets it stand for
some seconds, ends it, and waits until the cluster is whole again. After every batch of rounds the history of the clients is
checked: no acknowledged write may be lost, and no two instances may ever have taken writes at once. Prints a line a round and
a table of the outages, also into target/lab/campaign.json. Exits 1 when something was lost, split, twice, or did not heal.
"""

import argparse
import json
import pathlib
import random
import signal
import statistics
import sys
import time

sys.path[1:1] = [str(pathlib.Path(__file__).resolve().parents[1] / name) for name in ("e2e", "chaos")]

from cluster import Clients, LabCluster
from audited import Audited
from faults import Round, faults_of
from harness import ROOT, Failed
from lab import Lab

BATCH = 10  # rounds between two checks of the history
HEAL = 150  # seconds in which a cluster must be whole again
OUT = ROOT / "target" / "lab" / "campaign.json"


class Hosts(Lab):
    """A lab whose faults are those of hosts."""

    round = Round

    def audit(self):
        """Nobody but the one operator does anything here."""


def play(lab, cluster, clients, draw, name):
    """One round. Returns what was measured."""
    one = lab.round(lab, cluster, draw)
    one.begin(name)
    began, stands = one.moment, draw.uniform(3, 15)
    time.sleep(max(0, began + stands - time.monotonic()))
    one.end()
    clients.go_on(60)
    cluster.whole(HEAL)
    seen = {"fault": name, "outage": clients.outage(began), "far": clients.outage(began, distant=True)}
    return {**seen, "stood": stands, "moved": cluster.roles()[0] != one.primary, "healed": time.monotonic() - began}


def campaign(lab, rounds, seed, words):
    """All rounds. Returns what each measured; raises Failed at the first that went wrong."""
    draw = random.Random(seed)
    names = sorted(name for name in faults_of(lab.round) if not words or any(word in name for word in words))
    cluster = LabCluster(lab, "campaign")
    cluster.apply()
    cluster.whole(180)
    results = []
    while len(results) < rounds:
        with Clients(cluster, far=True, seed=f"{seed}-{len(results)}") as clients:
            for _ in range(min(BATCH, rounds - len(results))):
                name = draw.choice(names)
                try:
                    seen = play(lab, cluster, clients, draw, name)
                except Failed as failed:
                    raise Failed(f"round {len(results) + 1}, {name}: {failed}") from failed
                results.append(seen)
                line = "{fault}: outage {outage:.2f} s, from c2 {far:.2f} s, moved {moved}, whole after {healed:.1f} s"
                print(f"{len(results):4} " + line.format(**seen), flush=True)
        lab.nothing_twice()
        lab.audit()
    return results


def table(results):
    """Outages by fault, as text."""
    lines = [f"{'fault':32} rounds  median  worst"]
    for name in sorted({one["fault"] for one in results}):
        # A client that is cut off together with the primary waits for the cut to end.
        seen = [min(one["outage"], one["far"]) for one in results if one["fault"] == name]
        lines.append(f"{name:32} {len(seen):6}  {statistics.median(seen):6.2f}  {max(seen):5.2f}")
    return "\n".join(lines)


def main():
    """Runs the campaign."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", default=str(random.SystemRandom().randrange(1_000_000)))
    parser.add_argument("--only", default="", help="words of names of faults; `;` separates")
    parser.add_argument("--operators", action="store_true", help="an operator and a member of etcd on each host, and their faults")
    parser.add_argument(
        "--clocks",
        type=lambda text: [int(one) for one in text.split(",")],
        default=[],
        help="seconds that the clock of each operator is ahead, such as 3600,-3600,0; the binary has to be linked dynamically",
    )
    parser.add_argument("--name", default="evenkeel-lab", help="name of the lab")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    words = [word.strip() for word in args.only.split(";") if word.strip()]
    print(f"seed {args.seed}, {args.rounds} rounds", flush=True)
    lab = Audited(args.binary, name=args.name, clocks=args.clocks) if args.operators else Hosts(args.binary, name=args.name)
    wrong = 1
    try:
        lab.begin()
        results = campaign(lab, args.rounds, args.seed, words)
        OUT.parent.mkdir(parents=True, exist_ok=True)
        OUT.write_text(json.dumps({"seed": args.seed, "rounds": results}, indent=1), encoding="utf-8")
        print(table(results), flush=True)
        print(f"{len(results)} rounds: 0 lost, 0 split, 0 twice", flush=True)
        wrong = 0
    except Failed as failed:
        print(f"FAIL {failed}", flush=True)
        lab.save(OUT.parent / "campaign")
    finally:
        lab.stop()
    sys.exit(wrong)


if __name__ == "__main__":
    main()
