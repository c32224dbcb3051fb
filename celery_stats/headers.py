"""The response header that names the workers that did not answer everything asked."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import quote

MISSING_WORKERS = "Celery-Stats-Missing"

#: Bytes of names in the header's value, because proxies refuse responses whose headers take more
#: than a few kilobytes. The names that do not fit are counted in a last item, ``+<number>``.
MAX_NAME_BYTES = 4000

#: Printable ASCII characters that stand for themselves in a name. A comma separates names, a
#: percent sign starts an escape, a backslash stands for what UTF-8 cannot encode, and a plus sign
#: is read as a space by some decoders.
UNESCAPED = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in ",%+\\")


def encode_worker_names(names: Collection[str]) -> str:
    """Return the names as a header's value: percent-encoded where needed, separated by commas."""
    kept: list[str] = []
    room = MAX_NAME_BYTES
    for name in names:
        # Encoding makes no name shorter, so a name that is too long need not be encoded.
        fits = len(name) < room
        item = quote(name, safe=UNESCAPED, errors="backslashreplace") if fits else name
        room -= len(item) + 1  # the comma
        if room < 0:
            return ",".join([*kept, f"+{len(names) - len(kept)}"])
        kept.append(item)
    return ",".join(kept)
