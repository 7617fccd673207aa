"""Event streams: whatever the chunking and the line ends, the same events come out."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartfallback.providers import sse
from smartfallback.providers.sse import ErrorEvent, ForeignLine, SseDecoder, SseError


def decode(pieces: list[bytes]) -> list[bytes]:
    decoder = SseDecoder()
    events = [event for piece in pieces for event in decoder.feed(piece)]
    return events + decoder.flush()


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(data) + 1) for place in places})
    return [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]


@settings(deadline=None, max_examples=150)
@given(
    texts=st.lists(st.text(max_size=20), max_size=8),
    ending=st.sampled_from(["\n", "\r\n", "\r"]),
    comment=st.booleans(),
    bom=st.booleans(),
    places=st.lists(st.integers(0, 10_000), max_size=12),
)
def test_any_chunking_and_line_ending_gives_the_same_events(
    texts: list[str], ending: str, comment: bool, bom: bool, places: list[int]
) -> None:
    events = [json.dumps({"t": text}, ensure_ascii=False).encode() for text in texts]
    lines: list[bytes] = []
    for event in events:
        if comment:
            lines += [b": keep-alive", b""]
        lines += [b"event: message", b"data: " + event, b""]
    body = ending.encode().join([*lines, b""])
    if bom:
        body = b"\xef\xbb\xbf" + body
    assert decode(cut(body, places)) == events


def test_data_lines_of_one_event_are_joined_by_line_feeds() -> None:
    assert decode([b'data: {"a":\r\ndata:  1}\r\n\r\n']) == [b'{"a":\n 1}']


def test_an_event_ends_with_its_blank_line_even_if_that_is_a_lone_carriage_return() -> None:
    decoder = SseDecoder()
    assert decoder.feed(b"data: a\r\r") == [b"a"]
    assert decoder.feed(b"\ndata: b\r\r") == [b"b"]


def test_a_last_event_without_its_blank_line_comes_with_the_flush() -> None:
    decoder = SseDecoder()
    assert decoder.feed(b"data: a") == []
    assert decoder.flush() == [b"a"]
    assert decoder.flush() == []


def test_an_endless_event_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 1_000)
    for piece in (b"data: " + b"x" * 50, b"data: " + b"x" * 50 + b"\n"):
        decoder = SseDecoder()
        for _ in range(17):
            assert decoder.feed(piece) == []
        with pytest.raises(SseError):
            decoder.feed(piece * 2)


def test_comments_without_end_are_no_endless_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 1_000)
    decoder = SseDecoder()
    for _ in range(200):
        assert decoder.feed(b": keep-alive\n\n") == []
    assert decoder.feed(b"data: x\n\n") == [b"x"]


def test_lines_of_something_else_are_counted_and_come_in_their_place() -> None:
    decoder = SseDecoder()
    found = decoder.feed(b"data: a\n\nInternal error\nid: 1\nid\nretry: 5\n: c\n:\nevent\ndata: b\n\nsorry\n")
    assert found == [b"a", b"Internal error", b"b", b"sorry"]
    assert [type(item) for item in found] == [bytes, ForeignLine, bytes, ForeignLine]
    assert decoder.foreign_lines == 2


@pytest.mark.parametrize("size", [1, 3, 1_000])
def test_an_event_named_error_is_told_apart_and_the_next_one_is_not(size: int) -> None:
    body = (
        b"event: error\ndata: no\n\ndata: yes\n\ndata: late\nevent:error\n\nevent: error\nevent: message\n"
        b'data: fine\n\nevent: error\n\nerror: {"code": 500}\ndata: last\n\nevent: error\ndata: unended'
    )
    found = decode([body[start : start + size] for start in range(0, len(body), size)])
    assert [(type(item) is ErrorEvent, bytes(item)) for item in found] == [
        (True, b"no"),
        (False, b"yes"),
        (True, b"late"),
        (False, b"fine"),
        (True, b""),
        (True, b'{"code": 500}'),
        (False, b"last"),
        (True, b"unended"),
    ]
