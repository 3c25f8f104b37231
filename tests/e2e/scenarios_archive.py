"""The archive as people see it: what is in it, what is missing, how a restore would go."""

import json
import os
import signal
import time

import psycopg2
import s3
from checks import expect
from harness import Cluster, wait_until
from scenarios_backup import archived_up_to, archiving, backed_up, commits, rows

MIB = 1 << 20


def write_wal(uri, size):
    """Writes so many bytes of WAL."""
    session = psycopg2.connect(uri)
    session.autocommit = True
    cursor = session.cursor()
    for _ in range(size // MIB):
        cursor.execute("SELECT pg_logical_emit_message(false, 'e2e', repeat('x', 1048576))")
    cursor.execute("SELECT pg_logical_emit_message(true, 'e2e', '')")
    session.close()


def a_gap_is_told_and_closed_by_a_base_backup_and_a_restore_shows_its_way_first(cluster):
    """The store is frozen until more WAL waits than may; then a restore by the command line."""
    server = s3.Server("backups")
    operator, restored = cluster.operator, Cluster(cluster.operator, "e2e-restored")
    restored.clean()
    try:
        s3.apply_secret(operator, "e2e-s3")
        cluster.settled()
        wal = {"maxAge": "2s", "backlogLimit": "64Mi"}
        cluster.apply(backup={"store": server.store("e2e-s3", "prod"), "wal": wal, "retention": {"count": 1, "minimum": 1}})
        archive = "prod/" + archiving(cluster)["archive"]
        with psycopg2.connect(cluster.uri()) as session, session.cursor() as cursor:
            cursor.execute("DROP TABLE IF EXISTS numbered")
        first = commits(cluster.uri(), range(1, 6))
        taken = backed_up(cluster, "e2e-first")
        archived_up_to(cluster, server, archive)
        way = operator.cli("restore", "e2e-restored", "--from", cluster.name, "--to-xid", str(first[5][0]), "--dry-run")
        expect(taken["backupID"] in way and "missing:      nothing" in way, f"the way is {way}")
        code, said = operator.cli_result("restore", "x", "--from", cluster.name, "--to-time", "2020-01-01T00:00:00Z", "--dry-run")
        expect(code == 1 and "no base backup ended before the target" in said, f"{code}: {said}")

        os.kill(server.process.pid, signal.SIGSTOP)
        write_wal(cluster.uri(), 160 * MIB)
        waits = lambda: (cluster.status()["backup"].get("backlog") or {}).get("segments", 0) >= 10  # noqa: E731
        wait_until("WAL waits for the store", waits, 60)
        time.sleep(2)  # two looks at the backlog
        os.kill(server.process.pid, signal.SIGCONT)
        wait_until("the gap is recorded in the store", lambda: server.keys(f"{archive}/gaps/"), 90)
        began = time.monotonic()

        def healed():
            backups = json.loads(operator.cli("get", "backups", "-o", "json"))["items"]
            made = [one for one in backups if one["metadata"]["name"].startswith(f"{cluster.name}-gap-")]
            return made if made and made[0].get("status", {}).get("phase") == "Completed" else None

        made = wait_until("a base backup closes the gap", healed, 120)
        archiving(cluster)
        took = time.monotonic() - began
        commits(cluster.uri(), range(6, 9))
        archived_up_to(cluster, server, archive)
        listed = wait_until(
            "retention deletes the first base backup",
            lambda: (lambda said: said if taken["backupID"] not in said else None)(operator.cli("backups", cluster.name)),
            120,
        )
        expect(made[0]["status"]["backupID"] in listed, f"backups: {listed}")
        operator.cli("restore", "e2e-restored", "--from", cluster.name, "--wait", "--timeout", "2m", timeout=150)
        expect(rows(restored.uri()) == list(range(1, 9)), f"restored: {rows(restored.uri())}")
        return f"closed in {took:.1f} s"
    finally:
        operator.cli_result("delete", "postgrescluster", "e2e-restored")
        restored.clean()
        for one in json.loads(operator.cli("get", "backups", "-o", "json"))["items"]:
            operator.cli_result("delete", "backup", one["metadata"]["name"])
        cluster.spec.pop("backup", None)
        cluster.apply()
        server.stop()
        operator.cli_result("delete", "secret", "e2e-s3")


def two_clusters_of_one_name_have_an_archive_each_and_both_are_restored(cluster):
    """A cluster is deleted with its data, and another one gets its name and its store; then both come back from there."""
    server = s3.Server("backups")
    operator = cluster.operator
    twice, restored = Cluster(operator, "e2e-twice"), Cluster(operator, "e2e-restored")
    try:
        s3.apply_secret(operator, "e2e-s3")
        archives = []
        for numbers in (range(1, 6), range(100, 103)):
            twice.spec = {"image": cluster.spec["image"], "instances": 1, "bootstrap": cluster.spec["bootstrap"]}
            twice.apply(backup={"store": server.store("e2e-s3", "prod"), "wal": {"maxAge": "1s"}})
            twice.settled()
            archives.append(archiving(twice)["archive"])
            commits(twice.uri(), numbers)
            backed_up(twice, f"e2e-{numbers[0]}")
            archived_up_to(twice, server, f"prod/{archives[-1]}")
            if numbers[0] == 1:
                before = set(server.keys(f"prod/{archives[0]}/"))
                operator.cli("delete", "postgrescluster", twice.name)
                twice.clean()
        expect(archives[0] != archives[1], f"both have {archives[0]}")
        lost = before - set(server.keys(f"prod/{archives[0]}/"))
        expect(not lost, f"the second cluster has deleted {sorted(lost)}")
        for archive, numbers in zip(archives, ([1, 2, 3, 4, 5], [100, 101, 102])):
            source = {"store": server.store("e2e-s3", "prod"), "path": archive}
            recovery = {"source": source, "database": "awx", "owner": "awx"}
            restored.clean()
            restored.spec = {"image": cluster.spec["image"], "instances": 1, "bootstrap": {"recovery": recovery}}
            restored.apply()
            restored.settled(120)
            expect(rows(restored.uri()) == numbers, f"{archive} has {rows(restored.uri())}")
            operator.cli("delete", "postgrescluster", restored.name)
            restored.clean()
        return ", ".join(archives)
    finally:
        for one in (twice, restored):
            operator.cli_result("delete", "postgrescluster", one.name)
            one.clean()
        for name in ("e2e-1", "e2e-100"):
            operator.cli_result("delete", "backup", name)
        server.stop()
        operator.cli_result("delete", "secret", "e2e-s3")


SCENARIOS = [
    a_gap_is_told_and_closed_by_a_base_backup_and_a_restore_shows_its_way_first,
    two_clusters_of_one_name_have_an_archive_each_and_both_are_restored,
]
