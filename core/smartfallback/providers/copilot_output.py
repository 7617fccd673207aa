"""What Copilot's command-line tool prints, read as the text of an answer."""

from __future__ import annotations

import codecs
import re
from typing import Final

MAX_OUTPUT_BYTES: Final = 8 * 1024 * 1024

_FAILURE_MARKS: Final = ("✗", "✘", "The model returned no content")
"""What no answer opens with, also when the command ends as if all were well."""

_COMPLAINTS: Final = (
    *_FAILURE_MARKS,
    "Error:",
    "Execution failed",
    "Model call failed",
    "Failed to get",
    "Failed to load",
)
"""How the tool's own complaints open, which some of its versions print where answers go."""

_NO_TEXT: Final = re.compile(r"[\x00-\x07\x0e-\x1a\x1c-\x1f\x7f]")


class GarbledError(Exception):
    """The output can't be an answer; the message says why."""


class OutputText:
    """Turns bytes into text as they come, without the blank lines around the answer.

    What opens like a complaint of the tool is held back until its exit code tells whether it is one.
    """

    __slots__ = ("_bytes", "_decode", "_held", "characters")

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")()
        self._bytes = 0
        self._held = ""
        self.characters = 0
        """How much of the answer was given out."""

    @property
    def held(self) -> str:
        """What is held back."""
        return self._held

    def feed(self, data: bytes) -> str:
        """The text that is certain with these bytes; may be empty.

        Raises:
            GarbledError: They are no text, or there are too many of them.
        """
        self._bytes += len(data)
        if self._bytes > MAX_OUTPUT_BYTES:
            raise GarbledError(f"printed more than {MAX_OUTPUT_BYTES // 1024**2} MiB")
        self._held += self._text(data, final=False)
        if not self.characters:
            self._held = self._held.lstrip()
            if self._held.startswith(_COMPLAINTS) or any(c.startswith(self._held) for c in _COMPLAINTS):
                return ""
        whole = self._held
        return self._give(whole.rstrip())

    def finish(self) -> str:
        """The last of an answer whose command ended well.

        Raises:
            GarbledError: The output ends within a character.
        """
        self._held += self._text(b"", final=True)
        return "" if self._held.startswith(_FAILURE_MARKS) else self._give(self._held.rstrip())

    def _give(self, text: str) -> str:
        self._held = self._held[len(text) :]
        self.characters += len(text)
        return text

    def _text(self, data: bytes, *, final: bool) -> str:
        try:
            text = self._decode.decode(data, final)
        except UnicodeDecodeError:
            raise GarbledError("printed bytes that are no text") from None
        if _NO_TEXT.search(text):
            raise GarbledError("printed control characters where an answer was due")
        return text
