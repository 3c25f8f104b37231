"""One cluster and its rounds: settle, disturb, wait for full redundancy, check; and repeat at once."""

import contextlib
import os
import pathlib
import random
import subprocess
import time
import traceback

import client
import faults
from disks import Disk
from harness import Cluster, Failed, wait_until
from report import NOTED
from workload import Workload

HEAL = 120  # seconds that a cluster has to return to full redundancy
APART = 1.0  # seconds at most between two faults of one round
PAIRS = 0.3  # share of rounds with two faults
NOTICE = 1.5  # seconds within which the status shows a fault, if it ever does
INSTANCES = 3


class Lane:
    """A cluster, its clients, and its own sequence of faults."""

    kind, leader = "postgrescluster", "primary"

    def __init__(self, machine, number, seed, choices, kept, folder, durability="required"):
        self.machine = machine
        self.name = f"chaos-{number}"
        self.seed = f"{seed}-{number}"
        self.random = random.Random(self.seed)
        self.choices = choices
        self.kept = pathlib.Path(kept)
        self.folder = folder
        self.durability = {"mode": durability}
        self.rounds = []
        self.notes = []
        self.disks = {}
        self.clis = []
        self.totals = {}
        self.workload = None
        self.made = 0
        self.cluster = self.new_cluster()

    # The cluster

    def new_cluster(self):
        """A cluster that is not made yet."""
        cluster = Cluster(self.machine.operator, self.name)
        # Little WAL is preallocated, so that a full disk is noticed soon.
        cluster.spec["parameters"].update(min_wal_size="32MB", max_wal_size="64MB")
        # Does not log that a standby refuses the probe's write, but logs the server's own messages.
        cluster.spec["parameters"].update(log_min_messages="log")
        cluster.spec["durability"] = self.durability
        return cluster

    def new_workload(self):
        """Its clients."""
        return Workload(self.cluster.uri(), f"{self.seed}-{self.made}")

    def bring_up(self):
        """A new cluster on new disks, and clients."""
        self.made += 1
        self.cluster = self.new_cluster()
        self.make_disks(INSTANCES)
        self.cluster.apply()
        self.cluster.settled(180)
        self.workload = self.new_workload()

    def make_disks(self, count):
        """Small disks for the instances up to this number."""
        if self.machine.why_no_disks:
            return
        for ordinal in range(1, count + 1):
            member = f"{self.name}-{ordinal}"
            if member not in self.disks:
                self.disks[member] = Disk(self.folder, self.name, member)

    def take_down(self):
        """Removes cluster and clients, in any state."""
        if self.workload:
            self.workload.stop()
            self.account()
            self.workload = None
        for one in self.clis:
            one.terminate()
        for disk in self.disks.values():
            disk.thaw()
        if self.machine.operator.process.poll() is None:
            self.delete()
        self.cluster.clean()
        for disk in self.disks.values():
            disk.remove()
        self.disks = {}

    def delete(self):
        """Deletes the object. If the operator cannot tear it down, that works when its containers are gone."""
        try:
            self.machine.operator.cli_result("delete", self.kind, self.name, "--wait=false")
        except Failed:
            pass
        self.cluster.clean()
        wait_until(f"{self.name} is gone", lambda: self.cluster.get() is None, 60)

    def account(self):
        """Adds this workload's results to the totals."""
        history = self.workload.history
        self.workload.take()
        now = {
            "appends": history.appends,
            "acknowledged": history.acks,
            "reads": history.reads,
            **history.counts(),
        }
        for name, count in now.items():
            self.totals[name] = self.totals.get(name, 0) + count

    # Used by faults

    def roles(self, status):
        """Names of the instances by role."""
        instances = status["instances"]
        return {role: [one["name"] for one in instances if one["role"] == role] for role in ("primary", "standby")}

    def follower(self):
        """The name of a random standby or replica."""
        return self.random.choice(self.followers)

    def settled_uri(self, timeout):
        """Waits until the cluster is settled and returns where it is reachable."""
        # An operator that was just started may first show its old status, and then an empty one.
        return wait_until(
            f"{self.name} is Ready with all instances, and says where",
            lambda: self.cluster.settled(timeout) and self.cluster.uri(),
            timeout,
        )

    def insist(self, what, act):
        """Repeats the function until the operator, which another lane may have killed, accepts it."""
        wait_until(what, lambda: act() or True, 30)

    def note(self, text):
        """Adds a remark to this round's record."""
        self.notes.append(text)

    def begin_cli(self, *arguments):
        """Runs `evenkeel` without waiting for it."""
        operator = self.machine.operator
        self.clis = [one for one in self.clis if one.poll() is None]
        self.clis.append(
            subprocess.Popen(
                [operator.binary, *arguments],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **operator.env},
            )
        )

    # Rounds

    def round(self):
        """One round. Returns its record."""
        begin = time.monotonic()
        log_from = self.machine.operator.log.stat().st_size
        before = self.workload.history.counts() | {"split": self.workload.splits.pairs}
        record = {"lane": self.name, "round": len(self.rounds) + 1, "at": begin}
        self.notes = record["notes"] = []
        self.rounds.append(record)
        try:
            undone = self.disturb(record)
            self.heal(record, undone)
        except Exception as error:  # every error belongs to this round and is recorded with it
            record["failed"] = f"{type(error).__name__}: {error}"
            record["trace"] = traceback.format_exc()
        end = time.monotonic()
        record["took"] = end - begin
        record["beside"] = self.machine.struck_beside(self.name, begin, end)
        moments = self.workload.take()
        record["outage"] = client.longest_gap(moments, record.get("struck", begin), HEAL)
        after = self.workload.history.counts() | {"split": self.workload.splits.pairs}
        record["found"] = {kind: after[kind] - before[kind] for kind in after if after[kind] > before[kind]}
        if "split" in record["found"]:
            # Known contradictions would otherwise be found again in each later round.
            record["evidence"] = self.workload.splits.overlaps()
            record["split seconds"] = self.workload.splits.seconds
            self.workload.splits = type(self.workload.splits)()
        if record.get("failed") or any(kind not in NOTED for kind in record["found"]):
            self.keep(record, log_from)
        return record

    def disturb(self, record):
        """Draws and applies the faults, waits for their duration and undoes them. Returns the time of that."""
        # Another lane may have stopped the operator just now.
        status = self.cluster.settled(HEAL)
        roles = self.roles(status)
        self.followers = sorted(roles.get("standby") or roles.get("replica"))
        chosen = faults.choose(self.random, self.choices, PAIRS)
        struck = self.targets(chosen, roles)
        record["faults"] = [fault.named(role) for fault, role in chosen]
        record["members"] = [member for _, member in struck]
        undos = []
        wide = [fault.name for fault, _ in chosen if fault.machine]
        # A machine-wide fault comes last and has ended before another lane disturbs.
        with self.machine.turn if not chosen[0][0].long else contextlib.nullcontext():
            record["struck"] = time.monotonic()
            record["clock"] = time.strftime("%H:%M:%S", time.gmtime())
            for position, (fault, member) in enumerate(struck):
                if position:
                    time.sleep(self.random.uniform(0, APART))
                lasts = self.random.uniform(*fault.lasts)
                undo = self.act(fault, member)
                if undo:
                    undos.append((time.monotonic() + lasts, undo, fault.by_engine))
            if wide:
                self.machine.strikes(self.name, wide, record["struck"], time.monotonic())
        for when, undo, by_engine in sorted(undos, key=lambda one: one[0]):
            time.sleep(max(0, when - time.monotonic()))
            # Another lane may have stopped the engine; it may be waiting for exactly this undo.
            with self.machine.turn if by_engine else contextlib.nullcontext():
                undo()
        return time.monotonic()

    def act(self, fault, member):
        """Applies one fault. If the other of a pair was faster, so that it is impossible, it only records that."""
        try:
            return fault.act(self, member)
        except (Failed, OSError) as problem:
            if fault.long:
                raise
            self.note(f"not done: {fault.name}: {problem}")
            return None

    def targets(self, chosen, roles):
        """[(fault, member)]: lasting faults first, machine-wide ones last; nobody twice but the leader."""
        free = {role: self.random.sample(sorted(names), len(names)) for role, names in roles.items()}
        leader = free.pop(self.leader)[0]
        pick = {self.leader: lambda: leader, None: lambda: None, **{role: names.pop for role, names in free.items()}}
        struck = [(fault, pick[role]()) for fault, role in chosen]
        return sorted(struck, key=lambda pair: (pair[0].machine, pair[0].lasts == (0.0, 0.0)))

    def heal(self, record, undone):
        """Waits for full redundancy, as seen by the operator and by clients, and checks the acknowledged values."""
        time.sleep(max(0, record["struck"] + NOTICE - time.monotonic()))
        uri = self.settled_uri(max(1, undone + HEAL - time.monotonic()))
        told = time.monotonic()
        self.workload.probe(uri)
        self.workload.everywhere(uri, 20)
        record["redundancy"] = time.monotonic() - undone
        record["told"] = told - undone
        self.workload.verify()

    def keep(self, record, log_from):
        """Saves the evidence of a failed round."""
        folder = self.kept / f"{self.name}-round-{record['round']}"
        record["kept"] = folder.name
        try:
            self.insist("the evidence is saved", lambda: self.cluster.save(folder, log_from))
            if self.machine.engine:
                log = self.machine.engine.log.read_text(encoding="utf-8", errors="replace")
                (folder / "dockerd.log").write_text(log[-200_000:], encoding="utf-8")
            found = {kind: sorted(found) for kind, found in self.workload.history.found.items() if found}
            words = [f"{name}: {value}" for name, value in record.items()]
            words += [f"found: {found}"]
            (folder / "round.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
        except (Failed, OSError, subprocess.SubprocessError) as problem:
            record["kept"] = f"nothing could be kept: {problem}"

    def run(self, until, most, report):
        """Runs rounds until this time, at most this many; replaces a cluster that does not heal."""
        while time.monotonic() < until and len(self.rounds) < most:
            record = self.round()
            report(record)
            if record.get("failed"):
                with self.machine.turn:
                    self.repair()
        self.finish(report)

    def repair(self):
        """After a failed round: engine and operator run, and the cluster is replaced if it does not settle now."""
        engine, operator = self.machine.engine, self.machine.operator
        if engine and engine.process.poll() is not None:
            engine.start()
        if operator.process.poll() is not None:
            operator.start()
        for disk in self.disks.values():
            disk.thaw()
        try:
            self.cluster.settled(5)
            self.workload.everywhere(self.cluster.uri(), 5)
        except Failed:
            self.take_down()
            self.bring_up()

    def finish(self, report):
        """The last round: no fault; reads every list completely at the writable endpoint."""
        record = {"lane": self.name, "round": len(self.rounds) + 1, "faults": ["none: every list read whole"]}
        before = self.workload.history.counts()
        try:
            self.cluster.settled(HEAL)
            for one in self.workload.clients:
                one.stop()
            for one in self.workload.clients:
                one.thread.join(10)
            self.workload.verify(whole=True)
        except Failed as problem:
            record["failed"] = str(problem)
        after = self.workload.history.counts()
        record["found"] = {kind: after[kind] - before[kind] for kind in after if after[kind] > before[kind]}
        report(record)
