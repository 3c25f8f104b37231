"""The report of the chaos tests: one line per round, and tables by fault, as markdown and JSON."""

import json
import math
import statistics

BAD = ("lost", "phantom", "duplicate", "misordered", "split")
NOTED = ("stale", "withdrawn", "tail")


def line(record, clock):
    """One line about a round."""
    words = [f"{clock:6.0f} s", record["lane"], f"{record['round']:4}", " + ".join(record.get("faults", ["?"]))]
    if record.get("beside"):
        words.append(f"beside {', '.join(record['beside'])}")
    measures = [
        f"{name} {record[name]:.1f}" for name in ("took", "outage", "redundancy") if record.get(name) is not None
    ]
    words.append(" ".join(measures))
    words += [f"{kind} {count}" for kind, count in record.get("found", {}).items()]
    words += [note.splitlines()[0][:120] for note in record.get("notes", [])]
    if record.get("failed"):
        words.append(f"FAILED {record['failed'].splitlines()[0][:300]}; kept: {record.get('kept')}")
    return " | ".join(word for word in words if word)


def spread(values, *shares):
    """Values at these quantiles of the ordered values; empty without values."""
    values = sorted(value for value in values if value is not None and math.isfinite(value))
    if not values:
        return [None for _ in shares]
    at = {share: values[min(len(values) - 1, int(share * len(values)))] for share in shares}
    return [statistics.median(values) if share == 0.5 else at[share] for share in shares]


def summary(records):
    """Summary of rounds."""
    outage = spread([record.get("outage") for record in records], 0.5, 0.95, 1)
    redundancy = spread([record.get("redundancy") for record in records], 0.5, 1)
    return {
        "rounds": len(records),
        "outage": dict(zip(("median", "p95", "max"), outage)),
        "redundancy": dict(zip(("median", "max"), redundancy)),
        "failed": sum(1 for record in records if record.get("failed")),
        **{kind: sum(record.get("found", {}).get(kind, 0) for record in records) for kind in (*BAD, *NOTED)},
    }


def by_fault(records):
    """{row: summary}: each fault alone, each in a pair, all pairs, all."""
    real = [record for record in records if record.get("struck")]
    rows = {}
    for record in real:
        names = record["faults"]
        rows.setdefault(names[0] if len(names) == 1 else "two at once", []).append(record)
        if len(names) > 1:
            for name in names:
                rows.setdefault(f"{name} (with another)", []).append(record)
    rows = {name: summary(rows[name]) for name in sorted(rows, key=lambda name: ("another" in name, name))}
    return {**rows, "all": summary(real)}


def figure(value):
    """A number for a table."""
    return "" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value)


def table(rows):
    """The rows as markdown."""
    heads = ["fault", "rounds", "outage median s", "p95", "max", "redundant again median s", "max", "failed"]
    heads += [*BAD, *NOTED]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for name, row in rows.items():
        cells = [row["rounds"], *row["outage"].values(), *row["redundancy"].values(), row["failed"]]
        cells += [row[kind] for kind in (*BAD, *NOTED)]
        lines.append(f"| {name} | " + " | ".join(figure(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def async_line(records):
    """One sentence about the rounds with asynchronous replication; empty if there were none."""
    rounds = [record for record in records if "bound" in record]
    if not rounds:
        return ""
    beyond = sum(1 for record in rounds if record["gone bytes"] > record["bound"])
    return (
        f"\nasynchronous: {len(rounds)} failovers, {sum(1 for record in rounds if record['gone'])} of them with a loss, "
        f"{sum(record['gone'] for record in rounds)} acknowledged writes gone; "
        f"most bytes gone {max(record['gone bytes'] for record in rounds)}, most allowed by the status "
        f"{max(record['bound'] for record in rounds)}; bound exceeded {beyond} times.\n"
    )


def write(folder, records, totals, command, impossible):
    """Writes report.md and report.json and prints the markdown. Returns whether the run failed."""
    rows = by_fault(records)
    total = {name: sum(one.get(name, 0) for one in totals) for one in totals for name in one}
    total["split seconds"] = sum(record.get("split seconds", 0) for record in records)
    bad = [kind for kind in BAD if any(record.get("found", {}).get(kind) for record in records)]
    unhealed = [record for record in records if record.get("failed")]
    text = f"Again: `{command}`\n\n{table(rows)}\n"
    text += ", ".join(f"{name} {figure(value)}" for name, value in total.items()) + "\n"
    text += async_line(records)
    if impossible:
        text += f"\nNot possible on this machine: {', '.join(impossible)}.\n"
    for record in unhealed:
        what = ", ".join(record.get("faults", ["before any fault"]))
        text += f"\n- {record['lane']} round {record['round']} ({what}): {record['failed'].splitlines()[0]}"
    (folder / "report.md").write_text(text + "\n", encoding="utf-8")
    result = {"command": command, "table": rows, "totals": total, "impossible": impossible, "rounds": records}
    (folder / "report.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"\n{text}\nkept: {folder}/report.md, report.json", flush=True)
    return bool(bad or unhealed)
