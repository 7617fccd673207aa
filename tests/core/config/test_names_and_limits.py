"""Which account ids a configuration takes, and limits that a value must keep to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from smartfallback.config import ConfigError, load_config

FILE = """\
[pools.p]
provider = "openai"
model = "m"
base_url = "http://127.0.0.1:1/v1"
default_output_tokens = {tokens}
[[pools.p.accounts]]
id = {id}
[chains.default]
pools = ["p"]
"""


def written(folder: Path, *, account: str = "a", tokens: str = "1") -> Path:
    path = folder / "config.toml"
    path.write_text(
        FILE.format(id=json.dumps(account, ensure_ascii=False).replace("\x7f", r"\u007F"), tokens=tokens),
        encoding="utf-8",
    )
    return path


def refusal_of(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    (mistake,) = caught.value.mistakes
    return f"{mistake.line} {mistake}"


@pytest.mark.parametrize(
    "account",
    ["ag-1", "[bold]", "[@click=app.quit]x", "🦊 fox", "حساب", "\u202eevil", "müller@example.org", "x" * 200],
)
def test_an_account_may_have_any_name_that_fits_on_a_line(tmp_path: Path, account: str) -> None:
    assert load_config(written(tmp_path, account=account)).spec.pools[0].accounts[0].id == account


@pytest.mark.parametrize(
    ("account", "words"),
    [
        ("ag/1", "holds a slash, which stands between account and model"),
        ("../../x", 'an id without "/"'),
        ("a\nb", "holds a control character"),
        ("a\u2028b", "holds a control character"),
        ("a\x1b[31mb", "holds a control character"),
        ("a\x7fb", "holds a control character"),
        ("a\x85b", "holds a control character"),
        ("x" * 201, "is 201 characters long"),
    ],
)
def test_an_id_that_would_break_targets_or_screens_is_refused(
    tmp_path: Path, account: str, words: str
) -> None:
    text = refusal_of(written(tmp_path, account=account))
    assert text.startswith("7 ")
    assert "pools.p.accounts[0].id" in text
    assert words in text
    assert "\x1b" not in text


@pytest.mark.parametrize("tokens", ["0", "-5", "1.5", "true", "nan"])
def test_an_answer_of_no_length_is_refused(tmp_path: Path, tokens: str) -> None:
    assert "pools.p.default_output_tokens" in refusal_of(written(tmp_path, tokens=tokens))
