"""What encryption costs: WAL pushes and base backups with and without it, in turns, of one cluster in one run."""

import contextlib
import json
import statistics
import time

import psycopg2
import s3
import scenarios_backup
from backup_rig import Rclone, Rig, backed_up, load, sql
from harness import docker, wait_until

KEY = "AGE-SECRET-KEY-1VXCGKQ9LF4U2DLYP3TCJA2PYRZX7TFWJ2AQVARYG7YDY3F5JA8JQM7NUL3"  # everybody knows it
SECRET = "bench-key"
MIB = 200  # of data of which little more than half can be compressed away
SEGMENTS = 24  # of a backlog that is pushed at once
# Some 4 MiB each.
FILL = (
    "INSERT INTO filled SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 130000) n GROUP BY n / 100"
)
FORMS = ("clear", "encrypted")


def switch(rig, form):
    """Sets the form of what is stored from now on."""
    backup = dict(rig.cluster.spec["backup"])
    backup.pop("encryption", None)
    if form == "encrypted":
        backup["encryption"] = {"secretName": SECRET}
    rig.cluster.apply(backup=backup)

    def is_so():
        told = scenarios_backup.archiving(rig.cluster).get("ageFingerprint")
        return bool(told) == (form == "encrypted")

    wait_until(f"the archive is {form}", is_so, 60)
    rig.archived()


def pushed(rig):
    """Seconds from the moment when a frozen store answers again until it has a backlog of some segments."""
    uri = rig.cluster.uri()
    with rig.frozen_store():
        for _ in range(SEGMENTS):
            sql(uri, FILL)
        with contextlib.closing(psycopg2.connect(uri)) as session, session.cursor() as cursor:
            cursor.execute("SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
            wanted = cursor.fetchone()[0]
        sql(uri, FILL)
    began = time.monotonic()
    folder = f"{rig.archive}/wals/{wanted[:16]}/{wanted}"
    wait_until("the backlog is in the store", lambda: rig.server.keys(folder), 120)
    return time.monotonic() - began


def forget_peaks(cluster):
    """Begins to measure the memory of the supervisors anew."""
    for container in cluster.containers():
        docker("exec", container, "sh", "-c", "echo 5 > /proc/1/clear_refs")


def peak(cluster, member):
    """MiB of the supervisor at its highest since then."""
    lines = docker("exec", cluster.container(member), "cat", "/proc/1/status").splitlines()
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("VmHWM"))


def encryption(binary, rounds):
    """Rounds of a backlog of WAL and a base backup, in both forms in turns."""
    begun = load()
    print(f"encryption: {rounds} rounds of {SEGMENTS} segments and a base backup, clear and encrypted", flush=True)
    walls, waits, sizes, memory = {}, {}, {}, {}
    with Rig(binary, Rclone("backups")) as rig:
        identity = {"identity": KEY}
        s3.apply_secret(rig.operator, SECRET, identity)
        sql(rig.cluster.uri(), "CREATE TABLE filled (t text)")
        sql(rig.cluster.uri(), "CREATE TABLE kept AS SELECT t FROM filled")
        for _ in range(MIB // 4):
            sql(rig.cluster.uri(), FILL.replace("filled", "kept"))
        wait_until("the archive has the data", lambda: rig.archived() or True, 900)
        for number in range(1, rounds + 1):
            for form in FORMS:
                switch(rig, form)
                waits.setdefault(form, []).append(pushed(rig))
                sql(rig.cluster.uri(), "TRUNCATE filled")
                rig.archived()
                forget_peaks(rig.cluster)
                began = time.monotonic()
                taken = backed_up(rig.cluster, f"bench-{form}-{number}")
                walls.setdefault(form, []).append(time.monotonic() - began)
                sizes[form] = taken["storedBytes"] >> 20
                memory[form] = max(memory.get(form, 0), peak(rig.cluster, taken["member"]))
            print(f"  round {number}: WAL {last(waits)}, base backup {last(walls)}", flush=True)
    wal, base = (statistics.median(found["encrypted"]) / statistics.median(found["clear"]) for found in (waits, walls))
    lines = [
        f"| ({begun}) | clear | encrypted | ratio |",
        "|---|---|---|---|",
        f"| {SEGMENTS + 1} WAL segments of a backlog, s | {row(waits)} | {wal:.2f} |",
        f"| a base backup of {sizes['clear']} MiB in the store, s | {row(walls)} | {base:.2f} |",
        f"| peak memory of the supervisor, MiB | {memory['clear']} | {memory['encrypted']} | |",
    ]
    results = {"wal": waits, "base": walls, "sizes": sizes, "memory": memory}
    return json.loads(json.dumps(results)), "\n".join(lines) + "\n", True


def last(found):
    """The last figure of each form."""
    return ", ".join(f"{form} {values[-1]:.2f} s" for form, values in found.items())


def row(found):
    """The medians of both forms."""
    return " | ".join(f"{statistics.median(found[form]):.2f}" for form in FORMS)
