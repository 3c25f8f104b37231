"""The encrypted archive: nothing in the store is readable, and it is restored exactly, over a change of the key."""

import json
import shutil
import subprocess
import tempfile

import harness
import psycopg2
import s3
from checks import expect
from harness import Cluster, Failed, docker, run, wait_until
from scenarios_backup import (
    archived_up_to,
    archiving,
    backed_up,
    checksum,
    commits,
    complete,
    numbered,
    one,
    recovered,
    verify,
)

# As age-keygen made them; everybody knows them.
FIRST = "AGE-SECRET-KEY-1VXCGKQ9LF4U2DLYP3TCJA2PYRZX7TFWJ2AQVARYG7YDY3F5JA8JQM7NUL3"
SECOND = "AGE-SECRET-KEY-1F5K3XH5HQ3FAX7PK7AXCZK93U85WNM8RHA8G5A6D82NW7WESJ0HQ67G932"
PUBLIC = "age1qd5fjtjlx8tpzx85dsl80gat28zafu0ruvankxscjryyv03xxp0qytd7tf"  # of FIRST
FINGERPRINT = "ad225781efede36c"  # of FIRST
MARKER = "a-row-that-nobody-else-may-read"
CLEAR = (".history", "backup.info", "dump.json", "latest.json", "evenkeel.json", ".running")


def waits(cluster, reason):
    """Waits until ArchiveHealthy is False for this reason, and a segment waits; its message."""

    def look():
        status = cluster.status()
        condition = {one["type"]: one for one in status.get("conditions", [])}.get("ArchiveHealthy", {})
        backlog = status.get("backup", {}).get("backlog", {})
        if condition.get("reason") != reason or not backlog.get("segments"):
            raise Failed(f"ArchiveHealthy is {condition}, and {backlog} waits")
        return condition["message"]

    return wait_until(f"ArchiveHealthy is False/{reason}, and WAL waits", look, 60)


def clear_content(server, archive, before=()):
    """Keys of objects with content that are not encrypted, without those of before."""
    folders = (f"{archive}/timelines/", f"{archive}/keys/", f"{archive}/gaps/")
    keys = [key for key in server.keys(archive) if not key.startswith(folders) and not key.endswith(CLEAR)]
    return {key for key in keys if not key.endswith(".age")} - set(before)


def opened(server, key, identities):
    """The content of an encrypted object by the programs `age` and `zstd`, as a person would read it."""
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(identities)
        file.flush()
        age = subprocess.run(["age", "-d", "-i", file.name], input=server.get(key), capture_output=True, check=False)
    expect(age.returncode == 0, f"age says of {key}: {age.stderr.decode()}")
    if not key.endswith(".zst.age"):
        return age.stdout
    return subprocess.run(["zstd", "-dcq"], input=age.stdout, capture_output=True, check=True).stdout


def nothing_is_told(cluster, server, archive, clear):
    """No object of the store has the marker in any form that can be read without a key; how many are encrypted."""
    keys = [key for key in server.keys(archive) if key not in clear]
    for key in keys:
        content = server.get(key)
        expect(MARKER.encode() not in content, f"{key} has the row")
        if key.endswith(".age"):
            expect(content.startswith(b"age-encryption.org/v1\n"), f"{key} is no age file")
        for name in ("dumped", "awx") if key.endswith("dump.json") else ():
            expect(name.encode() not in content, f"{key} names {name}")
    if not shutil.which("age"):
        return "age is not installed"
    sealed = [key for key in keys if key.endswith(".age")]
    found = [key for key in sealed if MARKER.encode() in opened(server, key, f"{FIRST}\n{SECOND}\n")]
    expect(any("/wals/" in key for key in found), f"the row is in no WAL that age has opened: {found}")
    expect(any("/base/" in key for key in found), f"the row is in no base backup that age has opened: {found}")
    expect(any(".dump.zst.age" in key for key in found), f"the row is in no dump that age has opened: {found}")
    return f"age has opened {len(sealed)} objects"


def no_key_is_told(cluster):
    """The key is in no description of a container, no log, no status and no Event."""
    secret = FIRST.removeprefix("AGE-SECRET-KEY-")
    for container in cluster.containers():
        log = run("sh", "-c", f"docker logs {container} 2>&1")
        for what, text in [("inspect", docker("inspect", container)), ("log", log), ("top", docker("top", container))]:
            expect(secret not in text, f"the {what} of {container} has the key")
    log = cluster.operator.log.read_text(encoding="utf-8", errors="replace")
    expect(secret not in log, "the operator's log has the key")
    for kind in ("postgresclusters", "events", "backups"):
        expect(secret not in cluster.operator.cli("get", kind, "-o", "json"), f"one of the {kind} has the key")


def refused(cluster, name, archive, server, secret):
    """Why a recovery with this Secret is not made."""
    other = Cluster(cluster.operator, name)
    source = {"store": server.store("e2e-s3", "prod"), "path": archive.removeprefix("prod/")}
    if secret:
        source["encryption"] = {"secretName": secret}
    recovery = {"source": source, "database": "awx", "owner": "awx"}
    other.spec = {"image": cluster.spec["image"], "instances": 1, "bootstrap": {"recovery": recovery}}
    other.clean()
    try:
        other.apply()

        def look():
            found = other.status().get("recovery", {})
            if found.get("phase") != "Failed":
                raise Failed(f"recovery is {found}")
            return found

        return wait_until("the recovery is refused", look, 60)
    finally:
        other.operator.cli_result("delete", "postgrescluster", name)
        other.clean()


def an_encrypted_archive_gives_nothing_away_and_is_restored_over_a_change_of_the_key(cluster):
    """Switched on later, with bad Secrets first; then a base backup, a dump, recoveries, a wrong key, another key."""
    server = s3.Server("backups")
    backups = ["e2e-clear", "e2e-sealed", "e2e-sealed-dump", "e2e-changed"]
    secrets = ["e2e-s3", "e2e-key", "e2e-other-key"]
    try:
        s3.apply_secret(cluster.operator, "e2e-s3")
        cluster.settled()
        cluster.apply(backup={"store": server.store("e2e-s3", "prod"), "wal": {"maxAge": "2s"}})
        archive = "prod/" + archiving(cluster)["archive"]
        with psycopg2.connect(cluster.uri()) as session, session.cursor() as cursor:
            cursor.execute("DROP TABLE IF EXISTS numbered")
        known = commits(cluster.uri(), range(1, 6))
        early = backed_up(cluster, "e2e-clear")
        known |= commits(cluster.uri(), range(6, 11))
        archived_up_to(cluster, server, archive)

        # Until there is a key nothing is written: in no form.
        cluster.apply(backup={**cluster.spec["backup"], "encryption": {"secretName": "e2e-key"}})
        known |= commits(cluster.uri(), range(11, 16))
        said = waits(cluster, "SecretNotFound")
        expect("e2e-key" in said and "identity" in said, f"ArchiveHealthy says {said}")
        clear = clear_content(server, archive)
        s3.apply_secret(cluster.operator, "e2e-key", {"identity": PUBLIC})
        said = waits(cluster, "KeyMissing")
        expect("line 1" in said and "age1qd5" not in said, f"ArchiveHealthy says {said}")
        s3.apply_secret(cluster.operator, "e2e-key", {"identity": f"# created: today\n{FIRST}\n"})
        archiving(cluster)
        archived_up_to(cluster, server, archive)

        # A base backup, a dump and WAL with a row that nobody may read.
        numbered(cluster, 2_000)
        with psycopg2.connect(cluster.uri()) as session, session.cursor() as cursor:
            cursor.execute("INSERT INTO dumped VALUES (-1, %s)", (MARKER,))
        sums = checksum(cluster, "awx")
        # Then the row is in the data files, and not in the WAL alone.
        docker("exec", "-u", "postgres", cluster.container(cluster.primary), "psql", "-XAtc", "CHECKPOINT")
        sealed = backed_up(cluster, "e2e-sealed")
        dump = ["backup", cluster.name, "--database", "awx", "--name", "e2e-sealed-dump", "--wait"]
        cluster.operator.cli(*dump, timeout=180)
        known |= commits(cluster.uri(), range(16, 26))
        archived_up_to(cluster, server, archive)
        shown = clear_content(server, archive, clear)
        expect(not shown, f"not encrypted: {shown}")
        note = nothing_is_told(cluster, server, archive, clear)
        no_key_is_told(cluster)
        told = cluster.status()["backup"]["ageFingerprint"]
        expect(told == FINGERPRINT, f"status.backup.ageFingerprint is {told}")

        # What people do with it.
        listed = cluster.operator.cli("backups", cluster.name)
        expect(early["backupID"] in listed and sealed["backupID"] in listed and "missing" not in listed, listed)
        dry = cluster.operator.cli("restore", "e2e-dry", "--from", cluster.name, "--dry-run")
        expect(sealed["backupID"] in dry and "missing:      nothing" in dry, dry)
        restore = ["restore-dump", cluster.name, "--dump", "e2e-sealed-dump", "--wait", "--database", "awx_sealed"]
        cluster.operator.cli(*restore, "--name", "e2e-sealed", timeout=90)
        expect(checksum(cluster, "awx_sealed") == sums, "the restored dump has other rows")
        why = verify(cluster, "e2e-sealed")
        expect(why is None, f"the restore test of an encrypted backup failed: {why}")
        for name, target, last in [
            ("e2e-sealed-xid", {"xid": known[21][0]}, 21),
            # From a base backup of before, through WAL of both forms.
            ("e2e-mixed-xid", {"xid": known[19][0], "backupID": early["backupID"]}, 19),
        ]:
            found, _ = recovered(cluster, name, target)
            expect(found == list(range(1, last + 1)), f"recovered to {target}: {found}")

        # Another key, and none: refused with the fingerprint, and nothing is downloaded.
        s3.apply_secret(cluster.operator, "e2e-other-key", {"identity": SECOND})
        for secret in ("e2e-other-key", None):
            recovery = refused(cluster, "e2e-refused", archive, server, secret)
            expect(FINGERPRINT in json.dumps(recovery), f"refused without the fingerprint: {recovery}")
            expect(not recovery.get("progress"), f"something was downloaded: {recovery}")

        # The key is changed while a base backup runs, which begins again. What the old one has encrypted is still read.
        slow = {"cluster": {"name": cluster.name}, "maxRate": "4Mi"}
        backup = {"kind": "Backup", "metadata": {"name": "e2e-changed"}, "spec": slow}
        backup["apiVersion"] = "evenkeel.dev/v1alpha1"
        cluster.operator.cli("apply", "-f", "-", text=json.dumps(backup))
        wait_until("the base backup runs", lambda: one(cluster, "backup", "e2e-changed").get("bytes", 0) > 0, 30)
        s3.apply_secret(cluster.operator, "e2e-key", {"identity": f"{SECOND}\n{FIRST}\n"})
        wait_until("the new key is noted", lambda: len(server.keys(f"{archive}/keys/")) == 2, 30)
        wait_until("it is complete", lambda: one(cluster, "backup", "e2e-changed")["phase"] == "Completed", 90)
        changed = one(cluster, "backup", "e2e-changed")
        why = json.dumps(changed["lastFailure"])
        expect("encryption of the archive has changed" in why, f"it was not cut off: {changed}")
        info = server.get(f"{archive}/base/{changed['backupID']}/backup.info").decode()
        expect("\n# age_fingerprint=" in info and FINGERPRINT not in info, f"it has the old key: {info}")
        known |= commits(cluster.uri(), range(26, 31))
        docker("kill", cluster.container(cluster.settled()["primary"]))
        cluster.settled()
        archiving(cluster)
        wait_until("a new primary takes writes", lambda: commits(cluster.uri(), [31]), 30)
        archived_up_to(cluster, server, archive)
        complete(server, archive)
        found, _ = recovered(cluster, "e2e-rotated", {})
        expect(found == list(range(1, 32)), f"recovered over a change of the key: {found}")
        shown = clear_content(server, archive, clear)
        expect(not shown, f"not encrypted: {shown}")
        return note
    finally:
        for name in backups:
            cluster.operator.cli_result("delete", "backup", name)
        cluster.operator.cli_result("delete", "databaserestore", "e2e-sealed")
        primary = cluster.container(cluster.settled()["primary"])
        docker("exec", "-u", "postgres", primary, "psql", "-XAtc", "DROP DATABASE IF EXISTS awx_sealed")
        cluster.spec.pop("backup", None)
        cluster.apply()
        server.stop()
        for name in secrets:
            cluster.operator.cli_result("delete", "secret", name)


SCENARIOS = [an_encrypted_archive_gives_nothing_away_and_is_restored_over_a_change_of_the_key]
