"""Where a figure was measured: goes into every JSON of benchmarks/results."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def describe(*packages: str) -> dict[str, Any]:
    """Describe this machine (CPU, cores, memory in GiB, Python), the versions of `packages`, the day and the commit."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in packages},
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _commit(),
    }


def write(name: str, content: dict[str, Any]) -> Path:
    """Write `content` as benchmarks/results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(content, indent=2) + "\n")
    return path


def keep(name: str, content: dict[str, Any], *, whole: bool) -> None:
    """Write what a whole measurement has found, and print what a quick look has."""
    if whole:
        print(f"Written to {write(name, content).relative_to(RESULTS.parents[1])}")
    else:
        print(json.dumps(content, indent=2))


def _commit() -> str:
    """Return the commit that is checked out, with a mark where files differ from it; "" outside of a checkout."""
    command = ["git", "-C", str(RESULTS.parent), "describe", "--always", "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
