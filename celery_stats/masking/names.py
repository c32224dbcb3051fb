"""Decides by its name alone whether a value is a credential.

Names are compared as words: ``apiKey``, ``API-KEY`` and ``api_key`` are the same name, and
``monkey`` is no key.
"""

from __future__ import annotations

import re

#: Characters of a name that are looked at.
MAX_NAME = 100

#: Part of every secret name, as an alternative of a regular expression. A search for these finds
#: the candidates in a text.
STEMS = (
    "pass|pwd|secret|token|key|auth|cred|cookie|sess|sig|hmac|jwt|bearer|otp|dsn|csrf|xsrf|api|"
    "conn"
)

#: Names that are secret where they stand alone or last: "api_key" is, "key_prefix" is not.
VAGUE_NAMES = {"api", "auth", "authentication", "key", "keys", "oauth", "pass"}

# One word of a name: "API" and "Key" in "APIKey", "api" and "key" in "api_key".
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_A-Za-z]+")

# Words that make a name secret wherever they stand in it, also without a separator: "dbpassword".
_SECRET_WORD = re.compile(
    r".*(?:password|passwd|passphrase|passcode|credential|authorization).*"
    r"|.*(?:token|secret|pwd|cookie|sessid|sessionid)s?"
    r"|.*(?:api|access|secret|private|account|signing|encryption)keys?"
    r"|bearer|jwt|m?totp|otp|sig|signature|hmac|dsn|csrf|xsrf|pgpass"
)

# Pairs of words that make a name secret wherever they stand in it: "api_key_of_shop".
_SECRET_PAIR = re.compile(
    r"\b(?:access|account|api|encryption|private|secret|shared|signing) key\b"
    r"|\b(?:connection|conn) string\b"
)

# Last words of names that say something about a credential: "password_changed", "token_type".
_ABOUT = re.compile(
    "age|algorithm|alg|at|changed|count|dir|domain|enabled|expired|expires|expiry|expiration|"
    "field|file|format|hint|issued|label|len|length|limit|lifetime|max|method|min|name|path|"
    "policy|prefix|required|size|status|timeout|ttl|type|uri|url|used|version"
)

# First words of names that count credentials: "max_tokens", "has_password".
_NUMBER_OF = re.compile("completion|has|is|max|min|n|num|number|prompt|total")

# Words before "key" in names of other keys, of a table, a cache or a message: "primary_key".
_OTHER_KEY = re.compile(
    "binding|cache|deduplication|foreign|group|i18n|idempotency|index|lookup|message|natural|"
    "object|partition|primary|public|range|row|routing|s|shard|sort|translation|unique"
)


def is_secret_name(name: str) -> bool:
    """Return whether a value under this name is a credential."""
    words = [word.lower() for word in _WORD.findall(name[:MAX_NAME])]
    # A URL can be the key of an object. Its parameters are masked inside it.
    if not words or "://" in name:
        return False
    if len(words) > 1 and (_ABOUT.fullmatch(words[-1]) or _NUMBER_OF.fullmatch(words[0])):
        return False
    if any(map(_SECRET_WORD.fullmatch, words)) or _SECRET_PAIR.search(" ".join(words)):
        return True
    if words[-1] in ("key", "keys") and len(words) > 1:
        return not _OTHER_KEY.fullmatch(words[-2])
    return words[-1] in VAGUE_NAMES
