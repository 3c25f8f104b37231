"""The floor of a failover: a hand-made pair of containers of the same image, killed and promoted without a protocol.

What a client sees here is what PostgreSQL, Docker and the client itself cost on
this machine. Nothing is fenced and nothing is asked first: the script knows who
dies, and holds an open connection to the standby to promote it over.
"""

import http.client
import os
import pathlib
import secrets
import socket
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

import client
from harness import Failed, docker, kill_postmaster, postmaster_of, wait_until, writer_for

LABEL = "evenkeel-bench"
ACKS_BEFORE, ACKS_AFTER = 300, 100  # acknowledged rows before and after the kill
WRITE_PAUSE = 0.001  # seconds between two rows: the resolution of an outage


class EngineConnection(http.client.HTTPConnection):
    """HTTP to the Docker Engine's unix socket, so that a kill does not include the start of a program."""

    def connect(self):
        path = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(path)


def kill_container(container):
    """`docker kill` by the API. Returns when the engine answers."""
    connection = EngineConnection("localhost", timeout=60)
    connection.request("POST", f"/containers/{container}/kill")
    answer = connection.getresponse()
    if answer.status != 204:
        raise Failed(f"the engine did not kill {container}: {answer.status} {answer.read().decode()}")
    connection.close()


class Pair:
    """A primary and a synchronous standby. After each round the standby is the primary and gets a new standby."""

    def __init__(self, image):
        self.image = image
        self.name = f"{LABEL}-{os.getpid()}"
        self.password = secrets.token_hex(16)
        self.made = 0
        docker("network", "create", "--label", LABEL, self.name)
        self.primary = self.run("-e", f"POSTGRES_PASSWORD={self.password}", "-e", "POSTGRES_DB=awx", self.image)
        self.wait_ready(self.primary)
        self.inside(self.primary, "echo 'host replication all all scram-sha-256' >> $PGDATA/pg_hba.conf")
        self.standby = None

    def run(self, *arguments):
        """Starts a container, returns its id; --init: the postmaster is not process 1, as under a supervisor."""
        self.made += 1
        name = f"{self.name}-{self.made}"
        place = ["--label", LABEL, "--network", self.name, "--name", name]
        return docker("run", "-d", "--init", *place, *arguments).strip()

    def inside(self, container, script):
        """Runs a shell script in a container as postgres."""
        return docker("exec", "-u", "postgres", container, "bash", "-c", script)

    def sql(self, container, statement):
        """Runs SQL in a container as its superuser."""
        return docker("exec", "-u", "postgres", container, "psql", "-XAtc", statement, "awx").strip()

    def wait_ready(self, container):
        """Waits until it accepts connections over TCP (the first start has a phase that does not)."""
        wait_until(
            "the floor's database is up",
            lambda: self.inside(container, "pg_isready -q -h 127.0.0.1; echo $?") == "0\n",
            60,
        )

    def address(self, container):
        """Its address on the pair's network."""
        return docker(
            "inspect", "-f", f'{{{{(index .NetworkSettings.Networks "{self.name}").IPAddress}}}}', container
        ).strip()

    def dsn(self, *containers):
        """A URI of these containers."""
        hosts = ",".join(f"{self.address(container)}:5432" for container in containers)
        return f"postgresql://postgres:{self.password}@{hosts}/awx"

    def prepare(self):
        """Gives the primary a new standby that streams synchronously."""
        self.sql(self.primary, "ALTER SYSTEM RESET synchronous_standby_names")
        self.sql(self.primary, "SELECT pg_reload_conf()")
        clone = (
            "chmod 700 $PGDATA && pg_basebackup -D $PGDATA -R -X stream -c fast "
            f"-d 'host={self.address(self.primary)} user=postgres' && exec postgres"
        )
        self.standby = self.run(
            "-u", "postgres", "-e", f"PGPASSWORD={self.password}", "--entrypoint", "bash", self.image, "-c", clone
        )
        streaming = (
            "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND application_name = 'walreceiver'"
        )
        wait_until("the floor's standby streams", lambda: self.sql(self.primary, streaming) == "1", 60)
        self.sql(self.primary, "ALTER SYSTEM SET synchronous_standby_names = '*'")
        self.sql(self.primary, "SELECT pg_reload_conf()")
        synchronous = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
        wait_until("the floor's standby is synchronous", lambda: self.sql(self.primary, synchronous) == "1", 30)
        # Otherwise the promoted standby would wait for a standby name that came with its copy.
        self.sql(self.standby, "ALTER SYSTEM RESET synchronous_standby_names")
        self.sql(self.standby, "SELECT pg_reload_conf()")

    def round(self, kind):
        """Kills the primary (`container` or `postmaster`), promotes at once; returns (outage, lost rows)."""
        self.prepare()
        table = f"floor_{self.made}"
        uri = self.dsn(self.primary, self.standby)
        promoter = client.connect(self.dsn(self.standby), attributes="any")
        postmaster = postmaster_of(self.primary)
        writing = writer_for(uri, table, WRITE_PAUSE, ACKS_BEFORE)
        moment = time.monotonic()
        if kind == "container":
            kill_container(self.primary)
        else:
            kill_postmaster(postmaster)
        client.execute(promoter, "SELECT pg_promote(true, 60)", deadline=60)
        on = writing.wait_for_acks(ACKS_AFTER, 30)
        writing.stop()
        promoter.close()
        if not on:
            raise Failed(f"the floor's writes did not continue: {writing.errors[-1:]}")
        lost = client.check(self.dsn(self.standby), writing.records, table)["lost"]
        docker("rm", "-fv", self.primary)
        self.primary, self.standby = self.standby, None
        return client.outage(writing.records, moment), len(lost)

    def remove(self):
        """Removes the pair."""
        for container in docker("ps", "-aq", "--filter", f"network={self.name}", check=False).split():
            docker("rm", "-fv", container, check=False)
        docker("network", "rm", self.name, check=False)
