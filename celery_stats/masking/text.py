"""Masks the credentials in text: names with values, userinfo of URLs, and known formats.

Whoever sends a task can send any text. So a text is searched in pieces, other threads run between
two of them, and the texts of one answer share a limit of time.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

#: Characters that are searched at a time, those after them that may belong to what is found, and
#: those after which a value that goes on is taken to reach to the end of its text.
PIECE, OVERLAP, LONGEST = 16_384, 2_048, 65_536
#: Seconds from the beginning of an answer. What is left then is masked whole, but for short
#: texts without any sign of a credential. 10 000 tasks with ordinary arguments take a tenth of it.
MAX_SECONDS = 1.5
#: Names and harmless texts of one answer that are remembered, and characters of a text.
REMEMBERED = 1_000

#: How tokens begin, as their publishers document. At least 16 characters follow, with a digit.
PREFIXES = (
    r"gh[opsur]_|github_pat_|gl[a-z]{2,6}-|xox[a-z]-|xapp-|[sr]k_live_|[sr]k_test_|whsec_|sk-|AIza"
    r"|ya29\.|GOCSPX-|AKIA|ASIA|SG\.|npm_|pypi-|hf_|do[opr]_v1_|shp[acps][a-z]_|hv[sb]\.|key-"
    r"|dckr_[op]at_|ATATT3|dapi|gl[a-z]{1,2}_|lin_api_|NRAK-|ntn_|PMAK-|pul-|rubygems_|xkeysib-"
    r"|sntry[su]_|sq0[a-z]{3}-|tskey-"
)
#: What is masked: the last group, or all that is found. A group "name" is followed by what can
#: stand between a name and its value, and the value is masked if the name is secret.
RULES = (
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY[A-Z ]{0,20}-----(?:[^-]|-(?!----)){0,20000}"
    r"(?:-----END [A-Z ]{0,50}-----)?",
    # The password of a URL, also with a raw "/", or a user alone if it has a digit.
    r"://(?!\[)(?:[^\s/?#:@'\"<>]{0,100}:([^\s/?#'\"<>]{1,500}"
    r"|(?!\d{1,5}(?:[\s/?#,;)\]}'\"]|$))[^\s@'\"<>]{1,200})"
    r"|([^\s/?#:@'\"<>\d]{0,100}\d[^\s/?#:@'\"<>]{0,100}))(?=@)",
    # Without a scheme: user:secret@host:5432, user:secret@tcp(host), -u user:secret.
    r"(?<![\w/.@:+%-])((?:-u|--user)[ =]['\"]?)?[\w.+%-]{1,64}:([^\s@'\"/:,;]{1,100})"
    r"(?(1)|(?=@(?:[\w.-]{1,200}:\d{2,5}\b|\w{1,20}\()))",
    rf"(?<![\w-])(?=[\w.-]{{20}})(?:{PREFIXES})(?=[\w-]*?\d)[\w-]{{16,}}(?:\.[\w-]+)*",
    r"(?<![\w-])eyJ[\w-]{6,}\.[\w-]{4,}(?:\.[\w-]*){0,3}",  # JSON web tokens
    r"(?<!\d)\d{8,10}:([\w-]{35})(?![\w-])",  # Telegram
    r"hooks\.slack\.com/services/([\w/]{10,})",
    r"""(?x)(?<![\w$-])(?P<name>(?:(?i:api|access|private|secret)[ ](?=(?i:keys?)\b))?
        (?P<dash>-)?[\w$-]{1,100})(?:                              # key=x, "key": x
        (?P<quote>\\{0,8}["'])?\]?[ \t]{0,50}(?P<sign>=>|:=|==?|:(?![/:]))[ \t]{0,50}
        | \\{0,8}["'][ ]?,[^{}]{0,100}?\b[vV]alue\\{0,8}["']?[ ]?[:=][ ]?  # "key", "value": x
        | (?P<comma>\\{0,8}["'])\s{0,9},\s{0,9}  # ["key", "x"], "--key", "x"
        | (?P<element>(?:\s[^<>]{0,100})?>(?:\s{0,9}<!\[CDATA\[)?)  # <key>x</key>
        | (?P<gap>(?:[ ]BY)?[ \t]{1,9})(?:(?(dash)(?![-\s])|(?=["']))  # --key x, KEY 'x'
          | (?=[A-Za-z~+/:=%_-]{1,30}\d|\d{1,30}[A-Za-z])(?=[\w.~+/=:%-]{6})))""",
)
_RULES = [re.compile(rule) for rule in RULES]
# What every text holds in which a rule finds something.
_MAY_HOLD = re.compile(r"[=:,>'\"\s]|[\w.-]{20}")

# Where a value ends: if that is in doubt, late, so that no part of a credential is left. Celery's
# reprs escape neither backslashes nor the quotes in bytes, so what follows a quote tells its end.
_QUOTED = re.compile(
    r"(?s)[bBfrRuU]{0,2}(?P<quote>\\{0,8}(?:'''|\"\"\"|[\"']))(?P<value>(?:[^\\]|\\.)*?)"
    r"(?P<end>(?P=quote)(?=[\s,)}\]:;&<>?#\\\"']|$)|\Z)"
)
_BRACKETS = [  # ['x'], Secret('x'), <Secret x>, also with brackets inside
    re.compile(rf"[\w.]{{0,100}}\{a}(?:[^\{a}\{b}]+|\{a}[^\{a}\{b}]*\{b}?)*\{b}?")
    for a, b in ("[]", "()", "{}", "<>")
]
_UNQUOTED = re.compile(  # key=x b=1, key=x&b=1, key=x, b=1, f(key=x)
    r"(?:[^\s;&,\"')\]}>]+|&(?![\w.%\[\]-]{1,100}=|amp;|$)"
    r"|,(?!\s|$|[\"']?[\w.-]{1,100}[\"']?\s?[=:])|[\"')\]}>](?![\s,;)\]}>\"'&\\]|$))*"
)
_LINE = {quote: re.compile(rf"[^\r\n{quote}]*") for quote in "\n'\""}  # 'Cookie: a=b; c=d'
_TO_SEMICOLON = re.compile(r"[^;]*")
_ELEMENT = re.compile(r"(?s)(?<=CDATA\[)(?:(?!\]\]>).)*|[^<]*(?=</)")

# What stands before and after a name and its value.
_PAIR_FOLLOWS = re.compile(r"[^;&\n]{0,200};\s?[\w ]{1,50}=")  # Password=x y;Port=1
_BEGINS = re.compile(r"(?:^|[\[(,]\s{0,3})[\[(]\\{0,8}[\"']\Z|<(?:[\w.-]{1,20}:)?\Z")
_PAIR_ENDS = re.compile(r"(?:\\{0,8}[\"'])?\s{0,9},?\s{0,9}[)\]]")
_PROSE = re.compile(r"[a-z]+ [a-z]+\b")  # your password: the link is below
# No credential: none, one that was masked, or a reference to one: null, ***, ${KEY}, <your-key>.
_NONE = re.compile(
    r"(?i:none|null|nil|undefined|true|false|\*+|\.\.\.|\$?\{[a-z_.]{0,50}\}|\{\{[^{}]{1,100}\}\}"
    r"|\$[a-z_]+|%\(\w{1,50}\)s|%s|<[a-z_ -]{1,50}>)(?=[\s&;,'\")\]}>]|$)"
)


def is_credential(value: Any) -> bool:
    """Return whether a value under a secret name is one: not if it is none or a reference."""
    if type(value) is str:
        return value != "" and not _NONE.fullmatch(value)
    return type(value) is not bool and value not in (None, [], {})


class TextMasker:
    """Masks the credentials in the texts of one answer, for at most :data:`MAX_SECONDS`."""

    def __init__(self, is_secret: Callable[[str], bool], substitute: str) -> None:
        self.is_secret = lru_cache(REMEMBERED)(lambda name: self._is_over() or is_secret(name))
        self.substitute = substitute
        self._harmless: set[str] = set()
        self._ends = time.monotonic() + MAX_SECONDS
        self._calls, self._over = 0, False

    def _is_over(self) -> bool:
        """Return whether the time is over. Few calls look at the clock, which is slow."""
        self._calls += 1
        if self._calls % 32 == 0:
            self._over = time.monotonic() > self._ends
        return self._over

    def mask_text(self, text: str) -> str:
        """Return the text without the credentials that can be recognised in it."""
        if text in self._harmless or (len(text) < PIECE and not _MAY_HOLD.search(text)):
            return text
        masked = self.substitute if self._is_over() else text
        for rule in _RULES:
            masked = self._replace(rule, masked)
        if masked == text and len(self._harmless) < REMEMBERED > len(text):
            self._harmless.add(text)
        return masked

    def _replace(self, rule: re.Pattern[str], text: str) -> str:
        parts: list[str] = []
        done = position = 0
        while position < len(text):
            limit = position + PIECE
            match = rule.search(text, position, limit + OVERLAP)
            if match and match.start() < limit:
                if match.end() == limit + OVERLAP:  # It may go on after them.
                    match = rule.match(text, match.start()) or match
                start, end = self._found(match)
                if text[start:end].strip("* "):
                    parts += text[done:start], self.substitute
                    done = end
                position = end
            elif (position := limit) < len(text):
                self._calls |= 31  # The next call looks at the clock.
                time.sleep(0)
            if position < len(text) and self._is_over():
                return "".join([*parts, self.substitute])
        return "".join([*parts, text[done:]]) if parts else text

    def _found(self, match: re.Match[str]) -> tuple[int, int]:
        """Return from where to where to mask."""
        if "name" not in match.re.groupindex:
            return match.span(match.lastindex or 0)
        is_scheme = match["gap"] and match["name"].lower() in {"basic", "identified", "ssws"}
        is_named = is_scheme or self.is_secret(match["name"])
        return (is_named and _value(match)) or (match.end("name"),) * 2


def _value(match: re.Match[str]) -> tuple[int, int] | None:
    """Return where the value of a secret name begins and ends; None if it is no credential."""
    text, start, sign = match.string, match.end(), match["sign"]
    before = text[max(match.start() - 50, 0) : match.start()]
    last = before.rstrip(" \t")[-1:]
    is_pair = match["comma"] and not match["dash"]
    if (is_pair or match["element"]) and not _BEGINS.search(before):
        return None
    is_line = sign == ":" and last in ("", "\n")
    if sign == ":" and not match["quote"]:
        # No value: "your password: the link is below", "auth: ok", session:token:1.
        is_prose = match["name"] == "auth" or (not is_line and _PROSE.match(text, start))
        if is_prose or before[-1:] in (".", ":", "/"):
            return None
    bare = _UNQUOTED
    if is_line or (sign == ":" and match["name"].lower().endswith(("authorization", "cookie"))):
        bare = _LINE.get(last, _LINE["\n"])
    elif sign and (last == ";" or (not last and _PAIR_FOLLOWS.match(text, start))):
        bare = _TO_SEMICOLON
    kinds = [_ELEMENT] if match["element"] else [_QUOTED, *_BRACKETS, bare]
    found = next(filter(None, (kind.match(text, start, start + LONGEST) for kind in kinds)), None)
    if found is None:
        return None
    begin, end = found.span("value" if found.re is _QUOTED else 0)
    end = len(text) if found.end() == start + LONGEST else end
    # A long value is taken for the second part of a pair without a look at what follows.
    if is_pair and end - begin < OVERLAP and not _PAIR_ENDS.match(text, end):
        return None
    return None if begin == end or _NONE.match(text, begin) else (begin, end)
