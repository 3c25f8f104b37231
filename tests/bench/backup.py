"""Backups and the archive under measurement: `backup.py BINARY [ROUNDS] [PART...]`.

Every promise is a ratio to something that is measured in the same run. The S3
servers run on the same cores. Writes target/bench/backup-PART.md and .json for
each part when it ends. Exits 1 when a promise about data was broken.
"""

import pathlib
import sys
import time
import traceback

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

import backup_base
import backup_encryption
import backup_faults
import backup_wal
import failover

PARTS = {
    "gaps": backup_wal.gaps,
    "latency": backup_wal.latency,
    "backup": backup_base.backup,
    "tps": backup_base.tps,
    "dead-store": backup_wal.dead_store,
    "pitr": backup_faults.pitr,
    "faults": backup_faults.faults,
    "flips": backup_faults.flips,
    "encryption": backup_encryption.encryption,
}


def main():
    """Runs the parts."""
    words = sys.argv[2:]
    rounds = int(words.pop(0)) if words and words[0].isdigit() else 10
    unknown = [word for word in words if word not in PARTS]
    if len(sys.argv) < 2 or unknown:
        sys.exit(f"usage: backup.py BINARY [ROUNDS] [PART...]; parts: {' '.join(PARTS)}")
    kept = True
    for part in words or PARTS:
        began = time.monotonic()
        try:
            results, text, good = PARTS[part](sys.argv[1], rounds)
            failover.keep(f"backup-{part}", results, text)
        except Exception:  # the other parts must run
            traceback.print_exc()
            good = False
        kept = kept and good
        print(f"{part}: {'ok' if good else 'FAILED'} after {time.monotonic() - began:.0f} s\n", flush=True)
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    main()
