"""The response header that names the workers that did not answer everything asked."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote

MISSING_WORKERS = "Celery-Stats-Missing"

#: Bytes of names in the header's value, because proxies refuse responses whose headers take more
#: than a few kilobytes. The names that do not fit are counted in a last item, ``+<number>``.
MAX_NAME_BYTES = 4000

#: Printable ASCII characters that stand for themselves in a name. A comma separates names, a
#: percent sign starts an escape, a backslash stands for what UTF-8 cannot encode, and a plus sign
#: is read as a space by some decoders.
UNESCAPED = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in ",%+\\")


def encode_worker_names(names: Iterable[str]) -> str:
    """Return the names as a header's value: percent-encoded where needed, separated by commas."""
    encoded = [quote(name, safe=UNESCAPED, errors="backslashreplace") for name in names]
    length = 0
    for kept, name in enumerate(encoded):
        length += len(name) + 1  # the comma
        if length > MAX_NAME_BYTES:
            return ",".join([*encoded[:kept], f"+{len(encoded) - kept}"])
    return ",".join(encoded)
