"""A private Docker Engine in its own network namespace, so that it can be killed and restarted without an effect on the
machine's engine."""

import ctypes
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

from harness import Failed, docker, run, wait_until

CLONE_NEWNET = 0x40000000
CONTAINERD = """version = 2
root = "{folder}/data/containerd"
state = "{folder}/exec/containerd"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
"""


class Engine:
    """One containerd, which keeps running, and one dockerd, which can be stopped and started as under systemd.

    `begin` also moves this process into the engine's network namespace and points DOCKER_HOST at it.
    """

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="evenkeel-chaos-", dir="/var/tmp"))
        self.netns = self.folder.name
        self.log = self.folder / "dockerd.log"
        self.process = self.containerd = None
        self.origin = os.open("/proc/self/ns/net", os.O_RDONLY)

    def begin(self, images):
        """The first start; copies these images from the machine's engine."""
        archive = self.folder / "images.tar"
        docker("save", "-o", str(archive), *images, timeout=300)
        run("ip", "netns", "add", self.netns)
        run("ip", "-n", self.netns, "link", "set", "lo", "up")
        enter(f"/run/netns/{self.netns}")
        os.environ["DOCKER_HOST"] = f"unix://{self.folder}/sock"
        self.live_restore(True)
        (self.folder / "containerd.toml").write_text(CONTAINERD.format(folder=self.folder), encoding="utf-8")
        self.containerd = self.spawn("containerd", f"--config={self.folder}/containerd.toml")
        self.start()
        docker("load", "-q", "-i", str(archive), timeout=300)
        archive.unlink()

    def live_restore(self, on):
        """Sets whether containers outlive the engine; a running engine reloads the setting."""
        settings = {"live-restore": on, "shutdown-timeout": 10}
        (self.folder / "daemon.json").write_text(json.dumps(settings), encoding="utf-8")
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGHUP)
            said = "true" if on else "false"
            wait_until(
                f"the engine's live-restore is {said}",
                lambda: docker("info", "-f", "{{.LiveRestoreEnabled}}").strip() == said,
                10,
            )

    def spawn(self, *command):
        """Starts one of its programs."""
        with open(self.log, "a", encoding="utf-8") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)

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
            f"--host=unix://{self.folder}/sock",
        )

        def answers():
            if self.process.poll() is not None:
                raise Failed(f"dockerd ended with {self.process.returncode}: {self.last_words()}")
            return docker("version", "-f", "{{.Server.Version}}", check=False).strip()

        wait_until("the campaign's Docker Engine answers", answers, 60)

    def last_words(self):
        """The end of the engine's log."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-500:]

    def end(self, kill=False):
        """Stops dockerd with SIGTERM (or SIGKILL)."""
        end(self.process, kill)

    def remove(self):
        """Stops it with all its containers, and removes all its files."""
        for container in docker("ps", "-aq", check=False).split():
            docker("rm", "-fv", container, check=False)
        self.end()
        end(self.containerd)
        self.end_leftovers()
        enter(self.origin)
        run("ip", "netns", "del", self.netns, check=False)
        for _ in range(10):
            for mount in reversed(mounts_under(self.folder)):
                run("umount", "-l", mount, check=False)
            shutil.rmtree(self.folder, ignore_errors=True)
            if not self.folder.exists():
                return
            time.sleep(0.5)
        raise Failed(f"{self.folder} could not be removed")

    def end_leftovers(self):
        """Kills shims and bridges that have this engine's folder on their command line."""
        for entry in pathlib.Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and int(entry.name) != os.getpid():
                    if f"{self.folder}/" in (entry / "cmdline").read_text(encoding="utf-8", errors="replace"):
                        os.kill(int(entry.name), signal.SIGKILL)
            except OSError:
                pass  # it has ended meanwhile


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


def enter(namespace):
    """Moves this thread, and threads that it will start, into a network namespace, given by path or open file."""
    handle = os.open(namespace, os.O_RDONLY) if isinstance(namespace, str) else namespace
    if ctypes.CDLL(None, use_errno=True).setns(handle, CLONE_NEWNET) != 0:
        raise Failed(f"cannot enter the network namespace {namespace}: {os.strerror(ctypes.get_errno())}")


def mounts_under(folder):
    """Mount points in a folder, in the order of mounting."""
    lines = pathlib.Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    return [line.split()[1] for line in lines if line.split()[1].startswith(f"{folder}/")]
