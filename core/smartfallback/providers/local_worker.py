"""The child process around a GGUF model: ``python -m smartfallback.providers.local_worker SETTINGS``.

llama.cpp is not safe for two callers at once and may abort its process, so it gets one of its own.
The main thread answers one order after another; a second thread reads orders, so that a
cancellation is heard while an answer is being made, and ends the process when the parent is gone.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import traceback
from typing import TYPE_CHECKING, BinaryIO, NoReturn

from smartfallback.providers.local_protocol import (
    Cancel,
    Failed,
    Fault,
    Finished,
    Generate,
    LoadFailed,
    Ready,
    Report,
    Settings,
    Stopped,
    Text,
    decode_order,
    encode,
)

if TYPE_CHECKING:
    from smartfallback.providers.local_model import LocalModel


class _Orders:
    """Orders as they come in; a cancellation applies to the answer that is running or waiting."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._waiting: queue.SimpleQueue[Generate] = queue.SimpleQueue()
        self._cancelled = -1
        threading.Thread(target=self._read, name="orders", daemon=True).start()

    def next(self) -> Generate:
        return self._waiting.get()

    def is_cancelled(self, order: Generate) -> bool:
        # Ids grow, and the parent sends an order only after the one before it has ended.
        return order.id <= self._cancelled

    def _read(self) -> None:
        try:
            for line in self._source:
                match decode_order(line):
                    case Generate() as order:
                        self._waiting.put(order)
                    case Cancel(id=cancelled):
                        self._cancelled = cancelled
        finally:
            # Native code may be computing or loading in the main thread, which nothing but this ends.
            os._exit(0)


class _Reports:
    """The line to the parent."""

    def __init__(self, sink: BinaryIO) -> None:
        self._sink = sink

    def send(self, report: Report) -> None:
        try:
            self._sink.write(encode(report))
            self._sink.flush()
        except OSError:
            os._exit(0)


def _private_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Take over standard input and output, so that nothing that prints or reads gets between the lines."""
    source = os.fdopen(os.dup(0), "rb")
    sink = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    os.close(nowhere)
    os.dup2(2, 1)
    return source, sink


def _load(settings: Settings) -> LocalModel | LoadFailed:
    try:
        # A broken native build fails here in many ways, and the operator is told which.
        from smartfallback.providers import local_model
    except Exception as error:
        return LoadFailed(Fault.PACKAGE, f"llama-cpp-python can't be imported: {error}")
    try:
        return local_model.LocalModel(settings)
    except local_model.Refused as refused:
        return LoadFailed(refused.fault, str(refused))


def _answer(model: LocalModel, order: Generate, orders: _Orders, reports: _Reports) -> Report:
    from smartfallback.providers.local_model import Interrupted, Refused

    try:
        for piece in model.answer(order, lambda: orders.is_cancelled(order)):
            if isinstance(piece, Finished):
                return piece
            reports.send(Text(order.id, piece))
    except Interrupted:
        return Stopped(order.id)
    except Refused as refused:
        return Failed(order.id, refused.fault, str(refused))
    return Failed(order.id, Fault.INFERENCE, "the answer did not end")


def main() -> NoReturn:
    """Load the model, report it, and answer orders until the parent closes the line.

    The process leaves by ``os._exit`` only: Python's own way out waits for the thread that reads.
    """
    # The parent decides when the child ends; a Ctrl+C in the terminal is meant for the parent.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    source, sink = _private_pipes()
    orders, reports = _Orders(source), _Reports(sink)
    model = _load(Settings(**json.loads(sys.argv[1])))
    if isinstance(model, LoadFailed):
        reports.send(model)
        os._exit(1)
    reports.send(Ready(model.context_tokens))
    while True:
        order = orders.next()
        reports.send(_answer(model, order, orders, reports))


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
