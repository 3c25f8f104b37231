"""Parts about what comes back: exact recoveries over failovers, rounds of random faults, bits flipped in the store."""

import concurrent.futures
import contextlib
import json
import os
import random
import signal
import time

import client
import harness
import psycopg2
import s3
import scenarios_backup
from backup_rig import (
    FILL,
    SECRET,
    Beside,
    Recovery,
    Rig,
    backed_up,
    copy_flipped,
    load,
    missing,
    segment_name,
    sql,
    way,
)
from fault_proxy import MODES, Proxy
from harness import Failed, docker, wait_until

COMMITS = 1000
FAILOVERS = 3
BEFORE_BACKUP = 20


def seed():
    """SEED of the environment, or a new one; it is printed."""
    chosen = int(os.environ.get("SEED") or random.randrange(10**6))
    print(f"  seed {chosen}", flush=True)
    return chosen


def pitr(binary, rounds):
    """Numbered commits over failovers; recoveries to random targets of each kind have exactly the rows of then."""
    print(f"pitr: {COMMITS} commits over {FAILOVERS} failovers, {rounds} targets of each kind", flush=True)
    draw, begun = random.Random(seed()), load()
    numbers = range(BEFORE_BACKUP + 1, COMMITS)
    named = sorted(draw.sample(numbers, min(rounds, len(numbers))))
    with Rig(binary) as rig:
        cluster = rig.cluster
        known = scenarios_backup.commits(cluster.uri(), range(1, BEFORE_BACKUP + 1))
        backed_up(cluster, "pitr")
        ends = [BEFORE_BACKUP + (COMMITS - BEFORE_BACKUP) * part // (FAILOVERS + 1) for part in range(1, FAILOVERS + 2)]
        last = BEFORE_BACKUP
        for end in ends:
            for stop in [*(name for name in named if last < name < end), end]:
                known.update(scenarios_backup.commits(cluster.uri(), range(last + 1, stop + 1)))
                last = stop
                if stop in named:
                    statement = f"SELECT pg_create_restore_point('after-{stop}')"
                    docker(
                        "exec", "-u", "postgres", cluster.container(cluster.primary), "psql", "-XAtc", statement, "awx"
                    )
            if end != COMMITS:
                docker("kill", cluster.container(cluster.settled()["primary"]))
                cluster.settled()
        rig.archived()
        lacking, count = missing(rig.server, rig.archive)
        targets = []
        for kind in ("time", "lsn", "xid", "xid exclusive"):
            for number in draw.sample(numbers, min(rounds, len(numbers))):
                xid, lsn, moment = known[number]
                target = {"time": {"time": moment.isoformat()}, "lsn": {"lsn": lsn}, "xid": {"xid": xid}}.get(kind)
                targets.append((kind, target or {"xid": xid, "exclusive": True}, number - (kind == "xid exclusive")))
        targets += [("name", {"name": f"after-{number}"}, number) for number in named]
        targets.append(("latest", {}, COMMITS))
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            results = list(pool.map(lambda one: exact(cluster, one[0], *one[1]), enumerate(targets)))
    found = {}
    for (kind, *_), (took, problem) in zip(targets, results):
        found.setdefault(kind, []).append((took, problem))
    wrong = [problem for _, problem in results if problem]
    lines = [f"| target ({begun}) | recoveries | exact | median s |", "|---|---|---|---|"]
    for kind, all_ in found.items():
        took = sorted(took for took, _ in all_)[len(all_) // 2]
        lines.append(f"| {kind} | {len(all_)} | {sum(not problem for _, problem in all_)} | {took:.1f} |")
    lines += [f"\n{count} segments, {len(lacking)} missing.", *wrong]
    return {"found": found, "missing": lacking}, "\n".join(lines) + "\n", not wrong and not lacking


def exact(cluster, index, kind, target, last):
    """Recovers to a target: (seconds, what is wrong with the rows or None)."""
    began, problem = time.monotonic(), None
    try:
        with Recovery(cluster, f"bench-pitr-{index}", target) as recovery:
            recovery.settled()
            rows = recovery.column("SELECT n FROM numbered ORDER BY n")
            took = time.monotonic() - began
        if rows != list(range(1, last + 1)):
            problem = f"{kind} {target}: {len(rows)} rows up to {rows[-1:]}, and not 1 to {last}"
    except Failed as failed:
        took, problem = time.monotonic() - began, f"{kind} {target} (1 to {last}): {failed}"
    print(f"  {kind} {json.dumps(target)}: {problem or 'exact'} after {took:.1f} s", flush=True)
    return took, problem


class Faults:
    """Faults of a cluster, its operator, its store and the way there."""

    def __init__(self, rig, proxy, draw):
        self.rig, self.proxy, self.draw = rig, proxy, draw
        self.backups, self.completed, self.cut_off = 0, 0, []
        names = ["supervisor", "postmaster", "primary", "standby", "operator", "switchover", "frozen"]
        self.kinds = {
            **{name: getattr(self, name) for name in names},
            **{mode: lambda m=mode: self.network(m) for mode in MODES},
        }

    def member(self, role=None):
        """A random member, with this role if one is given."""
        instances = self.rig.cluster.status()["instances"]
        return self.draw.choice([one["name"] for one in instances if role in (None, one["role"])])

    def supervisor(self):
        """kill -9 of a supervisor."""
        container = self.rig.cluster.container(self.member())
        os.kill(int(docker("inspect", "-f", "{{.State.Pid}}", container)), signal.SIGKILL)

    def postmaster(self):
        """kill -9 of a postmaster."""
        harness.kill_postmaster(self.rig.cluster.postmaster(self.member()))

    def primary(self):
        """docker kill of the primary."""
        docker("kill", self.rig.cluster.container(self.member("primary")))

    def standby(self):
        """docker kill of a standby."""
        docker("kill", self.rig.cluster.container(self.member("standby")))

    def operator(self):
        """kill -9 of the operator, and another one."""
        self.rig.operator.kill()
        self.rig.operator.start()

    def switchover(self):
        """A planned switchover."""
        self.rig.operator.cli("switchover", self.rig.cluster.name)

    def frozen(self):
        """The store answers nothing for some seconds."""
        with self.rig.frozen_store():
            time.sleep(self.draw.uniform(0.5, 5))

    def network(self, mode):
        """The way to the store has this fault for some seconds; often a switchover or a failover falls into it."""
        self.proxy.share, self.proxy.mode = self.draw.choice([0.2, 0.5, 1.0]), mode
        try:
            filling = Beside(self.fill)
            time.sleep(self.draw.uniform(1, 4))
            if self.draw.random() < 0.3:
                self.draw.choice([self.primary, self.switchover])()
                time.sleep(self.draw.uniform(0, 3))
            with contextlib.suppress(psycopg2.Error):  # it may have met the failover; its rows are not counted
                filling.wait(120)
        finally:
            self.proxy.mode = None

    def last_backup(self):
        """The phase of the Backup that was created last."""
        text = self.rig.operator.cli("get", "backup", f"faults-{self.backups}", "-o", "json")
        return json.loads(text).get("status", {}).get("phase", "Pending")

    def fill(self):
        """Writes two segments, so that there is something to push."""
        sql(self.rig.cluster.uri(), FILL.format(table="filled"))

    def begin_backup(self):
        """Creates a Backup, and does not wait. One that still runs or waits would hold it up: that is deleted."""
        if self.backups and (phase := self.last_backup()) != "Completed":
            self.rig.operator.cli("delete", "backup", f"faults-{self.backups}")
            self.cut_off.append(phase)
        elif self.backups:
            self.completed += 1
        self.backups += 1
        self.rig.operator.cli("backup", self.rig.cluster.name, "--name", f"faults-{self.backups}")


def faults(binary, rounds):
    """Rounds with one random fault each under a writer; every ten rounds a recovery must have every row."""
    print(f"faults: {rounds} rounds", flush=True)
    chosen, begun, told, wrong, checks = seed(), load(), {}, [], 0
    draw, server = random.Random(chosen), s3.Server("backups")
    proxy = Proxy(server.host, (server.host, server.port), chosen)
    store = server.store(SECRET)
    store["s3"]["endpoint"] = proxy.endpoint
    retention = {"retention": {"count": 2}} if os.environ.get("RETENTION", "1") == "1" else {}
    try:
        with Rig(binary, server, store, **retention) as rig:
            backed_up(rig.cluster, "faults-first")
            doing = Faults(rig, proxy, draw)
            sql(rig.cluster.uri(), "CREATE TABLE filled (t text)")
            for begin in range(1, rounds + 1, 10):
                table = f"faults_{begin}"
                writing = harness.writer_for(rig.cluster.uri(), table, 0.005)
                for number in range(begin, min(begin + 10, rounds + 1)):
                    kind = draw.choice(sorted(doing.kinds))
                    told[kind] = told.get(kind, 0) + 1
                    wrong += one_round(doing, writing, number, kind)
                writing.stop()
                sql(rig.cluster.uri(), "TRUNCATE filled")
                wrong += checked(doing, writing.records, table, draw, begin)
                checks += 1
            left = leftovers(server, rig.archive)
            print(f"  left in the store: {left}", flush=True)
    finally:
        proxy.stop()
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(told.items()))
    hits = ", ".join(f"{kind} {count}" for kind, count in sorted(proxy.hits.items()))
    text = (
        f"{rounds} rounds (seed {chosen}, {begun}): {kinds}. Requests hit: {hits}.\n"
        f"{doing.backups} base backups, {doing.completed} of them completed before the next; {checks} recoveries. "
        f"In the store: {left}. Wrong: {len(wrong)}\n\n" + "\n".join(wrong) + "\n"
    )
    return {"seed": chosen, "rounds": told, "hits": proxy.hits, "wrong": wrong}, text, not wrong


def leftovers(server, archive):
    """What is in an archive besides what a recovery needs: {what: number}."""
    keys = [key.removeprefix(archive + "/") for key in server.keys(archive)]
    backups = {key.split("/")[1] for key in keys if key.startswith("base/")}
    good = {key.split("/")[1] for key in keys if key.endswith("/backup.info")}
    kinds = {
        kind: sum(key.startswith(f"{kind}/") for key in keys) for kind in ("probe", "orphans", "wals", "timelines")
    }
    return {**kinds, "complete backups": len(good), "others": len(backups - good)}


def one_round(doing, writing, number, kind):
    """One fault at a random moment; returns what did not come back."""
    wrong = []
    began = time.monotonic()
    with_backup = doing.draw.random() < 0.6
    try:
        if with_backup:
            doing.begin_backup()
        time.sleep(doing.draw.uniform(0, 2))
        doing.kinds[kind]()
        if not writing.wait_for_acks(20, 90):
            wrong.append(f"round {number} ({kind}): writes did not go on within 90 s: {writing.errors[-1:]}")
        doing.rig.cluster.settled(120)
    except Failed as failed:
        wrong.append(f"round {number} ({kind}): {failed}")
    backup = " with a backup" if with_backup else ""
    print(f"  round {number}: {kind}{backup}, {time.monotonic() - began:.1f} s {'; '.join(wrong)}", flush=True)
    return wrong


def checked(doing, records, table, draw, begin):
    """Recovers everything, sometimes with a killed supervisor or a bad store meanwhile; what is wrong with the rows."""
    wrong, rig = [], doing.rig
    try:
        wait_until("the archive has everything", lambda: rig.archived() or True, 180)
        # Retention may delete meanwhile, and not in order.
        wait_until("the archive is complete", lambda: no_gap(rig), 30)
    except Failed as failed:
        wrong.append(f"after round {begin + 9}: {failed}")
    try:
        with Recovery(rig.cluster, f"bench-faults-{begin}", {}) as recovery:
            disturbed = draw.choice(["killed", "way", "undisturbed"])
            if disturbed == "way":
                doing.proxy.share, doing.proxy.mode = 0.3, draw.choice(MODES)
                time.sleep(draw.uniform(1, 8))
                doing.proxy.mode = None
            if disturbed == "killed":
                with contextlib.suppress(Failed):
                    container = wait_until("it is restored", recovery.cluster.containers, 30)[0]
                    time.sleep(draw.uniform(0.5, 3))
                    docker("kill", container)
            recovery.settled()
            for name, cluster in (("source", rig.cluster), ("recovered", recovery.cluster)):
                result = client.check(cluster.uri(), records, table)
                bad = {key: result[key][:5] for key in ("lost", "duplicates", "phantoms") if result[key]}
                print(
                    f"    {name}: {result['acknowledged']} acknowledged, {result['found']} there; "
                    f"recovery {disturbed}; {bad or 'exact'}",
                    flush=True,
                )
                if bad:
                    wrong.append(f"after round {begin + 9}, {name}: {bad}")
    except (Failed, client.Silent) as failed:
        wrong.append(f"after round {begin + 9}: {failed}")
    for one in wrong:
        print(f"    {one}", flush=True)
    return wrong


def no_gap(rig):
    """Fails with what is missing."""
    lacking, count = missing(rig.server, rig.archive)
    if lacking:
        raise Failed(f"missing: {lacking[:5]}; there are {count} segments")
    return True


def flips(binary, rounds):
    """One bit of one object of a copy of the archive is flipped: a recovery from it must fail and name the object."""
    print(f"flips: {rounds} recoveries from a copy of an archive with one flipped bit", flush=True)
    draw, begun, results = random.Random(seed()), load(), []
    with Rig(binary) as rig:
        cluster = rig.cluster
        scenarios_backup.commits(cluster.uri(), range(1, 101))
        status = backed_up(cluster, "flips")
        docker("kill", cluster.container(cluster.settled()["primary"]))
        cluster.settled()
        scenarios_backup.commits(cluster.uri(), range(101, 201))
        sql(cluster.uri(), "CREATE TABLE filled AS SELECT repeat(md5(n::text), 20) FROM generate_series(1, 20000) n")
        rig.archived()
        asked, _, _ = way(rig.server, rig.archive)
        asked = [segment_name(*one) for one in asked]
        asked = asked[next(i for i, name in enumerate(asked) if name[8:] == status["beginWal"][8:]) :]
        wals = [f"{rig.archive}/wals/{name[:16]}/{name}.zst" for name in asked]
        base = [key for key in rig.server.keys(f"{rig.archive}/base/")]
        other = [key for key in rig.server.keys(rig.archive) if key.endswith(".history")]
        for number in range(1, rounds + 1):
            key = draw.choice(draw.choice([wals, [key for key in base if key.endswith("data.tar.zst")], base + other]))
            outcome = flipped(rig, f"flip-{number}", key, draw.randrange(1 << 40))
            results.append((key, outcome))
            print(f"  {number}: {key.split('/', 2)[2]}: {outcome}", flush=True)
    silent = [f"{key}: {outcome}" for key, outcome in results if outcome.startswith("WRONG")]
    said = sum(outcome.startswith("found") for _, outcome in results)
    harmless = sum(outcome.startswith("exact") for _, outcome in results)
    text = (
        f"{rounds} flipped bits ({begun}): {said} found and named, {harmless} with all rows nevertheless, "
        f"{len(silent)} wrong.\n\n" + "\n".join(silent) + "\n"
    )
    return {"results": results}, text, not silent


def flipped(rig, prefix, key, bit):
    """Recovers from the copy: `found: MESSAGE`, `exact` (all rows are there), or `WRONG: ...`."""
    copy_flipped(rig.server, rig.archive, prefix, key, bit)
    source = {"store": rig.server.store(SECRET, prefix), "path": rig.archive}
    with Recovery(rig.cluster, f"bench-{prefix}", {}, source=source) as recovery:

        def outcome():
            status = recovery.cluster.status()
            for one in status.get("instances", []):
                if one.get("message") and "certificates" not in one["message"]:
                    return "found: " + one["message"]
            conditions = {one["type"]: one for one in status.get("conditions", [])}
            return "ready" if conditions.get("Ready", {}).get("status") == "True" else ""

        try:
            said = wait_until("the recovery ends", outcome, 90)
        except Failed as failed:
            return f"WRONG: {failed}: {recovery.cluster.status().get('instances')}"
        if said != "ready":
            names = [key.rsplit("/", 1)[-1].removesuffix(".zst"), key.split("/")[-2]]
            return said if any(name in said for name in names) else f"WRONG: the object is not named: {said}"
        rows = recovery.column("SELECT n FROM numbered ORDER BY n")
        filled = recovery.column("SELECT count(*) FROM filled")
        if rows == list(range(1, 201)) and filled == [20000]:
            return "exact: all rows are there"
        return f"WRONG: ready with {len(rows)} rows of 200, {filled} of 20000"
