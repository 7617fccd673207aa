"""Which program a copilot pool runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from smartfallback.config import ConfigError, load_config

POOL = """\
[pools.p]
provider = "{provider}"
model = "m"
command = {command}
[[pools.p.accounts]]
id = "a"
api_key = {{ env = "HOME" }}
[chains.default]
pools = ["p"]
"""


def written(tmp_path: Path, command: str, provider: str = "copilot") -> Path:
    path = tmp_path / "config.toml"
    path.write_text(POOL.format(provider=provider, command=command))
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ('["copilot-beta"]', ("copilot-beta",)),
        ('["/opt/bin/copilot", "--x"]', ("/opt/bin/copilot", "--x")),
        ('["./tools/copilot"]', ("{folder}/tools/copilot",)),
        ("[]", ()),
    ],
)
def test_a_name_is_looked_up_and_a_path_starts_from_the_file(
    tmp_path: Path, command: str, expected: tuple[str, ...]
) -> None:
    pool = load_config(written(tmp_path, command)).spec.pools[0]
    assert pool.command == tuple(part.format(folder=tmp_path) for part in expected)


def test_a_pool_that_runs_no_program_has_no_command(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="runs no program"):
        load_config(written(tmp_path, '["copilot"]', provider="gemini"))
