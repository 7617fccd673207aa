from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from smartfallback.model.requests import (
    Capability,
    Degradation,
    DegradationKind,
    Message,
    OnBreak,
    Origin,
    QueueTerms,
    Reply,
    Request,
    Role,
    Seam,
    Usage,
)
from smartfallback.policy.answer_cache import AnswerCache

ASKED = Request.ask("Why is the sky blue?")


def reply(text: str = "Because of scattering.", account: str = "ag-1") -> Reply:
    return Reply(
        request_id="r-1",
        text=text,
        account=account,
        pool="antigravity",
        provider="gemini",
        model="gemini-2.5-flash",
        usage=Usage(5, 7),
        finish_reason="stop",
        attempts=(),
        latency_s=1.0,
        first_token_s=0.5,
    )


def kept(request: Request, answer: Reply) -> bool:
    cache = AnswerCache()
    cache.put(request, answer, 0.0)
    return cache.get(replace(request, keep_text=True), 0.0, 60.0) is not None


def test_an_equal_request_gets_the_answer_and_its_age() -> None:
    cache = AnswerCache()
    cache.put(ASKED, reply(), 100.0)
    assert cache.get(Request.ask("Why is the sky blue?"), 130.0, 60.0) == (reply(), 30.0)


def test_an_answer_serves_up_to_its_greatest_age_and_not_longer() -> None:
    cache = AnswerCache()
    cache.put(ASKED, reply(), 100.0)
    assert cache.get(ASKED, 160.0, 60.0) == (reply(), 60.0)
    assert cache.get(ASKED, 160.1, 60.0) is None
    assert cache.get(ASKED, 160.1, math.nan) is None
    assert cache.get(ASKED, 160.1, 61.0) is not None


@pytest.mark.parametrize(
    "who_and_how",
    [
        {"session": "s-2"},
        {"id": "r-9"},
        {"origin": Origin.CHAT},
        {"timeout_s": 5.0},
        {"stream": False},
        {"on_break": OnBreak.ERROR},
        {"queue": QueueTerms()},
        {"pin": "ag-1"},
        {"avoid": frozenset({"ag-2"})},
    ],
    ids=str,
)
def test_who_asks_and_how_makes_no_other_question(who_and_how: dict[str, object]) -> None:
    cache = AnswerCache()
    cache.put(ASKED, reply(), 0.0)
    assert cache.get(replace(ASKED, **who_and_how), 0.0, 60.0) is not None  # type: ignore[arg-type] # one field each


@pytest.mark.parametrize(
    "what",
    [
        {"chain": "fast"},
        {"model": "gemini-2.5-pro"},
        {"model": "None"},
        {"max_output_tokens": 10},
        {"temperature": 0.0},
        {"temperature": 0.7},
        {"requires": frozenset({Capability.TOOLS})},
        {"messages": (Message(Role.SYSTEM, "Why is the sky blue?"),)},
        {"messages": (Message(Role.USER, "Why is the sky blue? "),)},
        {"messages": (*ASKED.messages, Message(Role.USER, ""))},
        {"messages": ()},
    ],
    ids=str,
)
def test_what_is_asked_makes_another_question(what: dict[str, object]) -> None:
    cache = AnswerCache()
    cache.put(ASKED, reply(), 0.0)
    assert cache.get(replace(ASKED, **what), 0.0, 60.0) is None  # type: ignore[arg-type] # one field each


def test_text_that_moves_between_turns_makes_another_question() -> None:
    cache = AnswerCache()
    cache.put(Request((Message(Role.USER, "ab"), Message(Role.USER, "c"))), reply(), 0.0)
    assert cache.get(Request((Message(Role.USER, "a"), Message(Role.USER, "bc"))), 0.0, 60.0) is None
    assert cache.get(Request((Message(Role.USER, "abuserc"),)), 0.0, 60.0) is None


def test_equal_temperatures_are_one_however_they_are_written() -> None:
    cache = AnswerCache()
    cache.put(replace(ASKED, temperature=0), reply(), 0.0)
    assert cache.get(replace(ASKED, temperature=-0.0), 0.0, 60.0) is not None


def test_a_text_with_a_lone_surrogate_can_be_asked() -> None:
    cache = AnswerCache()
    cache.put(Request.ask("half \ud83d"), reply(), 0.0)
    assert cache.get(Request.ask("half \ud83d"), 0.0, 60.0) is not None
    assert cache.get(Request.ask("half ?"), 0.0, 60.0) is None


def test_an_avoided_account_answers_from_the_cache_neither() -> None:
    cache = AnswerCache()
    cache.put(ASKED, reply(account="ag-1"), 0.0)
    assert cache.get(replace(ASKED, avoid=frozenset({"ag-1"})), 0.0, 60.0) is None


def test_a_request_for_one_account_takes_no_other_accounts_answer() -> None:
    cache = AnswerCache()
    cache.put(ASKED, reply(account="ag-1"), 0.0)
    assert cache.get(replace(ASKED, pin="ag-2"), 0.0, 60.0) is None


@pytest.mark.parametrize(
    "lesser",
    [
        replace(reply(), finish_reason="length"),
        replace(reply(), finish_reason="content_filter"),
        replace(reply(), text=""),
        replace(reply(), cached_age_s=3.0),
        replace(reply(), seams=(Seam(4, "ag-1", "ag-2", "cut off"),)),
        *(
            replace(reply(), degradations=(Degradation(kind, ""),))
            for kind in DegradationKind
            if kind not in (DegradationKind.FALLBACK_POOL, DegradationKind.RESERVE_QUOTA)
        ),
    ],
)
def test_an_answer_that_is_less_than_what_was_asked_for_is_not_kept(lesser: Reply) -> None:
    assert not kept(ASKED, lesser)


@pytest.mark.parametrize("kind", [DegradationKind.FALLBACK_POOL, DegradationKind.RESERVE_QUOTA])
def test_another_pools_whole_answer_is_kept(kind: DegradationKind) -> None:
    assert kept(ASKED, replace(reply(), degradations=(Degradation(kind, "second choice"),)))


def test_a_text_that_was_not_to_be_kept_is_not() -> None:
    assert not kept(replace(ASKED, keep_text=False), reply())


def test_a_reply_that_must_not_hold_its_text_is_not_taken_from_the_cache() -> None:
    cache = AnswerCache()
    cache.put(ASKED, reply(), 0.0)
    assert cache.get(replace(ASKED, keep_text=False), 0.0, 60.0) is None


def test_a_lesser_answer_leaves_the_good_one_in_place() -> None:
    cache = AnswerCache()
    cache.put(ASKED, reply("good"), 0.0)
    cache.put(ASKED, replace(reply("cut"), finish_reason="length"), 1.0)
    assert cache.get(ASKED, 2.0, 60.0) == (reply("good"), 2.0)


def test_no_prompt_is_kept() -> None:
    cache = AnswerCache()
    cache.put(Request.ask("my secret diary"), reply("noted"), 0.0)
    assert "diary" not in repr({name: getattr(cache, name) for name in AnswerCache.__slots__})


@pytest.mark.parametrize("limit", ["most_entries", "most_characters"])
def test_a_cache_that_can_hold_nothing_is_refused(limit: str) -> None:
    with pytest.raises(ValueError, match=f"{limit} must be at least 1, not 0"):
        AnswerCache(**{limit: 0})


QUESTIONS = st.sampled_from(["a", "b", "c", "d", "e"])
ACCOUNTS = st.sampled_from(["ag-1", "ag-2"])
MOST_ENTRIES = 3
MOST_CHARACTERS = 12


class AgainstASimpleModel(RuleBasedStateMachine):
    """The model is a list of (question, answer, time), the least recently used first."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = AnswerCache(most_entries=MOST_ENTRIES, most_characters=MOST_CHARACTERS)
        self.model: list[tuple[str, Reply, float]] = []
        self.now = 0.0

    @rule(seconds=st.integers(0, 20))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @rule(question=QUESTIONS, size=st.integers(0, MOST_CHARACTERS + 1), account=ACCOUNTS)
    def answered(self, question: str, size: int, account: str) -> None:
        answer = reply("x" * size, account)
        self.cache.put(Request.ask(question), answer, self.now)
        if not 0 < size <= MOST_CHARACTERS:
            return
        self.model = [entry for entry in self.model if entry[0] != question]
        self.model.append((question, answer, self.now))
        while len(self.model) > MOST_ENTRIES or self.characters() > MOST_CHARACTERS:
            del self.model[0]

    @rule(
        question=QUESTIONS,
        max_age_s=st.integers(0, 30),
        pin=st.none() | ACCOUNTS,
        avoid=st.frozensets(ACCOUNTS),
    )
    def asked(self, question: str, max_age_s: int, pin: str | None, avoid: frozenset[str]) -> None:
        expected = None
        for entry in self.model:
            key, answer, at = entry
            allowed = answer.account not in avoid and pin in (None, answer.account)
            if key == question and allowed and self.now - at <= max_age_s:
                expected = answer, self.now - at
                self.model.remove(entry)
                self.model.append(entry)
                break
        request = replace(Request.ask(question), pin=pin, avoid=avoid)
        assert self.cache.get(request, self.now, max_age_s) == expected

    @invariant()
    def counts_agree(self) -> None:
        assert len(self.cache) == len(self.model) <= MOST_ENTRIES
        assert self.cache.characters == self.characters() <= MOST_CHARACTERS

    def characters(self) -> int:
        return sum(len(answer.text) for _, answer, _ in self.model)


TestAgainstASimpleModel = AgainstASimpleModel.TestCase
TestAgainstASimpleModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
