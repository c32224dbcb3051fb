"""Masks credentials in text, by the forms that they have.

The forms are those that the documentation of brokers, databases, cloud storage and HTTP APIs
shows. Names with values are found by ``named_values``, all other forms by the patterns here.
Every repetition of the patterns is bounded, because a worker can send any text.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from .named_values import ANY_NAME, NAME_WITH_STEM, secret_values
from .names import STEMS

#: Named credentials that are masked one by one in a text. Whatever follows the last of them is
#: masked as a whole, because a text of megabytes full of them would keep the process busy.
MAX_FOUND = 1000

#: Characters of text that are searched for one answer. Searching a million of the worst kind takes
#: 0.8 s. Later texts are masked as a whole, unless they hold no sign of a credential.
MAX_EXAMINED = 5_000_000

#: Names whose verdict, and texts whose harmlessness, is remembered within one answer. It is also
#: the length from which on a text is not remembered.
MAX_REMEMBERED = 1000

# -- Signs: most texts hold no credential, and these patterns tell so faster than all the others.

# What every named credential holds, and what the patterns for headers and commands need. They are
# in small letters and the text is made so, because ignoring case is several times slower.
_SIGNS = re.compile(f"{STEMS}|basic|negotiate|identified|splunk|ssws|-u")
# The same where the filter of a project decides about names: what can stand after any name.
_SIGNS_FOR_ANY_NAME = re.compile(r"[=:,'\"<]|-|" + _SIGNS.pattern)
# As many characters of a token as the shortest of the published formats has.
SHORTEST_TOKEN = 16
_LONG_WORD = re.compile(rf"[A-Za-z0-9_-]{{{SHORTEST_TOKEN}}}")

# -- User and password in front of a host.

# Userinfo as the standard for URLs allows it: redis://user:secret@host.
_USERINFO = re.compile(r"(?<=://)(?:[^\s/?#'\"<>]|['\"](?![\s,:)\]}])){1,1000}(?=@)")
# A password with a "/", "#", "?" or space that should be encoded: redis://user:se/cret@host.
# What follows the colon may be no port, as in http://host:80/@me.
_RAW_USERINFO = re.compile(
    r"(?<=://)(?!\[)[^\s/?#:@'\"<>]{0,100}:(?!\d{1,5}(?:[\s/?#,;)\]}'\"]|$))"
    r"[^\s@'\"<>](?:(?!://)[^\n@'\"<>]){0,200}(?=@[\w\[])(?!@sha256:)"
)
# The same where the password begins as a port does: redis://user:12/cret@host. Not in URLs of
# HTTP and web sockets, because their paths can hold an "@": http://host:80/@me.
_NUMBER_FIRST = re.compile(
    r"(?<=://)(?<!http://)(?<!https://)(?<!ws://)(?<!wss://)(?!\[)"
    r"[^\s/?#:@'\"<>]{0,100}:\d{1,5}[/#?][^\s@'\"<>]{0,200}(?=@[\w\[])"
)
# Without a scheme: user:secret@host:5432, or user:secret@tcp(host) for the drivers of Go.
_NO_SCHEME = re.compile(
    r"(?<![\w/.@:+%-])[\w.+%-]{1,100}:(?!//)[^\s@'\"]{1,200}(?=@(?:[\w.-]{1,200}:\d{2,5}\b|\w{1,20}\())"
)

# -- Formats that their publishers document so that they can be recognised.

_TOKENS = re.compile(
    # JSON web tokens.
    r"\beyJ[\w-]{6,}\.[\w-]{4,}(?:\.[\w-]*){0,3}"
    # Tokens with a prefix: GitHub, GitLab, Slack, Stripe, Google, SendGrid, npm, PyPI and others.
    r"|\b(?:gh[opsur]_\w{20,}|github_pat_\w{20,}|gl[a-z]{2,6}-[\w-]{20,}|xox[a-z]-[\w-]{10,}"
    r"|xapp-[\w-]{10,}|[sr]k_(?:live|test)_\w{8,}|whsec_[\w+/=]{8,}|sk-[\w-]{20,}|AIza[\w-]{30,}"
    r"|ya29\.[\w-]{10,}|SG\.[\w-]{10,}\.[\w-]{10,}|npm_\w{30,}|pypi-[\w-]{20,}|hf_\w{20,}"
    r"|do[opr]_v1_\w{20,}|shp(?:at|ca|pa|ss)_\w{20,}|hv[sb]\.[\w-]{20,}|key-[0-9a-f]{32}"
    r")(?![\w-])"
    # Telegram's bots: 123456789:AAF….
    r"|(?<!\d)\d{8,10}:[\w-]{35}(?![\w-])"
    # The paths of webhooks, which are credentials: of Slack, and of Discord.
    r"|(?<=hooks\.slack\.com/services/)[\w/]{10,}"
    r"|(?<=/api/webhooks/)\d{5,}/[\w-]{10,}"
)
# Private keys in PEM, also without their end: -----BEGIN RSA PRIVATE KEY-----….
_PRIVATE_KEY = re.compile(
    r"-----BEGIN (?P<kind>[A-Z ]{0,30}PRIVATE KEY[A-Z ]{0,20})-----"
    r"(?:(?!-----).){0,20000}(?:-----END [A-Z ]{0,50}-----)?",
    re.DOTALL,
)

# -- XML, HTTP, SQL and command lines.

# An element of XML and what it holds: <password>secret</password>.
_ELEMENT = re.compile(
    r"<(?P<name>[\w:.-]{1,100})(?:\s[^<>]{0,200})?>(?P<value>[^<]{1,10000})(?=</)"
)
# The scheme and the credential of an Authorization header: Bearer secret, Basic c2VjcmV0.
_SCHEMES = re.compile(
    r"\b(?P<head>(?P<scheme>Bearer|Basic|Token|Negotiate|Api-?Key|SharedKey|SharedKeyLite|SSWS"
    r"|Splunk)(?:\s{1,3}|%20))(?P<value>[\w.~+/=:%-]{6,})",
    re.IGNORECASE,
)
# A digit, a sign or a capital inside tells the credential after a scheme from prose, such as
# "Token expired".
_NOT_A_WORD = re.compile(r"\d|[_=+/~]|[a-z][A-Z]|[A-Z]{2}[a-z]")
# Words of prose after "Bearer".
_PROSE_AFTER_BEARER = {"authentication", "authorization", "scheme", "tokens", "header"}
# A password in SQL: CREATE USER shop IDENTIFIED BY secret.
_IDENTIFIED = re.compile(r"(?P<head>\bIDENTIFIED\s{1,3}BY\s{1,3})(?P<value>\S{1,200})", re.I)
# User and password as an option of curl: -u user:secret.
_USER_OPTION = re.compile(
    r"(?P<head>(?:^|[\s'\"])(?:-u|--user|--proxy-user)[\s=]{0,3}['\"]?[^\s:'\"]{1,100}:)"
    r"(?P<value>[^\s'\"]{1,200})"
)


class TextMasker:
    """Masks the credentials in the texts of one answer.

    Attributes:
        harmless: texts of this answer in which nothing was found.
    """

    def __init__(
        self, is_secret: Callable[[str], bool], substitute: str, *, has_stems: bool
    ) -> None:
        """
        Args:
            is_secret: decides about names.
            substitute: what stands in place of a credential.
            has_stems: whether every secret name holds one of ``names.STEMS``. The names
                that the filter of a project holds for secret may hold none.
        """
        self.is_secret = is_secret
        self.substitute = substitute
        self.harmless: set[str] = set()
        self._left = MAX_EXAMINED
        self._names = NAME_WITH_STEM if has_stems else ANY_NAME
        self._signs = _SIGNS if has_stems else _SIGNS_FOR_ANY_NAME

    def mask_text(self, text: str) -> str:
        """Return the text without the credentials that can be recognised in it."""
        masked = self._search(text)
        if masked == text and len(self.harmless) < MAX_REMEMBERED > len(text):
            self.harmless.add(text)
        return masked

    def _search(self, text: str) -> str:
        # One short word, without any separator, is no token and holds no name with its value.
        if len(text) < SHORTEST_TOKEN and text.isalnum():
            return text
        has_userinfo = "@" in text and ":" in text
        has_long_word = _LONG_WORD.search(text)
        has_sign = self._signs.search(text.lower())
        if not (has_userinfo or has_long_word or has_sign):
            return text
        self._left -= len(text)
        if self._left < 0:
            return self.substitute
        if has_userinfo:
            patterns = (_RAW_USERINFO, _NUMBER_FIRST, _USERINFO) if "://" in text else ()
            for pattern in (*patterns, _NO_SCHEME):
                text = pattern.sub(lambda match: self.mask_userinfo(match[0]), text)
        if has_long_word:
            text = _TOKENS.sub(lambda match: self.substitute, text)
        return self._mask_after_signs(text) if has_sign else text

    def mask_userinfo(self, userinfo: str) -> str:
        """Return ``user:password`` without the password, or a user alone without the user.

        A user alone may be a token. What is empty or masked already is returned as it is.
        """
        user, colon, password = userinfo.partition(":")
        secret = password if colon else user
        if not secret.strip("*"):
            return userinfo
        return f"{user}:{self.substitute}" if colon else self.substitute

    def _mask_after_signs(self, text: str) -> str:
        if "PRIVATE KEY" in text:
            text = _PRIVATE_KEY.sub(lambda match: self.substitute, text)
        text = self._mask_named_values(text)
        if "</" in text:
            text = _ELEMENT.sub(self._masked_element, text)
        text = _SCHEMES.sub(self._masked_scheme, text)
        for pattern in (_IDENTIFIED, _USER_OPTION):
            text = pattern.sub(lambda match: f"{match['head']}{self.substitute}", text)
        return text

    def _mask_named_values(self, text: str) -> str:
        parts: list[str] = []
        done = 0
        for start, end in secret_values(text, self._names, self.is_secret):
            parts += text[done:start], self.substitute
            if len(parts) > 2 * MAX_FOUND:
                return "".join(parts)
            done = end
        return "".join([*parts, text[done:]]) if parts else text

    def _masked_element(self, match: re.Match[str]) -> str:
        found = self.is_secret(match["name"]) and match["value"].strip()
        return match[0].replace(match["value"], self.substitute) if found else match[0]

    def _masked_scheme(self, match: re.Match[str]) -> str:
        value = match["value"]
        bearer = match["scheme"].lower() == "bearer" and value.lower() not in _PROSE_AFTER_BEARER
        found = bearer or _NOT_A_WORD.search(value)
        return f"{match['head']}{self.substitute}" if found else match[0]
