"""The guarantees of the kinds, each as one scenario on a real Docker Engine, in the order in which they run.

A scenario's name is its sentence. It gets one settled three-instance cluster and
leaves it settled (the last one removes it); it fails by raising `Failed`, and may
return a note for the report.
"""

import scenarios_attack
import scenarios_archive
import scenarios_backup
import scenarios_changes
import scenarios_cluster
import scenarios_edges
import scenarios_encryption
import scenarios_failures
import scenarios_input
import scenarios_redis
import scenarios_redis_backup
import scenarios_secrets
import scenarios_snapshots
import scenarios_together
import scenarios_web

# Those that measure no outage. `BESIDE` runs beside them, with an operator of its own.
UNHURRIED = [*scenarios_input.SCENARIOS, *scenarios_web.SCENARIOS]
BESIDE = [*scenarios_redis.BESIDE, *scenarios_snapshots.BESIDE]

SCENARIOS = [
    *UNHURRIED,
    *scenarios_attack.SCENARIOS,
    *scenarios_redis.SCENARIOS,
    *scenarios_cluster.SCENARIOS,
    *scenarios_edges.SCENARIOS,
    *scenarios_secrets.SCENARIOS,
    *scenarios_failures.SCENARIOS,
    *scenarios_backup.SCENARIOS,
    *scenarios_encryption.SCENARIOS,
    *scenarios_redis_backup.SCENARIOS,
    *scenarios_together.SCENARIOS,
    *scenarios_archive.SCENARIOS,
    *scenarios_changes.SCENARIOS,
]
