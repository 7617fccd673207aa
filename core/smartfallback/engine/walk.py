"""One request's way through its chain."""

from __future__ import annotations

from smartfallback.engine.roster import AccountRuntime, Chain, PoolRuntime
from smartfallback.model.decisions import Skip
from smartfallback.model.quota import QuotaEstimate
from smartfallback.model.requests import Message, Request, characters

CHARACTERS_A_TOKEN = 4
_TOKENS_A_MESSAGE = 4


def estimate_tokens(messages: tuple[Message, ...]) -> int:
    """Tokens of a conversation at four characters each, the usual rule of thumb for English text."""
    return characters(messages) // CHARACTERS_A_TOKEN + _TOKENS_A_MESSAGE * len(messages)


class Walk:
    """What a request has tried, what it must not try, and why accounts were passed over last."""

    __slots__ = (
        "chain",
        "closed_pools",
        "messages",
        "pinned",
        "request",
        "skips",
        "timeout_s",
        "tokens_in",
        "tried",
    )

    def __init__(
        self, request: Request, chain: Chain, timeout_s: float, pinned: AccountRuntime | None = None
    ) -> None:
        self.request = request
        self.pinned = pinned
        self.chain = chain
        self.timeout_s = timeout_s
        self.messages = request.messages
        self.tokens_in = estimate_tokens(request.messages)
        self.tried: set[AccountRuntime] = set()
        self.closed_pools: set[PoolRuntime] = set()
        self.skips: list[Skip] = []

    def trim(self, messages: tuple[Message, ...]) -> None:
        """Go on with a shorter conversation."""
        self.messages = messages
        self.tokens_in = estimate_tokens(messages)

    def expected(self, pool: PoolRuntime) -> tuple[QuotaEstimate, int]:
        """What an attempt in ``pool`` is expected to spend, and the output tokens in it."""
        output = self.request.max_output_tokens or pool.spec.default_output_tokens
        return QuotaEstimate(self.tokens_in + output), output

    @property
    def pools(self) -> tuple[PoolRuntime, ...]:
        """The pools that may serve: the chain's, or that of the pinned account."""
        return self.chain.pools if self.pinned is None else (self.pinned.pool,)

    @property
    def kind(self) -> tuple[object, ...]:
        """Requests of one kind can be served by the same accounts, as far as their sizes are alike."""
        request = self.request
        return (
            self.chain.name,
            request.pin,
            request.avoid,
            request.requires,
            request.model,
            self.tokens_in.bit_length(),
            request.max_output_tokens,
            frozenset(self.tried),
            frozenset(self.closed_pools),
        )
