"""Finds names with their values in text, and where each value ends.

Text comes in many forms: URL queries, ``key=value`` files, HTTP headers, JSON, YAML, Python
reprs, SQL and command lines. Where the end of a value is in doubt, it is taken to end late, so
that no part of a credential is left.

Every repetition of the patterns is bounded, because a worker can send any text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from .names import MAX_NAME, STEMS, VAGUE_NAMES

# -- A name, and what stands between it and its value.

_BETWEEN = r"""(?:
    (?P<quote>\\{0,8}["'])?\]?\s{0,3}(?P<sign>=>|:=|==?|:(?!//))\s{0,9}  # key=x, "key": x
  | (?P<comma>\\{0,8}["'])\s{0,3},\s{0,3}                                # ["key", "x"]
  | (?P<gap>\s{1,3})                                                     # --key x, KEY 'x'
)"""

#: Any name: the filter of a project may hold any name for secret.
ANY_NAME = re.compile(rf"(?<![\w$-])(?P<name>[\w$-]{{1,{MAX_NAME}}}){_BETWEEN}", re.VERBOSE)

#: A name that can be secret by ``names.py``. Finds fewer candidates, which saves time.
NAME_WITH_STEM = re.compile(
    rf"(?<![\w$-])(?P<name>[\w$-]{{0,50}}?(?:{STEMS})[\w$-]{{0,50}}){_BETWEEN}",
    re.VERBOSE | re.IGNORECASE,
)

# An enum's class before the name of a member, as its repr has it: <Color.RED: 1>.
_ENUM_CLASS = re.compile(r"<[\w.]{1,100}\.\Z")

# -- The beginning of a value that has an end of its own.

# A quote, also of a Python literal or escaped inside another text: 'x', b"x", \"x\".
_OPENING_QUOTE = re.compile(r"[bBuUrR]{0,2}(\\{0,8}[\"'])")
# A Python object without a repr of its own: <Secret object at 0x7f>.
_INSTANCE = re.compile(r"<[^<>\n]{1,1000}>")
# A Python call: Secret('x').
_CALL = re.compile(r"[A-Za-z_][\w.]{0,100}\(")
_OPENING_BRACKETS = ("{", "[", "(")
# What opens, closes or quotes something inside a value in brackets, {'a': ["b"]}, and what is
# escaped there.
_BRACKET_OR_QUOTE = re.compile(r"[\"'{}\[\]()]|\\.", re.DOTALL)
# A value that says that there is none, or that has been masked before: None, null, ***.
_NO_VALUE = re.compile(r"(?:None|null|nil|undefined|\*+)(?=[\s&;,'\")\]}>]|$)|\.\.\.")

# -- The end of a value.

# What can follow the quote that ends a value: 'x', or "x"}.
_AFTER_QUOTE = re.compile(r"[\s,)}\]:;&<>?#\\\"']|$")
# The end of a pair in a list of pairs: 'x'], or 'x'),.
_AFTER_PAIR = re.compile(r"(?:\\{0,8}[\"'])?\s{0,3},?\s{0,3}[)\]]")
# The end of a value in the query of a URL: ?key=x&b=1, or a URL in quotes: "?key=x", 1.
_QUERY_END = re.compile(r"[\s&#]|[\"',)\]}>](?=[\s,;)\]}>\"']|$)")
# The end of a value in running text: key=x b=1, key=x&b=1, key=x, b=1, f(key=x).
_PLAIN_END = re.compile(
    r"[\s;]|&(?=[\w.%\[\]-]{1,100}=|amp;|$)"
    r"|,(?=\s|$|[\"']?[\w.-]{1,100}[\"']?\s?[=:])|[\"')\]}>](?=[\s,;)\]}>\"'&\\]|$)"
)
# The end of a header or of a line of YAML: Cookie: a=b; c=d.
_LINE_END = re.compile(r"[\r\n]")
# The end of a header in quotes, as on a command line: -H 'Cookie: a=b; c=d'.
_QUOTED_HEADER_END = {quote: re.compile(rf"[\r\n{quote}]") for quote in "\"'"}
# The end of a value between semicolons, which can hold spaces.
_SEMICOLON = re.compile(";")
# A second pair between semicolons, as connection strings have it: Password=x y;Port=1.
_PAIR_FOLLOWS = re.compile(r"[^;&\n]{0,200};\s?[\w ]{1,50}=")


def secret_values(
    text: str, names: re.Pattern[str], is_secret: Callable[[str], bool]
) -> Iterator[tuple[int, int]]:
    """Yield the beginning and the end of each value in a text whose name is secret.

    Args:
        text: any text.
        names: :data:`ANY_NAME` or :data:`NAME_WITH_STEM`.
        is_secret: decides about names.
    """
    position = 0
    while match := names.search(text, position):
        position = match.end("name")
        if not (is_secret(match["name"]) and _has_value(text, match)):
            continue
        start, position = _value(text, match)
        if start == position or _NO_VALUE.match(text, start):
            continue
        if match["comma"] and not _is_pair(text, start, position):
            position = match.end()
        else:
            yield start, position


def _has_value(text: str, match: re.Match[str]) -> bool:
    """Return whether what follows a name is its value, and not the next word of a sentence."""
    name, start = match["name"], match.start("name")
    is_vague = name.lower() in VAGUE_NAMES
    if quote := match["comma"]:
        return text.endswith((f"({quote}", f"[{quote}"), 0, start)
    if match["gap"]:
        following = text[match.end() : match.end() + 1]
        return following != "-" if name.startswith("-") else following in "'\"" and not is_vague
    if match["sign"] != ":" or match["quote"]:
        return True
    if _ENUM_CLASS.search(text[max(start - MAX_NAME, 0) : start]):
        return False
    if text[match.end() - 1] != ":":
        return True
    # Without a space after the colon, "X-Api-Key:abc" has a value. "session:token:1" and "key:1"
    # are keys of a cache.
    return not is_vague and not text.endswith((":", "/"), 0, start)


def _is_pair(text: str, start: int, end: int) -> bool:
    """Return whether a value after a comma ends the list or tuple that its name began.

    A value in brackets and a long value are taken for the second part of a pair without a look
    at what follows. If they were not, the caller would search them for names again, and the time
    for that grows with the square of the text.
    """
    in_brackets = text.startswith(_OPENING_BRACKETS, start)
    return in_brackets or end - start > 1000 or _AFTER_PAIR.match(text, end) is not None


def _value(text: str, match: re.Match[str]) -> tuple[int, int]:
    """Return where the value of a name begins and ends."""
    start = match.end()
    if opening := _OPENING_QUOTE.match(text, start):
        return opening.end(), _quoted_end(text, opening.end(), opening[1])
    if text.startswith(_OPENING_BRACKETS, start):
        return start, _bracket_end(text, start)
    if instance := _INSTANCE.match(text, start):
        return start, instance.end()
    if call := _CALL.match(text, start):
        return start, _bracket_end(text, call.end() - 1)
    return start, _bare_end(text, match)


def _bare_end(text: str, match: re.Match[str]) -> int:
    """Return where a value ends that is neither quoted nor in brackets."""
    before = text[max(match.start() - 50, 0) : match.start()].rstrip(" \t")
    last = before[-1:]
    pattern = _PLAIN_END
    if match["sign"] == ":":
        if match["name"].lower().endswith(("authorization", "cookie")):
            pattern = _QUOTED_HEADER_END.get(last, _LINE_END)
        elif last in ("", "\n"):
            pattern = _LINE_END
    elif last in ("?", "&", "#"):
        pattern = _QUERY_END
    elif match["sign"] and (last == ";" or (not last and _PAIR_FOLLOWS.match(text, match.end()))):
        pattern = _SEMICOLON
    found = pattern.search(text, match.end())
    return found.start() if found else len(text)


def _quoted_end(text: str, start: int, mark: str) -> int:
    """Return where a quoted value ends: at a quote of its kind that something can follow.

    Celery's reprs escape no backslashes, and no quotes in bytes. So a quote can be part of a
    value where JSON and Python would end it.
    """
    position = start
    while (end := text.find(mark, position)) >= 0:
        position = end + len(mark)
        before = text[max(end - 100, start) : end]
        slashes = len(before) - len(before.rstrip("\\"))
        if slashes % 2 if len(mark) == 1 else slashes:
            continue
        if text.startswith(mark, position) and end > start:  # SQL doubles a quote to escape it.
            position += len(mark)
        elif _AFTER_QUOTE.match(text, position):
            return end
    return len(text)


def _bracket_end(text: str, start: int) -> int:
    """Return where a value in brackets ends: at the end of the text if they are not closed."""
    depth = 0
    quote = ""
    for match in _BRACKET_OR_QUOTE.finditer(text, start):
        mark = match[0]
        if quote:
            quote = "" if mark == quote else quote
        elif mark in "\"'":
            quote = mark
        elif not mark.startswith("\\"):
            depth += 1 if mark in _OPENING_BRACKETS else -1
            if depth == 0:
                return match.end()
    return len(text)
