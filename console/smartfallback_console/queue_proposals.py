"""What an operator can do to the queue: drop a request that waits in it."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from smartfallback import DropQueued
from smartfallback_console.formatting import duration
from smartfallback_console.proposal import OperatorError, Proposal

if TYPE_CHECKING:
    from smartfallback import QueuedView, Snapshot


def drop(name: str, snapshot: Snapshot) -> Proposal:
    """Take a request out of the queue.

    Args:
        name: Its id.
        snapshot: The queue as the operator sees it.

    Raises:
        OperatorError: It doesn't wait; the message offers the nearest id.
    """
    waiting = {view.request_id: view for view in snapshot.queue.requests}
    if not waiting:
        raise OperatorError("nobody waits in the queue")
    if name not in waiting:
        near = get_close_matches(name, waiting, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise OperatorError(f"no request {name!r} waits in the queue{hint}")
    view = waiting[name]
    place = list(waiting).index(name) + 1
    return Proposal(
        "drop_queued",
        f"Drop {name}?",
        f"It is number {place} of {len(waiting)} in the queue ({told(view, snapshot.at)}). "
        "It fails with the error for which it waits.",
        "Drop",
        DropQueued(name),
        "It can't be put back.",
        takes_reason=False,
    )


def told(view: QueuedView, now: float) -> str:
    """Who waits and for how long, in a few words."""
    return f"{view.origin.value}, chain {view.chain}, waits {duration(now - view.since)}"
