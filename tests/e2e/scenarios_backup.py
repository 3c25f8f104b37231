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
        name = key.rsplit("/", 1)[-1].removesuffix(".age").removesuffix(".zst")
        if "/wals/" in key and len(name) == 24:
            number = int(name[8:16], 16) * (2**32 // SEGMENT) + int(name[16:], 16)
            found.setdefault(int(name[:8], 16), set()).add(number)
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
    names = (f"/{wanted}.zst", f"/{wanted}.zst.age")
    wait_until(f"{wanted} is in the archive", lambda: any(key.endswith(names) for key in server.keys(archive)), 60)


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


def a_database_is_dropped_while_the_store_is_dead_and_a_failover_after_it_succeeds(cluster):
    """Regressions 413 and 414. The servers' archivers wait for a frozen store; a database is dropped, and then a standby dies, which
    has to replay that before it lets anybody in, and after it the primary."""
    server = s3.Server("backups")
    try:
        s3.apply_secret(cluster.operator, "e2e-s3")
        cluster.settled()
        cluster.apply(backup={"store": server.store("e2e-s3"), "wal": {"maxAge": "1s"}})
        archiving(cluster)
        primary = cluster.container(cluster.primary)

        def asked(statement):
            began = time.monotonic()
            docker("exec", "-u", "postgres", primary, "psql", "-XAtc", statement)
            return time.monotonic() - began

        asked("CREATE DATABASE dropped")
        os.kill(server.process.pid, signal.SIGSTOP)
        asked("SELECT pg_logical_emit_message(true, 'e2e', repeat('x', 60000000))")
        members = [cluster.container(one["name"]) for one in cluster.status()["instances"]]
        wait_until("all archivers wait", lambda: all("wal-push" in docker("top", one) for one in members), 30)
        took = asked("DROP DATABASE dropped")
        expect(took < 5, f"DROP DATABASE took {took:.1f} s")
        standby = next(one for one in members if one != primary)
        there = ("psql", "-XAtc", "SELECT count(*) FROM pg_database WHERE datname = 'dropped'")
        wait_until("the standby has no such database", lambda: docker("exec", "-u", "postgres", standby, *there).strip() == "0", 60)
        began = time.monotonic()
        docker("kill", standby)
        wait_until("the standby answers", lambda: docker("exec", standby, "pg_isready", "-q") == "", 60)
        returned = time.monotonic() - began
        cluster.settled()
        with Writes(cluster, "dropped") as writes:
            writes.go_on(10)
            moment = time.monotonic()
            docker("kill", primary)
            writes.go_on(10)
            cluster.settled()
        expect(writes.outage(moment) <= 6, f"an outage of {writes.outage(moment):.1f} s")
        os.kill(server.process.pid, signal.SIGCONT)
        archiving(cluster)
        return f"dropped in {took:.2f} s, a standby back after {returned:.1f} s, outage {writes.outage(moment):.2f} s"
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
            found, restored = recovered(cluster, f"e2e-{name}", target)
            recovery = restored["recovery"]
            expect(recovery["phase"] == "Completed" and "lastCommit" in recovery["reached"], f"recovery is {recovery}")
            expect(found == list(range(1, last + 1)), f"recovered to {target}: {found}, and not 1 to {last}")
            notes.append(f"{name} {time.monotonic() - began:.1f} s")
        return f"{taken['bytes'] >> 20} MiB in {taken['storedBytes'] >> 20} MiB; " + ", ".join(notes)
    finally:
        cluster.operator.cli_result("delete", "backup", "e2e-backup")
        cluster.spec.pop("backup", None)
        cluster.apply()
        server.stop()
        cluster.operator.cli_result("delete", "secret", "e2e-s3")


def verify(cluster, name):
    """Asks for a restore test and waits for it: why it failed, or None."""
    try:
        cluster.operator.cli("verify", name, "--wait", timeout=300)
    except Failed as failed:
        return str(failed)
    return None


def restore_tested(cluster, status, reason):
    """Waits for the condition RestoreTested of the cluster; the status of its archive then."""

    def look():
        conditions = {one["type"]: one for one in cluster.status().get("conditions", [])}
        found = conditions.get("RestoreTested", {})
        if (found.get("status"), found.get("reason")) != (status, reason):
            raise Failed(f"RestoreTested is {found}")
        return cluster.status()["backup"]

    return wait_until(f"RestoreTested is {status}/{reason}", look, 30)


def a_backup_is_proven_by_a_restore_and_what_is_damaged_is_found(cluster):
    """Restore tests of a good backup, of one with a flipped bit in the store, and of one with an index that lacks a row."""
    server = s3.Server("backups")
    names = ["e2e-good", "e2e-deleted", "e2e-flipped", "e2e-lacking"]
    try:
        s3.apply_secret(cluster.operator, "e2e-s3")
        cluster.settled()
        backup = {"store": server.store("e2e-s3", "prod"), "wal": {"maxAge": "2s"}, "verify": {"maxAge": "1h"}}
        cluster.apply(backup=backup)
        archive = "prod/" + archiving(cluster)["archive"]
        restore_tested(cluster, "False", "NeverTested")
        with psycopg2.connect(cluster.uri()) as session, session.cursor() as cursor:
            cursor.execute("DROP TABLE IF EXISTS numbered")
        commits(cluster.uri(), range(1, 100))
        backed_up(cluster, "e2e-good")
        commits(cluster.uri(), range(100, 120))
        archived_up_to(cluster, server, archive)
        began = time.monotonic()
        why = verify(cluster, "e2e-good")
        took = time.monotonic() - began
        expect(why is None, f"the restore test of a good backup failed: {why}")
        status = json.loads(cluster.operator.cli("get", "backup", "e2e-good", "-o", "json"))["status"]
        condition = {one["type"]: one for one in status["conditions"]}["Verified"]
        expect(condition["status"] == "True", f"Verified is {condition}")
        for word in ("manifest", "page checksums", "amcheck"):
            expect(word in condition["message"], f"Verified says {condition['message']}")
        expect("lastCommit" in status["verified"], f"verified is {status['verified']}")
        code, said = cluster.operator.cli_result("get", "postgrescluster", "e2e-good-verify")
        expect(code != 0, f"the throw-away cluster is still there: {said}")
        filters = ("--filter", "name=e2e-good-verify")
        left = docker("ps", "-aq", *filters) + docker("volume", "ls", "-q", *filters)
        expect(not left.strip(), f"the throw-away cluster has left {left}")
        last = restore_tested(cluster, "True", "Verified")["lastVerified"]
        expect(last["backup"] == "e2e-good", f"lastVerified is {last}")

        # A Backup that is deleted in the middle of its test takes the throw-away cluster along.
        backed_up(cluster, "e2e-deleted")
        cluster.operator.cli("verify", "e2e-deleted")
        throw_away = ("get", "postgrescluster", "e2e-deleted-verify")
        wait_until("the throw-away cluster exists", lambda: cluster.operator.cli_result(*throw_away)[0] == 0, 30)
        cluster.operator.cli("delete", "backup", "e2e-deleted")
        wait_until("the throw-away cluster is gone", lambda: cluster.operator.cli_result(*throw_away)[0] != 0, 60)

        flipped = backed_up(cluster, "e2e-flipped")
        key = f"{archive}/base/{flipped['backupID']}/data.tar.zst"
        data = bytearray(server.get(key))
        data[len(data) // 2] ^= 1
        server.put(key, bytes(data))
        why = verify(cluster, "e2e-flipped")
        expect(why and "data.tar.zst" in why and "another content than was written" in why, f"a flipped bit: {why}")
        restore_tested(cluster, "False", "RestoreFailed")

        # Every page has a right checksum, and the index lacks a row.
        ready = "UPDATE pg_index SET indisready = {0} WHERE indexrelid = 'numbered_pkey'::regclass"
        statements = [ready.format("false"), "INSERT INTO numbered VALUES (-1)", ready.format("true")]
        container = cluster.container(cluster.settled()["primary"])
        commands = [part for statement in statements for part in ("-c", statement)]
        docker("exec", "-u", "postgres", container, "psql", "-XAtq", *commands, cluster.secret()["dbname"])
        backed_up(cluster, "e2e-lacking")
        why = verify(cluster, "e2e-lacking")
        expect(why and "amcheck" in why and "numbered_pkey" in why, f"an index that lacks a row: {why}")
        return f"verified in {took:.1f} s: {condition['message']}"
    finally:
        with psycopg2.connect(cluster.uri()) as session, session.cursor() as cursor:
            cursor.execute("DROP TABLE IF EXISTS numbered")
        for name in names:
            cluster.operator.cli_result("delete", "backup", name)
def numbered(cluster, count):
    """Fills a table of that many rows, some 1 KiB each, of which little can be compressed."""
    with psycopg2.connect(cluster.uri()) as session, session.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS dumped")
        cursor.execute(
            "CREATE TABLE dumped AS SELECT n, (SELECT string_agg(md5(random()::text || n || i), '') FROM generate_series(1, 32) i)"
            " AS text FROM generate_series(1, %s) n",
            (count,),
        )


def checksum(cluster, database):
    """How many rows the table has, and a hash of all of them."""
    with psycopg2.connect(cluster.uri(database)) as session, session.cursor() as cursor:
        cursor.execute("SELECT count(*), md5(string_agg(n || text, '' ORDER BY n)) FROM dumped")
        return cursor.fetchone()


def databases(cluster):
    """The names of all databases."""
    with psycopg2.connect(cluster.uri()) as session, session.cursor() as cursor:
        cursor.execute("SELECT datname FROM pg_database")
        return {row[0] for row in cursor.fetchall()}


def one(cluster, kind, name):
    """An object's status; empty if it has none."""
    return json.loads(cluster.operator.cli("get", kind, name, "-o", "json")).get("status") or {}


def a_dropped_table_comes_back_from_a_dump_beside_and_a_damaged_dump_makes_no_database(cluster):
    """A dump by the command line, a dropped table, its restore into another database; one flipped bit; a killed primary."""
    server = s3.Server("backups")
    try:
        s3.apply_secret(cluster.operator, "e2e-s3")
        cluster.settled()
        cluster.apply(backup={"store": server.store("e2e-s3", "prod")})
        archive = "prod/" + archiving(cluster)["archive"]
        numbered(cluster, 20_000)
        known = checksum(cluster, "awx")
        cluster.operator.cli("backup", cluster.name, "--database", "awx", "--name", "e2e-dump", "--wait", timeout=180)
        taken = one(cluster, "backup", "e2e-dump")
        expect(taken["member"] != cluster.primary, f"the dump was taken of the primary {taken['member']}")
        with psycopg2.connect(cluster.uri()) as session, session.cursor() as cursor:
            cursor.execute("DROP TABLE dumped")
        restore = ["restore-dump", cluster.name, "--dump", "e2e-dump", "--wait", "--timeout", "60s"]
        code, out = cluster.operator.cli_result(*restore, "--name", "e2e-over")
        expect(code == 1 and "nothing is overwritten" in out, f"a restore over the database: {code} {out}")
        began = time.monotonic()
        cluster.operator.cli(*restore, "--database", "awx_old", "--name", "e2e-beside", timeout=90)
        took = time.monotonic() - began
        expect(checksum(cluster, "awx_old") == known, f"restored {checksum(cluster, 'awx_old')} and not {known}")

        key = f"{archive}/dumps/{taken['backupID']}/awx.dump.zst"
        good = server.get(key)
        bad = bytearray(good)
        bad[len(bad) // 2] ^= 1
        server.put(key, bytes(bad))
        code, out = cluster.operator.cli_result(*restore, "--database", "awx_bad", "--name", "e2e-bad")
        expect(code == 1 and "has another content than was written" in out, f"a flipped bit: {code} {out}")
        server.put(key, good)
        left = databases(cluster)
        expect(not {name for name in left if name == "awx_bad" or "evenkeel" in name}, f"databases are left: {left}")

        # The primary dies while it is dumped, slowly: the attempt is made again elsewhere.
        numbered(cluster, 20_000)
        known = checksum(cluster, "awx")
        slow = {
            "apiVersion": "evenkeel.dev/v1alpha1",
            "kind": "Backup",
            "metadata": {"name": "e2e-slow"},
            "spec": {
                "cluster": {"name": cluster.name},
                "method": "dump",
                "database": "awx",
                "target": "primary",
                "maxRate": "1Mi",
            },
        }
        cluster.operator.cli("apply", "-f", "-", text=json.dumps(slow))
        wait_until("the dump runs", lambda: one(cluster, "backup", "e2e-slow").get("bytes", 0) > 0, 30)
        first = one(cluster, "backup", "e2e-slow")
        # As a restore leaves it that a failover cuts off.
        unfinished = 'CREATE DATABASE "evenkeel_restore_5f0c01aa_7" CONNECTION LIMIT 0'
        docker("exec", "-u", "postgres", cluster.container(first["member"]), "psql", "-XAtc", unfinished)
        docker("kill", cluster.container(first["member"]))
        wait_until("a second attempt", lambda: one(cluster, "backup", "e2e-slow")["attempt"] == 2, 90)
        wait_until("it is complete", lambda: one(cluster, "backup", "e2e-slow")["phase"] == "Completed", 120)
        second = one(cluster, "backup", "e2e-slow")
        expect(second["backupID"] != first["backupID"], f"both attempts are {second['backupID']}")
        infos = [key.split("/")[-2] for key in server.keys(archive) if key.endswith("/dump.json")]
        expect(sorted(infos) == [taken["backupID"], second["backupID"]], f"dumps in the archive: {infos}")
        cluster.settled()
        left = {name for name in databases(cluster) if "evenkeel" in name}
        expect(not left, f"the new primary has not dropped {left}")
        restore = ["restore-dump", cluster.name, "--dump", "e2e-slow", "--database", "awx_new", "--name", "e2e-new"]
        cluster.operator.cli(*restore, "--wait", timeout=90)
        expect(checksum(cluster, "awx_new") == known, "the dump of the second attempt has other rows")
        return f"{taken['bytes'] >> 20} MiB in {taken['storedBytes'] >> 20} MiB, restored in {took:.1f} s"
    finally:
        for kind, names in [
            ("backup", ["e2e-dump", "e2e-slow"]),
            ("databaserestore", ["e2e-over", "e2e-beside", "e2e-bad", "e2e-new"]),
        ]:
            for name in names:
                cluster.operator.cli_result("delete", kind, name)
        cluster.spec.pop("backup", None)
        cluster.apply()
        server.stop()
        cluster.operator.cli_result("delete", "secret", "e2e-s3")


SCENARIOS = [
    all_wal_gets_into_the_archive_also_that_which_a_dead_primary_had_not_archived,
    a_dead_store_lengthens_no_switchover_and_what_waited_gets_there_later,
    a_database_is_dropped_while_the_store_is_dead_and_a_failover_after_it_succeeds,
    a_base_backup_with_the_archive_brings_back_every_moment_also_over_a_failover,
    a_backup_is_proven_by_a_restore_and_what_is_damaged_is_found,
    a_dropped_table_comes_back_from_a_dump_beside_and_a_damaged_dump_makes_no_database,
]
