"""JSON as checkpoints need it: no key twice, no NaN, no bottomless nesting, no giant file.

Python's own parser keeps the last of two equal keys, takes NaN, and fails with RecursionError on deep nesting.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from xecg.errors import CheckpointError

__all__ = ["parse"]

_MAX_BYTES = 16 << 20
_MAX_DEPTH = 64
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


def parse(data: bytes, file: str) -> dict[str, Any]:
    """The JSON object in `data`. Raises CheckpointError naming `file` and what is wrong."""

    def refuse(found: str) -> NoReturn:
        raise CheckpointError(f"{file}: content is {found}; needed a plain JSON object. Fetch or write the file anew")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen = dict(pairs)
        if len(seen) < len(pairs):
            keys = [key for key, _ in pairs]
            refuse(f"an object with the key {next(key for key in keys if keys.count(key) > 1)!r} twice")
        return seen

    if len(data) > _MAX_BYTES:
        refuse(f"{len(data):,} bytes long, above {_MAX_BYTES:,}")
    try:
        text = data.decode()
        depth = 0
        for token in _STRING_OR_BRACKET.findall(text):
            depth += (token in "[{") - (token in "]}")
            if depth > _MAX_DEPTH:
                refuse(f"nested deeper than {_MAX_DEPTH}")
        value = json.loads(text, object_pairs_hook=once, parse_constant=lambda name: refuse(f"with the number {name}"))
    except ValueError as error:
        if isinstance(error, CheckpointError):
            raise
        refuse(f"not JSON ({error})")
    if not isinstance(value, dict):
        refuse(f"a JSON {type(value).__name__}")
    return value
