"""A conversation as the one prompt that Copilot's command-line tool takes.

The tool has no turns. A lone question goes as it is; all else is put between tags, which models tell
apart better than headings, with the message to answer at the end.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from smartfallback.model.requests import Message, Role

MAX_ARGUMENT_BYTES: Final = 16 * 1024
"""Longer prompts go by standard input: Linux takes 128 KiB in one argument, Windows 32 KiB in all."""

_COMMAND_MARKS: Final = ("/", "!", "@", "#", "?")
"""What opens a command, a file or an issue in the tool's own prompt line."""


def render(messages: Sequence[Message]) -> str:
    """The prompt for a conversation; empty messages are left out."""
    spoken = [message for message in messages if message.content.strip()]
    instructions = "\n\n".join(message.content for message in spoken if message.role is Role.SYSTEM)
    turns = [message for message in spoken if message.role is not Role.SYSTEM]
    parts = []
    if instructions:
        parts.append(f"<instructions>\n{instructions}\n</instructions>")
    asked = turns.pop().content if turns and turns[-1].role is Role.USER else ""
    if turns:
        told = "\n".join(f"<{turn.role.value}>\n{turn.content}\n</{turn.role.value}>" for turn in turns)
        parts.append(f"<conversation>\n{told}\n</conversation>")
    if not parts and not asked.lstrip().startswith(_COMMAND_MARKS):
        return asked
    if asked:
        parts.append(f"Answer this message of the user:\n\n{asked}")
    elif turns:
        parts.append("Go on with the assistant's part of this conversation.")
    return "\n\n".join(parts)


def encode(prompt: str) -> bytes:
    """``prompt`` in UTF-8; half characters, which no encoding has, are replaced."""
    return prompt.encode("utf-8", "replace")


def fits_argument(prompt: bytes) -> bool:
    """Whether a prompt may be an argument of the command.

    Not if it is long, holds a NUL (which ends an argument) or could be taken for an option. Never on
    Windows, where the tool is a batch file whose arguments pass through the command interpreter.
    """
    return (
        os.name == "posix"
        and len(prompt) <= MAX_ARGUMENT_BYTES
        and b"\0" not in prompt
        and not prompt.startswith(b"-")
    )
