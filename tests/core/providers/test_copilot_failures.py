"""Each way in which the tool can refuse or break is told apart; real processes say the words."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import pytest

from smartfallback.model.outcomes import ErrorCategory, TimeoutPhase
from support.clock import EPOCH, FakeClock
from support.copilot_tools import KEY, ask_tool, complaining, copilot, copilot_pool, write_tool
from support.http_servers import call_to, collect

C = ErrorCategory
LOGGED_OUT = (
    "Error: No authentication information found.\n\nCopilot can be authenticated with GitHub using a token.\n"
    "  • Start 'copilot' and run the '/login' command"
)
WEEKLY = (
    "✗ Sorry, you have been rate-limited. Please wait 9 hours 44 minutes before trying again.\n"
    "Server Error: Sorry, you've exceeded your weekly rate limit. Please review our Terms of Service.\n"
    "Error Code: user_weekly_rate_limited"
)
BURST = (
    "Sorry, you've hit a rate limit that restricts the number of Copilot model requests you can make within "
    "a specific time period. Please try again in {}. Please review our Terms of Service (https://docs.github.com)"
)
LAST = (
    "Failed to get response from the AI model; retried 5 times (total retry wait time: 5.00 seconds) "
    "Last error: "
)
NODE_CRASH = """\
(node:71) ExperimentalWarning: SQLite is experimental
file:///opt/copilot/index.js:12
  throw new TypeError("boom");
        ^

TypeError: Cannot read properties of undefined (reading 'paths')
    at main (file:///opt/copilot/index.js:12:9)

Node.js v24.12.0"""


class Case(NamedTuple):
    """What the tool says, and what it has to be taken for."""

    says: str
    category: ErrorCategory
    wait: float | None = None
    code: str = ""
    exit_code: int = 1


CASES = {
    "no quota": Case("\n402 You have no quota\n", C.QUOTA_EXHAUSTED),
    "no quota, older": Case(
        '✘ Model call failed: {"message":"You have no quota","code":"quota_exceeded"} (Request ID: 676E)\n'
        "✘ Quota exceeded. Upgrade to increase your limit: https://github.com/features/copilot/plans\n"
        "✘ Execution failed: 402 You have no quota",
        C.QUOTA_EXHAUSTED,
        code="quota_exceeded",
    ),
    "weekly": Case(WEEKLY, C.QUOTA_EXHAUSTED, 35_040.0, "user_weekly_rate_limited"),
    "weekly, soon": Case(
        "Please wait 2 minutes before trying again. Error Code: user_weekly_rate_limited",
        C.QUOTA_EXHAUSTED,
        120.0,
        "user_weekly_rate_limited",
    ),
    "burst": Case(BURST.format("7 seconds"), C.RATE_LIMIT, 7.0),
    "long burst": Case(BURST.format("58 hours"), C.RATE_LIMIT, 208_800.0),
    "burst by code": Case(
        '429 {"error":{"message":"slow down","code":"rate_limited"}}', C.RATE_LIMIT, None, "rate_limited"
    ),
    "burst as 403": Case("403 You have exceeded a secondary rate limit", C.RATE_LIMIT),
    "logged out": Case(LOGGED_OUT, C.AUTHENTICATION),
    "logged out, older": Case(
        "✗ You must be logged in to send messages. Please run /login", C.AUTHENTICATION
    ),
    "bad token": Case(
        "Error: Token could not be used.\n  Failed to fetch PAT user login (401): …", C.AUTHENTICATION
    ),
    "classic token": Case(
        "Error: Classic Personal Access Tokens (ghp_) are not supported by Copilot.", C.AUTHENTICATION
    ),
    "policy": Case(
        "✗ Failed to load models: access denied by Copilot policy. (Request ID: DD28)", C.AUTHENTICATION
    ),
    "no such model": Case(
        '✗ Model "gpt-9" is not available. It may be disabled by your policy.', C.INVALID_REQUEST
    ),
    "model refused": Case(
        'Model call failed: {"message":"The requested model is not supported.","code":"model_not_supported"}',
        C.INVALID_REQUEST,
        code="model_not_supported",
    ),
    "server error": Case(LAST + "500 The server had an error", C.API_FAILURE),
    "bad gateway": Case(LAST + "502 Bad Gateway", C.TRANSIENT_ERROR),
    "overloaded": Case(LAST + "The server is overloaded or not ready yet.", C.TRANSIENT_ERROR),
    "no network": Case(
        "Error: Authentication token found but could not be validated.\n"
        "  Failed to fetch PAT user login: network fetch failed: error sending request for url",
        C.NETWORK_ERROR,
    ),
    "refused": Case("Error: connect ECONNREFUSED 127.0.0.1:443", C.NETWORK_ERROR),
    "timed out": Case(LAST + "Request timed out.", C.TIMEOUT),
    "broken stream": Case(LAST + "error decoding response body: unexpected EOF", C.MALFORMED_RESPONSE),
    "no chunks": Case(LAST + "request ended without sending any chunks", C.MALFORMED_RESPONSE),
    "filtered": Case("400 The response was blocked by content filtering.", C.CONTENT_FILTERED),
    "no node": Case("env: 'node': No such file or directory", C.API_FAILURE, exit_code=127),
    "old tool": Case("error: unknown option '-s'", C.API_FAILURE),
    "broken tool": Case("Error: Cannot find module '/opt/copilot/index.js'", C.API_FAILURE),
    "crash": Case(NODE_CRASH, C.UNKNOWN, exit_code=1),
    "no words": Case("", C.UNKNOWN, exit_code=3),
}


@pytest.mark.parametrize("where", ["stderr", "stdout"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
async def test_a_complaint_is_understood(tmp_path: Path, case: Case, where: str) -> None:
    if where == "stdout" and not case.says.startswith(("✗", "✘", "Error:", "Model call failed", "Failed")):
        # Only complaints that open like one can be told from an answer.
        where = "stderr"
    outcome = await ask_tool(tmp_path, complaining(**{where: case.says}, code=case.exit_code))
    failure = outcome.failed
    assert (failure.category, failure.retry_after_s, failure.code) == (case.category, case.wait, case.code)
    assert outcome.text == ""
    assert outcome.finish is None
    assert failure.message
    assert "\n" not in failure.message
    assert not failure.permanent
    wall = case.category is C.QUOTA_EXHAUSTED and case.wait is not None
    assert failure.resets_at == (EPOCH + (case.wait or 0.0) if wall else None)


@pytest.mark.parametrize(
    ("name", "key", "hint"),
    [
        ("logged out", None, "/login"),
        ("logged out", KEY, "cp-1"),
        ("policy", KEY, "settings"),
        ("no such model", KEY, "m-1"),
        ("no quota", KEY, "cp-1"),
        ("no network", KEY, "HTTPS_PROXY"),
        ("no node", KEY, "npm install"),
    ],
)
async def test_a_failure_that_an_operator_can_mend_says_how(
    tmp_path: Path, name: str, key: str | None, hint: str
) -> None:
    case = CASES[name]
    outcome = await ask_tool(tmp_path, complaining(case.says, code=case.exit_code), key=key)
    assert hint in outcome.failed.hint


async def test_a_reset_stated_as_a_date_is_this_machine_s_time(tmp_path: Path) -> None:
    words = (
        "You've reached your weekly limit. Please wait for your limit to reset on March 9, 2026 at 2:00 AM."
    )
    failure = (await ask_tool(tmp_path, complaining(words))).failed
    at = datetime(2026, 3, 9, 2).timestamp()
    assert failure.category is C.QUOTA_EXHAUSTED
    assert failure.resets_at == at
    assert failure.retry_after_s == at - EPOCH


async def test_a_block_that_ends_well_is_no_answer(tmp_path: Path) -> None:
    words = "The model returned no content because the response was blocked by content filtering.\n\n"
    outcome = await ask_tool(tmp_path, f"say({words!r})")
    assert outcome.failed.category is C.CONTENT_FILTERED
    assert outcome.text == ""


async def test_an_answer_may_open_like_a_complaint(tmp_path: Path) -> None:
    outcome = await ask_tool(tmp_path, "say('Error: '); say('is what the log shows; Execution failed.\\n')")
    assert outcome.text == "Error: is what the log shows; Execution failed."
    assert outcome.finish == "stop"


@pytest.mark.parametrize("said", ["", "  \n \n"])
async def test_silence_with_a_good_exit_is_no_answer(tmp_path: Path, said: str) -> None:
    failure = (await ask_tool(tmp_path, f"say({said!r})")).failed
    assert failure.category is C.MALFORMED_RESPONSE
    assert "logged in" in failure.hint


async def test_an_answer_that_breaks_off_is_no_success(tmp_path: Path) -> None:
    outcome = await ask_tool(tmp_path, complaining(LAST + "unexpected EOF", "Half an ans", 1))
    assert outcome.text == "Half an ans"
    assert outcome.finish is None
    assert outcome.failed.category is C.MALFORMED_RESPONSE


@pytest.mark.parametrize(("how", "name"), [("SIGKILL", "SIGKILL"), ("SIGABRT", "SIGABRT")])
async def test_a_tool_that_is_killed_says_by_what(tmp_path: Path, how: str, name: str) -> None:
    outcome = await ask_tool(tmp_path, f"say('Half'); os.kill(os.getpid(), signal.{how})")
    assert outcome.failed.category is C.TRANSIENT_ERROR
    assert name in outcome.failed.message
    assert "4 characters" in outcome.failed.message


async def test_a_signal_reported_by_a_wrapper_counts_as_one(tmp_path: Path) -> None:
    failure = (await ask_tool(tmp_path, "sys.exit(137)")).failed
    assert failure.category is C.TRANSIENT_ERROR
    assert "SIGKILL" in failure.message


@pytest.mark.parametrize(
    "noise", [b"\xff\xfe\x00garbage", b"text \x00\x01", b"cut \xf0\x9f"], ids=["bytes", "control", "cut"]
)
async def test_output_that_is_no_text_is_malformed(tmp_path: Path, noise: bytes) -> None:
    assert (await ask_tool(tmp_path, f"say({noise!r})")).failed.category is C.MALFORMED_RESPONSE


async def test_endless_output_is_cut_short(tmp_path: Path) -> None:
    body = "until(lambda: say('x' * 1000000))"
    outcome = await ask_tool(tmp_path, body)
    assert outcome.failed.category is C.MALFORMED_RESPONSE
    assert "8 MiB" in outcome.failed.message
    assert len(outcome.text) <= 8 * 1024**2


async def test_a_flood_of_warnings_neither_blocks_nor_hides_the_reason(tmp_path: Path) -> None:
    body = "sys.stderr.write('noise ' * 400000); sys.stderr.write('\\n402 You have no quota\\n'); sys.exit(1)"
    failure = (await ask_tool(tmp_path, body)).failed
    assert failure.category is C.QUOTA_EXHAUSTED
    assert len(failure.message) <= 300


async def test_no_secret_comes_back_in_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COPILOT_PROVIDER_API_KEY", "short-pass")
    body = """
words = f"{os.environ['GH_TOKEN']} {os.environ['COPILOT_PROVIDER_API_KEY']} ghp_abcdefghijklmnopqrstuv"
sys.stderr.write("Error: what about " + words + " then?"); sys.exit(1)"""
    failure = (await ask_tool(tmp_path, body)).failed
    for secret in (KEY, "short-pass", "ghp_abc"):
        assert secret not in repr(failure)
    assert "what about *** *** *** then" in failure.message


@pytest.mark.parametrize(("said", "phase"), [("", TimeoutPhase.FIRST_TOKEN), ("Half", TimeoutPhase.IDLE)])
async def test_a_tool_that_hangs_is_given_up(tmp_path: Path, said: str, phase: TimeoutPhase) -> None:
    pool = copilot_pool(write_tool(tmp_path, f"say({said!r}); signal.pause()"))
    async with copilot(pool, FakeClock(), silence_limit_s=0.5) as provider:
        outcome = await collect(provider.stream(call_to(pool)))
    assert (outcome.failed.category, outcome.failed.phase) == (C.TIMEOUT, phase)
    assert outcome.text == said


async def test_a_tool_that_ends_its_output_but_not_itself_has_not_answered(tmp_path: Path) -> None:
    outcome = await ask_tool(tmp_path, "say('All?'); os.close(1); os.close(2); signal.pause()")
    assert outcome.text == "All?"
    assert outcome.failed.category is C.MALFORMED_RESPONSE
    assert "did not end" in outcome.failed.message
