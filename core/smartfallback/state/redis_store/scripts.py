"""The Lua scripts, each a file of its own in ``scripts/``."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Script:
    """A script that runs in the server, as one step.

    Attributes:
        name: What messages call it.
        text: What the server runs.
        sha: What the server knows it by.
    """

    name: str
    text: str
    sha: str

    @classmethod
    def of(cls, name: str, text: str) -> Script:
        """The script ``name`` with this text."""
        # The server names scripts by this digest; nothing is secured by it.
        digest = hashlib.sha1(text.encode(), usedforsecurity=False)
        return cls(name, text, digest.hexdigest())


@cache
def script(name: str, *, after: str = "") -> Script:
    """The script in ``scripts/NAME.lua``; the text of ``after`` there, if any, stands in front of it."""
    folder = files(__package__) / "scripts"
    texts = [(folder / f"{part}.lua").read_text(encoding="utf-8") for part in (after, name) if part]
    return Script.of(name, "".join(texts))
