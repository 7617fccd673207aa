"""From a file to a :class:`~smartfallback.model.specs.SystemSpec`, or to one report of all mistakes."""

from __future__ import annotations

import os
import re
import stat
import tomllib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from smartfallback.config.locations import KeyPath, Locations
from smartfallback.config.mistakes import ConfigError, ConfigWarning, Mistake, Report, printable
from smartfallback.config.redis_address import ALLOWED, refused, secrets_in, sends_in_clear
from smartfallback.config.relations import accounts, check_relations, tables
from smartfallback.config.stores import REDIS_KEY, StateSettings
from smartfallback.model.secrets import Secret, redact
from smartfallback.model.sharing import SharingMode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from smartfallback.config.schema import StateTable
    from smartfallback.config.secret_references import SecretReader
    from smartfallback.model.specs import SystemSpec

LARGEST_FILE: Final = 1024 * 1024
"""Bytes. Ten thousand accounts fit into one; what is larger was not written as a configuration."""

_SYNTAX_PLACE: Final = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_START_OVER: Final = '"smartfallback init" writes a file to start from'


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A configuration that can be run."""

    file: Path
    spec: SystemSpec
    warnings: tuple[ConfigWarning, ...]
    state: StateSettings


def load_config(path: Path, *, environ: Mapping[str, str] | None = None) -> LoadedConfig:
    """Read, check and resolve a configuration. Nothing is written and nothing is contacted.

    Commands that the file names for secrets are run, each for at most 10 seconds.

    Args:
        path: The TOML file.
        environ: Where ``env`` references are looked up; the process's environment by default.

    Raises:
        ConfigError: The file can't be used; the error carries every mistake in it.
    """
    text = read_text(path)
    document = parse_toml(path, text)
    report = Report(path, document, Locations(text))

    # pydantic is loaded here because only those pay for it who have a configuration.
    from pydantic import ValidationError

    from smartfallback.config.build import build_spec
    from smartfallback.config.explain import explain
    from smartfallback.config.schema import ConfigFile
    from smartfallback.config.secret_references import SecretReader

    checked: ConfigFile | None = None
    try:
        checked = ConfigFile.model_validate(document)
    except ValidationError as error:
        explain(error, report)
    check_relations(report)
    folder = Path(os.path.abspath(path)).parent  # noqa: PTH100 - resolve() would leave a symlinked folder
    reader = SecretReader(folder, os.environ if environ is None else environ)
    keys = _read_keys(report, reader)
    redis_url = _read_redis_url(report, reader)
    if _holds_literals(document) and _others_can_read(path):
        report.warn((), f"holds secrets and can be read by other users; chmod 600 {printable(str(path))}")
    if report.mistakes or checked is None:
        report.scrub([*keys.values(), *_secrets_of(redis_url)])
        raise ConfigError(path, report.sorted_mistakes())
    return LoadedConfig(
        file=path,
        spec=build_spec(checked, keys, folder),
        warnings=tuple(report.warnings),
        state=_state(checked.state, redis_url),
    )


def read_text(path: Path, *, start_over: str = _START_OVER) -> str:
    """The text of a file that can be one written by hand; ``start_over`` is what to do without one.

    Raises:
        ConfigError: It can't be.
    """

    def refuse(problem: str, suggestion: str = "", line: int | None = None) -> ConfigError:
        return ConfigError(path, [Mistake(path, line, "", problem, suggestion=suggestion)])

    try:
        info = path.stat()
        if stat.S_ISDIR(info.st_mode):
            raise refuse("is a directory", "name the file itself, such as config.toml in it")
        if not stat.S_ISREG(info.st_mode):
            raise refuse("is not a regular file", "name a TOML file")
        if info.st_size > LARGEST_FILE:
            raise refuse(
                f"is {info.st_size / 1024**2:.1f} MiB large; a configuration has at most 1 MiB",
                "check that this is the right file",
            )
        with path.open("rb") as stream:
            data = stream.read(LARGEST_FILE + 1)
    except FileNotFoundError:
        raise refuse("does not exist", start_over) from None
    except PermissionError:
        raise refuse("may not be read", "make it readable for the user that starts this") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a usable path"
        raise refuse(f"can't be read: {reason}") from None
    if len(data) > LARGEST_FILE:
        raise refuse("grew beyond 1 MiB while it was read")
    if b"\0" in data:
        raise refuse("is a binary file, not a text file", "name a TOML file")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise refuse("is not UTF-8", "save it as UTF-8", data.count(b"\n", 0, error.start) + 1) from None
    if not text.strip():
        raise refuse("is empty", start_over)
    return text


def parse_toml(path: Path, text: str) -> dict[str, object]:
    """The document in ``text``.

    Raises:
        ConfigError: It is no TOML; with the place.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = redact(str(error))
        place = _SYNTAX_PLACE.search(message)
        if place is None or place[1] is None:
            line, column = text.rstrip("\n").count("\n") + 1, None
        else:
            line, column = int(place[1]), int(place[2])
        problem = printable(_SYNTAX_PLACE.sub("", message))
        raise ConfigError(
            path,
            [
                Mistake(
                    path,
                    line,
                    "",
                    f"not valid TOML: {problem}",
                    suggestion="correct this first",
                    column=column,
                )
            ],
        ) from None
    except RecursionError:
        raise ConfigError(path, [Mistake(path, None, "", "not valid TOML: nested too deeply")]) from None


def _read_keys(report: Report, reader: SecretReader) -> dict[KeyPath, Secret]:
    """Resolve the key of every account, in whatever state the rest of the file is."""
    from smartfallback.config.secret_references import UnreadableSecretError

    keys: dict[KeyPath, Secret] = {}
    for name, pool in tables(report.document, "pools"):
        for account_path, account in accounts(name, pool):
            if "api_key" not in account:
                continue
            path = (*account_path, "api_key")
            try:
                keys[account_path] = reader.read(account["api_key"], partial(report.warn, path))
            except UnreadableSecretError as error:
                report.mistake(
                    path, error.problem, found="", allowed=error.allowed, suggestion=error.suggestion
                )
    return keys


def _read_redis_url(report: Report, reader: SecretReader) -> Secret | None:
    from smartfallback.config.secret_references import UnreadableSecretError

    state = report.document.get("state")
    if not isinstance(state, dict) or "redis_url" not in state:
        return None
    path = ("state", "redis_url")
    url = state["redis_url"]

    def warn(text: str) -> None:
        if not isinstance(url, str) or "@" in url:
            report.warn(path, text)

    try:
        secret = reader.read(url, warn)
    except UnreadableSecretError as error:
        report.mistake(path, error.problem, found="", allowed=error.allowed, suggestion=error.suggestion)
        return None
    trouble = refused(secret.reveal())
    if trouble is not None:
        report.mistake(path, trouble.problem, found="", allowed=ALLOWED, suggestion=trouble.suggestion)
    elif sends_in_clear(secret.reveal()):
        report.warn(path, "sends its password over the network unencrypted; rediss:// encrypts it")
    return secret


def _secrets_of(redis_url: Secret | None) -> list[Secret]:
    """The address of the server, and the passwords in it."""
    if redis_url is None:
        return []
    url = redis_url.reveal()
    return [redis_url] if refused(url) else [redis_url, *secrets_in(url)]


def _state(table: StateTable | None, redis_url: Secret | None) -> StateSettings:
    source = "" if redis_url is None else REDIS_KEY
    if table is None:
        return StateSettings()
    return StateSettings(redis_url, SharingMode(table.mode), table.instance or "", table.prefix, source)


def _holds_literals(document: dict[str, object]) -> bool:
    return any(
        isinstance(account.get("api_key"), str)
        for name, pool in tables(document, "pools")
        for _, account in accounts(name, pool)
    )


def _others_can_read(path: Path) -> bool:
    try:
        return os.name == "posix" and bool(path.stat().st_mode & 0o077)
    except OSError:
        return False
