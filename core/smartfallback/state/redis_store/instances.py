"""Who shares the state: each instance says once a second that it runs, and hears who else does."""

from __future__ import annotations

import json
import math
from typing import Any, Final

from smartfallback.model.sharing import Heartbeat, InstanceView
from smartfallback.state.json_fields import Fields, loaded
from smartfallback.state.redis_store.keys import Keys
from smartfallback.state.redis_store.link import BACKGROUND_LIMIT_S, RedisLink
from smartfallback.state.redis_store.replies import parts, text
from smartfallback.state.redis_store.scripts import script

LISTED_S: Final = 10.0
"""An instance that is silent for longer is listed no more."""
FORGOTTEN_S: Final = 60.0
"""One that is silent for longer is not known any more."""
MOST_INSTANCES: Final = 512
_MOST_NAME: Final = 200
_MOST_VERSION: Final = 64


class Instances:
    """Heartbeats.

    Args:
        link: The way to the server.
        keys: The names of keys.
    """

    def __init__(self, link: RedisLink, keys: Keys) -> None:
        self._link = link
        self._keys = keys

    async def heartbeat(self, instance: InstanceView) -> Heartbeat:
        """Say that ``instance`` runs and hear of all; this one comes first, then by name.

        When it was last seen is for the server to say. Two with one name are two.

        Raises:
            StoreLostError: The store can't be used.
        """
        particulars = {
            "name": instance.name[:_MOST_NAME],
            "version": instance.version[:_MOST_VERSION],
            "started_at": instance.started_at,
            "in_flight": instance.in_flight,
            "requests_per_s": instance.requests_per_s if math.isfinite(instance.requests_per_s) else 0.0,
        }
        reply = await self._link.run(
            script("heartbeat"),
            [self._keys.instances],
            [instance.id, json.dumps(particulars), repr(LISTED_S), repr(FORGOTTEN_S), str(MOST_INSTANCES)],
            limit_s=BACKGROUND_LIMIT_S,
        )
        at, known, *rows = parts(reply)
        seen = []
        for row in zip(rows[::3], rows[1::3], rows[2::3], strict=True):
            try:
                seen.append(_instance(row, here=instance.id))
            except (ValueError, RecursionError):
                continue  # somebody else's data, or a version to come
        seen.sort(key=lambda one: (not one.here, one.name, one.started_at, one.id))
        return Heartbeat(at=float(text(at)), known=text(known) == "1", instances=tuple(seen))

    async def leave(self, instance: str) -> None:
        """Say that the instance with this id ends.

        Raises:
            StoreLostError: The store can't be used; it will not be listed much longer anyway.
        """
        await self._link.command("HDEL", self._keys.instances, instance, limit_s=BACKGROUND_LIMIT_S)


def _instance(row: tuple[Any, ...], *, here: str) -> InstanceView:
    name, seen_at, particulars = (text(part) for part in row)
    fields = Fields(loaded(particulars))
    return InstanceView(
        id=name,
        name=_printable(fields.text("name"), _MOST_NAME),
        version=_printable(fields.text("version"), _MOST_VERSION),
        started_at=fields.number("started_at"),
        seen_at=float(seen_at),
        in_flight=fields.count("in_flight"),
        requests_per_s=fields.number("requests_per_s"),
        here=name == here,
    )


def _printable(words: str, most: int) -> str:
    # Half a surrogate pair, which JSON can spell, would end whoever prints it.
    return words[:most].encode(errors="replace").decode()
