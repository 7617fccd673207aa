"""``smartfallback init`` and what a wrong command line gets."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest

from smartfallback.config.starter import STARTER
from support.command import Inside, contents, run


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Inside:
    return Inside(tmp_path, monkeypatch, capsys)


def test_the_starter_is_written_once_and_only_for_its_owner(tmp_path: Path) -> None:
    done = run(tmp_path, "init")
    written = tmp_path / "config" / "smartfallback" / "config.toml"
    assert done.returncode == 0
    assert str(written) in done.stdout
    assert written.read_text() == STARTER
    assert (mode(written), mode(written.parent), mode(written.parent.parent)) == (0o600, 0o700, 0o700)

    written.write_text("# mine\n")
    again = run(tmp_path, "init")
    assert again.returncode == 2
    assert "exists already" in again.stderr
    assert "--force" in again.stderr
    assert written.read_text() == "# mine\n"

    forced = run(tmp_path, "init", "--force")
    assert forced.returncode == 0
    assert written.read_text() == STARTER
    assert mode(written) == 0o600
    assert list(written.parent.iterdir()) == [written]

    # The file written is the one that is read, and says what is still to be done.
    checked = run(tmp_path, "check")
    assert checked.returncode == 2
    assert f"1 mistake in {written}" in checked.stderr
    assert "export ANTIGRAVITY_KEY_1=" in checked.stderr


def test_a_link_is_kept_and_its_target_replaced(tmp_path: Path, inside: Inside) -> None:
    real = tmp_path / "dotfiles.toml"
    real.write_text("# old\n")
    link = tmp_path / "link.toml"
    link.symlink_to(real)
    assert inside.run("init", "--path", link).returncode == 2
    assert real.read_text() == "# old\n"
    assert inside.run("init", "--path", link, "--force").returncode == 0
    assert link.is_symlink()
    assert real.read_text() == STARTER


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_a_path_that_can_not_be_written_leaves_nothing_behind(
    tmp_path: Path, inside: Inside, force: tuple[str, ...]
) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    before = contents(tmp_path)
    for path in (tmp_path / "file" / "config.toml", tmp_path / "folder"):
        done = inside.run("init", "--path", path, *force)
        assert done.returncode == 2
        assert str(path) in done.stderr
        assert "Traceback" not in done.stderr
    assert contents(tmp_path) == before


def test_without_a_configuration_check_says_how_to_get_one(tmp_path: Path, inside: Inside) -> None:
    done = inside.run("check")
    assert done.returncode == 2
    assert "smartfallback init" in done.stderr
    assert contents(tmp_path) == {}


def test_a_dangling_link_is_a_mistake_and_not_the_demo(tmp_path: Path, inside: Inside) -> None:
    folder = tmp_path / "config" / "smartfallback"
    folder.mkdir(parents=True)
    (folder / "config.toml").symlink_to(tmp_path / "gone")
    done = inside.run("chat", "hello")
    assert done.returncode == 2
    assert "does not exist" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["chat"], "Missing argument"),
        (["chat", ""], "prompt is empty"),
        (["chat", "hello", "--demo", "--config", "x.toml"], "--demo or --config"),
        (["chat", "hello", "--nonsense"], "--nonsense"),
        (["nonsense"], "nonsense"),
    ],
)
def test_wrong_usage_ends_with_exit_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    done = Inside(tmp_path, monkeypatch, capsys).run(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(("stdin", "said"), [(b" \n", "prompt is empty"), (b"\xff\xfe", "not UTF-8")])
def test_a_prompt_from_standard_input_must_be_text(tmp_path: Path, stdin: bytes, said: str) -> None:
    done = run(tmp_path, "chat", "-", stdin=stdin)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_help_states_the_exit_codes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("init", "check", "chat"):
        done = Inside(tmp_path, monkeypatch, capsys).run(command, "--help")
        assert done.returncode == 0
        assert "Exit codes: 0" in done.stdout


def test_help_loads_neither_engine_nor_network(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from smartfallback.cli import main\n"
        "sys.argv[1:] = ['--help']\n"
        "try: main()\n"
        "finally:\n"
        "    heavy = {'pydantic', 'asyncio', 'httpx', 'rich', 'smartfallback.engine'} & set(sys.modules)\n"
        "    assert not heavy, heavy\n"
    )
    assert run(tmp_path, command=(sys.executable, "-c", program)).returncode == 0
