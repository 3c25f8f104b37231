"""Parts about base backups: time beside that of others, memory, a restore's download, tps of a busy primary."""

import contextlib
import os
import pathlib
import re
import statistics
import subprocess
import threading
import time

import harness
from backup_rig import IMAGE, Beside, Rclone, Recovery, Rig, backed_up, load, removing, sql
from harness import Failed, docker, run, wait_until

SCALE = 70  # of pgbench: about 1 GB
PEER = "evenkeel-test/pgbackrest:15"
PATIENCE = 900
MEMORY = 200  # MiB that a supervisor may have during a backup
TPS_SECONDS = 20


def pgbench(cluster, *options, cores=""):
    """Runs pgbench against the primary by its address; what it prints."""
    host, _, port = cluster.status()["endpoints"]["readWrite"][0].rpartition(":")
    secret = cluster.secret()
    where = ["-h", host, "-p", port, "-U", secret["username"], secret["dbname"]]
    command = ["docker", "run", "--rm", "--network", "host", "--cpuset-cpus", cores, "-e", "PGPASSWORD"]
    command += ["--entrypoint", "pgbench", IMAGE]
    return run(*command, *options, *where, timeout=PATIENCE, env={"PGPASSWORD": secret["password"]})


@contextlib.contextmanager
def filled(binary):
    """A cluster with data of this scale that archives to rclone."""
    with Rig(binary, Rclone("backups")) as rig:
        print(f"  pgbench -i -s {SCALE}", flush=True)
        pgbench(rig.cluster, "-i", "-q", "-s", str(SCALE))
        wait_until("the archive has the data", lambda: rig.archived() or True, PATIENCE)
        rig.cluster.settled()
        yield rig


class Peer:
    """A server with the same data in a container with pgBackRest (if that image can be had), for backups by hand."""

    def __init__(self):
        built = run(
            str(harness.ROOT / "deploy/images/build.sh"),
            PEER,
            str(harness.ROOT / "tests/images"),
            check=False,
            timeout=600,
        )
        self.has_pgbackrest = PEER in docker("images", "--format", "{{.Repository}}:{{.Tag}}")
        if not self.has_pgbackrest:
            print(f"  pgBackRest is left out: its image cannot be built here: {built[-200:]}", flush=True)
        image = PEER if self.has_pgbackrest else IMAGE
        self.id = docker(
            "run", "-d", "--init", "--label", "evenkeel-bench", "--entrypoint", "sleep", image, "infinity"
        ).strip()
        try:
            self.start()
        except BaseException:
            self.remove()
            raise

    def start(self):
        """Makes the server and fills it."""
        docker("exec", self.id, "install", "-d", "-m", "700", "-o", "postgres", "/srv/data", "/srv/repository")
        self.inside("PATH=$PATH:/usr/lib/postgresql/15/bin; initdb -k -D /srv/data >/srv/repository/log")
        # What pgBackRest asks for; it takes no WAL here, as Evenkeel's is taken before its backup begins.
        settings = "-c archive_mode=on -c archive_command=true -c unix_socket_directories=/tmp"
        self.inside(
            f"PATH=$PATH:/usr/lib/postgresql/15/bin; pg_ctl -w -D /srv/data -o '{settings}' -l /srv/data.log start"
        )
        self.inside(f"createdb -h /tmp awx && pgbench -h /tmp -i -q -s {SCALE} awx 2>/srv/repository/log")
        self.inside("psql -h /tmp -c CHECKPOINT awx")
        if self.has_pgbackrest:
            self.inside(f"{self.backrest()} stanza-create")

    def backrest(self):
        """The beginning of its command."""
        return (
            "pgbackrest --stanza=a --pg1-path=/srv/data --pg1-socket-path=/tmp --repo1-path=/srv/repository "
            "--log-path=/srv/repository --lock-path=/tmp/lock --log-level-console=error"
        )

    def inside(self, script):
        """Runs a shell script as postgres; the seconds it took."""
        docker("exec", self.id, "sh", "-c", "touch /srv/data.log; chown postgres /srv /srv/data.log")
        began = time.monotonic()
        docker("exec", "-u", "postgres", self.id, "bash", "-o", "pipefail", "-c", script, timeout=PATIENCE)
        return time.monotonic() - began

    def base_backup(self):
        """Seconds of pg_basebackup through zstd -1 into a file."""
        return self.inside(
            "pg_basebackup -h /tmp -D - -Ft -X none -c fast 2>/dev/null "
            "| zstd -q -f -1 -o /srv/base.tar.zst && rm /srv/base.tar.zst"
        )

    def backrest_backup(self):
        """Seconds of a full backup of pgBackRest."""
        return self.inside(
            f"{self.backrest()} --type=full --compress-type=zst --compress-level=1 --process-max=2 "
            "--start-fast --no-archive-check backup"
        )

    def remove(self):
        """Removes it."""
        docker("rm", "-fv", self.id, check=False)


class Peak:
    """The most memory that each supervisor of a cluster has from now on."""

    def __init__(self, cluster):
        # Of the numbers of processes the lowest need not be the oldest.
        self.pids = {
            one["name"]: int(docker("inspect", "-f", "{{.State.Pid}}", cluster.container(one["name"])))
            for one in cluster.status()["instances"]
        }
        for pid in self.pids.values():
            pathlib.Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")

    def mib(self, member):
        """Of one of them, in MiB."""
        status = pathlib.Path(f"/proc/{self.pids[member]}/status").read_text(encoding="ascii")
        return int(re.search(r"VmHWM:\s+(\d+)", status).group(1)) / 1024


def downloaded(recovery):
    """Seconds of a restore from the job's begin in the supervisor's log until PostgreSQL replays."""
    cluster = recovery.cluster
    container = wait_until("the container is there", cluster.containers, 60)[0]

    def supervisor():
        return int(docker("inspect", "-f", "{{.State.Pid}}", container)) or None

    pid = wait_until("the supervisor runs", supervisor, 60)

    def begun():
        log = subprocess.run(["docker", "logs", container], capture_output=True, text=True, timeout=60, check=False)
        return "kind=Restore" in log.stdout + log.stderr

    wait_until("the restore begins", begun, 60, 0.02)
    began = time.monotonic()

    def replays():
        for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split():
            with contextlib.suppress(OSError):
                words = pathlib.Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
                if words[0].endswith(b"postgres") and b"--version" not in words:
                    return True
        return False

    wait_until("PostgreSQL replays", replays, PATIENCE, 0.02)
    return time.monotonic() - began


def backup(binary, rounds):
    """Times of base backups beside pg_basebackup and pgBackRest, alternating; memory; a restore's download."""
    found, begun = {}, load()
    print(f"backup: {rounds} rounds of evenkeel backup, pg_basebackup | zstd -1, pgBackRest, and a restore", flush=True)
    with filled(binary) as rig, removing(Peer()) as peer:
        cluster = rig.cluster
        for number in range(1, rounds + 1):
            peak = Peak(cluster)
            began = time.monotonic()
            status = backed_up(cluster, f"bench-{number}")
            found.setdefault("evenkeel", []).append(time.monotonic() - began)
            found.setdefault("read", []).append(status["bytes"] / float(number_of(status["rate"])))
            found.setdefault("memory", []).append(peak.mib(status["member"]))
            found.setdefault("bytes", []).append(status["bytes"])
            found.setdefault("stored", []).append(status["storedBytes"])
            found.setdefault("pg_basebackup", []).append(peer.base_backup())
            if peer.has_pgbackrest:
                found.setdefault("pgBackRest", []).append(peer.backrest_backup())
            with Recovery(cluster, f"bench-restored-{number}", {"immediate": True}) as recovery:
                found.setdefault("download", []).append(downloaded(recovery))
                recovery.settled(PATIENCE)
                count = sql(recovery.cluster.uri(), "SELECT count(*) FROM pgbench_accounts")[0][0]
                if count != SCALE * 100_000:
                    raise Failed(f"the recovered cluster has {count} rows")
            print(
                "  round " + ", ".join([str(number), *(f"{key} {all_[-1]:.1f}" for key, all_ in found.items())]),
                flush=True,
            )
    middle = {key: statistics.median(all_) for key, all_ in found.items()}
    lines = [
        f"| base backup, {middle['bytes'] / 1e6:.0f} MB ({begun}, S3 server too) | median s | ratio to it | promise |",
        "|---|---|---|---|",
        f"| `evenkeel backup --wait`, stored as {middle['stored'] / 1e6:.0f} MB | {middle['evenkeel']:.1f} | | |",
    ]
    for key, name in {
        "pg_basebackup": "`pg_basebackup \\| zstd -1 > file`",
        "pgBackRest": "pgBackRest, 2 processes, zst 1, to a directory",
    }.items():
        if key in middle:
            ratio = middle["evenkeel"] / middle[key]
            lines.append(f"| {name} | {middle[key]:.1f} | {ratio:.2f} | ≤ 1.0: {'kept' if ratio <= 1 else 'BROKEN'} |")
    speed = middle["evenkeel"] / middle["download"]
    lines.append(
        f"| restore, download | {middle['download']:.1f} | {speed:.2f} | ≥ 2: {'kept' if speed >= 2 else 'BROKEN'} |"
    )
    most = max(found["memory"])
    lines.append(
        f"\nMost memory of the supervisor: {most:.0f} MiB (promise {MEMORY}: {'kept' if most <= MEMORY else 'BROKEN'})."
    )
    return found, "\n".join(lines) + "\n", True


def number_of(quantity):
    """`10Mi/s` as a number."""
    found = re.match(r"([\d.]+)([KMG]i)?", quantity)
    return float(found.group(1)) * {None: 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}[found.group(2)]


def tps(binary, rounds):
    """Transactions a second of the primary without and with backups of a standby, alternating."""
    found, begun = {"without": [], "busy": [], "with": []}, load()
    print(f"tps: {rounds} rounds of pgbench -c 4 for {TPS_SECONDS} s without and with backups of a standby", flush=True)
    with filled(binary) as rig:
        print(f"  {apart(rig)}", flush=True)
        for number in range(1, rounds + 1):
            found["without"].append(transactions(rig.cluster))
            with busy_loop():
                found["busy"].append(transactions(rig.cluster))
            end, count = threading.Event(), []

            def backups(end=end, count=count, number=number):
                while not end.is_set():
                    status = backed_up(rig.cluster, f"tps-{number}-{len(count)}")
                    if status.get("ofPrimary"):
                        raise Failed(f"the backup is of the primary: {status}")
                    count.append(status["backupID"])

            beside = Beside(backups)
            found["with"].append(transactions(rig.cluster))
            end.set()
            beside.wait(PATIENCE)
            print(
                f"  round {number}: without {found['without'][-1]:.0f}, busy loop {found['busy'][-1]:.0f}, "
                f"with {found['with'][-1]:.0f} "
                f"({len(count)} backups)",
                flush=True,
            )
    ratios = [after / before for before, after in zip(found["without"], found["with"])]
    ratio = statistics.median(ratios)
    control = statistics.median(found["with"]) / statistics.median(found["busy"])
    text = (
        f"| tps of a primary, pgbench -c 4 ({begun}; primary and client on one core) | median |\n|---|---|\n"
        f"| without a backup | {statistics.median(found['without']):.0f} |\n"
        f"| while a busy loop runs beside the standbys | {statistics.median(found['busy']):.0f} |\n"
        f"| while a standby is backed up | {statistics.median(found['with']):.0f} |\n"
        f"| backup / busy loop | {control:.3f} |\n"
        f"| median ratio of the rounds | {ratio:.3f} (promise 0.98: {'kept' if ratio >= 0.98 else 'BROKEN'}) |\n"
    )
    return found, text, True


@contextlib.contextmanager
def busy_loop():
    """One process that computes on the standbys' cores: what any work there costs a commit."""
    rest = f"1-{os.cpu_count() - 1}" if os.cpu_count() > 1 else "0"
    with subprocess.Popen(["taskset", "-c", rest, "sh", "-c", "while :; do :; done"]) as process:
        try:
            yield
        finally:
            process.kill()


def apart(rig):
    """Gives the primary and the client one core, and all else the others, so that they do not compete."""
    if (os.cpu_count() or 1) < 2:
        return "one core for all"
    rest = f"1-{os.cpu_count() - 1}"
    for one in rig.cluster.settled()["instances"]:
        cores = "0" if one["role"] == "primary" else rest
        docker("update", "--cpuset-cpus", cores, rig.cluster.container(one["name"]))
    for process in (rig.server.process, rig.operator.process):
        run("taskset", "-a", "-p", "-c", rest, str(process.pid))
    return f"the primary and pgbench on core 0, all else on {rest}"


def transactions(cluster):
    """Transactions a second over some seconds."""
    said = pgbench(cluster, "-c", "4", "-T", str(TPS_SECONDS), "-n", cores="0")
    return float(re.search(r"tps = ([\d.]+)", said).group(1))
