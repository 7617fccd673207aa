"""What keeps the state: chosen from option, environment and file, and built in this one place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from smartfallback.config.redis_address import ALLOWED, refused
from smartfallback.model.secrets import Secret
from smartfallback.model.sharing import SharingMode, SharingSpec

if TYPE_CHECKING:
    from smartfallback.clock import Clock
    from smartfallback.state.base import StateStore
    from smartfallback.state.shared import SharedStore

REDIS_OPTION: Final = "--redis-url"
REDIS_VARIABLE: Final = "SMARTFALLBACK_REDIS_URL"
REDIS_KEY: Final = "redis_url in [state]"
PREFIX: Final = "smartfallback"
DEMO_PREFIX: Final = "smartfallback-demo"
"""Demos share with demos, and never with what is configured."""


@dataclass(frozen=True, slots=True)
class StateSettings:
    """Where state is kept and shared.

    Attributes:
        redis_url: The server to share it through; a secret because it may hold a password.
        mode: How a quota is shared.
        instance: What this instance is called; empty for the host's name and the process's number.
        prefix: What all keys on the server begin with.
        source: Where the address stands: option, environment variable or file; empty without one.
    """

    redis_url: Secret | None = None
    mode: SharingMode = SharingMode.LEASED
    instance: str = ""
    prefix: str = PREFIX
    source: str = ""


@dataclass(frozen=True, slots=True)
class Stores:
    """What an orchestrator is given to keep and share its state; it closes them."""

    store: StateStore | None = None
    shared: SharedStore | None = None
    sharing: SharingSpec | None = None


class RedisUrlError(ValueError):
    """The address of a Redis server that was given beside the file can't be used; it is not repeated."""


def choose_state(
    settings: StateSettings | None,
    redis_url: str | None,
    *,
    environ: Mapping[str, str] | None = None,
) -> StateSettings:
    """The settings to run with: the option goes before the environment, and that before the file.

    Args:
        settings: The file's; None without a file, for which only the option counts: whoever tries the
            demo should not meet the server of the real accounts.
        redis_url: The option's value.
        environ: The process's environment by default.

    Raises:
        RedisUrlError: An address can't be used; the message has no part of it.
    """
    if redis_url is not None:
        return replace(
            settings or StateSettings(prefix=DEMO_PREFIX),
            redis_url=_checked(redis_url, REDIS_OPTION),
            source=REDIS_OPTION,
        )
    if settings is None:
        return StateSettings(prefix=DEMO_PREFIX)
    from_environment = (os.environ if environ is None else environ).get(REDIS_VARIABLE, "").strip()
    if from_environment:
        return replace(settings, redis_url=_checked(from_environment, REDIS_VARIABLE), source=REDIS_VARIABLE)
    return settings


def _checked(url: str, source: str) -> Secret:
    trouble = refused(url.strip())
    if trouble is not None:
        raise RedisUrlError(f"{source}: {trouble}. Allowed: {ALLOWED}.")
    return Secret(url.strip())


def open_stores(settings: StateSettings, *, keep: bool = True, clock: Clock | None = None) -> Stores:
    """The stores of these settings; nothing is contacted and no file opened before they are used.

    Args:
        settings: What :func:`choose_state` returned.
        keep: Whether state survives a restart, in the user's state file. A demo keeps nothing.
        clock: The time; the machine's by default.
    """
    from smartfallback.state.sqlite import SqliteStateStore

    store = SqliteStateStore(clock=clock) if keep else None
    if settings.redis_url is None:
        return Stores(store)
    from smartfallback.state.redis_store.store import RedisSharedStore

    shared = RedisSharedStore(settings.redis_url, prefix=settings.prefix, clock=clock)
    return Stores(store, shared, SharingSpec(settings.mode, settings.instance))
