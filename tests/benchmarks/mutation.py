"""How many deliberate mistakes in the circuit and the ledger do their tests notice?

    pip install -e '.[dev,mutation]'
    python tests/benchmarks/mutation.py

Mutmut changes one thing at a time in the modules (a comparison, a number, an argument) and runs
the tests that reach it; a mutant that no test notices has survived. Arguments name modules of the
policy floor to try alone. The work lies in build/mutation, where ``mutmut show NAME`` prints a
mutant and ``mutmut browse`` all of them. With two workers it takes about ten minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "mutation"
POLICY = Path("src/smartfallback/policy")
LIMIT = 0.9

CONFTEST = """
from hypothesis import Phase, settings

# Every mutant meets the same examples, and one that fails need not be made smaller.
settings.register_profile(
    "mutation", derandomize=True, database=None, deadline=None, phases=(Phase.explicit, Phase.generate)
)


def pytest_collection_modifyitems(items):
    # Most mutants fall by a quick test, before the long ones have their turn.
    items.sort(key=lambda item: ("properties" in item.nodeid, hasattr(item.obj, "hypothesis")))
"""

KILLED = {1, 3}
"""Exit codes of pytest: a test failed, or could not even run."""
TIMED_OUT = {24, 36, 152, 255, -24, -9}
"""Ended by a limit of time, as mutmut has it."""


def modules() -> list[Path]:
    """What is mutated."""
    policy = ROOT / "core" / "smartfallback" / "policy"
    return sorted([*policy.glob("circuit*.py"), *policy.glob("ledger*.py")])


def tests() -> list[Path]:
    """What may notice it: the tests of the policy floor that are about circuits, quota and their parts."""
    folder = ROOT / "tests" / "core" / "policy"
    found = {path for word in ("circuit", "ledger", "quota") for path in folder.glob(f"test_{word}*.py")}
    return sorted(found - {folder / "test_circuit_behaviours.py"})  # that one tests the tests


def lay_out(chosen: list[Path]) -> None:
    """Put sources and tests where mutmut looks for them: it knows the root ``src`` and no ``core``."""
    shutil.rmtree(WORK, ignore_errors=True)  # mutmut would keep a survivor's fate however its tests grew
    shutil.copytree(ROOT / "core", WORK / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("conftest.py", "support"):
        _copy(ROOT / "tests" / name, WORK / "tests" / name)
    for test in tests():
        _copy(test, WORK / test.relative_to(ROOT))
    _copy(ROOT / "pyproject.toml", WORK / "pyproject.toml")
    settings = {
        "source_paths": ["src"],
        "only_mutate": [str(POLICY / path.name) for path in chosen],
        "pytest_add_cli_args_test_selection": [str(path.relative_to(ROOT)) for path in tests()],
        "also_copy": ["conftest.py"],
        "pytest_add_cli_args": ["--hypothesis-profile=mutation", "-pno:cacheprovider"],
        "use_git_change_detection": ["false"],
    }
    lines = ["[mutmut]"]
    for name, values in settings.items():
        lines += (
            [f"{name} =", *(f"    {value}" for value in values)]
            if len(values) > 1
            else [f"{name} = {values[0]}"]
        )
    (WORK / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    (WORK / "setup.cfg").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy2(source, target)


def tally(module: Path) -> Counter[str]:
    """Mutants of a module by fate, from what mutmut wrote down."""
    meta = WORK / "mutants" / POLICY / f"{module.name}.meta"
    codes = json.loads(meta.read_text(encoding="utf-8"))["exit_code_by_key"]
    return Counter(_fate(code) for code in codes.values())


def _fate(code: int | None) -> str:
    if code in KILLED:
        return "killed"
    return "timed out" if code in TIMED_OUT else "survived"


def main() -> int:
    """Run, print a table, and fail below the limit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("modules", nargs="*", help="such as circuit_window ledger; all without any")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args()
    chosen = [path for path in modules() if not asked.modules or path.stem in asked.modules]
    lay_out(chosen)
    command = [sys.executable, "-m", "mutmut", "run", f"--max-children={asked.workers}"]
    subprocess.run(command, cwd=WORK, check=True)
    total: Counter[str] = Counter()
    fates = ("killed", "timed out", "survived")
    print(f"\n{'module':24}{'mutants':>9}" + "".join(f"{fate:>11}" for fate in fates) + f"{'noticed':>9}")
    for path in chosen:
        counts = tally(path)
        total += counts
        _print(path.stem, counts, fates)
    _print("all", total, fates)
    return 0 if _noticed(total) >= LIMIT else 1


def _noticed(counts: Counter[str]) -> float:
    return 1 - counts["survived"] / max(1, counts.total())


def _print(name: str, counts: Counter[str], fates: tuple[str, ...]) -> None:
    columns = "".join(f"{counts[fate]:>11}" for fate in fates)
    print(f"{name:24}{counts.total():>9}{columns}{_noticed(counts):>9.1%}")


if __name__ == "__main__":
    sys.exit(main())
