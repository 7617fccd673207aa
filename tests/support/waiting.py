"""Waiting for what fires no event here: what another process does, or a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], object], patience_s: float = 15.0) -> None:
    """Wait, with the loop running, until ``condition()`` is true."""
    async with asyncio.timeout(patience_s):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.002)
