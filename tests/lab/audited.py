"""A lab of several operators that watches what each of them does: only the one that leads may change anything."""

import re
import subprocess
from collections import defaultdict
from datetime import datetime, timedelta

from faults_operators import OperatorsRound
from harness import Failed, run
from objects import Deployment
from shared import Member, SharedLab

FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"
WEB = "campaign-web"  # a Deployment that gives the operators something to do in each round
DISK = "400M"  # of each member of etcd
STEP = re.compile(r"^(\S+) +(?:INFO|DEBUG) .*reconcile.*evenkeel::runtime::reconcile: (.*?) took=([0-9.]+)(ns|µs|ms|s)")
UNITS = {"ns": 1e-9, "µs": 1e-6, "ms": 1e-3, "s": 1}


class SmallDisk(Member):
    """A member of etcd with a small filesystem of its own, which can be filled."""

    def start(self):
        """Makes the filesystem the first time."""
        if not self.folder.exists():
            self.folder.mkdir()
            image = self.folder.with_suffix(".ext4")
            run("truncate", "-s", DISK, str(image))
            run("mkfs.ext4", "-q", str(image))
            run("mount", "-o", "loop", str(image), str(self.folder))
        super().start()

    def fill(self):
        """Not one more byte fits."""
        subprocess.run(["dd", "if=/dev/zero", f"of={self.folder}/full", "bs=64k"], capture_output=True, check=False)
        subprocess.run(["dd", "if=/dev/zero", f"of={self.folder}/full2", "bs=512"], capture_output=True, check=False)

    def empty(self):
        """Ends `fill`."""
        for name in ("full", "full2"):
            (self.folder / name).unlink(missing_ok=True)


class Audited(SharedLab):
    """Three hosts with operators and etcd, whose steps and containers are checked."""

    round = OperatorsRound
    member = SmallDisk

    def __init__(self, binary, hosts=3, name="evenkeel-lab", clocks=()):
        super().__init__(binary, hosts, name)
        self.clocks = dict(zip(self.names, clocks))  # seconds that the clock of an operator is ahead
        if clocks:
            self.openssl = ("faketime", "1 day ago")
        self.ends = []  # of the faults of this round
        self.web = None
        self.read = defaultdict(int)  # bytes of each log that were audited
        self.led = []  # (moment, epoch, operator)
        self.counts = {"steps": 0, "leaderships": 0, "on their way": 0}

    def env(self, name):
        """Every step is in the log; a clock that is wrong."""
        wrong = self.clocks.get(name)
        faked = {"LD_PRELOAD": FAKETIME, "FAKETIME": f"{wrong:+d}", "FAKETIME_DONT_FAKE_MONOTONIC": "1"} if wrong else {}
        return {"EVENKEEL_LOG": "info,evenkeel::runtime=debug", **faked}

    def start_operator(self):
        """Starts everything with all steps in the logs, and makes the Deployment of the rounds."""
        super().start_operator()
        self.web = Deployment(self.operator, WEB, 3)
        self.web.apply()

    def heal(self):
        """Ends the faults of operators and etcd, too."""
        while self.ends:
            self.ends.pop()()
        for member in self.members.values():
            member.empty()
        super().heal()

    def audit(self):
        """Fails if an operator began a step after one of a later epoch has led. Prints what was seen."""
        steps = []
        for name, log in self.logs().items():
            host = name.removeprefix("operator-")
            if host == name:
                continue
            with open(log, encoding="utf-8", errors="replace") as lines:
                lines.seek(self.read[name])
                for line in lines:
                    if "this operator leads" in line:
                        epoch = int(re.search(r"epoch=(\d+)", line).group(1))
                        self.led.append((self.moment(host, line), epoch, name))
                    elif found := STEP.match(line):
                        took = timedelta(seconds=float(found.group(3)) * UNITS[found.group(4)])
                        ended = self.moment(host, line)
                        steps.append((ended - took, ended, name, found.group(2)))
                self.read[name] = lines.tell()
        self.led.sort()
        epochs = [epoch for _, epoch, _ in self.led]
        if epochs != sorted(set(epochs)):
            raise Failed(f"the epochs of the leaderships do not grow: {epochs}")
        for began, ended, name, step in steps:
            leads = [one for one in self.led if one[0] <= began]
            if not leads or leads[-1][2] != name:
                raise Failed(f"{name} did `{step}` at {began}, while {leads[-1] if leads else 'nobody'} led")
            self.counts["on their way"] += any(began < one[0] <= ended and one[2] != name for one in self.led)
        self.counts["steps"] += len(steps)
        self.counts["leaderships"] = len(self.led)
        print(f"     audit: {self.counts}", flush=True)

    def moment(self, host, line):
        """The time at the start of a line of an operator, by a clock that is right."""
        said = datetime.fromisoformat(line.split(" ", 1)[0].replace("Z", "+00:00"))
        return said - timedelta(seconds=self.clocks.get(host, 0))
