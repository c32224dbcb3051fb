"""Decides by its name alone whether a value is a credential.

Names are compared as words: ``apiKey``, ``API-KEY`` and ``api_key`` are the same name, and
``monkey`` is no key. Each alternative of a constant here is a rule.
"""

from __future__ import annotations

import re

# What makes a name secret. Each of its words has a space before it and after it.
SECRETS = (
    r"passw|passphrase|passcode|credential|authorization|tokens? |secrets? |pwd |cookies? |sessid "
    r"|sessionid | bearer | jwt |otp | sig | signature | hmac | dsn |[cx]srf |api ?key|access ?key"
    r"|private ?key|account ?key|master ?key|connection ?string"
    r"|\w keys? $| auth $| authentication $| creds $| oauth $| pass $| pin $| psk $| pw $"
)
# Last words of names that say something about a credential, such as "token_type".
ABOUT = (
    "algorithm|at|count|domain|enabled|expires|field|file|length|limit|name|path|prefix|type|url|"
    "version|(?<= key )id|(?<= token )id"
)
# First words of names that count credentials, such as "max_tokens" and "has_password".
COUNTED = "completion|has|is|max|min|num|prompt|total"
# Words before "key" and "token" in names of other things, such as "primary_key".
OTHER = (
    "cache|event|file|foreign|group|idempotency|issue|lock|lookup|message|next|object|page|"
    "partition|primary|project|public|range|routing|s|shard|sort|translation|unique"
)

# One word of a name: "API" and "Key" in "APIKey", "api" and "key" in "api_key".
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_A-Za-z]+")
_SECRET = re.compile(SECRETS)
_HARMLESS = re.compile(rf"\w (?:{ABOUT}) $|^ (?:{COUNTED}) \w| (?:{OTHER}) (?:key|token)s? $")


def is_secret_name(name: str) -> bool:
    """Return whether a value under this name is a credential."""
    words = f" {' '.join(_WORD.findall(name)).lower()} "
    # A URL can be the key of an object. Its parameters are masked inside it.
    return bool(_SECRET.search(words)) and not _HARMLESS.search(words) and "://" not in name
