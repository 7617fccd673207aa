"""Models and calls for tests of the local pool. The models are real GGUF files of known behaviour."""

from __future__ import annotations

import contextlib
import os
import select
from typing import TYPE_CHECKING

from smartfallback.model.requests import Message, Role
from smartfallback.model.specs import AccountSpec, PoolSpec, ProviderKind
from smartfallback.providers.base import Call, Chunk
from smartfallback.simulation.chain_model import END, START, Chain, write_chain_model

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from smartfallback.providers.local import LocalProvider

ACCOUNT = AccountSpec("gguf")

WORDS = ("one", " two", " three", " four", " five")
"""What the endless model says, over and over."""


def endless_chain() -> Chain:
    """Never ends by itself: an answer runs until its limit, or until the context is full."""
    following = (*WORDS[1:], WORDS[0])
    loop = {word: [(successor, 1.0)] for word, successor in zip(WORDS, following, strict=True)}
    return {START: [(WORDS[0], 1.0)], **loop}


def write_endless_model(path: Path) -> Path:
    write_chain_model(path, endless_chain(), name="endless", context_tokens=8192)
    return path


def write_byte_models(folder: Path) -> list[tuple[Path, str]]:
    """One model a character, which it says byte by byte, as no two states may share a token."""
    models = []
    for number, character in enumerate(("\U0001f600", "\u20ac", "\u00e9")):
        tokens = [f"<0x{byte:02X}>" for byte in character.encode()]
        chain = {START: [("say: ", 1.0)], "say: ": [(tokens[0], 1.0)]}
        chain |= {
            token: [(successor, 1.0)] for token, successor in zip(tokens, [*tokens[1:], END], strict=True)
        }
        path = folder / f"byte-{number}.gguf"
        write_chain_model(path, chain, name="bytes")
        models.append((path, f"say: {character}"))
    return models


def local_pool(path: Path | None, *, context_tokens: int | None = None, notice: str = "") -> PoolSpec:
    return PoolSpec(
        name="local",
        provider=ProviderKind.LOCAL,
        provider_id="local",
        accounts=(ACCOUNT,),
        model_path=path,
        context_tokens=context_tokens,
        notice=notice,
    )


def local_call(text: str = "Hello", *, max_tokens: int | None = None, stream: bool = True) -> Call:
    return Call(
        account=ACCOUNT,
        pool=local_pool(None),
        model="",
        messages=(Message(Role.USER, text),),
        max_output_tokens=max_tokens,
        temperature=None,
        stream=stream,
    )


async def collect(chunks: AsyncGenerator[Chunk, None]) -> list[Chunk]:
    return [chunk async for chunk in chunks]


async def answer(provider: LocalProvider, text: str = "Hello", *, max_tokens: int | None = None) -> str:
    chunks = await collect(provider.stream(local_call(text, max_tokens=max_tokens)))
    return "".join(chunk.text for chunk in chunks)


def gone_within(pid: int, seconds: float) -> bool:
    """Whether the process has ended, or ends in that time; it need not be a child of this one."""
    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            poller = select.poll()
            poller.register(handle, select.POLLIN)
            return bool(poller.poll(seconds * 1000))
        finally:
            os.close(handle)
    return True
