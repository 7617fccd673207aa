"""Server-sent events, decoded from bytes as they arrive.

Follows the event-stream interpretation of the WHATWG HTML standard, section 9.2.6, and keeps only
what the providers' protocols use: the data of each event.
"""

from __future__ import annotations

from typing import Final

MAX_EVENT_BYTES: Final = 8 * 1024 * 1024
"""An event beyond this is not an answer but a fault of the upstream."""

_BOM: Final = b"\xef\xbb\xbf"


class SseError(ValueError):
    """The bytes are no event stream that anybody should go on reading."""


class SseDecoder:
    """Turns chunks of bytes, cut anywhere, into the data of whole events.

    Lines may end in LF, CRLF or CR; comments and fields other than ``data`` are dropped; several
    data lines of one event are joined by LF.
    """

    __slots__ = ("_data", "_data_bytes", "_line", "_skip_lf", "_started", "foreign_lines")

    def __init__(self) -> None:
        self._line = bytearray()
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._skip_lf = False
        self._started = False
        self.foreign_lines = 0
        """How many lines so far had no field name of the standard: above 0, this may be no event stream."""

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of the events that ``chunk`` completes, in order.

        Raises:
            SseError: One event grew beyond :data:`MAX_EVENT_BYTES`.
        """
        if not self._started and chunk:
            chunk = bytes(self._line) + chunk
            self._line.clear()
            if len(chunk) < len(_BOM) and _BOM.startswith(chunk):
                self._line += chunk
                return []
            self._started = True
            chunk = chunk.removeprefix(_BOM)
        if self._skip_lf and chunk:
            self._skip_lf = False
            chunk = chunk.removeprefix(b"\n")
        if b"\r" in chunk:
            # A CR at the end may be half of a CRLF: it ends the line now, and its LF is skipped later.
            self._skip_lf = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if b"\n" not in chunk:
            self._line += chunk
            self._check_size()
            return []
        lines = chunk.split(b"\n")
        if self._line:
            lines[0] = bytes(self._line) + lines[0]
        self._line = bytearray(lines.pop())
        events: list[bytes] = []
        for line in lines:
            if line:
                self._take(line)
            elif self._data:
                events.append(self._data[0] if len(self._data) == 1 else b"\n".join(self._data))
                self._data.clear()
                self._data_bytes = 0
        self._check_size()
        return events

    def flush(self) -> list[bytes]:
        """The data of an event that the end of the stream left without its blank line.

        The standard drops such an event; servers that forget the last blank line are common.
        """
        if self._line:
            self._take(bytes(self._line))
            self._line.clear()
        events = [b"\n".join(self._data)] if self._data else []
        self._data.clear()
        return events

    def _check_size(self) -> None:
        if len(self._line) + self._data_bytes > MAX_EVENT_BYTES:
            raise SseError(f"one event of more than {MAX_EVENT_BYTES} bytes")

    def _take(self, line: bytes) -> None:
        if line.startswith(b"data:"):
            self._data_bytes += len(line)
            self._data.append(line[6:] if line.startswith(b" ", 5) else line[5:])
        elif line == b"data":
            self._data.append(b"")
        elif not line.startswith((b":", b"event:", b"id:", b"retry:")):
            self.foreign_lines += 1
