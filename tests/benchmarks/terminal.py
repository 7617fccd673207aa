"""A program in a pseudo-terminal: what it writes, when, and what it costs the machine."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Sequence
from types import TracebackType

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


class Terminal:
    """Runs ``command`` in a terminal of ``columns`` x ``rows``; ends it when left."""

    def __init__(self, command: Sequence[str], columns: int, rows: int, environment: dict[str, str]) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.started = time.perf_counter()
        self._process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
        )
        os.close(slave)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        os.close(self._master)

    @property
    def alive(self) -> bool:
        """Whether the program still runs."""
        return self._process.poll() is None

    def cpu_s(self) -> float:
        """Processor seconds of the program so far, without its children."""
        with open(f"/proc/{self._process.pid}/stat") as stat:  # noqa: PTH123 - /proc has no better face
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND

    def memory_mb(self) -> float:
        """Resident memory of the program in MB."""
        with open(f"/proc/{self._process.pid}/statm") as statm:  # noqa: PTH123 - as above
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    def read(self, seconds: float) -> bytes:
        """All that is written within ``seconds``."""
        ends = time.perf_counter() + seconds
        parts = []
        while (left := ends - time.perf_counter()) > 0:
            if select.select([self._master], [], [], left)[0]:
                try:
                    parts.append(os.read(self._master, 1 << 16))
                except OSError:
                    break
        return b"".join(parts)

    def wait_for(self, text: bytes, limit_s: float) -> float:
        """Seconds from the start until ``text`` was written.

        Raises:
            TimeoutError: It was not written in time.
        """
        written = b""
        while time.perf_counter() - self.started < limit_s:
            written = (written + self.read(0.01))[-200_000:]
            if text in written:
                return time.perf_counter() - self.started
        raise TimeoutError(f"{text!r} did not appear within {limit_s} s")

    def key_to_screen(self, key: bytes, limit_s: float = 1.0) -> float:
        """Seconds from sending ``key`` until the program writes anything."""
        os.write(self._master, key)
        sent = time.perf_counter()
        if not select.select([self._master], [], [], limit_s)[0]:
            raise TimeoutError(f"{key!r} changed nothing within {limit_s} s")
        elapsed = time.perf_counter() - sent
        self.read(0.1)
        return elapsed

    def send(self, text: bytes) -> None:
        """Type ``text``."""
        os.write(self._master, text)
