"""What happens to an answer on its way, and after how many of its tokens."""

from __future__ import annotations

import math
from typing import NamedTuple

from smartfallback.simulation.faults import (
    CutStream,
    Garbage,
    OverloadInStream,
    PlainFault,
    SlowFirstToken,
    StallBeforeFirstToken,
    StallMidStream,
)


class Turn(NamedTuple):
    """What happens after so many tokens; with none, before the first.

    Attributes:
        after: So many tokens pass first; in an answer that has fewer, all of them.
        wait_s: Nothing comes for so long, then all the rest.
        breaks: The rest never comes.
        speaks: In its place comes something that is no answer.
        broken: In its place the connection closes in mid-body.
    """

    after: int
    wait_s: float = 0.0
    breaks: bool = False
    speaks: bool = False
    broken: bool = False


def turn_of(fault: PlainFault) -> Turn | None:
    """The turn that ``fault`` makes an answer take; None if it leaves answers alone."""
    match fault:
        case SlowFirstToken(delay_s):
            return Turn(0, delay_s)
        case StallBeforeFirstToken():
            return Turn(0, math.inf)
        case StallMidStream(after):
            return Turn(after, math.inf)
        case CutStream(after, clean):
            return Turn(after, breaks=True, broken=not clean)
        case Garbage(_, after) | OverloadInStream(after):
            return Turn(after, breaks=True, speaks=True)
        case _:
            return None
