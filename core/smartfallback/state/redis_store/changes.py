"""The hints at changed facts, as they come: a stream that is followed on a connection of its own."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from typing import Any, Final

from redis.asyncio import Redis

from smartfallback.model.sharing import Change
from smartfallback.state.redis_store.keys import Keys
from smartfallback.state.redis_store.link import BACKGROUND_LIMIT_S, RedisLink
from smartfallback.state.redis_store.replies import stream_entries, text
from smartfallback.state.redis_store.scripts import script
from smartfallback.state.shared import StoreLostError

LOG: Final = logging.getLogger("smartfallback.state")

MOST_SUBJECTS: Final = 128
"""Of one read: a reader that is further behind does better to read everything."""
_READ_AT_ONCE: Final = 256
_BLOCK_S: Final = 1.0
"""How long a read waits: an emptied store is noticed after so long, or with the next hint."""
_FIRST_WAIT_S: Final = 0.05
_LONGEST_WAIT_S: Final = 2.0


class Changes:
    """Follows the stream of changes.

    The position is always an entry that is in the stream. If it no longer is, the stream was trimmed
    beyond it, emptied, or is that of a server which never had it: then hints may have been missed.

    Args:
        link: The way to the server.
        keys: The names of keys.
        rng: Spreads the new attempts of many instances.
    """

    def __init__(self, link: RedisLink, keys: Keys, *, rng: random.Random | None = None) -> None:
        self._link = link
        self._key = keys.changes
        self._rng = rng or random.Random()

    async def listen(self) -> AsyncIterator[Change]:
        """The hints, one's own among them, each subject once for all that was read together.

        First of all, and whenever some may have been missed, comes one with an empty subject and an
        empty ``by``. An empty subject with a ``by`` says that this instance wrote more subjects than
        are worth listing.

        Never raises; ends when the link is closed. Whoever stops earlier calls ``aclose()`` on it,
        or is cancelled while waiting for the next.
        """
        wait_s = _FIRST_WAIT_S
        complaint = ""
        while not self._link.closed:
            try:
                await self._link.wait_reachable()
                async with self._link.apart(self._key) as client:
                    position = await self._begin()
                    yield Change("")
                    wait_s, complaint = _FIRST_WAIT_S, ""
                    while True:
                        changes, position = await self._next(client, position)
                        for change in changes:
                            yield change
            except StoreLostError:
                pass  # the link has told the operator
            except Exception as error:  # whoever follows must not be left without hints for good
                if complaint != repr(error):
                    complaint = repr(error)
                    LOG.exception("the changes in the shared store can't be followed, trying again")
            if not self._link.closed:
                await asyncio.sleep(wait_s * (0.5 + self._rng.random() / 2))
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)

    async def _begin(self) -> str:
        where = await self._link.run(script("follow_changes"), [self._key], [], limit_s=BACKGROUND_LIMIT_S)
        return text(where)

    async def _next(self, client: Redis, position: str) -> tuple[list[Change], str]:
        # Both are sent at once: the look back is answered as soon as the wait ends.
        both = client.pipeline(transaction=False)
        both.execute_command(
            "XREAD", "COUNT", _READ_AT_ONCE, "BLOCK", int(_BLOCK_S * 1000), "STREAMS", self._key, position
        )
        both.execute_command("XRANGE", self._key, position, position)
        async with asyncio.timeout(_BLOCK_S + BACKGROUND_LIMIT_S):
            reply, found = await both.execute()
        if not found:
            return [Change("")], await self._begin()
        return _hints(reply, position)


def _hints(reply: Any, position: str) -> tuple[list[Change], str]:
    changes: dict[Change, None] = {}
    for name, fields in stream_entries(reply):
        position = name
        if "s" in fields:
            changes[Change(fields["s"], fields.get("b", ""))] = None
    if len(changes) <= MOST_SUBJECTS:
        return [*changes], position
    tellers = {change.by for change in changes}
    return [Change("", tellers.pop() if len(tellers) == 1 else "")], position
