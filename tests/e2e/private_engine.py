"""A Docker Engine of one's own in a network namespace, so that it can be killed and restarted without an effect on the
machine's engine. The chaos tests use one, the lab several."""

import ctypes
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

from harness import Failed, run, wait_until

CLONE_NEWNET = 0x40000000
NAMESPACES = pathlib.Path("/run/netns")
CONTAINERD = """version = 2
root = "{folder}/data/containerd"
state = "{folder}/exec/containerd"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
"""


class PrivateEngine:
    """One containerd, which keeps running, and one dockerd, which can be stopped and started as under systemd.

    Both run in the network namespace `netns`, which must exist, with all their files in `folder`. `settings` are keys of
    daemon.json, `listens` more addresses of its API. It is asked over a unix socket, which is reachable from every namespace.
    """

    def __init__(self, folder, netns, settings=None, listens=()):
        self.folder = pathlib.Path(folder)
        self.netns = netns
        self.settings = {"live-restore": True, "shutdown-timeout": 10, **(settings or {})}
        self.listens = listens
        self.log = self.folder / "dockerd.log"
        self.process = self.containerd = None

    @property
    def endpoint(self):
        """Its address for the docker program."""
        return f"unix://{self.folder}/sock"

    def docker(self, *arguments, check=True, timeout=60):
        """Runs the docker program with this engine."""
        return run("docker", "-H", self.endpoint, *arguments, check=check, timeout=timeout)

    # Its programs

    def boot(self):
        """Starts containerd and dockerd."""
        self.configure()
        (self.folder / "containerd.toml").write_text(CONTAINERD.format(folder=self.folder), encoding="utf-8")
        self.containerd = self.spawn("containerd", f"--config={self.folder}/containerd.toml")
        self.start()

    def configure(self):
        """Writes daemon.json."""
        (self.folder / "daemon.json").write_text(json.dumps(self.settings), encoding="utf-8")

    def live_restore(self, on):
        """Sets whether containers outlive the engine; a running engine reloads the setting."""
        self.settings["live-restore"] = on
        self.configure()
        if self.running():
            self.process.send_signal(signal.SIGHUP)
            said = "true" if on else "false"
            wait_until(
                f"the engine's live-restore is {said}",
                lambda: self.docker("info", "-f", "{{.LiveRestoreEnabled}}").strip() == said,
                10,
            )

    def running(self):
        """Whether dockerd runs."""
        return self.process is not None and self.process.poll() is None

    def spawn(self, *command):
        """Starts one of its programs."""
        with open(self.log, "a", encoding="utf-8") as log:
            return subprocess.Popen(
                [*within(self.netns), *command], stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )

    def start(self):
        """Starts dockerd and waits until it answers."""
        pid = self.folder / "pid"
        # Left over from a killed engine; the engine refuses to start if a process with that number exists.
        pid.unlink(missing_ok=True)
        self.process = self.spawn(
            "dockerd",
            f"--config-file={self.folder}/daemon.json",
            f"--containerd={self.folder}/containerd.sock",
            f"--data-root={self.folder}/data/docker",
            f"--exec-root={self.folder}/exec/docker",
            f"--pidfile={pid}",
            *(f"--host={address}" for address in (self.endpoint, *self.listens)),
        )

        def answers():
            if self.process.poll() is not None:
                raise Failed(f"dockerd ended with {self.process.returncode}: {self.last_words()}")
            return self.docker("version", "-f", "{{.Server.Version}}", check=False).strip()

        wait_until(f"the Docker Engine in {self.netns} answers", answers, 60)

    def last_words(self):
        """The end of the engine's log."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-500:]

    def end(self, kill=False):
        """Stops dockerd with SIGTERM (or SIGKILL)."""
        end(self.process, kill)

    # Its end

    def processes(self):
        """Processes that have its folder on their command line: its programs, shims, bridges."""
        return processes(lambda entry: f"{self.folder}/".encode() in (entry / "cmdline").read_bytes())

    def remove(self):
        """Stops it with all its containers, and removes all its files."""
        for container in self.docker("ps", "-aq", check=False).split():
            self.docker("rm", "-fv", container, check=False)
        self.end()
        end(self.containerd)
        kill_all(self.processes())
        remove_folder(self.folder)


def end(process, kill=False):
    """Sends SIGTERM (or SIGKILL) to a program that was started here, and waits for its end."""
    if process is None or process.poll() is not None:
        return
    process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def processes(matches):
    """Ids of the machine's processes whose /proc entry matches, without this one."""
    found = set()
    for entry in pathlib.Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and int(entry.name) != os.getpid() and matches(entry):
                found.add(int(entry.name))
        except OSError:
            pass  # it has ended meanwhile
    return found


def kill_all(pids):
    """kill -9 of each, as far as it still exists. Returns them."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    return pids


def within(netns):
    """The words before a command that is to run in a network namespace; the control groups stay visible."""
    return ("nsenter", f"--net={NAMESPACES / netns}", "--")


def enter(namespace):
    """Moves this thread, and threads that it will start, into a network namespace, given by path or open file."""
    handle = os.open(namespace, os.O_RDONLY) if isinstance(namespace, (str, pathlib.Path)) else namespace
    if ctypes.CDLL(None, use_errno=True).setns(handle, CLONE_NEWNET) != 0:
        raise Failed(f"cannot enter the network namespace {namespace}: {os.strerror(ctypes.get_errno())}")


def mounts_under(folder):
    """Mount points in a folder, in the order of mounting."""
    lines = pathlib.Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    return [line.split()[1] for line in lines if line.split()[1].startswith(f"{folder}/")]


def unmount_under(folder):
    """Unmounts everything in a folder."""
    for mount in reversed(mounts_under(folder)):
        run("umount", "-l", mount, check=False)


def remove_folder(folder):
    """Removes a folder with everything that is mounted in it."""
    for _ in range(10):
        unmount_under(folder)
        shutil.rmtree(folder, ignore_errors=True)
        if not pathlib.Path(folder).exists():
            return
        time.sleep(0.5)
    raise Failed(f"{folder} could not be removed")
