"""Volumes of a Deployment and its database, backed up together: the application stops for moments, and both come back as of one."""

import time

import psycopg2
import s3
from checks import expect
from harness import Cluster, Failed, docker, wait_until
from objects import Deployment, Object
from scenarios_encryption import FIRST

POSTGRES = "postgres:15"
SECRET, KEY = "e2e-together-s3", "e2e-together-key"
# Writes a file and then a row with the same number, as fast as it can. A signal ends it between two numbers.
WRITER = """
stop=; trap 'stop=1' TERM INT
mkdir -p /files/n && cd /files/n
psql -XAtqc 'CREATE TABLE IF NOT EXISTS written (n bigint PRIMARY KEY)'
n=$(psql -XAtqc 'SELECT coalesce(max(n), 0) FROM written') || exit 1
while [ -z "$stop" ]; do
  n=$((n + 1))
  echo "content of $n" > $n.new && mv $n.new $n && psql -XAtqc "INSERT INTO written VALUES ($n)" || exit 1
done
"""


class Backup(Object):
    """A Backup over several objects."""

    kind, api_version = "Backup", "evenkeel.dev/v1alpha1"

    def __init__(self, operator, name, together):
        super().__init__(operator, name)
        self.manifest["spec"] = {"together": together}

    def ended(self, timeout=120):
        """Waits for its end, and returns the status."""

        def look():
            status = self.status()
            if status.get("phase") not in ("Completed", "Failed"):
                raise Failed(f"{status.get('phase')} {status.get('reason')}: {status.get('message')}")
            return status

        return wait_until(f"{self.word} has ended", look, timeout)


class VolumeRestore(Object):
    """A VolumeRestore."""

    kind, api_version = "VolumeRestore", "evenkeel.dev/v1alpha1"

    def __init__(self, operator, name, claim, source):
        super().__init__(operator, name)
        self.manifest["spec"] = {"from": source, "claim": claim}

    ended = Backup.ended


def volume(claim):
    """Docker's name of the volume of a claim."""
    return f"default.claim.{claim}"


def shell(claim, script):
    """What a script says that has the volume of a claim at /files."""
    return docker("run", "--rm", "-v", f"{volume(claim)}:/files", "--entrypoint", "bash", POSTGRES, "-c", script, timeout=90)


class Writing:
    """A Deployment that writes files and rows with the same numbers. Removed at the end, with its volumes."""

    def __init__(self, cluster, name, claim="e2e-files"):
        self.cluster, self.claim = cluster, claim
        keys = {"PGHOST": "host", "PGPORT": "port", "PGUSER": "username", "PGPASSWORD": "password", "PGDATABASE": "dbname"}
        reference = {"name": f"{cluster.name}-app"}
        env = [{"name": one, "valueFrom": {"secretKeyRef": {**reference, "key": key}}} for one, key in keys.items()]
        env.append({"name": "PGTARGETSESSIONATTRS", "value": "read-write"})
        mount = [{"name": "files", "mountPath": "/files"}]
        ready = {"exec": {"command": ["test", "-d", "/files/n"]}, "periodSeconds": 1}
        self.web = Deployment(
            cluster.operator, name, 1, POSTGRES, command=["bash", "-c", WRITER], env=env, volumeMounts=mount, readinessProbe=ready
        )
        template = self.web.manifest["spec"]["template"]["spec"]
        template["volumes"] = [{"name": "files", "persistentVolumeClaim": {"claimName": claim}}]

    def rows(self, uri=None):
        """The largest number in the database, and how many there are."""
        with psycopg2.connect(uri or self.cluster.uri()) as session, session.cursor() as cursor:
            cursor.execute("SELECT coalesce(max(n), 0), count(*) FROM written")
            return cursor.fetchone()

    def files(self, claim=None):
        """The same of the volume."""
        told = shell(claim or self.claim, "cd /files/n && ls | sort -n | tail -1 && ls | wc -l").split()
        return int(told[0]), int(told[1])

    def writes(self):
        """Fails unless a new row comes within some seconds."""
        before = self.rows()[0]
        wait_until("the application writes", lambda: self.rows()[0] > before, 30)


def clear(claims):
    """Removes the volumes of these claims."""
    for claim in claims:
        docker("volume", "rm", "-f", volume(claim), check=False)


class Site:
    """The store, the database with an archive, and the application that writes. All that is made is removed at the end."""

    def __init__(self, cluster, name, claims):
        self.cluster, self.claims, self.objects, self.clusters = cluster, claims, [], []
        clear(claims)
        self.server = s3.Server("backups")
        s3.apply_secret(cluster.operator, SECRET)
        cluster.settled()
        cluster.apply(backup={"store": self.server.store(SECRET, "db"), "wal": {"maxAge": "5s"}})
        self.app = Writing(cluster, name, claims[0])
        self.objects.append(self.app.web)
        self.name = name

    def __enter__(self):
        self.app.web.apply()
        self.app.web.settled()
        self.app.writes()
        return self

    def backup(self, name, **more):
        """Applies a Backup of the volume and the database."""
        together = {
            "store": self.server.store(SECRET, "files"),
            "deployments": [{"name": self.name, "claims": [self.claims[0]]}],
            "clusters": [{"name": self.cluster.name}],
            **more,
        }
        one = Backup(self.cluster.operator, name, together)
        self.objects.append(one)
        return one.apply()

    def restore(self, name, claim, source):
        """Applies a VolumeRestore."""
        one = VolumeRestore(self.cluster.operator, name, claim, source)
        self.objects.append(one)
        return one.apply()

    def __exit__(self, *_):
        for one in reversed(self.objects):
            if one.get() is not None:
                one.delete()
            one.clean()
        for one in self.clusters:
            one.delete()
            one.clean()
        self.cluster.spec.pop("backup", None)
        self.cluster.apply()
        self.server.stop()
        for name in (SECRET, KEY):
            self.cluster.operator.cli_result("delete", "secret", name)
        clear(self.claims)


def no_porter():
    """Fails if a container of a copy is left."""
    wait_until("no porter is left", lambda: ".porter" not in docker("ps", "-a", "--format", "{{.Names}}"), 30)


def a_volume_and_its_database_come_back_as_of_one_moment(cluster):
    """Backs both up while the application writes, and restores both under new names."""
    claims = ["e2e-files", "e2e-files-back"]
    with Site(cluster, "e2e-writer", claims) as site:
        shell(claims[0], "cd /files; mkdir d; echo x > d/x; ln d/x hard; ln -s /etc/passwd soft; chmod 4750 d/x; chown 33:44 d/x")
        cluster.operator.cli("backup", cluster.name, "--name", "e2e-together-base", "--wait", timeout=120)
        s3.apply_secret(cluster.operator, KEY, {"identity": FIRST})
        one = site.backup("e2e-together", encryption={"secretName": KEY})
        status = one.ended()
        expect(status["phase"] == "Completed", f"the Backup is {status['phase']}: {status['message']}")
        parts = status["together"]
        copy = site.server.get(f"files/{parts['volumes'][0]['path']}/data.tar.zst.age")
        expect(copy.startswith(b"age-encryption.org/v1\n"), f"the copy begins with {copy[:30]}")
        site.app.web.settled()
        site.app.writes()
        no_porter()
        # Both, under new names.
        restore = site.restore("e2e-together-back", claims[1], {"backup": "e2e-together", "claim": claims[0]})
        target = {"name": parts["point"]}
        back = Cluster(cluster.operator, "e2e-together-db")
        back.spec = {
            **{key: value for key, value in cluster.spec.items() if key not in ("backup", "bootstrap", "durability")},
            "instances": 1,
            "bootstrap": {
                "recovery": {"source": {"cluster": cluster.name}, "target": target, "database": "awx", "owner": "awx"}
            },
        }
        site.clusters.append(back)
        back.apply()
        told = restore.ended()
        expect(told["phase"] == "Completed", f"the VolumeRestore is {told['phase']}: {told['message']}")
        back.settled(120)
        rows, files = site.app.rows(back.uri()), site.app.files(claims[1])
        expect(rows == files and rows[0] == rows[1], f"the newest row and the rows are {rows}, of the files {files}")
        now = site.app.rows()
        expect(now[0] > rows[0] and now[0] == now[1], f"the application has {now} rows; {rows} were restored")
        wanted, found = (
            shell(claim, "cd /files && find . -path ./n -prune -o -printf '%p %y %m %U:%G %n %l %Ts\\n' | sort") for claim in claims
        )
        expect(wanted == found, f"restored\n{found}and not\n{wanted}")
        # Nothing is restored over data.
        again = site.restore("e2e-together-again", claims[1], {"backup": "e2e-together", "claim": claims[0]}).ended()
        expect(again["phase"] == "Failed" and "not empty" in again["message"], f"again: {again}")
        return f"{files[0]} files and rows of one moment; {status['message']}"


def the_application_comes_back_whatever_happens_to_the_operator_and_the_backup(cluster):
    """Kills the operator in the middle of a Backup, and deletes another one while the pods are stopped."""
    claims = ["e2e-files"]
    with Site(cluster, "e2e-writer", claims) as site:
        shell(claims[0], "head -c 300M /dev/urandom > /files/large")
        one, pauses = site.backup("e2e-together-killed"), []

        def reached(one, *phases):
            return wait_until(f"the Backup is {phases}", lambda: one.status().get("phase") in phases, 60, poll=0.02)

        reached(one, "Quiescing", "Copying")
        cluster.operator.kill()
        began = time.monotonic()
        cluster.operator.start()
        status = one.ended()
        site.app.web.settled()
        site.app.writes()
        pauses.append(time.monotonic() - began)
        expect(status["phase"] == "Completed", f"the Backup is {status['phase']}: {status['message']}")
        deleted = site.backup("e2e-together-deleted")
        reached(deleted, "Copying")
        began = time.monotonic()
        deleted.delete()
        site.app.web.settled()
        site.app.writes()
        pauses.append(time.monotonic() - began)
        # The store dies while the pods are stopped.
        dead = site.backup("e2e-together-dead")
        reached(dead, "Copying")
        site.server.process.kill()
        began = time.monotonic()
        deadline = dead.ended(300)
        site.app.web.settled()
        site.app.writes()
        pauses.append(time.monotonic() - began)
        expect(deadline["phase"] == "Failed", f"with a dead store the Backup is {deadline['phase']}")
        no_porter()
        rows = site.app.rows()
        expect(rows[0] == rows[1], f"rows are missing: {rows}")
        return "the application wrote again after " + ", ".join(f"{pause:.1f} s" for pause in pauses)


SCENARIOS = [
    a_volume_and_its_database_come_back_as_of_one_moment,
    the_application_comes_back_whatever_happens_to_the_operator_and_the_backup,
]
