"""What a probe costs: the processes that a container's health check starts.

    python -m benchmarks.probe

Starts a private Redis and a worker. Each command is run in turn with the others, with the demo
project.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from statistics import median

from benchmarks.support import place, show
from tests.processes import ROOT

RUNS = 7
WORKER = "worker@probe"
COMMANDS = {
    "the project alone": ("-c", "import django; django.setup()"),
    "celery inspect ping": ("-m", "celery", "-A", "project", "inspect", "ping", "-d", WORKER),
    "celery_stats": ("manage.py", "celery_stats", "--field", "stats", "--worker", WORKER),
    "celery_stats --json": (
        *("manage.py", "celery_stats", "--field", "stats", "--worker", WORKER, "--json"),
    ),
}


def run(args: tuple[str, ...], env: dict[str, str]) -> tuple[float, float]:
    """Return the seconds of CPU, and of time, that a process took."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(
        [sys.executable, *args], cwd=ROOT, env=env, stdout=subprocess.DEVNULL, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.monotonic() - started


def main() -> None:
    with place("redis") as broker:
        broker.fleet(WORKER, with_app=True)
        env = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "project.settings",
            "CELERY_BROKER_URL": broker.url,
            "CELERY_CONTROL_EXCHANGE": broker.namespace,
        }
        costs: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
        for _ in range(RUNS):
            for name, args in COMMANDS.items():
                costs[name].append(run(args, env))
    rows = [
        [name, *(f"{median(cost[at] for cost in taken):.2f} s" for at in (0, 1))]
        for name, taken in costs.items()
    ]
    show(f"one process, the median of {RUNS}", ["command", "CPU", "in all"], rows)


if __name__ == "__main__":
    main()
