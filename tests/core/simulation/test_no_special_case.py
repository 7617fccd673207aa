"""What is decided in a rehearsal is decided by the code that always decides."""

from __future__ import annotations

import re
import tokenize
from pathlib import Path

import smartfallback

CORE = Path(smartfallback.__file__).parent
WORDS = re.compile(r"simulat|drill|scenario|rehears", re.IGNORECASE)
WIRING = {
    # Where a rehearsal is begun, ended, and stands for its accounts where state is saved.
    "engine/rehearsal.py",
    "engine/kept.py",
    "engine/orchestrator.py",
}


def names(path):
    """All names of a file's code; what comments and docstrings tell decides nothing."""
    with path.open("rb") as file:
        return [token.string for token in tokenize.tokenize(file.readline) if token.type == tokenize.NAME]


def test_no_decision_asks_whether_something_is_rehearsed():
    found = [
        f"{path.relative_to(CORE).as_posix()}: {name}"
        for floor in ("engine", "policy", "providers", "quota_sources")
        for path in sorted((CORE / floor).rglob("*.py"))
        if path.relative_to(CORE).as_posix() not in WIRING
        for name in names(path)
        if WORDS.search(name)
    ]
    # The snapshot says that a system is simulated, for screens to label it.
    assert set(found) <= {"engine/observer.py: simulated", "engine/observer.py: _simulated"}


def test_no_branch_of_the_orchestrator_depends_on_it():
    lines = (CORE / "engine" / "orchestrator.py").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if re.match(r"\s*(if|elif|while)\b", line) and WORDS.search(line)] == []
