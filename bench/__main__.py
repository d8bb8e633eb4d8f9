"""`python -m bench [--json FILE] [--quick] [--parts]`: measure, print a table, and write the figures as one object."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import measures, mitm, parts
from bench.rig import Rig
from bench.streams import Streams

Figures = dict[str, Any]
TARGETS = {
    "governed_ratio": ("at least 0.5", lambda value: value >= 0.5),
    "mitmproxy_ratio": ("at least 7", lambda value: value >= 7),
    "added_p50_ms": ("under 1", lambda value: value < 1),
    "run_true_ms": ("under 250", lambda value: value < 250),
    "cell_rss_mb": ("under 10", lambda value: value < 10),
}


def main() -> int:
    options = argparse.ArgumentParser(prog="bench", description=__doc__)
    options.add_argument("--json", type=Path, help="write the figures there as one JSON object")
    options.add_argument("--quick", action="store_true", help="under a minute; figures are rougher")
    options.add_argument("--parts", action="store_true", help="only the audit log and the sealed store")
    given = options.parse_args()
    started = time.monotonic()
    figures: Figures = {"quick": given.quick, "cores": os.cpu_count()}
    say = Console(stderr=True)
    try:
        say.print("parts: audit log, sealed store")
        figures |= parts.measure(Path("/var/tmp"), quick=given.quick)
        if not given.parts:
            _whole(say, measures.QUICK if given.quick else measures.Plan(), figures)
    except RuntimeError as error:
        say.print(f"error: {error}", style="red", markup=False)
        return 1
    finally:
        figures["seconds"] = round(time.monotonic() - started, 1)
        if given.json:
            given.json.write_text(json.dumps(figures, indent=1) + "\n")
        _print(figures)
    return 0


def _whole(say: Console, plan: measures.Plan, found: Figures) -> None:
    """Put every figure into `found` as soon as it is there."""
    try:
        command: Path | None = mitm.installed()
    except (RuntimeError, OSError) as error:
        say.print(f"without mitmproxy: {error}", style="yellow", markup=False)
        command = None
    streams = Streams()
    rig = Rig(streams=streams.port)
    try:
        say.print("starting Remit, an upstream, and what it is compared with")
        streams.use(rig.certificates)
        rig.start()
        variants = ["governed", "ungoverned", "fixed"]
        if command is not None:
            mitm.start(rig, command)
            variants.append("mitmproxy")
        say.print("start time of a cell")
        start = measures.start_ms(rig, plan.runs)
        found |= {"run_true_ms": start["median_ms"], "run_true_max_ms": start["max_ms"]}
        measures.warm(rig, variants)
        say.print("throughput, keep-alive")
        kept = measures.throughput(rig, variants, plan.rounds, plan.load_s, new=False)
        found |= _throughput(kept, "")
        say.print("latency at half load")
        rate = kept["governed"].rate() / 2
        found |= _latency(measures.latency(rig, variants[:2], max(1, plan.rounds - 1), plan.latency_s, rate), rate)
        say.print("throughput, a new connection for each request")
        variants.remove("fixed")
        found |= _throughput(
            measures.throughput(rig, variants, max(1, plan.rounds - 1), plan.new_connections_s, new=True), "new_"
        )
        say.print("names that nobody asked for before")
        names = measures.names(rig, plan.cold_names)
        found |= {f"{kind}_name_{key}": names[kind][key] for kind in names for key in ("p50_ms", "p99_ms")}
        say.print("memory of idle cells")
        found |= measures.cell_memory_mb(rig, plan.cells)
        say.print("revocation")
        revoked = measures.revocation_ms(rig, streams, plan.revocations)
        found |= {"revocation_p50_ms": revoked["p50_ms"], "revocation_p99_ms": revoked["p99_ms"]}
        rig.remit("audit", "verify")
    finally:
        rig.close()
        streams.close()


def _throughput(found: dict[str, measures.Load], prefix: str) -> Figures:
    figures: Figures = {}
    for variant, load in found.items():
        figures[f"{prefix}{variant}_per_s"] = load.rate()
        for part, used in load.cpu_us.items():
            figures[f"{prefix}{variant}_cpu_{part}_us"] = statistics.median(used)
    governed = found["governed"].per_s
    figures[f"{prefix}governed_ratio"] = _ratio(governed, found["ungoverned"].per_s)
    if "fixed" in found:
        figures[f"{prefix}bound_ratio"] = _ratio(found["fixed"].per_s, found["ungoverned"].per_s)
    if "mitmproxy" in found:
        figures[f"{prefix}mitmproxy_ratio"] = _ratio(governed, found["mitmproxy"].per_s)
    return figures


def _ratio(ours: list[float], theirs: list[float]) -> float:
    """The median over the rounds of what was measured one after the other."""
    return statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True))


def _latency(found: dict[str, dict[str, float]], rate: float) -> Figures:
    figures: Figures = {"half_load_per_s": rate}
    for variant, said in found.items():
        figures |= {f"{variant}_{name}": value for name, value in said.items()}
    for name in ("p50_ms", "p90_ms", "p99_ms"):
        figures[f"added_{name}"] = found["governed"][name] - found["ungoverned"][name]
    return figures


def _print(figures: Figures) -> None:
    for name, value in figures.items():
        if isinstance(value, float):
            figures[name] = round(value, 3 if abs(value) < 100 else 0)
    table = Table("figure", "value", "aim")
    for name, value in figures.items():
        aim, met = TARGETS.get(name, ("", lambda value: True))
        table.add_row(name, f"{value:,}" if isinstance(value, int | float) else str(value), aim,
                      style="bold green" if aim and met(value) else "bold red" if aim else "")  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
