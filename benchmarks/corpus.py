"""How many credentials are masked, and how much else is, by the examples in tests/corpus.json.

    python -m benchmarks.corpus
    python -m benchmarks.corpus --misses
    python -m benchmarks.corpus --rules

Recall is the share of secret parts that vanish. A false positive is a part that should stay and
does not. ``--rules`` switches one rule off at a time, and prints what changes.
"""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import django
from django.conf import settings

from benchmarks.support import show

ROOT = Path(__file__).resolve().parent.parent
CORPORA = ("corpus.json", "corpus_held_out.json")


def masked(where: str, value: Any) -> str:
    """Return what a caller sees of an example, as one text."""
    from celery_stats.masking.answers import safe_error
    from tests.answers import mask

    if where == "error":
        reply: Any = {"error": value}
        both = [mask({"active": {"w": reply}}), mask({"stats": {"w": reply}})]
        return json.dumps(both, ensure_ascii=False) + safe_error(OSError(value))
    if where == "broker":
        shown: Any = mask({"stats": {"w": {"broker": value}}})
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


def rules() -> list[tuple[str, str]]:
    """Return the rules as kind and name. Where a constant has alternatives, each is a rule."""
    from celery_stats.masking import names, text

    words = [(kind, word) for kind in WORDS for word in getattr(names, kind).split("|")]
    prefixes = [("PREFIXES", prefix) for prefix in text.PREFIXES.split("|")]
    forms = [("RULES", rule) for rule in text.RULES if "?P<name>" not in rule]
    return [*words, *prefixes, *forms, *(("spelling", part) for part in SPELLINGS), *OTHERS]


#: Constants of ``names.py``.
WORDS = ("SECRETS", "ABOUT", "COUNTED", "OTHER")
#: Parts of the pattern for names and values, one of each of its alternatives.
SPELLINGS = ("(?P<sign>", r"\b[vV]alue", "(?P<comma>", "(?P<element>", "(?P<gap>")
#: Patterns of ``text.py`` for what stands around a value, and of ``answers.py``.
OTHERS = [
    ("text", name)
    for name in ("_QUOTED", "_BRACKETS", "_LINE", "_TO_SEMICOLON", "_ELEMENT", "_PROSE", "_NONE")
] + [("answers", name) for name in ("_BROKER_URL", "_PAIR_NAMES", "_pairs")]

NEVER = re.compile("(?!)")


@contextmanager
def without(rule: tuple[str, str]) -> Iterator[None]:
    """Switch a rule off."""
    from celery_stats.masking import answers, names, text

    kind, name = rule
    patches: Sequence[Any]
    if kind in WORDS:
        words = getattr(names, kind)
        kept = "|".join(word for word in words.split("|") if word != name)
        pattern = "_SECRET" if kind == "SECRETS" else "_HARMLESS"
        source = getattr(names, pattern).pattern.replace(words, kept)
        patches = [patch.object(names, pattern, re.compile(source))]
    elif kind in ("PREFIXES", "RULES", "spelling"):
        kept = "|".join(part for part in text.PREFIXES.split("|") if part != name)
        sources = [source.replace(text.PREFIXES, kept) for source in text.RULES]
        if kind == "spelling":
            off = f"{name}(?!)" if name.startswith("(") else f"(?!){name}"
            sources = [source.replace(name, off) for source in sources]
        patterns = [re.compile(source) for source in sources if source != name]
        patches = [patch.object(text, "_RULES", patterns)]
    else:
        off_by_name: dict[str, Any] = {
            "_BRACKETS": [],
            "_LINE": dict.fromkeys("\n'\"", text._UNQUOTED),
            "_TO_SEMICOLON": text._UNQUOTED,
            "_PAIR_NAMES": set(),
            "_pairs": lambda self, items: items,
        }
        module = {"text": text, "answers": answers}[kind]
        target = answers.Walk if name == "_pairs" else module
        patches = [patch.object(target, name, off_by_name.get(name, NEVER))]
    for each in patches:
        each.start()
    try:
        yield
    finally:
        for each in patches:
            each.stop()


def report_rules(examples: list[dict[str, Any]]) -> None:
    """Print what each rule alone masks, changes and leaves alone."""
    before = [judge(example) for example in examples]
    rows = []
    for rule in rules():
        with without(rule):
            after = [judge(example) for example in examples]
        pairs = list(zip(before, after, strict=True))
        alone = sum(len({*off[0]} - {*on[0]}) for on, off in pairs)
        changes = sum(len({*on[1]} - {*off[1]}) for on, off in pairs)
        spares = sum(len({*off[1]} - {*on[1]}) for on, off in pairs)
        name = rule[1].strip().replace("|", "\\|")
        rows.append([f"{rule[0]}: {name[:40]}", str(alone), str(changes), str(spares)])
    header = ["rule", "secrets that it alone masks", "harmless that it alone changes"]
    show("Rules, over both corpora", [*header, "harmless that it alone leaves"], rows)


def main() -> None:
    settings.configure(USE_TZ=True)
    django.setup()
    paths = [path for name in CORPORA if (path := ROOT / "tests" / name).exists()]
    for path in paths:
        report(path, misses="--misses" in sys.argv)
    if "--rules" in sys.argv:
        report_rules([example for path in paths for example in json.loads(path.read_text())])


if __name__ == "__main__":
    main()
