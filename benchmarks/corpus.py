"""How many credentials are masked, and how much else is, by the examples in tests/corpus.json.

    python -m benchmarks.corpus
    python -m benchmarks.corpus --misses

Recall is the share of secret parts that vanish. A false positive is a part that should stay and
does not.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import django
from django.conf import settings

ROOT = Path(__file__).resolve().parent.parent
CORPORA = ("corpus.json", "corpus_held_out.json")


def masked(where: str, value: Any) -> str:
    """Return what a caller sees of an example, as one text."""
    from celery_stats.masking.answers import mask, safe_error

    if where == "error":
        reply: Any = {"error": value}
        shown = [mask({"active": {"w": reply}}), mask({"stats": {"w": reply}})]
        return json.dumps(shown, ensure_ascii=False) + safe_error(OSError(value))
    if where == "broker":
        shown = mask({"stats": {"w": {"broker": value}}})
    else:
        name = where.removesuffix("_text")
        argument = [value] if where == "args" else value
        shown = mask({"active": {"w": [{"id": "1", name: argument}]}})
    return json.dumps(shown, ensure_ascii=False)


def in_json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def judge(example: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return the secret parts that are left, and the others that are not."""
    seen = masked(example["where"], example["value"])
    left = [part for part in example["secret"] if in_json(part) in seen or part in seen]
    lost = [part for part in example["keep"] if in_json(part) not in seen]
    return left, lost


def report(path: Path, *, misses: bool) -> None:
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for example in json.loads(path.read_text()):
        left, lost = judge(example)
        found = (len(example["secret"]), len(left), len(example["keep"]), len(lost))
        for name in (example["category"], "all"):
            counts[name] = [a + b for a, b in zip(counts[name], found, strict=True)]
        if misses and (left or lost):
            print(f"{example['value']!r}\n    left: {left}  lost: {lost}")
    print(f"{path.stem:<36}{'masked':>12}{'recall':>9}{'wrongly':>12}")
    for name, (secret, left_over, keep, gone) in sorted(
        counts.items(), key=lambda item: item[0] == "all"
    ):
        recall = f"{100 * (secret - left_over) / secret:.1f} %" if secret else "-"
        print(f"{name:<36}{secret - left_over:>5} of {secret:>3}{recall:>9}{gone:>5} of {keep:>3}")
    print()


def main() -> None:
    settings.configure(USE_TZ=True)
    django.setup()
    for name in CORPORA:
        if (path := ROOT / "tests" / name).exists():
            report(path, misses="--misses" in sys.argv)


if __name__ == "__main__":
    main()
