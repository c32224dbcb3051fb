"""What masking and JSON-safe conversion cost on the largest answers.

    python benchmarks/conversion.py

From the bytes of the replies to the bytes of the response: kombu decodes, the answer
is masked and converted (or not), REST framework's renderer writes it. No broker.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import process_time
from typing import Any
from uuid import UUID

import django
from django.conf import settings

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
settings.configure(USE_TZ=True)
django.setup()

from kombu.serialization import loads  # noqa: E402
from rest_framework.renderers import JSONRenderer  # noqa: E402

from celery_stats.masking.answers import mask  # noqa: E402

ROUNDS = 15
LIMIT = 2.5
WORKER = "celery@worker-1"


def task(number: int) -> dict[str, Any]:
    """One task as a worker describes it; a URL and a secret in every tenth."""
    kwargs: dict[str, Any] = {
        "user_id": number,
        "subject": "Your invoice of November",
        "options": {"retry": True, "tags": ["billing", "eu"], "limits": {"rows": 100}},
        "callback": "https://example.org/hooks/invoices",
    }
    if number % 10 == 0:
        kwargs["password"] = "hunter2"
    return {
        "id": str(UUID(int=number)),
        "name": "shop.tasks.send_invoice",
        "args": [number, f"customer-{number}@example.org", ["pdf", "html"]],
        "kwargs": kwargs,
        "type": "shop.tasks.send_invoice",
        "hostname": WORKER,
        "time_start": None,
        "acknowledged": False,
        "delivery_info": {
            "exchange": "",
            "routing_key": "celery",
            "priority": 0,
            "redelivered": False,
        },
        "worker_pid": None,
    }


def reply(content: Any) -> bytes:
    return json.dumps({WORKER: content}).encode()


def respond(field: str, body: bytes, convert: Callable[[Any], Any]) -> bytes:
    answers = {field: loads(body, "application/json", "utf-8")}
    return JSONRenderer().render(convert(answers))


def best(field: str, body: bytes, conversions: Sequence[Callable[[Any], Any]]) -> list[float]:
    """CPU seconds of each conversion's fastest round, taken in turn: the rest is noise."""
    times: list[list[float]] = [[] for _ in conversions]
    for _ in range(ROUNDS):
        for convert, taken in zip(conversions, times, strict=True):
            gc.collect()  # No round pays for the garbage of the one before.
            start = process_time()
            respond(field, body, convert)
            taken.append(process_time() - start)
    return [min(taken) for taken in times]


def plain(answers: Any) -> Any:
    return answers


def converted(answers: Any) -> Any:
    return mask(answers, redact=False, hide_arguments=False)


def masked(answers: Any) -> Any:
    return mask(answers, redact=True, hide_arguments=False)


def main() -> int:
    cases = {
        "10 000 reserved tasks": ("reserved", reply([task(n) for n in range(10_000)])),
        "50 000 revoked ids": ("revoked", reply([str(UUID(int=n)) for n in range(50_000)])),
    }
    print(f"{'answer':<24}{'plain':>10}{'converted':>12}{'masked too':>12}{'ratio':>8}")
    worst = 0.0
    for name, (field, body) in cases.items():
        times = best(field, body, [plain, converted, masked])
        ratio = times[-1] / times[0]
        worst = max(worst, ratio)
        figures = "".join(f"{1e3 * seconds:>9.1f} ms" for seconds in times)
        print(f"{name:<22}{figures}{ratio:>8.2f}")
    return 0 if worst < LIMIT else 1


if __name__ == "__main__":
    raise SystemExit(main())
