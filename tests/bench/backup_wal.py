"""Parts about the WAL archive: gaps after failovers, how soon a segment is in the store, and a store that is dead."""

import contextlib
import pathlib
import shutil
import statistics
import tempfile
import threading
import time

import client
import floor
import harness
from backup_rig import FILL, IMAGE, SEGMENT, Rig, load, missing, removing, sql
from harness import Failed, docker, wait_until

OUTLIER = 3.0  # seconds of an outage whose evidence is kept


class ArchivingPair(floor.Pair):
    """A pair by hand that archives as PostgreSQL's manual says: `archive_mode=on`, and a copy to a directory."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="evenkeel-bench-wal-"))
        self.folder.chmod(0o777)
        self.down = self.folder / "down"
        super().__init__(IMAGE)
        for setting in (
            "archive_mode = on",
            "archive_command = 'test ! -e /archive/down && cp %p /archive/%f.new && mv /archive/%f.new /archive/%f'",
        ):
            self.sql(self.primary, f"ALTER SYSTEM SET {setting}")
        docker("restart", self.primary)
        self.wait_ready(self.primary)

    def run(self, *arguments):
        segments = ["-e", f"POSTGRES_INITDB_ARGS=--wal-segsize={SEGMENT >> 20}"]
        return super().run("-v", f"{self.folder}:/archive", *segments, *arguments)

    def die_with_wal(self, number):
        """One round: the directory takes nothing while two segments are written, and then the primary dies."""
        self.prepare()
        table = f"filled_{number}"
        uri = self.dsn(self.primary)
        sql(uri, f"CREATE TABLE {table} (t text)")
        self.down.touch()
        sql(uri, FILL.format(table=table))
        floor.kill_container(self.primary)
        docker("exec", "-u", "postgres", self.standby, "psql", "-XAtc", "SELECT pg_promote(true, 60)", "awx")
        self.down.unlink()
        docker("rm", "-fv", self.primary)
        self.primary, self.standby = self.standby, None
        last = self.sql(self.primary, "SELECT pg_walfile_name(pg_switch_wal())")
        wait_until(f"{last} is in the directory", (self.folder / last).exists, 60)

    def lacks(self):
        """How many segments are of no timeline in the directory, and how many there are."""
        names = [file.name for file in self.folder.iterdir() if len(file.name) == 24]
        numbers = {int(name[8:16], 16) * (2**32 // SEGMENT) + int(name[16:], 16) for name in names}
        return len(set(range(min(numbers), max(numbers) + 1)) - numbers), len(names)

    def remove(self):
        super().remove()
        shutil.rmtree(self.folder, ignore_errors=True)


def gaps(binary, rounds):
    """Killed primaries with WAL that a frozen store has not taken: the archive lacks nothing, and no row is lost."""
    lost, begun = 0, load()
    print(f"gaps: {rounds} killed primaries, the store frozen while two segments are written", flush=True)
    with Rig(binary) as rig:
        cluster = rig.cluster
        sql(cluster.uri(), "CREATE TABLE filled (t text)")
        lacking, count = [], 0
        for number in range(1, rounds + 1):
            before = cluster.settled()
            uri, table = cluster.uri(), f"acknowledged_{number}"
            container = cluster.container(before["primary"])
            writing = harness.writer_for(uri, table, 0.002, 20)
            with rig.frozen_store():
                sql(uri, FILL.format(table="filled"))
                floor.kill_container(container)
                if not writing.wait_for_acks(50, 60):
                    raise Failed(f"writes did not continue: {writing.errors[-1:]}")
            writing.stop()
            lost += len(client.check(uri, writing.records, table)["lost"])
            sql(uri, "TRUNCATE filled")
            cluster.settled()
            rig.archived()
            lacking, count = missing(rig.server, rig.archive)
            print(
                f"  round {number}: {count} segments, {len(lacking)} missing {lacking[:5]}, {lost} rows lost",
                flush=True,
            )
    print("gaps: the same by hand with archive_mode=on", flush=True)
    with removing(ArchivingPair()) as pair:
        for number in range(1, rounds + 1):
            pair.die_with_wal(number)
            by_hand, by_hand_count = pair.lacks()
            print(f"  round {number} by hand: {by_hand_count} segments, {by_hand} missing", flush=True)
    text = (
        f"| archive after {rounds} killed primaries ({begun}) | segments | missing | lost rows |\n|---|---|---|---|\n"
        f"| evenkeel, `required` | {count} | {len(lacking)} | {lost} |\n"
        f"| by hand, `archive_mode=on` | {by_hand_count} | {by_hand} | |\n"
    )
    found = {
        "segments": count,
        "missing": lacking,
        "lost": lost,
        "byHand": {"missing": by_hand, "segments": by_hand_count},
    }
    return found, text, not lacking and not lost


class Filler(threading.Thread):
    """Writes rows of 8 KiB that do not compress, at most so many bytes a second."""

    def __init__(self, uri, rate):
        super().__init__(daemon=True)
        self.uri, self.rate, self.end, self.problem = uri, rate, threading.Event(), None
        sql(uri, "CREATE TABLE busy (t text)")

    def run(self):
        with contextlib.closing(floor.client.psycopg2.connect(self.uri)) as session, session.cursor() as cursor:
            session.autocommit = True
            rows = "string_agg(md5(random()::text), '') FROM generate_series(1, 4096) n GROUP BY n / 256"
            while not self.end.wait(4096 * 32 / self.rate):
                cursor.execute(f"INSERT INTO busy SELECT {rows}")

    def stop(self):
        """Ends it."""
        self.end.set()
        self.join(10)


def latency(binary, rounds):
    """From a full segment (the server writes to the next one) to the object in the store's list."""
    wanted, begun = 10 * rounds, load()
    print(f"latency: {wanted} segments of a busy writer", flush=True)
    with Rig(binary) as rig:
        uri = rig.cluster.uri()
        filler = Filler(uri, 4 << 20)
        took, waiting, last = [], {}, None
        with contextlib.closing(floor.client.psycopg2.connect(uri)) as session, session.cursor() as cursor:
            session.autocommit = True
            filler.start()
            began = time.monotonic()
            while len(took) < wanted and time.monotonic() - began < 60 + 5 * wanted:
                cursor.execute("SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
                name, now = cursor.fetchone()[0], time.monotonic()
                if last and name != last:
                    waiting[last] = now
                last = name
                for segment, full in list(waiting.items()):
                    if rig.server.keys(f"{rig.archive}/wals/{segment[:16]}/{segment}"):
                        took.append(time.monotonic() - full)
                        del waiting[segment]
                time.sleep(0.02)
        filler.stop()
    if len(took) < wanted:
        raise Failed(f"only {len(took)} of {wanted} segments came to the store")
    p50, p95 = statistics.median(took), statistics.quantiles(took, n=20)[18]
    text = (
        f"| segment full → in the store ({begun}) | p50 s | p95 s | max s | promise |\n|---|---|---|---|---|\n"
        f"| {len(took)} segments | {p50:.3f} | {p95:.3f} | {max(took):.3f} | "
        f"p95 < 1 s: {'kept' if p95 < 1 else 'BROKEN'} |\n"
    )
    return {"p50": p50, "p95": p95, "max": max(took), "all": took}, text, True


def dead_store(binary, rounds):
    """Outages of switchovers and killed primaries with the store alive, and stopped."""
    found, begun = {}, load()
    print(
        f"dead-store: {rounds} rounds of switchover and killed container, with the store alive and frozen", flush=True
    )
    with Rig(binary) as rig:
        lost = 0
        for number in range(1, rounds + 1):
            for act in ("switchover", "container"):
                for state in ("alive", "frozen"):
                    table = f"{act}_{state}_{number}"
                    with rig.frozen_store() if state == "frozen" else contextlib.nullcontext():
                        outage, gone = disturbed(rig.cluster, act, table)
                    found.setdefault((act, state), []).append(outage)
                    if outage > OUTLIER:
                        rig.cluster.save(harness.ROOT / "target" / "bench" / table)
                    lost += gone
                    rig.archived()
            line = ", ".join(f"{act} {state} {outages[-1]:.3f}" for (act, state), outages in found.items())
            print(f"  round {number}: {line}", flush=True)
        lacking, _ = missing(rig.server, rig.archive)
    medians = {key: statistics.median(outages) for key, outages in found.items()}
    lines = [
        f"| write outage ({begun}) | store alive s | store frozen s | difference ms | promise |",
        "|---|---|---|---|---|",
    ]
    for act in ("switchover", "container"):
        alive, frozen = medians[act, "alive"], medians[act, "frozen"]
        # The store that is alive competes for the cores; that it is frozen must cost nothing.
        kept = "kept" if frozen - alive <= 0.05 else "BROKEN"
        lines.append(
            f"| {act} | {alive:.3f} | {frozen:.3f} | {1000 * (frozen - alive):+.0f} | at most 50 ms slower: {kept} |"
        )
    lines.append(f"\n{lost} acknowledged rows lost, {len(lacking)} segments missing.")
    results = {f"{act} {state}": outages for (act, state), outages in found.items()}
    return {"outages": results, "lost": lost, "missing": lacking}, "\n".join(lines) + "\n", not lost and not lacking


def disturbed(cluster, act, table):
    """One switchover or killed container under a writer: (outage, lost rows)."""
    before = cluster.settled()
    uri = cluster.uri()
    container = cluster.container(before["primary"])
    writing = harness.writer_for(uri, table, floor.WRITE_PAUSE, floor.ACKS_BEFORE)
    moment = time.monotonic()
    if act == "switchover":
        cluster.operator.cli("switchover", cluster.name)
    else:
        floor.kill_container(container)
    wait_until("the primary has changed", lambda: cluster.primary not in (None, before["primary"]), 60)
    if not writing.wait_for_acks(floor.ACKS_AFTER, 60):
        raise Failed(f"writes did not continue: {writing.errors[-1:]}")
    writing.stop()
    cluster.settled()
    return client.outage(writing.records, moment), len(client.check(uri, writing.records, table)["lost"])
