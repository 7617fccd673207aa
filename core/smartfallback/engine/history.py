"""Shortening a conversation that is too long for a model."""

from __future__ import annotations

from smartfallback.model.requests import Message, Role


def trimmed(messages: tuple[Message, ...]) -> tuple[Message, ...] | None:
    """The conversation without the older half of its turns; None when nothing can be left out.

    System messages and the last message always stay; what is left begins with a user's turn.
    """
    system = tuple(message for message in messages if message.role is Role.SYSTEM)
    turns = tuple(message for message in messages if message.role is not Role.SYSTEM)
    if len(turns) < 2:
        return None
    kept = turns[(len(turns) + 1) // 2 :]
    while len(kept) > 1 and kept[0].role is not Role.USER:
        kept = kept[1:]
    return system + kept
