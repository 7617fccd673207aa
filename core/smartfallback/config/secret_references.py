"""Secrets by reference: from the environment, the keyring, a file or a command.

Nothing in here puts a secret, or what a command printed, into a message. A reference that looks as
if somebody had pasted the secret itself into it is not repeated either.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from smartfallback.config.mistakes import nearest, one_of, printable
from smartfallback.model.secrets import MASK, Secret, redact

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

COMMAND_LIMIT_S: Final = 10.0
_LARGEST_SECRET: Final = 64 * 1024
_ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ENV_NAME_CONVENTION: Final = re.compile(r"[A-Z_][A-Z0-9_]{0,63}|[a-z_][a-z_]{0,63}|.{1,15}")
KINDS: Final = ("env", "keyring", "file", "command")
ALLOWED: Final = '{ env = "NAME" }, { keyring = "service/user" }, { file = "path" } or { command = ["…"] }'


class UnreadableSecretError(Exception):
    """A reference that leads to no secret.

    Attributes:
        problem: What is wrong, without any secret in it.
        allowed: What may stand there, empty when ``problem`` says it all.
        suggestion: What to do.
    """

    def __init__(self, problem: str, *, allowed: str = "", suggestion: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.allowed = allowed
        self.suggestion = suggestion


class SecretReader:
    """Resolves references, each command once however many accounts name it.

    Args:
        folder: What relative ``file`` paths start from: the folder of the configuration.
        environ: Where ``env`` references are looked up.
        command_limit_s: How long a command may take.
    """

    def __init__(
        self,
        folder: Path,
        environ: Mapping[str, str],
        *,
        command_limit_s: float = COMMAND_LIMIT_S,
    ) -> None:
        self._folder = folder
        self._environ = environ
        self._command_limit_s = command_limit_s
        self._printed: dict[tuple[str, ...], str | UnreadableSecretError] = {}

    def read(self, reference: object, warn: Callable[[str], None]) -> Secret:
        """The secret that ``reference`` (a value from the file) leads to.

        Raises:
            UnreadableSecretError: It leads to none.
        """
        if isinstance(reference, str):
            warn(
                "the secret stands in the file itself, where backups and screen sharing find it; "
                f"refer to it with {ALLOWED}"
            )
            return _secret(reference, "the text")
        if not isinstance(reference, dict):
            raise UnreadableSecretError("not a reference to a secret", allowed=ALLOWED)
        unknown = [key for key in reference if key not in KINDS]
        if unknown:
            raise UnreadableSecretError(
                f"unknown kind of reference: {printable(redact(str(unknown[0])))[:60]}",
                allowed=ALLOWED,
                suggestion=nearest(str(unknown[0]), KINDS),
            )
        if len(reference) != 1:
            raise UnreadableSecretError(f"needs exactly one of {one_of(KINDS)}", allowed=ALLOWED)
        [(kind, value)] = reference.items()
        if kind == "command":
            return self._from_command(value)
        if not isinstance(value, str) or not value:
            raise UnreadableSecretError(f"{kind} needs a text in quotes", allowed=ALLOWED)
        if kind == "env":
            return self._from_environment(value)
        if kind == "keyring":
            return _from_keyring(value)
        return self._from_file(value, warn)

    def _from_environment(self, name: str) -> Secret:
        if not _ENV_NAME.fullmatch(name):
            raise UnreadableSecretError(
                "env does not hold the name of an environment variable",
                allowed="letters, digits and underscores",
                suggestion="write the variable's name here and put the secret into the variable",
            )
        known = _ENV_NAME_CONVENTION.fullmatch(name) and redact(name) == name
        label = name if known else MASK
        value = self._environ.get(name)
        if value is None:
            raise UnreadableSecretError(
                f"the environment variable {label} is not set",
                suggestion=f"export {label}=… before starting",
            )
        return _secret(value, f"the environment variable {label}")

    def _from_file(self, name: str, warn: Callable[[str], None]) -> Secret:
        label = printable(redact(name))[:200]
        path = self._folder / Path(name).expanduser()
        try:
            info = path.stat()
            if not stat.S_ISREG(info.st_mode):
                raise UnreadableSecretError(f"{label} is not a regular file")
            with path.open("rb") as stream:
                data = stream.read(_LARGEST_SECRET + 1)
        except FileNotFoundError:
            raise UnreadableSecretError(
                f"the file {label} does not exist",
                suggestion="relative paths start at the folder of the configuration",
            ) from None
        except PermissionError:
            raise UnreadableSecretError(
                f"the file {label} may not be read",
                suggestion="make it readable for the user that starts this",
            ) from None
        except (OSError, ValueError, RuntimeError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a usable path"
            raise UnreadableSecretError(f"the file {label} can't be read: {reason}") from None
        if os.name == "posix" and info.st_mode & 0o077:
            warn(f"the file {label} can be read by other users; chmod 600 it")
        return _secret(_decoded(data, f"the file {label}"), f"the file {label}")

    def _from_command(self, argv: object) -> Secret:
        if not (isinstance(argv, list) and argv and all(isinstance(part, str) for part in argv) and argv[0]):
            raise UnreadableSecretError(
                "command needs a list of texts: the program and its arguments",
                allowed='{ command = ["pass", "show", "llm/ag-1"] }',
            )
        key = tuple(argv)
        if key not in self._printed:
            try:
                self._printed[key] = _first_line(argv, self._folder, self._command_limit_s)
            except UnreadableSecretError as error:
                self._printed[key] = error
        printed = self._printed[key]
        if isinstance(printed, UnreadableSecretError):
            raise printed
        return _secret(printed, f"the command {_program(argv)}")


def _secret(value: str, source: str) -> Secret:
    """Check that ``value`` can travel in an HTTP header."""
    value = value.strip()
    if not value:
        raise UnreadableSecretError(f"{source} is empty")
    if not (value.isascii() and value.isprintable()):
        raise UnreadableSecretError(
            f"{source} holds line breaks or characters that no key has",
            suggestion="keep nothing but the key in it, on one line",
        )
    return Secret(value)


def _decoded(data: bytes, source: str) -> str:
    if len(data) > _LARGEST_SECRET:
        raise UnreadableSecretError(f"{source} holds more than 64 KiB, which is no secret")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UnreadableSecretError(f"{source} holds no text") from None


def _from_keyring(reference: str) -> Secret:
    service, _, user = reference.rpartition("/")
    if not service or not user:
        raise UnreadableSecretError(
            "keyring needs a service and a user, divided by a slash", allowed='{ keyring = "service/user" }'
        )
    label = printable(redact(reference))[:200]
    try:
        import keyring
        from keyring.errors import KeyringError
    except ImportError:
        raise UnreadableSecretError(
            "the package keyring is not installed",
            suggestion="pip install keyring, or use env, file or command",
        ) from None
    try:
        value = keyring.get_password(service, user)
    except (KeyringError, RuntimeError, OSError) as error:
        raise UnreadableSecretError(
            f"the keyring gave no answer for {label} ({type(error).__name__})",
            suggestion="unlock or set up the system's keyring, or use env, file or command",
        ) from None
    if value is None:
        raise UnreadableSecretError(
            f"the keyring has no entry {label}",
            suggestion=f"keyring set {printable(redact(service))} {printable(redact(user))}",
        )
    return _secret(value, f"the keyring's entry {label}")


def _program(argv: list[str]) -> str:
    """The command's program; its arguments may be secret themselves."""
    return printable(redact(Path(argv[0]).name))[:60]


def _first_line(argv: list[str], folder: Path, limit_s: float) -> str:
    """Run a command without a shell and return the first line that it prints."""
    name = _program(argv)
    try:
        process = subprocess.Popen(  # noqa: S603 - the operator's own command, no shell involved
            argv,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a usable command"
        raise UnreadableSecretError(
            f"the command {name} could not be started: {reason}",
            suggestion="give the program's full path, or install it",
        ) from None
    try:
        data = _output(process, time.monotonic() + limit_s)
    except TimeoutError:
        raise UnreadableSecretError(
            f"the command {name} did not end within {limit_s:g} s",
            suggestion="it must answer without asking anybody; try it in a terminal with </dev/null",
        ) from None
    finally:
        # Also when the operator gives up waiting with Ctrl+C.
        _end(process)
    if process.returncode != 0 and len(data) <= _LARGEST_SECRET:
        raise UnreadableSecretError(
            f"the command {name} ended with exit code {process.returncode}",
            suggestion="run it in a terminal to see what it says",
        )
    return _decoded(data, f"what the command {name} printed").split("\n", 1)[0]


def _output(process: subprocess.Popen[bytes], deadline: float) -> bytes:
    """What the process prints until it ends, or one byte more than a secret may have.

    Raises:
        TimeoutError: It did not end before ``deadline`` (in monotonic seconds).
    """
    printed = bytearray()

    def collect() -> None:
        if process.stdout is not None:
            with process.stdout as stream:
                printed.extend(stream.read(_LARGEST_SECRET + 1))

    # A thread, because no platform but POSIX can wait for a pipe with a limit.
    reader = threading.Thread(target=collect, name="secret-command", daemon=True)
    reader.start()
    reader.join(max(0.0, deadline - time.monotonic()))
    if reader.is_alive():
        raise TimeoutError
    if len(printed) <= _LARGEST_SECRET:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise TimeoutError from None
    return bytes(printed)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command that still runs, and what it started."""
    if process.returncode is not None:
        return
    if sys.platform != "win32":
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()
