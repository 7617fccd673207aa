"""What is wrong with a Redis server, in words for its operator."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from redis.asyncio.sentinel import MasterNotFoundError
from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterCrossSlotError,
    ClusterDownError,
    InvalidResponse,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

_CODES: Final = {
    "READONLY": "it is a replica and can't be written to",
    "OOM": "its memory is full",
    "MISCONF": "it can't save to its disk and refuses to write",
    "NOREPLICAS": "it has too few replicas to write",
    "LOADING": "it is loading its data",
    "MASTERDOWN": "it is a replica that has lost its master",
    "CLUSTERDOWN": "the cluster is down or misses some of its slots",
    "BUSY": "a script keeps it busy",
    "NOAUTH": "it asks for a password",
    "WRONGPASS": "it refuses the user name or the password",
    "NOPERM": "its user may not do what is needed",
    "TRYAGAIN": "the cluster moves the data just now",
    "CROSSSLOT": "the cluster keeps apart what belongs together",
}
"""Redis's error codes (redis.io/docs/reference/protocol-spec, and server.c's shared objects)."""
_OF_THE_SERVER: Final = frozenset(_CODES) - {"NOPERM", "TRYAGAIN", "CROSSSLOT"}
"""Those that any other command would meet with too."""
# redis-py takes these codes off the text.
_CODE_OF: Final[tuple[tuple[type[RedisError], str], ...]] = (
    (ReadOnlyError, "READONLY"),
    (OutOfMemoryError, "OOM"),
    (MasterDownError, "MASTERDOWN"),
    (ClusterDownError, "CLUSTERDOWN"),
    (ClusterCrossSlotError, "CROSSSLOT"),
    (TryAgainError, "TRYAGAIN"),
    (NoPermissionError, "NOPERM"),
)
# An error inside a script carries the code after the script's place, older servers with a dash before it.
_CODE: Final = re.compile(r"(?:^|[\s-])(" + "|".join(_CODES) + r")\b")
_NOT_ALLOWED: Final = "user executing the script can't"
"""What Redis 6 says in place of NOPERM inside a script."""
_MOST_WORDS: Final = 200


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that is wrong.

    Attributes:
        words: What, as the end of "it can't be used: …".
        everywhere: Every other command would meet with it too; else only this one was refused.
    """

    words: str
    everywhere: bool = True


def describe(error: BaseException) -> Trouble:
    """What an error of redis-py's, or of the network, says about the server."""
    if isinstance(error, AskError):
        return Trouble("a node of the cluster says that another one holds the data", everywhere=False)
    if isinstance(error, ResponseError):
        return _refusal(error)
    for cause in _causes(error):
        words = _network(cause)
        if words:
            return Trouble(words)
    if isinstance(error, BusyLoadingError):
        return Trouble(_CODES["LOADING"])
    if isinstance(error, AuthenticationError):
        # redis-py takes the code off, and "required" is all that tells the two apart.
        return Trouble(_CODES["NOAUTH" if "required" in str(error) else "WRONGPASS"])
    if isinstance(error, MasterNotFoundError):
        return Trouble("no sentinel knows a master that is up")
    if isinstance(error, RedisTimeoutError | TimeoutError):
        return Trouble("it does not answer")
    if isinstance(error, RedisError) and not isinstance(error, InvalidResponse):
        if "max number of clients" in str(error):
            return Trouble("it takes no more connections")
        found = _CODE.search(str(error))
        return Trouble(_CODES[found.group(1)] if found else "it closed the connection")
    return Trouble("what answers there is no Redis server")


def _refusal(error: ResponseError) -> Trouble:
    text = str(error)
    found = _CODE.search(text)
    code = next((code for kind, code in _CODE_OF if isinstance(error, kind)), found and found.group(1))
    if _NOT_ALLOWED in text:
        code = "NOPERM"
    if code:
        return Trouble(_CODES[code], everywhere=code in _OF_THE_SERVER)
    return Trouble(f"it refused: {' '.join(text.split())[:_MOST_WORDS]}", everywhere=False)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and those behind it, the innermost first."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or current.__context__
    return reversed(chain)


def _network(error: BaseException) -> str:
    match error:
        case socket.gaierror():
            return "its name can't be resolved"
        case ssl.SSLCertVerificationError():
            return f"its certificate is not accepted: {error.verify_message}"
        case ssl.SSLError():
            return f"TLS failed: {error.reason or 'unknown'}"
        case ConnectionRefusedError():
            return "connection refused"
        case FileNotFoundError():
            return "its socket is not there"
        case PermissionError():
            return "no permission to connect"
        case ConnectionResetError() | BrokenPipeError() | ConnectionAbortedError():
            return "the connection was reset"
        case TimeoutError():
            return "it does not answer"
        case OSError():
            return f"the network says: {error.strerror or type(error).__name__}"
    return ""
