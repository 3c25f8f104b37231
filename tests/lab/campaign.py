"""Random faults of hosts and of the network between them: `campaign.py BINARY [--rounds N] [--seed S] [--only WORDS]`.

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
from harness import ROOT, Failed
from lab import Lab

BATCH = 10  # rounds between two checks of the history
HEAL = 150  # seconds in which a cluster must be whole again
OUT = ROOT / "target" / "lab" / "campaign.json"


class Round:
    """One fault: what it does to the lab. Everything is ended by `lab.heal` and by `undo`."""

    def __init__(self, lab, cluster, draw):
        self.lab, self.cluster, self.draw = lab, cluster, draw
        primary, standbys = cluster.roles()
        self.primary, self.standbys = primary, standbys
        self.undo = []

    def any_host(self):
        """One of the cluster's hosts."""
        return self.draw.choice([self.primary, *self.standbys])

    def declare(self, host, **fields):
        """Declares a host until the end of the round."""
        self.lab.declare(self.lab[host], **fields)
        self.undo.append(lambda: self.lab.declare(self.lab[host]))

    def primary_without_power(self):
        """The primary's host loses its power."""
        self.lab[self.primary].power_off()

    def standby_without_power(self):
        """A standby's host loses its power."""
        self.lab[self.draw.choice(self.standbys)].power_off()

    def host_without_power_for_a_moment(self):
        """A host loses its power and has it again at once."""
        host = self.lab[self.any_host()]
        host.power_off()
        time.sleep(self.draw.uniform(0, 3))
        host.power_on()

    def minority_with_the_primary(self):
        """The primary and a client are cut off from everybody else."""
        self.lab.network.cut_both([self.primary, "c1"], [*self.standbys, "c2", "op"])

    def minority_with_a_standby(self):
        """A standby is cut off from everybody else."""
        cut = self.draw.choice(self.standbys)
        rest = [host for host in (self.primary, *self.standbys) if host != cut]
        self.lab.network.cut_both(cut, [*rest, "c1", "c2", "op"])

    def one_pair(self):
        """Two hosts do not reach each other."""
        here, there = self.draw.sample([self.primary, *self.standbys], 2)
        self.lab.network.cut_both(here, there)

    def one_way(self):
        """Packets of one host do not arrive at another one."""
        self.lab.network.cut(*self.draw.sample([self.primary, *self.standbys], 2))

    def operator_cut_from_one(self):
        """The operator does not reach one host."""
        self.lab.network.cut_both("op", self.any_host())

    def dockerd_killed(self):
        """kill -9 of dockerd; its containers go on."""
        self.lab[self.any_host()].stop_dockerd(live_restore=True, kill=True)

    def dockerd_stopped(self):
        """dockerd ends, and with it its containers."""
        self.lab[self.any_host()].stop_dockerd(live_restore=False)

    def dockerd_frozen(self):
        """dockerd accepts connections and says nothing."""
        self.lab[self.any_host()].freeze_dockerd()

    def rules_flushed(self):
        """A foreign script removes all firewall rules of a host."""
        self.lab[self.any_host()].flush_iptables()

    def slow_and_lossy(self):
        """50 ms and one packet in a hundred lost between all hosts and the operator."""
        nodes = [self.primary, *self.standbys, "op"]
        for here in nodes:
            for there in nodes:
                if here != there:
                    self.lab.network.delay(here, there, 25)
        self.lab.network.loss(self.primary, self.standbys[0], 1)

    def operator_killed(self):
        """kill -9 of the operator, and the loss of the primary's host once it is back."""
        self.lab.operator.kill()
        self.lab.operator.start()
        self.lab[self.primary].power_off()

    def drain_during_a_failover(self):
        """The primary's host loses its power while a standby's host is being drained."""
        self.declare(self.standbys[0], drain=True)
        self.lab[self.primary].power_off()

    def maintenance(self):
        """The primary's host is maintained, and restarted."""
        self.declare(self.primary, maintenance=True)
        time.sleep(self.draw.uniform(0, 4))
        self.lab[self.primary].power_off()

    def another_engine(self):
        """Another engine answers at a standby's address."""
        self.lab[self.draw.choice(self.standbys)].replace_engine()


FAULTS = {
    name: fault
    for name, fault in vars(Round).items()
    if callable(fault) and not name.startswith("_") and name not in ("any_host", "declare")
}


def play(lab, cluster, clients, draw, name):
    """One round. Returns what was measured."""
    one = Round(lab, cluster, draw)
    began = time.monotonic()
    FAULTS[name](one)
    stands = draw.uniform(3, 15)
    time.sleep(max(0, began + stands - time.monotonic()))
    try:
        lab.heal()
    finally:
        for undo in one.undo:
            undo()
    clients.go_on(60)
    cluster.whole(HEAL)
    seen = {"fault": name, "outage": clients.outage(began), "far": clients.outage(began, distant=True)}
    return {**seen, "stood": stands, "moved": cluster.roles()[0] != one.primary, "healed": time.monotonic() - began}


def campaign(lab, rounds, seed, words):
    """All rounds. Returns what each measured; raises Failed at the first that went wrong."""
    draw = random.Random(seed)
    names = sorted(name for name in FAULTS if not words or any(word in name for word in words))
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
    parser.add_argument("--name", default="evenkeel-lab", help="name of the lab")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    words = [word.strip() for word in args.only.split(";") if word.strip()]
    print(f"seed {args.seed}, {args.rounds} rounds", flush=True)
    lab, wrong = Lab(args.binary, name=args.name), 1
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
