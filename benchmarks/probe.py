"""What a probe costs: the processes that a container's health check starts, in turns.

python -m benchmarks.probe
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from functools import partial
from statistics import median

from benchmarks.support import measure, place, show
from tests.processes import ROOT

RUNS = 7
WORKER = "worker@probe"
PROBE = ("manage.py", "celery_stats", "--field", "stats", "--worker", WORKER)
COMMANDS = {
    "the project alone": ("-c", "import django; django.setup()"),
    "celery inspect ping": ("-m", "celery", "-A", "project", "inspect", "ping", "-d", WORKER),
    "celery_stats": PROBE,
    "celery_stats --json": (*PROBE, "--json"),
}


def clock() -> tuple[float, float]:
    """Return the CPU seconds of all commands so far, and the time."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime, time.monotonic()


def main() -> None:
    with place("redis") as broker:
        broker.fleet(WORKER, with_app=True)
        os.environ |= {
            "DJANGO_SETTINGS_MODULE": "project.settings",
            "CELERY_BROKER_URL": broker.url,
            "CELERY_CONTROL_EXCHANGE": broker.namespace,
        }
        run = partial(subprocess.run, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
        ways = {name: partial(run, [sys.executable, *args]) for name, args in COMMANDS.items()}
        found = measure(ways, RUNS, clock)
    rows = [[name, *(f"{median(took):.2f} s" for took in costs)] for name, costs in found.items()]
    show(f"one process, the median of {RUNS}", ["command", "CPU", "in all"], rows)


if __name__ == "__main__":
    main()
