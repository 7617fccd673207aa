"""Server-sent events, decoded from bytes as they arrive.

Follows the event-stream interpretation of the WHATWG HTML standard, section 9.2.6, and keeps only
what the providers' protocols use: the data of each event, and whether it is an error. The standard lets a
client drop lines that it doesn't know; here they are handed on, since an error page put into the middle
of an answer looks just like that.
"""

from __future__ import annotations

from typing import Final

MAX_EVENT_BYTES: Final = 8 * 1024 * 1024
"""An event beyond this is not an answer but a fault of the upstream."""

_BOM: Final = b"\xef\xbb\xbf"
_FIELDS: Final = frozenset({b"event", b"id", b"retry"})
"""Fields that may stand without a value, besides ``data``."""


class SseError(ValueError):
    """The bytes are no event stream that anybody should go on reading."""


class ErrorEvent(bytes):
    """The data of an event named ``error``, or of a field ``error`` (llama.cpp's form)."""

    __slots__ = ()


class ForeignLine(bytes):
    """A line whose field the standard doesn't know: at best ignored, at worst what broke the stream."""

    __slots__ = ()


class SseDecoder:
    """Turns chunks of bytes, cut anywhere, into the data of whole events.

    Lines may end in LF, CRLF or CR; comments and fields other than ``data`` are dropped; several
    data lines of one event are joined by LF. Events are plain bytes, but for :class:`ErrorEvent`;
    a :class:`ForeignLine` comes in its place between them.
    """

    __slots__ = ("_data", "_data_bytes", "_error", "_line", "_skip_lf", "_started", "foreign_lines")

    def __init__(self) -> None:
        self._line = bytearray()
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._error = False
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
                if (odd := self._take(line)) is not None:
                    events.append(odd)
            elif self._data or self._error:
                events.append(self._event())
        self._check_size()
        return events

    def flush(self) -> list[bytes]:
        """The data of an event that the end of the stream left without its blank line.

        The standard drops such an event; servers that forget the last blank line are common.
        """
        events: list[bytes] = []
        if self._line:
            if (odd := self._take(bytes(self._line))) is not None:
                events.append(odd)
            self._line.clear()
        if self._data or self._error:
            events.append(self._event())
        return events

    def _event(self) -> bytes:
        data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        if self._error:
            data = ErrorEvent(data)
            self._error = False
        self._data.clear()
        self._data_bytes = 0
        return data

    def _check_size(self) -> None:
        if len(self._line) + self._data_bytes > MAX_EVENT_BYTES:
            raise SseError(f"one event of more than {MAX_EVENT_BYTES} bytes")

    def _take(self, line: bytes) -> bytes | None:
        """Take in one line; what it is if it stands for itself."""
        if line.startswith(b"data:"):
            self._data_bytes += len(line)
            self._data.append(line[6:] if line.startswith(b" ", 5) else line[5:])
        elif line == b"data":
            self._data_bytes += len(line)
            self._data.append(b"")
        elif line.startswith(b"event:"):
            self._error = line[6:].strip() == b"error"
        elif line.startswith(b"error:"):
            return ErrorEvent(line[6:].strip())
        elif not line.startswith((b":", b"id:", b"retry:")) and line not in _FIELDS:
            self.foreign_lines += 1
            return ForeignLine(line)
        return None
