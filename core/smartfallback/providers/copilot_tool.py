"""Where Copilot's command-line tool is on this machine, and the environment in which it is run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from smartfallback.clock import Clock
from smartfallback.model.secrets import MASK, Secret
from smartfallback.model.specs import AccountSpec

NAME: Final = "copilot"
FRESH_S: Final = 3.0
"""How long a look at the search path is trusted, so that a tool that comes or goes is soon noticed."""

_TOKENS: Final = ("COPILOT_GITHUB_TOKEN", "GH_TOKEN", "GITHUB_TOKEN")
"""Where the tool looks for a login, in its order."""

_PASSED: Final = frozenset(
    {
        *("HOME", "PATH", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR"),
        *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
        *("NODE_EXTRA_CA_CERTS", "NODE_USE_ENV_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"),
        "DBUS_SESSION_BUS_ADDRESS",  # the way to the keyring in which the tool keeps its login
        *("SYSTEMROOT", "WINDIR", "COMSPEC", "PATHEXT", "TEMP", "TMP", "USERNAME"),
        *("USERPROFILE", "APPDATA", "LOCALAPPDATA", "PROGRAMDATA", "HOMEDRIVE", "HOMEPATH"),
        *_TOKENS,
    }
)
_PASSED_PREFIXES: Final = ("LC_", "XDG_", "COPILOT_", "GH_")
_WITHHELD_PREFIX: Final = "COPILOT_ALLOW"
"""Variables that let the tool run commands and change files without asking."""

_SETTINGS: Final = {
    "COPILOT_AUTO_UPDATE": "false",  # an answer must not wait for a download
    "NO_COLOR": "1",
}
_SECRET_ENDINGS: Final = ("TOKEN", "KEY", "SECRET", "PASSWORD", "PROXY")


class ToolLocator:
    """Finds the tool, and notices when it is installed or removed.

    Args:
        command: The configured program (a path, or a name on the search path) and the arguments that
            go before all others; empty means ``copilot``.
        clock: The age of the last look.
    """

    def __init__(self, command: tuple[str, ...], clock: Clock) -> None:
        self._program = command[0] if command else NAME
        self._arguments = command[1:]
        self._clock = clock
        self._found: tuple[str, ...] | None = None
        self._looked_at: float | None = None

    @property
    def program(self) -> str:
        """What is looked for."""
        return self._program

    def find(self) -> tuple[str, ...] | None:
        """The program's absolute path and its leading arguments; None while it is not there."""
        now = self._clock.monotonic()
        if self._looked_at is None or now - self._looked_at >= FRESH_S:
            # Relative entries would make the tool depend on where this program was started.
            folders = [entry for entry in os.get_exec_path() if Path(entry).is_absolute()]
            path = shutil.which(self._program, path=os.pathsep.join(folders))
            self._found = None if path is None else (str(Path(path).absolute()), *self._arguments)
            self._looked_at = now
        return self._found

    def forget(self) -> None:
        """Look again the next time: the tool was not where it was found."""
        self._looked_at = None


class ToolEnvironment(Mapping[str, str]):
    """Variables for the tool, a login among them. Its ``repr`` names them and no value.

    No ``dict``: what prints the variables of a traceback looks into those.
    """

    __slots__ = ("_variables",)

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = dict(variables)

    def __getitem__(self, name: str) -> str:
        return self._variables[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._variables)

    def __len__(self) -> int:
        return len(self._variables)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={MASK}' for name in self)})"


def environment(account: AccountSpec, inherited: Mapping[str, str]) -> ToolEnvironment:
    """What the tool gets to see of ``inherited``, with the account's key as its login.

    An account without a key uses the login that the tool itself has. Nothing is passed on that the
    tool has no use for: keys of other providers stay here.
    """
    env = {
        name: value
        for name, value in inherited.items()
        if (name.upper() in _PASSED or name.upper().startswith(_PASSED_PREFIXES))
        and not name.upper().startswith(_WITHHELD_PREFIX)
    }
    env |= _SETTINGS
    if account.api_key is not None:
        for name in _TOKENS:
            env.pop(name, None)
        env["GH_TOKEN"] = account.api_key.reveal().strip()
    return ToolEnvironment(env)


def secrets_in(env: Mapping[str, str]) -> tuple[Secret, ...]:
    """The values of an environment that must not show up in anything that the tool is quoted with."""
    return tuple(
        Secret(value) for name, value in env.items() if value and name.upper().endswith(_SECRET_ENDINGS)
    )
