"""Finds credentials in names and in text, by their form.

Names are compared as words: ``apiKey``, ``API-KEY`` and ``api_key`` are the same, ``monkey``
is no key. Text is searched for what the documentation of brokers, databases, cloud storage and
HTTP APIs shows: URLs, ``name=value`` pairs, headers, JSON, Python reprs and published token
formats. Every repetition is bounded, because a worker may send any text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise

#: Characters of a name that are looked at.
MAX_NAME = 100
#: Named credentials that are masked one by one in a text. What follows after that many is masked
#: as a whole: a text of megabytes that consists of them would keep the process busy.
MAX_FOUND = 1000
#: Characters of the texts in one answer that are searched, which takes up to a second for each
#: two million. Texts after that are masked as a whole unless they hold no sign of a credential.
MAX_EXAMINED = 5_000_000

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_A-Za-z]+")

# Secret wherever they stand in a name, also written without a separator (dbpassword).
_SECRET_WORD = re.compile(
    r".*(?:password|passwd|passphrase|passcode|credential|authorization).*"
    r"|.*(?:token|secret|pwd|cookie|sessid|sessionid)s?"
    r"|.*(?:api|access|secret|private|account|signing|encryption)keys?"
    r"|bearer|jwt|m?totp|otp|sig|signature|hmac|dsn|csrf|xsrf|pgpass"
)
_SECRET_PAIRS = {
    *((kind, "key") for kind in ("access", "account", "api", "encryption", "private", "secret")),
    *((kind, "key") for kind in ("shared", "signing")),
    *((kind, "string") for kind in ("connection", "conn")),
}
# Secret where they stand last: an api_key is, a key_prefix is not.
_SECRET_AT_END = {"api", "auth", "authentication", "key", "keys", "oauth", "pass"}
# These say something about a credential instead of holding it, as last and as first word.
_ABOUT = re.compile(
    "age|algorithm|alg|at|changed|count|dir|domain|enabled|expired|expires|expiry|expiration|"
    "field|file|format|hint|issued|label|len|length|limit|lifetime|max|method|min|name|path|"
    "policy|prefix|required|size|status|timeout|ttl|type|uri|url|used|version"
)
_NUMBER_OF = re.compile("completion|has|is|max|min|n|num|number|prompt|total")
# Keys of other kinds: of a table, a cache, a message, an object in storage.
_OTHER_KEY = re.compile(
    "binding|cache|deduplication|foreign|group|i18n|idempotency|index|lookup|message|natural|"
    "object|partition|primary|public|range|row|routing|s|shard|sort|translation|unique"
)


def is_secret_name(name: str) -> bool:
    """Whether what stands under a name is a credential."""
    words = [word.lower() for word in _WORD.findall(name[:MAX_NAME])]
    if not words or "://" in name:  # A URL may be a key; its parameters are masked in it.
        return False
    if len(words) > 1 and (_ABOUT.fullmatch(words[-1]) or _NUMBER_OF.fullmatch(words[0])):
        return False
    if any(map(_SECRET_WORD.fullmatch, words)):
        return True
    if not _SECRET_PAIRS.isdisjoint(pairwise(words)):
        return True
    if words[-1] in ("key", "keys") and len(words) > 1:
        return not _OTHER_KEY.fullmatch(words[-2])
    return words[-1] in _SECRET_AT_END


# Every such name holds one of these.
_STEM = (
    "pass|pwd|secret|token|key|auth|cred|cookie|sess|sig|hmac|jwt|bearer|otp|dsn|csrf|xsrf|api|"
    "conn"
)
# Quick tests, as most texts hold no credential: what the rest of this module needs to find one,
# in small letters, because a search without regard to case is several times slower.
_SIGNS = re.compile(f"{_STEM}|basic|negotiate|identified|splunk|ssws|-u")
_ANY_SIGNS = re.compile(r"[=:,'\"<]|-|" + _SIGNS.pattern)
_RUN = re.compile(r"[A-Za-z0-9_-]{16}")

# What stands between a name and its value: = or : and the like, in queries, forms, connection
# strings, JSON, YAML, headers and reprs; a comma in a list of pairs; a space on a command line
# (--name value) and in SQL (PASSWORD 'value').
_BETWEEN = r"""(?:
    (?P<quote>\\{0,8}["'])?\]?\s{0,3}(?P<sign>=>|:=|==?|:(?!//))\s{0,9}
  | (?P<comma>\\{0,8}["'])\s{0,3},\s{0,3}
  | (?P<gap>\s{1,3})
)"""
_NAMED = re.compile(rf"(?<![\w$-])(?P<name>[\w$-]{{1,{MAX_NAME}}}){_BETWEEN}", re.VERBOSE)
_NAMED_BY_STEM = re.compile(
    rf"(?<![\w$-])(?P<name>[\w$-]{{0,50}}?(?:{_STEM})[\w$-]{{0,50}}){_BETWEEN}",
    re.VERBOSE | re.IGNORECASE,
)
_ELEMENT = re.compile(
    r"<(?P<name>[\w:.-]{1,100})(?:\s[^<>]{0,200})?>(?P<value>[^<]{1,10000})(?=</)"
)
_MEMBER = re.compile(r"<[\w.]{1,100}\.\Z")  # <Color.RED: 1>: of an enum, before its name.

_SCHEMES = re.compile(
    r"\b(?P<head>(?P<scheme>Bearer|Basic|Token|Negotiate|Api-?Key|SharedKey|SharedKeyLite|SSWS"
    r"|Splunk)(?:\s{1,3}|%20))(?P<value>[\w.~+/=:%-]{6,})",
    re.IGNORECASE,
)
# A digit, a sign or a capital inside tells a credential from prose ("Token expired").
_NO_WORD = re.compile(r"\d|[_=+/~]|[a-z][A-Z]|[A-Z]{2}[a-z]")
_PROSE_AFTER_BEARER = {"authentication", "authorization", "scheme", "tokens", "header"}
_IDENTIFIED = re.compile(r"(?P<head>\bIDENTIFIED\s{1,3}BY\s{1,3})(?P<value>\S{1,200})", re.I)
_USER_OPTION = re.compile(
    r"(?P<head>(?:^|[\s'\"])(?:-u|--user|--proxy-user)[\s=]{0,3}['\"]?[^\s:'\"]{1,100}:)"
    r"(?P<value>[^\s'\"]{1,200})"
)

# Formats that their publishers document so that they can be recognised.
_TOKENS = re.compile(
    r"\beyJ[\w-]{6,}\.[\w-]{4,}(?:\.[\w-]*){0,3}"  # JSON web tokens
    r"|\b(?:gh[opsur]_\w{20,}|github_pat_\w{20,}|gl[a-z]{2,6}-[\w-]{20,}|xox[a-z]-[\w-]{10,}"
    r"|xapp-[\w-]{10,}|[sr]k_(?:live|test)_\w{8,}|whsec_[\w+/=]{8,}|sk-[\w-]{20,}|AIza[\w-]{30,}"
    r"|ya29\.[\w-]{10,}|SG\.[\w-]{10,}\.[\w-]{10,}|npm_\w{30,}|pypi-[\w-]{20,}|hf_\w{20,}"
    r"|do[opr]_v1_\w{20,}|shp(?:at|ca|pa|ss)_\w{20,}|hv[sb]\.[\w-]{20,}|key-[0-9a-f]{32}"
    r")(?![\w-])"
    r"|(?<!\d)\d{8,10}:[\w-]{35}(?![\w-])"
    r"|(?<=hooks\.slack\.com/services/)[\w/]{10,}"
    r"|(?<=/api/webhooks/)\d{5,}/[\w-]{10,}"
)
_PRIVATE_KEY = re.compile(
    r"-----BEGIN (?P<kind>[A-Z ]{0,30}PRIVATE KEY[A-Z ]{0,20})-----"
    r"(?:(?!-----).){0,20000}(?:-----END [A-Z ]{0,50}-----)?",
    re.DOTALL,
)

# The userinfo of URLs, as the standard has it.
_USERINFO = re.compile(r"(?<=://)(?:[^\s/?#'\"<>]|['\"](?![\s,:)\]}])){1,1000}(?=@)")
# With a raw "/", "#", "?" or space in the password, where what follows the colon is no port.
_RAW_USERINFO = re.compile(
    r"(?<=://)(?!\[)[^\s/?#:@'\"<>]{0,100}:(?!\d{1,5}(?:[\s/?#,;)\]}'\"]|$))"
    r"[^\s@'\"<>](?:(?!://)[^\n@'\"<>]){0,200}(?=@[\w\[])(?!@sha256:)"
)
# With one that begins as a port does. The paths of the web's URLs may hold an "@" themselves.
_NUMBER_FIRST = re.compile(
    r"(?<=://)(?<!http://)(?<!https://)(?<!ws://)(?<!wss://)(?!\[)"
    r"[^\s/?#:@'\"<>]{0,100}:\d{1,5}[/#?][^\s@'\"<>]{0,200}(?=@[\w\[])"
)
# user:password@host:port, and @tcp(host) as Go's drivers have it.
_NO_SCHEME = re.compile(
    r"(?<![\w/.@:+%-])[\w.+%-]{1,100}:(?!//)[^\s@'\"]{1,200}(?=@(?:[\w.-]{1,200}:\d{2,5}\b|\w{1,20}\())"
)

_OPENING = re.compile(r"[bBuUrR]{0,2}(\\{0,8}[\"'])")
_INSTANCE = re.compile(r"<[^<>\n]{1,1000}>")
_CALL = re.compile(r"[A-Za-z_][\w.]{0,100}\(")
_BRACKETS = re.compile(r"[\"'{}\[\]()\\]")
_AFTER_QUOTE = re.compile(r"[\s,)}\]:;&<>?#\\\"']|$")
_AFTER_PAIR = re.compile(r"(?:\\{0,8}[\"'])?\s{0,3},?\s{0,3}[)\]]")
_QUERY_END = re.compile(r"[\s&#]|[\"',)\]}>](?=[\s,;)\]}>\"']|$)|$")
_PLAIN_END = re.compile(
    r"[\s;]|&(?=[\w.%\[\]-]{1,100}=|amp;|$)"
    r"|,(?=\s|$|[\"']?[\w.-]{1,100}[\"']?\s?[=:])|[\"')\]}>](?=[\s,;)\]}>\"'&\\]|$)|$"
)
_LINE_END = re.compile(r"[\r\n]|$")
_QUOTED_HEADER_END = {quote: re.compile(rf"[\r\n{quote}]|$") for quote in "\"'"}
_NOTHING = re.compile(r"(?:None|null|nil|undefined|\*+)(?=[\s&;,'\")\]}>]|$)|\.\.\.")
_PAIR_FOLLOWS = re.compile(r"[^;&\n]{0,200};\s?[\w ]{1,50}=")


class Finder:
    """Masks the credentials in the texts of one answer."""

    def __init__(
        self, is_secret: Callable[[str], bool], substitute: str, *, by_stem: bool
    ) -> None:
        """
        Args:
            is_secret: decides about names.
            substitute: what stands in place of a credential.
            by_stem: whether all secret names hold one of the stems of this module; the
                filter of a project may have others in mind.
        """
        self.is_secret = is_secret
        self.substitute = substitute
        self._left = MAX_EXAMINED
        self._named = _NAMED_BY_STEM if by_stem else _NAMED
        self._signs = _SIGNS if by_stem else _ANY_SIGNS

    def mask(self, text: str) -> str:
        """Return the text without the credentials that can be recognised in it."""
        has_userinfo = "@" in text and ":" in text
        has_run = _RUN.search(text)
        has_sign = self._signs.search(text.lower())
        if not (has_userinfo or has_run or has_sign):
            return text
        self._left -= len(text)
        if self._left < 0:
            return self.substitute
        if has_userinfo:
            text = self._mask_userinfo(text)
        if has_run:
            text = _TOKENS.sub(lambda match: self.substitute, text)
        if not has_sign:
            return text
        if "PRIVATE KEY" in text:
            text = _PRIVATE_KEY.sub(lambda match: self.substitute, text)
        text = self._mask_named(text)
        if "</" in text:
            text = _ELEMENT.sub(self._element, text)
        text = _SCHEMES.sub(self._scheme, text)
        for pattern in (_IDENTIFIED, _USER_OPTION):
            text = pattern.sub(lambda match: f"{match['head']}{self.substitute}", text)
        return text

    def userinfo(self, userinfo: str) -> str:
        """Return ``user:password`` without the password; a user alone may be a token."""
        user, colon, password = userinfo.partition(":")
        secret = password if colon else user
        if not secret.strip("*"):  # None, or masked by the worker.
            return userinfo
        return f"{user}:{self.substitute}" if colon else self.substitute

    def _mask_userinfo(self, text: str) -> str:
        patterns = (_RAW_USERINFO, _NUMBER_FIRST, _USERINFO) if "://" in text else ()
        for pattern in (*patterns, _NO_SCHEME):
            text = pattern.sub(lambda match: self.userinfo(match[0]), text)
        return text

    def _element(self, match: re.Match[str]) -> str:
        found = self.is_secret(match["name"]) and match["value"].strip()
        return match[0].replace(match["value"], self.substitute) if found else match[0]

    def _scheme(self, match: re.Match[str]) -> str:
        value = match["value"]
        bearer = match["scheme"].lower() == "bearer" and value.lower() not in _PROSE_AFTER_BEARER
        return (
            f"{match['head']}{self.substitute}" if bearer or _NO_WORD.search(value) else match[0]
        )

    def _mask_named(self, text: str) -> str:
        parts: list[str] = []
        done = position = 0
        while match := self._named.search(text, position):
            position = match.end("name")
            if not (self.is_secret(match["name"]) and _has_value(text, match)):
                continue
            start, end = _value(text, match)
            position = max(position, end)
            if start == end or _NOTHING.match(text, start):
                continue
            if match["comma"] and not _is_pair(text, start, end):
                position = match.end()
                continue
            if len(parts) >= 2 * MAX_FOUND:
                end = position = len(text)
            parts += text[done:start], self.substitute
            done = end
        return "".join([*parts, text[done:]]) if parts else text


def _has_value(text: str, match: re.Match[str]) -> bool:
    """Whether what follows a name is its value, and not the next word of a sentence."""
    name, start = match["name"], match.start("name")
    is_vague = name.lower() in _SECRET_AT_END
    if match["comma"]:
        quote = match["comma"]
        return text.endswith((f"({quote}", f"[{quote}"), max(start - 10, 0), start)
    if match["gap"]:
        following = text[match.end() : match.end() + 1]
        return following != "-" if name.startswith("-") else following in "'\"" and not is_vague
    if match["sign"] != ":" or match["quote"]:
        return True
    if _MEMBER.search(text[max(start - MAX_NAME, 0) : start]):
        return False
    if text[match.end() - 1] != ":":
        return True
    # Without a space: "X-Api-Key:abc" is, "session:token:1" and "key:1" are not.
    return not is_vague and text[max(start - 1, 0) : start] not in (":", "/")


def _is_pair(text: str, start: int, end: int) -> bool:
    """Whether a value after a comma ends what its name began.

    In doubt it does: where it is in brackets, and where it is that long. To look for names again
    in what was read once would take a time that grows with the square of the text.
    """
    in_brackets = text[start : start + 1] in ("{", "[", "(")
    return in_brackets or end - start > 1000 or _AFTER_PAIR.match(text, end) is not None


def _value(text: str, match: re.Match[str]) -> tuple[int, int]:
    """Where the value of a name begins and ends. In doubt, it ends late."""
    start = match.end()
    if opening := _OPENING.match(text, start):
        return opening.end(), _quoted_end(text, opening.end(), opening[1])
    if text[start : start + 1] in ("{", "[", "("):
        return start, _bracket_end(text, start)
    if instance := _INSTANCE.match(text, start):
        return start, instance.end()
    if call := _CALL.match(text, start):
        return start, _bracket_end(text, call.end() - 1)
    before = text[max(match.start() - 50, 0) : match.start()].rstrip(" \t")
    pattern = _PLAIN_END
    if match["sign"] == ":":
        if match["name"].lower().endswith(("authorization", "cookie")):
            pattern = _QUOTED_HEADER_END.get(before[-1:], _LINE_END)
        elif before[-1:] in ("", "\n"):
            pattern = _LINE_END
    elif before[-1:] in ("?", "&", "#") and before:
        pattern = _QUERY_END
    elif match["sign"] and (
        before[-1:] == ";" or (not before and _PAIR_FOLLOWS.match(text, start))
    ):
        # Between semicolons, values may hold spaces.
        end = text.find(";", start)
        return start, len(text) if end < 0 else end
    found = pattern.search(text, start)
    return start, found.start() if found else len(text)


def _quoted_end(text: str, start: int, mark: str) -> int:
    """Where a quoted value ends: at a quote of its kind that something can follow.

    Celery's reprs escape no backslashes, and no quotes in bytes, so that not every quote that
    looks like the last one is.
    """
    position = start
    while (end := text.find(mark, position)) >= 0:
        position = end + len(mark)
        slashes = end - len(text[max(end - 100, start) : end].rstrip("\\")) - max(end - 100, start)
        if slashes % 2 if len(mark) == 1 else slashes:
            continue
        if text.startswith(mark, position) and end > start:  # Doubled: escaped in SQL.
            position += len(mark)
        elif _AFTER_QUOTE.match(text, position):
            return end
    return len(text)


def _bracket_end(text: str, start: int) -> int:
    """Where a value in brackets ends: the end of the text if they are not closed."""
    depth = 0
    quote = ""
    position = start
    while match := _BRACKETS.search(text, position):
        mark = match[0]
        position = match.end()
        if mark == "\\":
            position += 1
        elif quote:
            quote = "" if mark == quote else quote
        elif mark in "\"'":
            quote = mark
        else:
            depth += 1 if mark in "{[(" else -1
            if depth == 0:
                return position
    return len(text)
