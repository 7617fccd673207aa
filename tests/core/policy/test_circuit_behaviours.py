"""The table of a circuit's behaviours holds: each row has its tests, each numbered test has its row."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from support.circuit_behaviours import BEHAVIOURS, Behaviour

TESTS = Path(__file__).resolve().parents[2]


@cache
def proofs_in(file: str) -> frozenset[str]:
    """The tests of a file as they are collected: functions of a test module whose names say so."""
    path = TESTS / file
    if not (path.name.startswith("test_") and path.is_file()):
        return frozenset()
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    names = (node.name for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, functions))
    return frozenset(name for name in names if name.startswith("test_"))


@pytest.mark.parametrize("row", BEHAVIOURS, ids=lambda row: f"{row.number}: {row.says}")
def test_each_behaviour_is_proved_by_tests_that_exist(row: Behaviour) -> None:
    assert any(row.proofs.values())
    missing = [
        (file, name) for file, names in row.proofs.items() for name in names if name not in proofs_in(file)
    ]
    assert not missing


def test_the_behaviours_are_numbered_without_a_gap() -> None:
    assert [row.number for row in BEHAVIOURS] == list(range(1, len(BEHAVIOURS) + 1))
    assert len(BEHAVIOURS) >= 30


def test_each_test_that_carries_a_number_is_in_the_row_of_that_number() -> None:
    rows = {row.number: row for row in BEHAVIOURS}
    for file in sorted(TESTS.glob("core/policy/test_circuit_*.py")):
        name_of_file = file.relative_to(TESTS).as_posix()
        for name in proofs_in(name_of_file):
            numbered = re.match(r"test_(\d\d?)_(?!\d)", name)
            if numbered:
                assert name in rows[int(numbered[1])].proofs.get(name_of_file, ()), name
