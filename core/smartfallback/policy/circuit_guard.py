"""One call through a circuit, whatever it calls: sync or async, from any program."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from smartfallback.model.circuits import CircuitTarget
    from smartfallback.policy.circuit import Circuit, Permit, Rejection


class CircuitOpenError(Exception):
    """The circuit does not admit a call now; nothing was called.

    Attributes:
        target: What the circuit protects.
        rejection: Why, and when to try again.
    """

    def __init__(self, target: CircuitTarget, rejection: Rejection) -> None:
        after_s = rejection.retry_after_s
        when = "until an operator lifts it" if after_s is None else f"for {after_s:.1f} s"
        why = f": {rejection.cause}" if rejection.cause else ""
        super().__init__(f"the circuit of {target} is {rejection.state} {when}{why}")
        self.target = target
        self.rejection = rejection


@final
class Guard:
    """Makes the body of a ``with`` one call through ``circuit``; it may await.

        with Guard(circuit, time.monotonic):
            answer = await client.get(url)

    An exception counts as a failure, a :class:`TimeoutError` as slow too, one of ``ignored`` not at
    all; each reaches the caller unchanged. A cancelled call, like any that ends by something other
    than an :class:`Exception`, gives its permit back without a verdict. For one use.

    Args:
        circuit: Asked when the body begins, told when it ends.
        clock: Gives monotonic seconds.
        ignored: Exceptions that say nothing about the target, such as a caller's own mistakes.
    """

    __slots__ = ("_circuit", "_clock", "_ignored", "_permit")

    def __init__(
        self,
        circuit: Circuit,
        clock: Callable[[], float],
        *,
        ignored: tuple[type[Exception], ...] = (),
    ) -> None:
        self._circuit = circuit
        self._clock = clock
        self._ignored = ignored
        self._permit: Permit | None = None

    def __enter__(self) -> Permit:
        """Take a permit.

        Raises:
            CircuitOpenError: There is none now.
        """
        now = self._clock()
        permit = self._permit = self._circuit.acquire(now)
        if permit is None:
            raise CircuitOpenError(self._circuit.target, self._circuit.rejection(now))
        return permit

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Report how the call ended."""
        permit, circuit, now = self._permit, self._circuit, self._clock()
        if permit is None:
            return
        if error is None:
            circuit.succeed(permit, now)
        elif isinstance(error, self._ignored):
            circuit.ignore(permit, now)
        elif isinstance(error, TimeoutError):
            circuit.timed_out(permit, now, str(error))
        elif isinstance(error, Exception):
            circuit.fail(permit, now, f"{type(error).__name__}: {error}")
        else:
            circuit.release(permit, now)
