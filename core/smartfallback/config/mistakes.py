"""Mistakes in a configuration: what a report of them says, and says never (a secret)."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from smartfallback.model.secrets import MASK, Secret, redact

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from smartfallback.config.locations import KeyPath, Locations

_LONGEST_SHOWN: Final = 60
_SHORTEST_SCRUBBED: Final = 8
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_SECRET_KEY: Final = re.compile(r"key|token|secret|passw|credential|auth|bearer", re.IGNORECASE)
_NOT_SECRET: Final = frozenset({"context_tokens", "default_output_tokens", "first_token_s"})
_URL_CREDENTIALS: Final = re.compile(r"(?<=://)[^/?#\s]*@")


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong in a configuration file.

    Attributes:
        file: The file as it was named.
        line: Where it stands, from 1; None when the whole file is meant.
        key: The dotted key, such as ``pools.antigravity.accounts[0].id``; empty for the whole file.
        problem: What is wrong, in a few words.
        found: What stands there, shortened; empty when nothing does or it may be secret.
        allowed: What may stand there; empty when ``problem`` says it all.
        suggestion: What to do, with the nearest right name where there is one.
        column: For errors in the syntax, from 1.
    """

    file: Path
    line: int | None
    key: str
    problem: str
    found: str = ""
    allowed: str = ""
    suggestion: str = ""
    column: int | None = None

    @property
    def place(self) -> str:
        """``config.toml:7`` or ``config.toml:7:12``, as editors understand it."""
        parts = [printable(str(self.file))]
        parts += [str(part) for part in (self.line, self.column) if part is not None]
        return ":".join(parts)

    def __str__(self) -> str:
        lines = [": ".join(part for part in (self.place, self.key, self.problem) if part)]
        for title, text in (("found", self.found), ("allowed", self.allowed), ("do", self.suggestion)):
            if text:
                lines.append(f"    {title + ':':<9}{text}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class ConfigWarning:
    """Something that works, but that the operator should know."""

    file: Path
    line: int
    key: str
    message: str

    def __str__(self) -> str:
        return f"{printable(str(self.file))}:{self.line}: {self.key}: {self.message}"


class ConfigError(Exception):
    """A configuration that can't be used, with every mistake in it."""

    def __init__(self, file: Path, mistakes: Sequence[Mistake]) -> None:
        super().__init__(file, tuple(mistakes))
        self.file = file
        self.mistakes = tuple(mistakes)

    @property
    def headline(self) -> str:
        """How many mistakes there are, and where."""
        count = len(self.mistakes)
        return f"{count} mistake{'' if count == 1 else 's'} in {printable(str(self.file))}"

    def __str__(self) -> str:
        return "\n\n".join([self.headline, *(str(mistake) for mistake in self.mistakes)])


@dataclass(slots=True)
class Report:
    """Collects what is found wrong in one document, and knows where everything in it stands."""

    file: Path
    document: dict[str, object]
    locations: Locations
    mistakes: list[Mistake] = field(default_factory=list)
    warnings: list[ConfigWarning] = field(default_factory=list)

    def mistake(
        self,
        path: KeyPath,
        problem: str,
        *,
        found: str | None = None,
        allowed: str = "",
        suggestion: str = "",
    ) -> None:
        """Add a mistake at ``path``; what is found there is looked up unless it is given."""
        if found is None:
            found = self.found(path)
        line = self.locations.line(path)
        self.mistakes.append(
            Mistake(
                self.file, line, dotted(path), problem, redact(found), redact(allowed), redact(suggestion)
            )
        )

    def warn(self, path: KeyPath, message: str) -> None:
        """Add a warning about the value at ``path``."""
        self.warnings.append(
            ConfigWarning(self.file, self.locations.line(path), dotted(path), redact(message))
        )

    def found(self, path: KeyPath) -> str:
        """The value at ``path`` as a report may show it; empty when there is none."""
        value: Any = self.document
        for part in path:
            try:
                value = value[part]
            except (LookupError, TypeError):
                return ""
        if any(isinstance(part, str) and is_secret_key(part) for part in path):
            return MASK
        return shown(value)

    def scrub(self, secrets: Iterable[Secret]) -> None:
        """Remove resolved secrets that an operator has also written elsewhere, such as in a URL."""
        known = [secret for secret in secrets if len(secret.reveal()) >= _SHORTEST_SCRUBBED]
        if not known:
            return
        self.mistakes = [
            Mistake(
                mistake.file,
                mistake.line,
                redact(mistake.key, known),
                redact(mistake.problem, known),
                redact(mistake.found, known),
                redact(mistake.allowed, known),
                redact(mistake.suggestion, known),
            )
            for mistake in self.mistakes
        ]

    def sorted_mistakes(self) -> list[Mistake]:
        """The mistakes in the order of the file."""
        return sorted(self.mistakes, key=lambda mistake: mistake.line or 0)


def is_secret_key(name: str) -> bool:
    """Whether a value under this name may be a secret and is therefore never shown."""
    return name not in _NOT_SECRET and bool(_SECRET_KEY.search(name))


def dotted(path: KeyPath) -> str:
    """``pools."my pool".accounts[0].id`` for a key path, without anything that looks like a key."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part if len(part) <= _LONGEST_SHOWN else part[:_LONGEST_SHOWN] + "…"
            name = name if _BARE_KEY.fullmatch(name) else f'"{printable(name)}"'
            text += f".{name}" if text else name
    return redact(text)


def shown(value: object) -> str:
    """A value from the file for a report: quoted, shortened, without credentials in its URLs."""
    if isinstance(value, str):
        text = _URL_CREDENTIALS.sub(f"{MASK}@", redact(value))
        if len(text) > _LONGEST_SHOWN:
            text = text[:_LONGEST_SHOWN] + "…"
        return f'"{printable(text)}"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "an empty list" if not value else f"a list of {len(value)}"
    text = str(value)
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "…"


def printable(text: str) -> str:
    """``text`` with escapes for all that would move a terminal's cursor or hide what is written."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode("ascii")
        for char in text
    )


def nearest(name: str, names: Iterable[str]) -> str:
    """``did you mean "pools"?`` when one of ``names`` is close to ``name``, else an empty text."""
    by_lower = {candidate.lower(): candidate for candidate in names}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return f'did you mean "{printable(by_lower[close[0]])}"?' if close else ""


def one_of(names: Iterable[str]) -> str:
    """``"a", "b" or "c"``, as a report lists what is allowed."""
    quoted = [f'"{printable(name)}"' for name in names]
    if len(quoted) < 2:
        return "".join(quoted)
    return f"{', '.join(quoted[:-1])} or {quoted[-1]}"
