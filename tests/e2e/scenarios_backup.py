"""The archive: WAL gets there, also over failovers, and a dead store holds nothing up."""

import json
import os
import signal
import time

import harness
import psycopg2
import s3
from checks import Writes, expect
from harness import Cluster, Failed, docker, wait_until

SEGMENT = 4 << 20


def segments(server, archive):
    """The segments in an archive: {timeline: sorted numbers}."""
    found = {}
    for key in server.keys(archive):
        name = key.rsplit("/", 1)[-1].removesuffix(".zst")
        if "/wals/" in key and len(name) == 24:
            number = int(name[8:16], 16) * (2**32 // SEGMENT) + int(name[16:], 16)
            found.setdefault(int(name[:8], 16), []).append(number)
    return {timeline: sorted(numbers) for timeline, numbers in found.items()}


def complete(server, archive):
    """Fails unless every segment from the first to the last is there, each timeline going on where its ancestor ended."""
    found = segments(server, archive)
    expect(found, f"no segments in {archive}: {server.keys()[:5]}")
    numbers = sorted({number for those in found.values() for number in those})
    missing = sorted(set(range(numbers[0], numbers[-1] + 1)) - set(numbers))
    expect(not missing, f"segments are missing in the archive: {missing}; there are {found}")
    return found


def archiving(cluster):
    """The status of the archive once it is healthy."""

    def look():
        status = cluster.status()
        conditions = {one["type"]: one for one in status.get("conditions", [])}
        healthy = conditions.get("ArchiveHealthy", {})
        if healthy.get("status") != "True":
            raise Failed(f"ArchiveHealthy is {healthy.get('status')}: {healthy.get('reason')} {healthy.get('message')}")
        return status["backup"]

    return wait_until("ArchiveHealthy is True", look, 60)


def archived_up_to(cluster, server, archive):
    """Ends the current segment by a write and the maximal age, and waits until the archive has it."""
    with psycopg2.connect(cluster.uri()) as session, session.cursor() as cursor:
        cursor.execute("SELECT pg_walfile_name(pg_current_wal_lsn())")
        wanted = cursor.fetchone()[0]
        cursor.execute("CREATE TABLE IF NOT EXISTS archived_marks (at timestamptz)")
        cursor.execute("INSERT INTO archived_marks VALUES (now())")
    wait_until(
        f"{wanted} is in the archive", lambda: any(key.endswith(f"/{wanted}.zst") for key in server.keys(archive)), 60
    )


def all_wal_gets_into_the_archive_also_that_which_a_dead_primary_had_not_archived(cluster):
    """Archives to S3, kills the primary with the store stopped in between, and looks for gaps."""
    server = s3.Server("backups")
    try:
        s3.apply_secret(cluster.operator, "e2e-s3")
        cluster.settled()
        started = cluster.started()
        cluster.apply(backup={"store": server.store("e2e-s3", "prod"), "wal": {"maxAge": "2s"}})
        archive = "prod/" + archiving(cluster)["archive"]
        archived_up_to(cluster, server, archive)
        expect(cluster.started() == started, "a container was replaced to begin to archive")
        outages = []
        for round_number in range(2):
            before = cluster.settled()
            with Writes(cluster, f"archived_{round_number}") as writes:
                moment = time.monotonic()
                docker("kill", cluster.container(before["primary"]))
                writes.go_on(15)
                cluster.settled()
            outages.append(writes.outage(moment))
            archiving(cluster)
            archived_up_to(cluster, server, archive)
        found = complete(server, archive)
        histories = {key.rsplit("/", 1)[-1] for key in server.keys(archive) if key.endswith(".history")}
        wanted = {f"{timeline:08X}.history" for timeline in found if timeline > 1}
        expect(wanted <= histories, f"histories {sorted(histories)} of timelines {sorted(found)}")
        return f"{sum(map(len, found.values()))} segments on {len(found)} timelines, outages " + ", ".join(
            f"{outage:.2f} s" for outage in outages
        )
    finally:
        cluster.spec.pop("backup", None)
        cluster.apply()
        server.stop()
        cluster.operator.cli_result("delete", "secret", "e2e-s3")


def a_dead_store_lengthens_no_switchover_and_what_waited_gets_there_later(cluster):
    """Switchovers with the store alive, and frozen."""
    server = s3.Server("backups")
    try:
        s3.apply_secret(cluster.operator, "e2e-s3")
        cluster.apply(backup={"store": server.store("e2e-s3"), "wal": {"maxAge": "2s"}})
        archive = archiving(cluster)["archive"]
        outages = {}
        for state in ("alive", "frozen"):
            before = cluster.settled()
            if state == "frozen":
                os.kill(server.process.pid, signal.SIGSTOP)
            with Writes(cluster, f"switched_{state}") as writes:
                writes.go_on(10)
                moment = time.monotonic()
                cluster.operator.cli("switchover", cluster.name)
                wait_until("the primary has changed", lambda: cluster.primary not in (None, before["primary"]), 30)
                writes.go_on(10)
                cluster.settled()
            outages[state] = writes.outage(moment)
        os.kill(server.process.pid, signal.SIGCONT)
        archiving(cluster)
        archived_up_to(cluster, server, archive)
        complete(server, archive)
        expect(max(outages.values()) <= 5, f"outages {outages}")
        return ", ".join(f"{state} {outage:.2f} s" for state, outage in outages.items())
    finally:
        cluster.spec.pop("backup", None)
        cluster.apply()
        server.stop()
        cluster.operator.cli_result("delete", "secret", "e2e-s3")


def backed_up(cluster, name):
    """Takes a base backup by the command line; its status."""
    cluster.operator.cli("backup", cluster.name, "--name", name, "--wait", timeout=180)
    return json.loads(cluster.operator.cli("get", "backup", name, "-o", "json"))["status"]


def rows(uri):
    """The numbers in the table of commits, in order."""
    with psycopg2.connect(uri) as session, session.cursor() as cursor:
        cursor.execute("SELECT n FROM numbered ORDER BY n")
        return [row[0] for row in cursor.fetchall()]


def commits(uri, numbers):
    """Commits these numbers, each in a transaction of its own: {number: (xid, LSN after it, its time)}."""
    found = {}
    # `with` would make one transaction of all of them.
    session = psycopg2.connect(uri)
    session.autocommit = True
    cursor = session.cursor()
    cursor.execute("CREATE TABLE IF NOT EXISTS numbered (n int PRIMARY KEY)")
    for number in numbers:
        cursor.execute("INSERT INTO numbered VALUES (%s) RETURNING pg_current_xact_id()::text", (number,))
        xid = int(cursor.fetchone()[0])
        cursor.execute("SELECT pg_current_wal_flush_lsn()::text, clock_timestamp()")
        found[number] = (xid, *cursor.fetchone())
    session.close()
    return found


def recovered(cluster, name, target):
    """A cluster recovered from the archive of this one to a target: its numbers, and its status."""
    other = Cluster(cluster.operator, name)
    other.spec = {
        "image": cluster.spec["image"],
        "instances": 1,
        "bootstrap": {
            "recovery": {"source": {"cluster": cluster.name}, "target": target, "database": "awx", "owner": "awx"}
        },
    }
    other.clean()
    try:
        other.apply()
        status = other.settled(120)
        return rows(other.uri()), status
    except Failed:
        other.save(harness.ROOT / "target" / "e2e" / name)
        raise
    finally:
        other.operator.cli_result("delete", "postgrescluster", name)
        other.clean()


def a_base_backup_with_the_archive_brings_back_every_moment_also_over_a_failover(cluster):
    """Backup of a standby, commits, a failover, commits; then recoveries by transaction, position and time, and of all."""
    server = s3.Server("backups")
    try:
        s3.apply_secret(cluster.operator, "e2e-s3")
        cluster.settled()
        cluster.apply(backup={"store": server.store("e2e-s3", "prod"), "wal": {"maxAge": "2s"}})
        archive = "prod/" + archiving(cluster)["archive"]
        with psycopg2.connect(cluster.uri()) as session, session.cursor() as cursor:
            cursor.execute("DROP TABLE IF EXISTS numbered")
        first = commits(cluster.uri(), range(1, 6))
        taken = backed_up(cluster, "e2e-backup")
        expect(taken["phase"] == "Completed", f"the backup is {taken}")
        expect(taken["member"] != cluster.primary, f"the backup was taken of the primary {taken['member']}")
        second = commits(cluster.uri(), range(6, 21))
        docker("kill", cluster.container(cluster.settled()["primary"]))
        cluster.settled()
        wait_until("a new primary takes writes", lambda: commits(cluster.uri(), [21]), 30)
        third = commits(cluster.uri(), range(22, 31))
        archived_up_to(cluster, server, archive)
        complete(server, archive)
        known = {**first, **second, **third}
        notes = []
        for name, target, last in [
            ("xid", {"xid": known[9][0]}, 9),
            ("lsn", {"lsn": known[15][1]}, 15),
            ("time", {"time": known[25][2].isoformat()}, 25),
            ("xid-exclusive", {"xid": known[28][0], "exclusive": True}, 27),
            ("latest", {}, 30),
        ]:
            began = time.monotonic()
            found, _ = recovered(cluster, f"e2e-{name}", target)
            expect(found == list(range(1, last + 1)), f"recovered to {target}: {found}, and not 1 to {last}")
            notes.append(f"{name} {time.monotonic() - began:.1f} s")
        return f"{taken['bytes'] >> 20} MiB in {taken['storedBytes'] >> 20} MiB; " + ", ".join(notes)
    finally:
        cluster.operator.cli_result("delete", "backup", "e2e-backup")
        cluster.spec.pop("backup", None)
        cluster.apply()
        server.stop()
        cluster.operator.cli_result("delete", "secret", "e2e-s3")


SCENARIOS = [
    all_wal_gets_into_the_archive_also_that_which_a_dead_primary_had_not_archived,
    a_dead_store_lengthens_no_switchover_and_what_waited_gets_there_later,
    a_base_backup_with_the_archive_brings_back_every_moment_also_over_a_failover,
]
