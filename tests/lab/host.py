"""A Docker host of the lab: its own network namespace, containerd and dockerd; it can lose power and be switched on again."""

import hashlib
import os
import pathlib
import shutil
import signal
import ssl
import subprocess
import time
import urllib.request

from harness import ROOT, Failed, docker, run, wait_until
from private_engine import PrivateEngine, end, kill_all, processes, remove_folder, unmount_under, within

PORT = 2376
CGROUPS = pathlib.Path("/sys/fs/cgroup")
KEPT = ROOT / "target" / "lab-images"
UNUSED = 24 * 3600  # seconds after which images that no lab has used are removed
KEY_IN_SETTINGS = 25  # first major version of dockerd that has no key file any more


class Host(PrivateEngine):
    """One Docker host; `name` is its node in the network."""

    def __init__(self, lab, name):
        self.lab, self.name = lab, name
        self.network, self.images = lab.network, lab.images
        self.address = self.network.nodes[name]
        self.cgroup = f"{lab.name}-{name}"
        folder = lab.folder / name
        settings = {
            "cgroup-parent": f"/{self.cgroup}",
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            "live-restore": False,
            **lab.certificates.settings(name),
        }
        if dockerd_version() < KEY_IN_SETTINGS:
            # The engine's ID comes from this key, which all engines of a machine would share.
            settings["deprecated-key-path"] = str(folder / "key.json")
        super().__init__(folder, self.network.netns(name), settings, (f"tcp://{self.address}:{PORT}",))

    def install(self):
        """An empty engine with the lab's images."""
        self.folder.mkdir(exist_ok=True)
        self.images.clone(self.folder / "data" / "docker")

    @property
    def reached(self):
        """Where its API is for the operator."""
        return f"tcp://{self.address}:{PORT}"

    def inside(self, *command, check=True):
        """Runs a program in its network namespace."""
        return run(*within(self.netns), *command, check=check)

    # Power

    def power_off(self):
        """Takes the host's power: not one more packet leaves it, then every process ends."""
        self.network.cut_off(self.name)
        self.kill_everything()

    def kill_everything(self):
        """kill -9 of the engine first, so that it records no end of a container, then of every container's processes."""
        programs = [one for one in (self.process, self.containerd) if one is not None]
        for one in programs:
            if one.poll() is None:
                one.kill()
        wait_until(f"{self.name} has no process", lambda: not kill_all(self.everything()), 10, poll=0.01)
        for one in programs:
            one.wait()
        unmount_under(self.folder)
        remove_cgroups(self.cgroup)

    def everything(self):
        """All its processes: programs, shims, containers, and what else runs in its namespace."""
        mark = f"/{self.cgroup}/"

        def ours(entry):
            return mark in (entry / "cgroup").read_text(encoding="utf-8")

        return self.processes() | processes(ours)

    def power_on(self):
        """A new boot: namespace and run folders are new, dockerd starts and with it what has a restart policy."""
        self.network.unplug(self.name)
        self.network.plug(self.name)
        shutil.rmtree(self.folder / "exec", ignore_errors=True)
        self.network.join(self.name)
        self.boot()

    @property
    def on(self):
        """Whether it has power."""
        return self.name not in self.network.off

    # The engine

    def stop_dockerd(self, live_restore, kill=False):
        """Stops dockerd by SIGTERM or SIGKILL; with live-restore the containers go on."""
        self.live_restore(live_restore)
        self.end(kill)

    def freeze_dockerd(self):
        """SIGSTOP: it accepts connections and says nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw_dockerd(self):
        """SIGCONT."""
        if self.running():
            self.process.send_signal(signal.SIGCONT)

    def flush_iptables(self):
        """What a foreign firewall script does: all rules are gone, Docker's too."""
        for table in ("filter", "nat"):
            self.inside("iptables", "-w", "-t", table, "-F")
        self.inside("iptables", "-w", "-P", "FORWARD", "ACCEPT")

    def replace_engine(self):
        """Another engine answers at the same address: empty but for the images, with another ID."""
        self.network.cut_off(self.name)
        self.kill_everything()
        (self.folder / "first").mkdir()
        self.move(self.folder, self.folder / "first")
        self.install()
        self.power_on()

    def restore_engine(self):
        """Ends `replace_engine`: the first engine is back, with its ID and all that it had."""
        self.network.cut_off(self.name)
        self.kill_everything()
        (self.folder / "second").mkdir()
        self.move(self.folder, self.folder / "second")
        remove_folder(self.folder / "second")
        self.move(self.folder / "first", self.folder)
        (self.folder / "first").rmdir()
        self.power_on()

    @property
    def replaced(self):
        """Whether another engine is in place of the first."""
        return (self.folder / "first").exists()

    def move(self, here, there):
        """Moves what an engine is: its data and its key."""
        for name in ("data", "key.json"):
            if (here / name).exists():
                (here / name).rename(there / name)

    def anonymous(self):
        """What a client of this process's node gets that has no certificate: an answer, or the reason of the refusal."""
        context = ssl.create_default_context(cafile=self.lab.certificates.path("ca.crt"))
        try:
            with urllib.request.urlopen(f"https://{self.address}:{PORT}/version", timeout=5, context=context) as answer:
                return answer.read().decode()
        except OSError as refusal:
            return str(refusal)

    def engine_id(self):
        """The engine's ID."""
        return self.docker("info", "-f", "{{.ID}}").strip()

    # Its containers

    def containers(self, *filters, running=False):
        """Names of the containers of objects, running or not; the agent belongs to the host itself."""
        return [name for name in self.managed(*filters, running=running) if not name.startswith("evenkeel-agent.")]

    def managed(self, *filters, running=False):
        """Names of all managed containers, running or not."""
        labels = [part for one in ("evenkeel.dev/kind", *filters) for part in ("--filter", f"label={one}")]
        return self.docker("ps", *([] if running else ["-a"]), "--format", "{{.Names}}", *labels).split()

    def clean(self):
        """Removes all containers and the volumes of objects, whatever the operator does; Evenkeel's binary stays."""
        for container in self.docker("ps", "-aq").split():
            self.docker("rm", "-fv", container, check=False)
        for volume in self.docker("volume", "ls", "-q", "--filter", "label=evenkeel.dev/member").split():
            self.docker("volume", "rm", "-f", volume, check=False)


class Images:
    """The data folder of an engine with these images of the machine's engine, loaded once and copied for each host."""

    def __init__(self, names):
        self.names = names
        ids = docker("image", "inspect", "-f", "{{.Id}}", *names)
        key = hashlib.sha256(f"{ids}{run('dockerd', '--version')}".encode()).hexdigest()[:16]
        self.data = KEPT / key

    def ensure(self, folder, netns):
        """Loads them in an engine in this folder and namespace, unless an earlier lab has."""
        KEPT.mkdir(parents=True, exist_ok=True)
        if self.data.exists():
            os.utime(self.data)
            return
        for other in KEPT.iterdir():
            if time.time() - other.stat().st_mtime > UNUSED:
                shutil.rmtree(other, ignore_errors=True)
        folder.mkdir()
        engine = PrivateEngine(folder, netns, {"live-restore": False})
        engine.boot()
        save = subprocess.Popen(["docker", "save", *self.names], stdout=subprocess.PIPE)
        load = subprocess.run(
            ["docker", "-H", engine.endpoint, "load", "-q"],
            stdin=save.stdout,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        save.stdout.close()
        if save.wait() or load.returncode:
            raise Failed(f"the images {self.names} could not be copied: {load.stderr.strip()}")
        engine.end()
        end(engine.containerd)
        # Moved beside its place first, maybe from another filesystem: what is in its place is whole.
        part = KEPT / f"{self.data.name}.{os.getpid()}"
        shutil.move(folder / "data" / "docker", part)
        os.utime(part)
        try:
            part.rename(self.data)
        except OSError:
            shutil.rmtree(part)  # another lab was faster

    def clone(self, to):
        """A copy, with hard links if possible: layers are never written to; databases are, so each engine gets its own."""
        to.parent.mkdir(parents=True, exist_ok=True)
        linked = self.data.stat().st_dev == to.parent.stat().st_dev
        run("cp", "-al" if linked else "-a", str(self.data), str(to), timeout=300)
        for database in self.data.rglob("*.db"):
            if "overlay2" not in database.parts:
                copy = to / database.relative_to(self.data)
                copy.unlink()
                shutil.copy2(database, copy)
        (to / "engine-id").unlink(missing_ok=True)


def dockerd_version():
    """The major version of dockerd."""
    return int(run("dockerd", "--version").split("version ")[1].split(".")[0])


def remove_cgroups(name):
    """Removes the empty control groups of a host."""
    for root in [CGROUPS / name, *CGROUPS.glob(f"*/{name}")]:
        for folder, _, _ in os.walk(root, topdown=False):
            try:
                os.rmdir(folder)
            except OSError:
                pass  # a process is still ending in it
