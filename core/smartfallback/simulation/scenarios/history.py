"""The runs of the past, kept in a private file over a restart."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import platformdirs

from smartfallback.simulation.scenarios.views import Check, RunState, RunView, StepState, StepView

MOST_RUNS: Final = 200
_LARGEST: Final = 8 * 1024 * 1024
_VERSION: Final = 1


def default_history_path() -> Path:
    """``simulations.jsonl`` in the user's state directory."""
    return platformdirs.user_state_path("smartfallback", appauthor=False) / "simulations.jsonl"


class RunHistory:
    """The latest :data:`MOST_RUNS` finished runs.

    A file that can't be read or written costs the history and nothing else.

    Args:
        path: A file of one JSON object a line, readable by its owner only; None keeps them in memory.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._runs: deque[RunView] = deque(maxlen=MOST_RUNS)
        self._lines = 0
        self.problem = ""
        """Why the file can't be written, empty while it can."""
        self._read()

    @property
    def runs(self) -> tuple[RunView, ...]:
        """Newest first."""
        return tuple(reversed(self._runs))

    def add(self, run: RunView) -> None:
        """Remember a finished run."""
        self._runs.append(run)
        if self._path is None:
            return
        try:
            if self._lines >= 2 * MOST_RUNS:
                self._rewrite(self._path)
            else:
                self._append(self._path, run)
            self.problem = ""
        except OSError as error:
            self.problem = f"{self._path} can't be written: {error.strerror or type(error).__name__}"

    def _read(self) -> None:
        if self._path is None:
            return
        with suppress(OSError, UnicodeDecodeError):
            if self._path.stat().st_size > _LARGEST:
                return
            lines = self._path.read_text(encoding="utf-8").splitlines()
            self._lines = len(lines)
            for line in lines:
                run = _run(line)
                if run is not None:
                    self._runs.append(run)

    def _append(self, path: Path, run: RunView) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8", opener=_private) as file:
            file.write(_line(run))
        self._lines += 1

    def _rewrite(self, path: Path) -> None:
        new = path.with_suffix(".new")
        with open(new, "w", encoding="utf-8", opener=_private) as file:
            file.writelines(_line(run) for run in self._runs)
        new.replace(path)
        self._lines = len(self._runs)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _line(run: RunView) -> str:
    return json.dumps({"version": _VERSION, **asdict(run)}, ensure_ascii=False) + "\n"


def _run(line: str) -> RunView | None:
    """The run of a line, None if it holds none that this version knows."""
    try:
        value: Any = json.loads(line)
        if not isinstance(value, dict) or value.pop("version", None) != _VERSION:
            return None
        value["steps"] = tuple(map(_step, value["steps"]))
        value["state"] = RunState(value["state"])
        value["path"] = tuple(str(each) for each in value["path"])
        return RunView(**value)
    except (ValueError, TypeError, KeyError):
        return None


def _step(value: Mapping[str, Any]) -> StepView:
    checks = tuple(Check(**check) for check in value["checks"])
    return StepView(str(value["title"]), StepState(value["state"]), checks, float(value["duration_s"]))
