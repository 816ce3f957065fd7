"""JSON that somebody else wrote, into plain values that the rest of the suite can walk through."""

from __future__ import annotations

import json
from typing import Any

from runtime.plain_values import check_plain


def parse_json(content: bytes) -> Any:
    """Return the content of a JSON file: UTF-8, with or without a byte-order mark.

    Raises:
        ValueError: not UTF-8, not JSON, or what `check_plain` raises; in words, without the file's name.
    """
    try:
        value = json.loads(content.decode("utf-8-sig"))
    except RecursionError:
        raise ValueError("it nests too deep") from None
    except UnicodeDecodeError as error:  # whose text would quote all of the content
        raise ValueError(f"it is not UTF-8 ({error.reason} at byte {error.start})") from None
    check_plain(value)
    return value
