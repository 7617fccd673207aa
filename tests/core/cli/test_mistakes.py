"""Every way in which a configuration can be wrong, as files given to the real command."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from support.command import Inside, contents, run

CANARY = "c4n4ry-S3cr3t-0123456789abcdef"
"""Stands where secrets stand; must come out nowhere."""

GOOD = """\
[pools.ag]
provider = "gemini"
model = "gemini-2.5-flash"
[[pools.ag.accounts]]
id = "ag-1"
api_key = { env = "SET" }
[chains.default]
pools = ["ag"]
"""


class Case(NamedTuple):
    """A file and, for each mistake in it, its line and pieces that its report must hold."""

    text: str
    reports: tuple[tuple[int, tuple[str, ...]], ...]


def replaced(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


CASES = {
    "unknown key at the root": Case(
        GOOD + "[chain.fast]\npools = []\n", ((9, ("chain:", "unknown key", 'did you mean "chains"?')),)
    ),
    "unknown key in a pool": Case(
        replaced("model =", "modle = 1\nmodel ="),
        ((3, ("pools.ag.modle", "unknown key", 'did you mean "model"?')),),
    ),
    "unknown key in an account": Case(
        replaced('id = "ag-1"', 'id = "ag-1"\nmax_concurency = 3'),
        ((6, ("pools.ag.accounts[0].max_concurency", 'did you mean "max_concurrency"?')),),
    ),
    "unknown key in a quota window": Case(
        GOOD.replace(
            "[chains",
            'quota = [\n  { window = "day", unit = "tokens", limit = 1, reset = "00:00 UTC" },\n]\n[chains',
        ),
        ((8, ("pools.ag.accounts[0].quota[0].reset", 'did you mean "resets"?')),),
    ),
    "unknown key in each nested table": Case(
        GOOD
        + "".join(
            f"[pools.ag.{table}]\nnonsense = 1\n"
            for table in ("hybrid", "thresholds", "timeouts", "account_circuit", "provider_circuit", "price")
        )
        + "[state]\nnonsense = 1\n",
        (
            (10, ("pools.ag.hybrid.nonsense", "quota_weight")),
            (12, ("pools.ag.thresholds.nonsense", "soft_limit")),
            (14, ("pools.ag.timeouts.nonsense", "first_token_s")),
            (16, ("pools.ag.account_circuit.nonsense", "failure_threshold")),
            (18, ("pools.ag.provider_circuit.nonsense", "preset")),
            (19, ("pools.ag.price.input", "is missing")),
            (19, ("pools.ag.price.output", "is missing")),
            (20, ("pools.ag.price.nonsense", "input, output")),
            (22, ("state.nonsense", "redis_url, mode")),
        ),
    ),
    "unknown key in a chain": Case(
        GOOD + "timeout = 5\n", ((9, ("chains.default.timeout", 'did you mean "timeout_s"?')),)
    ),
    "wrong types": Case(
        replaced(
            'model = "gemini-2.5-flash"', "model = 3\ncontext_tokens = 1.5\nthresholds = 80\nnotice = true"
        )
        + 'timeout_s = "soon"\nswitch_on_content_filter = "no"\n',
        (
            (3, ("pools.ag.model", "wrong type", "3", "a text in quotes")),
            (4, ("pools.ag.context_tokens", "1.5", "a whole number")),
            (5, ("pools.ag.thresholds", "a number", "a table")),
            (6, ("pools.ag.notice", "true", "a text in quotes")),
            (12, ("chains.default.timeout_s", '"soon"', "a number")),
            (13, ("chains.default.switch_on_content_filter", "true or false")),
        ),
    ),
    "a pool's keys directly below [pools]": Case(
        '[pools]\nprovider = "gemini"\n[chains.default]\npools = ["provider"]\n',
        (
            (2, ("pools.provider", "a table", "[pools.NAME]")),
            (4, ("chains.default.pools[0]", "no such pool")),
        ),
    ),
    "two accounts with one id, across pools": Case(
        GOOD.replace(
            "[chains",
            '[[pools.ag.accounts]]\nid = "ag-1"\napi_key = { env = "SET" }\n'
            '[pools.b]\nprovider = "openai"\nmodel = "m"\nbase_url = "http://127.0.0.1:1/v1"\n'
            'accounts = [{ id = "b-1" }, { id = "ag-1" }]\n[chains',
        ),
        (
            (8, ("pools.ag.accounts[1].id", "second account", "line 5", '"ag-1"')),
            (14, ("pools.b.accounts[1].id", "second account", "line 5")),
        ),
    ),
    "a chain naming no pool": Case(
        replaced('pools = ["ag"]', "pools = []"), ((8, ("chains.default.pools", "is empty")),)
    ),
    "a chain without pools": Case(
        replaced('pools = ["ag"]', "timeout_s = 5"), ((7, ("chains.default.pools", "is missing")),)
    ),
    "a chain naming an unknown pool": Case(
        replaced('["ag"]', '["ag", "agg"]'),
        ((8, ("chains.default.pools[1]", "no such pool", '"agg"', 'did you mean "ag"?')),),
    ),
    "a chain naming a pool twice": Case(
        replaced('["ag"]', '["ag",\n "ag"]'), ((9, ("chains.default.pools[1]", "already")),)
    ),
    "negative limits": Case(
        GOOD.replace(
            "[chains",
            'quota = [{ window = "week", unit = "tokens", limit = -5_000_000 }]\nmax_concurrency = 0\n'
            "[pools.ag.timeouts]\nidle_s = -1\n[chains",
        ),
        (
            (7, ("pools.ag.accounts[0].quota[0].limit", "-5000000", "above 0")),
            (8, ("pools.ag.accounts[0].max_concurrency", "above 0")),
            (10, ("pools.ag.timeouts.idle_s", "-1", "above 0")),
        ),
    ),
    "not a number": Case(
        GOOD.replace(
            "[chains",
            "[pools.ag.hybrid]\nquota_weight = nan\n[pools.ag.timeouts]\nidle_s = inf\n[chains",
        ),
        (
            (8, ("pools.ag.hybrid.quota_weight", "nan", "finite")),
            (10, ("pools.ag.timeouts.idle_s", "inf", "finite")),
        ),
    ),
    "a quota window without a limit, and one twice": Case(
        GOOD.replace(
            "[chains",
            'quota = [{ window = "week", unit = "tokens" },\n'
            '{ window = "week", unit = "tokens", limit = 1 },\n'
            '{ window = "day", unit = "fraction" }]\n[chains',
        ),
        (
            (7, ("pools.ag.accounts[0].quota[0].limit", "is missing")),
            (8, ("pools.ag.accounts[0].quota[1]", 'second window of "tokens" over "week"')),
        ),
    ),
    "bad resets": Case(
        GOOD.replace(
            "[chains",
            'quota = [{ window = "week", unit = "tokens", limit = 1, resets = "sunnday 00:00 UTC" },\n'
            '{ window = "day", unit = "tokens", limit = 1, resets = "00:00 Mars/Phobos" }]\n[chains',
        ),
        (
            (7, ("pools.ag.accounts[0].quota[0].resets", "sunnday")),
            (8, ("pools.ag.accounts[0].quota[1].resets", "Mars/Phobos")),
        ),
    ),
    "missing keys": Case(
        "[pools.ag]\n[[pools.ag.accounts]]\n[pools.loc]\nprovider = 'local'\n"
        "[chains.default]\npools = ['ag', 'loc']\n",
        (
            (1, ("pools.ag.provider", "is missing", '"gemini"')),
            (2, ("pools.ag.accounts[0].id", "is missing")),
            (3, ("pools.loc.accounts", "is missing")),
            (3, ("pools.loc.model_path", "is missing", "GGUF")),
        ),
    ),
    "nothing but a comment": Case(
        "# later\n", ((1, ("pools", "is missing", "smartfallback init")), (1, ("chains", "is missing")))
    ),
    "a cloud pool without model and key": Case(
        GOOD.replace('model = "gemini-2.5-flash"\n', "").replace('api_key = { env = "SET" }\n', ""),
        (
            (1, ("pools.ag.model", "is missing")),
            (3, ("pools.ag.accounts[0].api_key", "is missing", "env")),
        ),
    ),
    "what doesn't belong to the provider": Case(
        GOOD.replace("[[pools", 'model_path = "x.gguf"\n[[pools').replace(
            "[chains",
            '[pools.l]\nprovider = "local"\nmodel_path = "x"\nbase_url = "http://127.0.0.1"\n'
            'accounts = [{ id = "l" }]\n[chains',
        ),
        ((4, ("pools.ag.model_path", "only local")), (11, ("pools.l.base_url", "no address"))),
    ),
    "wrong enum values": Case(
        replaced("gemini-2.5-flash", "m")
        .replace('"gemini"', '"Gemni"')
        .replace("[[pools", 'strategy = "round-robin"\nreserve = "always"\ncapabilities = ["tols"]\n[[pools')
        + '[state]\nredis_url = "redis://127.0.0.1"\nmode = "loose"\n',
        (
            (2, ("pools.ag.provider", '"Gemni"', 'did you mean "gemini"?')),
            (4, ("pools.ag.strategy", 'did you mean "round_robin"?')),
            (5, ("pools.ag.reserve", '"before_local" or "never"')),
            (6, ("pools.ag.capabilities[0]", 'did you mean "tools"?')),
            (14, ("state.mode", '"leased" or "strict"')),
        ),
    ),
    "soft above hard, warning above critical": Case(
        GOOD.replace(
            "[chains",
            "[pools.ag.thresholds]\nsoft_limit = 90\nhard_limit = 85\nwarning = 99\n[chains",
        ),
        (
            (7, ("pools.ag.thresholds.critical", "below warning (99)")),
            (9, ("pools.ag.thresholds.hard_limit", "hard_limit (85) is below soft_limit (90)")),
        ),
    ),
    "settings that don't fit together": Case(
        GOOD.replace(
            "[chains",
            "[pools.ag.hybrid]\njitter_low = 1.2\n[pools.ag.account_circuit]\nslow_call_rate = 0.5\n[chains",
        ),
        (
            (7, ("pools.ag.hybrid", "jitter_low")),
            (9, ("pools.ag.account_circuit", "slow_call_s")),
        ),
    ),
    "addresses": Case(
        replaced("model =", f'base_url = "https://me:{CANARY}@host/v1"\nmodel =')
        + f'[state]\nredis_url = "http://:{CANARY}@host"\n',
        (
            (3, ("pools.ag.base_url", "holds credentials", "***@host", "api_key")),
            (11, ("state.redis_url", "Redis")),
        ),
    ),
}

SECRETS = {
    "not set": ('{ env = "NOT_SET" }', ("NOT_SET", "is not set", "export")),
    "empty variable": ('{ env = "EMPTY" }', ("EMPTY", "is empty")),
    "a secret pasted into env": (f'{{ env = "{CANARY}" }}', ("environment variable",)),
    "a secret with line breaks": ('{ env = "TWO_LINES" }', ("TWO_LINES", "line breaks")),
    "no file": ('{ file = "no/such/file" }', ("no/such/file", "does not exist")),
    "a directory": ('{ file = "." }', ("not a regular file",)),
    "a program that fails": (
        f'{{ command = ["{sys.executable}", "-c", "import sys; print(\'{CANARY}\'); '
        f"sys.exit('{CANARY}')\"] }}",
        ("exit code 1",),
    ),
    "a program that prints nothing": (f'{{ command = ["{sys.executable}", "-c", ""] }}', ("is empty",)),
    "a program that isn't there": ('{ command = ["no-such-program-here"] }', ("could not be started",)),
    "a program that prints without end": (
        f'{{ command = ["{sys.executable}", "-c", "while True: print(\'{CANARY}\' * 99)"] }}',
        ("more than 64 KiB",),
    ),
    "a shell line": (f'{{ command = "echo {CANARY}" }}', ("a list of texts",)),
    "two kinds": (f'{{ env = "SET", file = "{CANARY}" }}', ("exactly one",)),
    "an unknown kind": (f'{{ environment = "{CANARY}" }}', ("environment", "env")),
    "a number": ("7182818284590", ("not a reference",)),
    "an empty text": ('""', ("is empty",)),
    "no user in keyring": (f'{{ keyring = "{CANARY}" }}', ("service and a user",)),
}


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Inside:
    return Inside(tmp_path, monkeypatch, capsys)


def check(home: Path, config: Path, command: Inside | None = None) -> str:
    """Run ``check`` on a wrong configuration and return its report."""
    before = contents(home)
    done = (partial(run, home) if command is None else command.run)(
        "check",
        "--config",
        config,
        SET=CANARY,
        EMPTY="",
        TWO_LINES=f"{CANARY}\n{CANARY}",
        PYTHONWARNINGS="error",
    )
    assert done.returncode == 2, done
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert CANARY not in done.stderr
    assert "should not have happened" not in done.stderr
    assert contents(home) == before
    return done.stderr


def reports(text: str) -> list[str]:
    """The report's head and its mistakes."""
    return text.rstrip("\n").split("\n\n")


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_one_report_has_every_mistake_with_its_line_and_what_to_do(
    tmp_path: Path, case: Case, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "my config.toml"
    config.write_text(case.text)
    head, *mistakes = reports(check(tmp_path, config, Inside(tmp_path, monkeypatch, capsys)))
    assert head == f"{len(case.reports)} mistake{'s' * (len(case.reports) > 1)} in {config}"
    assert len(mistakes) == len(case.reports), mistakes
    for mistake, (line, pieces) in zip(mistakes, case.reports, strict=True):
        assert mistake.startswith(f"{config}:{line}: "), mistake
        for piece in pieces:
            assert piece in mistake


def test_unreadable_secrets_are_reported_with_all_other_mistakes_and_never_shown(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    lines = ['[chains.default]\npools = ["ag"]\n[pools.ag]\nprovider = "gemini"\nmodel = 1\n']
    for index, (reference, _) in enumerate(SECRETS.values()):
        lines.append(f'[[pools.ag.accounts]]\nid = "a{index}"\napi_key = {reference}\n')
    config.write_text("".join(lines))
    head, *mistakes = reports(check(tmp_path, config))
    assert head.startswith(f"{len(SECRETS) + 1} mistakes")
    assert "pools.ag.model: wrong type" in mistakes[0]
    for index, (mistake, (_, pieces)) in enumerate(zip(mistakes[1:], SECRETS.values(), strict=True)):
        assert mistake.startswith(f"{config}:{8 + 3 * index}: pools.ag.accounts[{index}].api_key: "), mistake
        for piece in pieces:
            assert piece in mistake


FILES = {
    "missing": (None, ("does not exist", "smartfallback init")),
    "empty": (b"", ("is empty", "smartfallback init")),
    "blank": (b"\n  \n", ("is empty",)),
    "binary": (b"\x7fELF\0\0\1\2" * 99, ("binary file",)),
    "Latin-1": ("[pools.a]\n# naïve\n".encode("latin-1"), (":2: ", "not UTF-8")),
    "10 MB": (b"# nothing here\n" * 700_000, ("10.0 MiB", "at most 1 MiB")),
    "syntax": (b'[pools.a]\nprovider = "gemini\nmodel = 1\n', (":2:19: ", "not valid TOML")),
    "a table twice": (b"[a]\n[a]\n", (":2:", "not valid TOML")),
    "cut off": (b"[pools.a]\nx = [1,\n", (":2: ", "not valid TOML")),
    "an unquoted secret": (f"[pools.a]\napi_key = {CANARY}\n".encode(), (":2:11: ", "not valid TOML")),
    "nested beyond reason": (b"x = " + b"[" * 100_000, ("nested too deeply",)),
}


@pytest.mark.parametrize(("data", "pieces"), FILES.values(), ids=FILES.keys())
def test_files_that_are_no_configuration(tmp_path: Path, data: bytes | None, pieces: tuple[str, ...]) -> None:
    config = tmp_path / "config.toml"
    if data is not None:
        config.write_bytes(data)
    head, *mistakes = reports(check(tmp_path, config))
    assert head == f"1 mistake in {config}"
    for piece in pieces:
        assert piece in mistakes[0]


def test_a_directory_and_a_device_are_no_configuration(tmp_path: Path) -> None:
    assert "is a directory" in check(tmp_path, tmp_path)
    assert "not a regular file" in check(tmp_path, Path("/dev/zero"))


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    (folder / "config.toml").write_text(GOOD)
    folder.chmod(0)
    # Root reads everything, so a root process becomes somebody else, once a first run has loaded all
    # code: the new user may not be allowed to read that either.
    program = (
        "import os, sys\n"
        "from smartfallback.cli import main\n"
        "arguments = sys.argv[1:]\n"
        "sys.argv[1:] = ['check', '--config', 'nowhere']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "if os.getuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "sys.argv[1:] = arguments\n"
        "main()\n"
    )
    try:
        done = run(
            tmp_path, "check", "--config", folder / "config.toml", command=(sys.executable, "-c", program)
        )
    finally:
        folder.chmod(0o700)
    assert done.returncode == 2
    assert "may not be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_mistakes_as_json_are_the_same_for_a_program(tmp_path: Path, inside: Inside) -> None:
    config = tmp_path / "config.toml"
    config.write_text(replaced("gemini-2.5-flash", "m").replace("pools = ", "pols = 1\npools = "))
    done = inside.run("check", "--json", "--config", config, SET=CANARY)
    assert done.returncode == 2
    found = json.loads(done.stdout)
    assert (found["version"], found["ok"], found["accounts"]) == (1, False, [])
    [mistake] = found["mistakes"]
    assert (mistake["line"], mistake["key"], mistake["problem"]) == (8, "chains.default.pols", "unknown key")
    assert mistake["suggestion"] == 'did you mean "pools"?'


def test_chat_reports_the_same_mistakes_and_sends_nothing(tmp_path: Path, inside: Inside) -> None:
    config = tmp_path / "config.toml"
    config.write_text(replaced("model =", "modle ="))
    done = inside.run("chat", "hello", "--config", config, SET=CANARY)
    assert done.returncode == 2
    assert done.stdout == ""
    assert 'did you mean "model"?' in done.stderr
    as_json = inside.run("chat", "hello", "--json", "--config", config, SET=CANARY)
    assert as_json.returncode == 2
    answer = json.loads(as_json.stdout)
    assert (answer["ok"], answer["error"]["category"], len(answer["mistakes"])) == (False, "configuration", 2)


def test_names_that_would_garble_a_terminal_are_written_as_escapes(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(GOOD + '[pools."a\\u001b[31m\\u202e"]\nprovider = "\\u001b]0;x\\u0007"\n')
    report = check(tmp_path, config)
    assert "\x1b" not in report
    assert "\\x1b[31m\\u202e" in report
