"""A server's answer, bounded as a whole.

httpx's timeout is one for each read, and it reads bodies of any size: a server that drips a byte now and then is never
too slow for it. A shift whose driver waits for one renews nothing and decides nothing. Only the head of an answer is
still bounded by reads alone.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx

BODY_LIMIT = 4 << 20  # bytes, decoded; the metrics of a predictor are some 10 KB
# Of the body as it was sent; what is returned holds the decoded one.
_OF_THE_ENCODING = ("content-encoding", "content-length", "transfer-encoding")


def request(client: httpx.Client, method: str, url: str, **options: Any) -> httpx.Response:
    """Ask, and read the whole answer within the client's timeout of a read and `BODY_LIMIT`.

    `options` are those of `httpx.Client.stream`.

    Raises `httpx.HTTPError` where it does not come, or neither ends in time nor within the limit.
    """
    import httpx

    seconds, body = client.timeout.read or math.inf, bytearray()
    deadline = time.monotonic() + seconds
    with client.stream(method, url, **options) as answer:
        for part in answer.iter_bytes():
            body += part
            if len(body) > BODY_LIMIT:
                raise httpx.ReadError(f"the answer is longer than {BODY_LIMIT} bytes", request=answer.request)
            if time.monotonic() > deadline:
                raise httpx.ReadTimeout(f"the answer takes longer than {seconds:g} s", request=answer.request)
    headers = [(name, value) for name, value in answer.headers.multi_items() if name not in _OF_THE_ENCODING]
    return httpx.Response(answer.status_code, headers=headers, content=bytes(body), request=answer.request)


def get(client: httpx.Client, url: str, **options: Any) -> httpx.Response:
    """Send a GET, as `request` does."""
    return request(client, "GET", url, **options)
