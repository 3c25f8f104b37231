"""The Docker Engine of one campaign, in which this process works as if it were the machine's."""

import os
import pathlib
import tempfile

from harness import docker, run
from private_engine import NAMESPACES, PrivateEngine, enter


class Engine(PrivateEngine):
    """`begin` also moves this process into the engine's network namespace and points DOCKER_HOST at it."""

    def __init__(self):
        folder = pathlib.Path(tempfile.mkdtemp(prefix="evenkeel-chaos-", dir="/var/tmp"))
        super().__init__(folder, folder.name)
        self.origin = os.open("/proc/self/ns/net", os.O_RDONLY)

    def begin(self, images):
        """The first start; copies these images from the machine's engine."""
        archive = self.folder / "images.tar"
        docker("save", "-o", str(archive), *images, timeout=300)
        run("ip", "netns", "add", self.netns)
        run("ip", "-n", self.netns, "link", "set", "lo", "up")
        enter(NAMESPACES / self.netns)
        os.environ["DOCKER_HOST"] = self.endpoint
        self.boot()
        docker("load", "-q", "-i", str(archive), timeout=300)
        archive.unlink()

    def remove(self):
        """Stops it with all its containers, and removes all its files."""
        super().remove()
        enter(self.origin)
        run("ip", "netns", "del", self.netns, check=False)
