"""Shared by all clusters: the engine, the operator, and the right to disturb, which only one lane has at a time."""

import threading
import time

import disks
import harness
from engine import Engine
from harness import Failed

STEP = "evenkeel::runtime::reconcile: "  # prefix of a log line about a finished step, after time and level
FAILED_STEP = "failed: "
STEP_PATIENCE = 15  # seconds to wait for the k-th step of a disturbance


class Machine:
    """Engine and operator of one campaign."""

    def __init__(self, binary, images):
        self.turn = threading.RLock()
        self.engine, self.why_no_engine = private_engine(images)
        self.why_no_disks = disks.possible()
        self.steps = {}  # disturbance -> number of the step at which the operator is killed next
        self.struck = []  # (lane, names of the machine-wide faults, from, to)
        try:
            self.operator = harness.start_operator(binary)
        except BaseException:
            if self.engine:
                self.engine.remove()
            raise

    def kill_at_step(self, lane, disturbance, act):
        """Disturbs a cluster, kills the operator when its k-th step for it is done, and starts another operator."""
        name = disturbance.__name__
        k = self.steps.get(name, 1)
        with open(self.operator.log, encoding="utf-8", errors="replace") as log:
            log.seek(0, 2)
            act()
            reached = self.follow(log, f"object={harness.NAMESPACE}/{lane.cluster.name} ", k)
        # A disturbance with fewer steps starts again with its first one.
        self.steps[name] = k + 1 if reached == k else 1
        self.operator.kill()
        time.sleep(lane.random.uniform(0, 2))
        self.operator.start()
        lane.note(f"operator killed after step {reached} of {name}")

    def follow(self, log, mark, k):
        """Waits for k log lines about finished steps of one object; returns their number."""
        until = time.monotonic() + STEP_PATIENCE
        reached, rest = 0, ""
        while reached < k and time.monotonic() < until:
            text = log.read()
            if not text:
                time.sleep(0.001)
                continue
            *lines, rest = (rest + text).split("\n")
            reached += sum(1 for line in lines if is_step(line) and mark in line)
        return min(reached, k)

    def strikes(self, lane, names, begin, end):
        """Records the time span of a lane's machine-wide faults."""
        self.struck.append((lane, names, begin, end))

    def struck_beside(self, lane, begin, end):
        """Names of the machine-wide faults of other lanes in this time span."""
        struck = [names for other, names, first, last in self.struck if other != lane and first < end and last > begin]
        return [name for names in struck for name in names]

    def remove(self):
        """Stops the operator and removes the engine."""
        harness.discard(self.operator)
        if self.engine:
            self.engine.remove()


def is_step(line):
    """Whether a line of the operator's log is about a finished step."""
    _, found, rest = line.partition(STEP)
    return bool(found) and " took=" in rest and not rest.startswith(FAILED_STEP)


def private_engine(images):
    """(a private engine, ""), or (None, the reason why there is none)."""
    engine = Engine()
    try:
        engine.begin(images)
        return engine, ""
    except (Failed, OSError) as problem:
        engine.remove()
        return None, str(problem)
