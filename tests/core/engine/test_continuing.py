"""An answer that breaks off after its first token is continued by another account, and the seam is told."""

from __future__ import annotations

import pytest

from smartfallback import (
    AnswerResumed,
    AttemptFailed,
    AttemptResult,
    DegradationKind,
    Delta,
    ErrorCategory,
    Message,
    NextStep,
    OnBreak,
    Origin,
    Price,
    RequestDegraded,
    RequestError,
    RequestFailed,
    RequestFinished,
    Role,
    Timeouts,
    Usage,
)
from smartfallback.engine.run import MOST_SEAMS
from smartfallback.providers.base import Chunk
from support.scripted import Pause, ask, failure, pool, system

FIRST_HALF = "The sky is blue because short waves of light are scattered"
SECOND_HALF = " far more than long ones by the air."
CUT = failure(ErrorCategory.MALFORMED_RESPONSE, message="the stream was cut off")
BROKEN = [Chunk(FIRST_HALF), CUT]
STOP = Chunk("", "stop", Usage(20, 9))
CHAINED = system(pool("main", "a-1"), pool("next", "b-1"))


def text_of(events):
    return "".join(event.text for event in events if isinstance(event, Delta))


async def collect(orchestrator, request):
    return [event async for event in orchestrator.stream(request)]


async def test_the_next_candidate_goes_on_and_the_seam_is_told_where_it_lies(start, upstream):
    upstream.always("a-1", BROKEN)
    upstream.always("b-1", [Chunk(SECOND_HALF), STOP])
    orchestrator = await start(CHAINED)
    events = await collect(orchestrator, ask(origin=Origin.CHAT))
    reply = events[-1].reply
    assert text_of(events) == reply.text == FIRST_HALF + SECOND_HALF
    (resumed,) = [event for event in events if isinstance(event, AnswerResumed)]
    assert reply.seams == (resumed.seam,)
    seam = resumed.seam
    assert (seam.at, seam.broken, seam.resumed, seam.overlap) == (len(FIRST_HALF), "a-1", "b-1", 0)
    assert "cut off" in seam.cause
    before = events[: events.index(resumed)]
    assert text_of(before) == FIRST_HALF
    assert DegradationKind.CONTINUED in [entry.kind for entry in reply.degradations]
    assert [record.result for record in reply.attempts][-2:] == [AttemptResult.FAILED, AttemptResult.SUCCESS]


async def test_the_failed_attempt_says_that_the_answer_will_be_continued(start, upstream):
    upstream.queue("a-1", BROKEN, BROKEN)
    orchestrator = await start(CHAINED)
    events = await collect(orchestrator, ask(on_break=OnBreak.CONTINUE))
    failed = [event for event in events if isinstance(event, AttemptFailed)]
    assert {event.then for event in failed} == {NextStep.CONTINUE}


async def test_the_one_that_goes_on_gets_the_text_so_far_after_the_conversation(start, upstream):
    upstream.always("a-1", BROKEN)
    orchestrator = await start(CHAINED)
    request = ask(on_break=OnBreak.CONTINUE, max_output_tokens=200)
    await collect(orchestrator, request)
    call = upstream.calls[-1]
    assert call.messages[:-1] == (*request.messages, Message(Role.ASSISTANT, FIRST_HALF))
    assert call.messages[-1].role is Role.USER
    assert call.max_output_tokens == 200 - len(FIRST_HALF) // 4


@pytest.mark.parametrize(
    ("continuation", "overlap"),
    [
        ([" are scattered", SECOND_HALF], len(" are scattered")),
        (["waves of ", "light are scatt", "ered" + SECOND_HALF], len("waves of light are scattered")),
        ([FIRST_HALF[:20], FIRST_HALF[20:] + SECOND_HALF[:5], SECOND_HALF[5:]], len(FIRST_HALF)),
        (list(FIRST_HALF + SECOND_HALF), len(FIRST_HALF)),
        ([SECOND_HALF], 0),
    ],
)
async def test_what_the_next_repeats_is_taken_out(start, upstream, continuation, overlap):
    upstream.always("a-1", BROKEN)
    upstream.always("b-1", [*(Chunk(piece) for piece in continuation), STOP])
    orchestrator = await start(CHAINED)
    events = await collect(orchestrator, ask(on_break=OnBreak.CONTINUE))
    assert text_of(events) == FIRST_HALF + SECOND_HALF
    assert events[-1].reply.text == FIRST_HALF + SECOND_HALF
    assert events[-1].reply.seams[0].overlap == overlap


async def test_one_that_begins_anew_and_goes_another_way_has_failed(start, upstream):
    upstream.always("a-1", BROKEN)
    upstream.always("b-1", [Chunk(FIRST_HALF[:40] + " and that is all there is to it."), STOP])
    upstream.always("c-1", [Chunk(SECOND_HALF), STOP])
    orchestrator = await start(system(pool("main", "a-1"), pool("next", "b-1"), pool("last", "c-1")))
    events = await collect(orchestrator, ask(on_break=OnBreak.CONTINUE))
    reply = events[-1].reply
    assert text_of(events) == reply.text == FIRST_HALF + SECOND_HALF
    assert (reply.account, reply.seams[0].broken, reply.seams[0].resumed) == ("c-1", "a-1", "c-1")


async def test_the_same_account_goes_on_when_it_is_the_only_one(start, upstream):
    upstream.queue("a-1", BROKEN, [Chunk(SECOND_HALF), STOP])
    orchestrator = await start(system(pool("main", "a-1")))
    reply = await orchestrator.chat(ask())
    assert reply.text == FIRST_HALF + SECOND_HALF
    assert (reply.seams[0].broken, reply.seams[0].resumed) == ("a-1", "a-1")


async def test_an_answer_that_breaks_off_again_has_a_second_seam(start, upstream):
    upstream.always("a-1", [Chunk("one two three four, "), CUT])
    upstream.always("b-1", [Chunk("five six seven eight, "), CUT])
    upstream.always("c-1", [Chunk("nine ten."), STOP])
    orchestrator = await start(system(*(pool(name, f"{name}-1") for name in "abc")))
    reply = await orchestrator.chat(ask())
    assert reply.text == "one two three four, five six seven eight, nine ten."
    assert [(seam.broken, seam.resumed) for seam in reply.seams] == [("a-1", "b-1"), ("b-1", "c-1")]


async def test_another_account_goes_on_rather_than_the_same_and_then_another_pool(start, upstream):
    for number, name in enumerate(("a-1", "a-2", "a-3", "b-1")):
        upstream.always(name, [Chunk(f"part number {number}; "), CUT])
    upstream.always("b-1", [Chunk("and that was it."), STOP])
    orchestrator = await start(system(pool("main", "a-1", "a-2", "a-3"), pool("next", "b-1")))
    reply = await orchestrator.chat(ask())
    first, second = reply.seams
    assert first.broken != first.resumed == second.broken
    assert {first.broken, first.resumed} < {"a-1", "a-2", "a-3"}
    assert second.resumed == reply.account == "b-1"


async def test_there_are_only_so_many_seams(start, upstream):
    names = [f"p{number}" for number in range(MOST_SEAMS + 3)]
    for number, name in enumerate(names):
        upstream.always(f"{name}-1", [Chunk(f"part number {number} of it; "), CUT])
    orchestrator = await start(system(*(pool(name, f"{name}-1") for name in names)))
    with pytest.raises(RequestError) as caught:
        await orchestrator.chat(ask())
    parts = MOST_SEAMS + 1
    assert caught.value.partial == "".join(f"part number {number} of it; " for number in range(parts))


async def test_without_anybody_to_go_on_it_ends_as_an_error_with_all_that_came(start, upstream):
    upstream.always("a-1", BROKEN)
    upstream.always("b-1", [failure(ErrorCategory.AUTHENTICATION)])
    orchestrator = await start(CHAINED)
    events = orchestrator.subscribe()
    with pytest.raises(RequestError) as caught:
        await orchestrator.chat(ask())
    assert caught.value.partial == FIRST_HALF
    assert [event for event in events.drain()[0] if isinstance(event, RequestFinished)] == []


@pytest.mark.parametrize("stream", [True, False])
async def test_an_error_is_what_a_stream_of_a_program_ends_with_unless_it_asks_for_more(
    start, upstream, stream
):
    upstream.always("a-1", BROKEN)
    orchestrator = await start(CHAINED)
    with pytest.raises(RequestError) as caught:
        await collect(orchestrator, ask(stream=stream))
    assert caught.value.partial == FIRST_HALF
    assert upstream.accounts_called() == ["a-1"]


async def test_the_chain_says_what_holds_and_the_request_comes_first(start, upstream):
    upstream.always("a-1", BROKEN)
    upstream.always("b-1", [Chunk(SECOND_HALF), STOP])
    orchestrator = await start(
        system(pool("main", "a-1", failed_model_s=0.0), pool("next", "b-1"), on_break=OnBreak.CONTINUE)
    )
    assert (await collect(orchestrator, ask()))[-1].reply.seams
    with pytest.raises(RequestError):
        await orchestrator.chat(ask(on_break=OnBreak.ERROR))


async def test_a_stalled_stream_is_continued_too(start, upstream):
    upstream.always("a-1", [Chunk(FIRST_HALF), Pause()])
    upstream.always("b-1", [Chunk(SECOND_HALF), STOP])
    orchestrator = await start(
        system(pool("main", "a-1", timeouts=Timeouts(idle_s=0.02)), pool("next", "b-1"))
    )
    reply = await orchestrator.chat(ask())
    assert reply.text == FIRST_HALF + SECOND_HALF
    assert "stood still" in reply.seams[0].cause


async def test_an_error_after_the_final_chunk_is_no_break(start, upstream):
    upstream.always("a-1", [Chunk(FIRST_HALF, "stop"), CUT])
    orchestrator = await start(CHAINED)
    reply = await orchestrator.chat(ask())
    assert (reply.text, reply.seams, reply.account) == (FIRST_HALF, (), "a-1")


async def test_usage_and_cost_are_those_of_all_parts(start, upstream):
    price = Price(1_000.0, 10_000.0)
    upstream.always(
        "a-1", [Chunk(FIRST_HALF), Chunk(usage=Usage(10, 5)), failure(ErrorCategory.AUTHENTICATION)]
    )
    upstream.always("b-1", [Chunk(SECOND_HALF), STOP])
    orchestrator = await start(system(pool("main", "a-1", price=price), pool("next", "b-1")))
    reply = await orchestrator.chat(ask())
    assert reply.usage == Usage(30, 14)
    assert reply.cost == pytest.approx(10 * 0.001 + 5 * 0.01)


async def test_a_blocked_continuation_ends_it(start, upstream):
    upstream.always("a-1", [Chunk(FIRST_HALF), failure(ErrorCategory.CONTENT_FILTERED)])
    orchestrator = await start(CHAINED)
    with pytest.raises(RequestError) as caught:
        await orchestrator.chat(ask())
    assert caught.value.failure.category is ErrorCategory.CONTENT_FILTERED
    assert upstream.accounts_called() == ["a-1"]


async def test_without_the_text_nothing_is_continued_or_told_but_its_length(start, upstream):
    upstream.always("a-1", BROKEN)
    upstream.queue("b-1", [Chunk("Hello"), STOP])
    orchestrator = await start(CHAINED)
    events = orchestrator.subscribe()
    with pytest.raises(RequestError) as caught:
        await orchestrator.chat(ask(keep_text=False))
    assert caught.value.partial == ""
    (failed,) = [event for event in events.drain()[0] if isinstance(event, RequestFailed)]
    assert failed.partial_chars == len(FIRST_HALF)
    upstream.always("a-1", [Chunk("Hello"), STOP])
    reply = await orchestrator.chat(ask(keep_text=False))
    assert (reply.text, reply.usage) == ("", Usage(20, 9))


async def test_what_degrades_the_answer_is_told_once(start, upstream):
    upstream.always("a-1", BROKEN)
    upstream.always("b-1", [Chunk(" far more, "), CUT])
    upstream.always("b-2", [Chunk("they say."), STOP])
    orchestrator = await start(system(pool("main", "a-1"), pool("next", "b-1", "b-2")))
    events = await collect(orchestrator, ask(on_break=OnBreak.CONTINUE))
    told = [event.degradation.kind for event in events if isinstance(event, RequestDegraded)]
    assert told == [DegradationKind.FALLBACK_POOL]
