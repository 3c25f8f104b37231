"""Data volumes on small separate disks (ext4 in a file, on a loop device): full, slow, frozen or replaced on demand."""

import errno
import os
import pathlib
import shutil
import threading
import time

from harness import NAMESPACE, Failed, docker, run

SIZE = 1 << 30  # bytes of a disk; the file behind it is sparse
SLOW_WRITES = 15  # writes per second that a slow disk accepts


class Disk:
    """The disk of one instance and the Docker volume on it, with labels so that the operator adopts it."""

    def __init__(self, folder, cluster, member):
        self.volume = f"{NAMESPACE}.{member}"
        self.image = pathlib.Path(folder) / f"{self.volume}.img"
        self.mount = pathlib.Path(folder) / self.volume
        self.data = self.mount / "data"
        self.ballast = self.mount / "ballast"
        self.frozen = False
        with open(self.image, "wb") as image:
            image.truncate(SIZE)
        # No blocks are reserved for root, so that a full disk is really full.
        run("mkfs.ext4", "-q", "-F", "-m", "0", str(self.image))
        self.mount.mkdir()
        run("mount", "-o", "loop", str(self.image), str(self.mount))
        self.data.mkdir()
        self.make_volume(cluster, member)

    def make_volume(self, cluster, member):
        """Creates the Docker volume on this disk."""
        labels = {"kind": "PostgresCluster", "namespace": NAMESPACE, "name": cluster, "member": member}
        options = {"type": "none", "o": "bind", "device": str(self.data)}
        arguments = [part for key, value in labels.items() for part in ("--label", f"evenkeel.dev/{key}={value}")]
        arguments += [part for key, value in options.items() for part in ("--opt", f"{key}={value}")]
        docker("volume", "create", *arguments, self.volume)

    def fill(self):
        """Fills every free block. Returns the function that frees them."""
        with open(self.ballast, "wb") as ballast:
            size = os.statvfs(self.mount).f_bavail * os.statvfs(self.mount).f_frsize
            while size >= 4096:
                try:
                    os.posix_fallocate(ballast.fileno(), 0, os.fstat(ballast.fileno()).st_size + size)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    size //= 2
        return lambda: self.ballast.unlink(missing_ok=True)

    def freeze(self):
        """Blocks all writes, including fsync. Returns the function that unblocks them."""
        run("fsfreeze", "-f", str(self.mount))
        self.frozen = True
        return self.thaw

    def thaw(self):
        """Undoes `freeze`."""
        if self.frozen:
            self.frozen = False
            run("fsfreeze", "-u", str(self.mount), check=False)

    def slow_down(self, container_process):
        """Throttles the writes to this disk of a container, given by one of its processes. Returns the undo."""
        device = os.stat(self.mount).st_dev
        number = f"{os.major(device)}:{os.minor(device)}"
        file, slow, fast = throttle_of(container_process)
        file.write_text(f"{number} {slow}\n", encoding="ascii")

        def lift():
            try:
                file.write_text(f"{number} {fast}\n", encoding="ascii")
            except OSError:
                pass  # the container is gone, and with it its limits

        return lift

    def replace(self):
        """Moves everything out of the volume at once: open files stay usable, the next start finds an empty volume."""
        gone = self.mount / f"gone-{time.monotonic_ns()}"
        gone.mkdir()
        for entry in list(self.data.iterdir()):
            entry.rename(gone / entry.name)
        threading.Thread(target=shutil.rmtree, args=(gone, True), daemon=True).start()

    def empty(self):
        """Removes everything on the volume while it is in use."""
        for entry in self.data.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)

    def remove(self):
        """Removes volume, mount and file; the containers must be gone."""
        self.thaw()
        docker("volume", "rm", "-f", self.volume, check=False)
        run("umount", "-l", str(self.mount), check=False)
        shutil.rmtree(self.mount, ignore_errors=True)
        self.image.unlink(missing_ok=True)


def throttle_of(process):
    """(file, value for a slow disk, value for a fast disk) of the control group of a process."""
    for line in pathlib.Path(f"/proc/{process}/cgroup").read_text(encoding="ascii").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "blkio":
            file = pathlib.Path(f"/sys/fs/cgroup/blkio{path}/blkio.throttle.write_iops_device")
            words = str(SLOW_WRITES), "0"
        elif controllers == "":
            file, words = pathlib.Path(f"/sys/fs/cgroup{path}/io.max"), (f"wiops={SLOW_WRITES}", "wiops=max")
        else:
            continue
        if file.exists():
            return file, *words
    raise Failed(f"process {process} is in no control group that can throttle its writes")


def can_throttle():
    """Whether the machine's control groups can throttle writes: of version 1 with blkio, or of version 2 with io."""
    unified = pathlib.Path("/sys/fs/cgroup/cgroup.controllers")
    if unified.exists():
        return "io" in unified.read_text(encoding="ascii").split()
    return pathlib.Path("/sys/fs/cgroup/blkio/blkio.throttle.write_iops_device").exists()


def possible():
    """Why this machine cannot provide such disks; empty if it can."""
    if os.geteuid() != 0:
        return "only root may mount disks"
    missing = [name for name in ("mkfs.ext4", "fsfreeze", "mount") if not shutil.which(name)]
    if missing:
        return f"{missing} not found"
    return "" if pathlib.Path("/dev/loop-control").exists() else "there are no loop devices"
