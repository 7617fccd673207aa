"""What can be typed after a slash."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from smartfallback import OnBreak, QueueTerms
from smartfallback_console.formatting import parse_duration, span

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from smartfallback import ChatSession, Snapshot
    from smartfallback_console.chat.conversation import Conversation


@dataclass(frozen=True, slots=True)
class SlashCommand:
    """One command; ``argument`` names what it takes, empty for nothing."""

    name: str
    description: str
    argument: str = ""

    @property
    def usage(self) -> str:
        """How it is typed."""
        return f"/{self.name} {self.argument}".rstrip()


COMMANDS: tuple[SlashCommand, ...] = (
    SlashCommand("help", "these commands and the keys"),
    SlashCommand("new", "begin a new session"),
    SlashCommand("sessions", "earlier ones, all or those with these words", "[WORDS]"),
    SlashCommand("open", "go on in a session of the list", "N"),
    SlashCommand("forget", "delete a session of the list, or all", "N|all"),
    SlashCommand("clear", "the same as /new"),
    SlashCommand("chain", "ask this chain from now on", "NAME"),
    SlashCommand("pin", "let only this account answer", "ACCOUNT"),
    SlashCommand("unpin", "let the chain choose again"),
    SlashCommand("queue", "wait so long when nobody can answer, or off", "TIME"),
    SlashCommand("break", "when an answer breaks off: continue, error", "RULE"),
    SlashCommand("retry", "the last prompt again, by another account"),
    SlashCommand("cancel", "stop the running answer"),
)
BY_NAME = {command.name: command for command in COMMANDS}
MOST_HINTS = 7
"""Hints shown at once."""


class CommandError(ValueError):
    """A line after a slash can't be carried out; the message says what is allowed."""


class Typed(NamedTuple):
    """A command and its argument as typed."""

    name: str
    argument: str


class Hint(NamedTuple):
    """One way to go on: the whole line it leads to, and what that does."""

    line: str
    detail: str


def is_command(text: str) -> bool:
    """Whether the text is meant as a command; two slashes begin text that starts with one."""
    return text.startswith("/") and not text.startswith("//")


def literal(text: str) -> str:
    """The prompt that was meant: ``//x`` is the text ``/x``."""
    return text[1:] if text.startswith("//") else text


def parse(text: str) -> Typed:
    """The command in a line that begins with a slash.

    Raises:
        CommandError: There is no such command, or it takes no argument.
    """
    name, _, argument = text[1:].strip().partition(" ")
    name, argument = name.lower(), argument.strip()
    command = BY_NAME.get(name)
    if command is None:
        allowed = ", ".join(command.usage for command in COMMANDS)
        near = difflib.get_close_matches(name, BY_NAME, n=1, cutoff=0.5)
        guess = f" Did you mean /{near[0]}?" if near else ""
        raise CommandError(
            f"/{_short(name)} is no command.{guess} There are {allowed}. "
            "Begin with // to send text that starts with a slash."
        )
    if argument and not command.argument:
        raise CommandError(f"/{name} takes nothing after it.")
    return Typed(name, argument)


def choose(argument: str, names: Iterable[str], what: str) -> str:
    """The one of ``names`` that was meant.

    Raises:
        CommandError: None was named, or none is called that.
    """
    known = list(names)
    listed = ", ".join(known[:12]) + (f" and {len(known) - 12} more" if len(known) > 12 else "")
    if not argument:
        raise CommandError(f"Which {what}? There are {listed}." if known else f"No {what} is known yet.")
    if argument in known:
        return argument
    folded = {name.casefold(): name for name in known}
    if argument.casefold() in folded:
        return folded[argument.casefold()]
    near = difflib.get_close_matches(argument, known, n=1, cutoff=0.5)
    guess = f" Did you mean {near[0]}?" if near else ""
    raise CommandError(f"There is no {what} {_short(argument)!r}.{guess} There are {listed}.")


BREAK_RULES = {
    OnBreak.CONTINUE.value: "another account goes on with it, and a mark says where",
    OnBreak.ERROR.value: "the answer ends with an error that keeps what had come",
    "chain": "as the chain has it",
}
"""What follows when an answer breaks off, by the word that asks for it."""
QUEUE_TIMES = ("10m", "30m", "2h", "off")
EVERY = "all"
"""What ``/forget`` takes in place of a number."""


def numbered(argument: str, listed: Sequence[ChatSession]) -> ChatSession:
    """The session that has this number in the list.

    Raises:
        CommandError: No number, or none of the list.
    """
    if not listed:
        raise CommandError("No session is kept yet.")
    last = len(listed)
    if not (argument.isascii() and argument.isdigit()):
        raise CommandError(f"Which session? Write its number, 1 to {last}; /sessions lists them.")
    number = int(argument[:9])
    if not 1 <= number <= last:
        raise CommandError(f"The list has no number {_short(argument)}: it goes from 1 to {last}.")
    return listed[number - 1]


def queue_terms(argument: str) -> QueueTerms | None:
    """How the next prompts may wait for capacity; None leaves that to the chain.

    Raises:
        CommandError: No span of time, or none that makes sense.
    """
    if argument.casefold() == "off":
        return None
    try:
        seconds = parse_duration(argument)
    except ValueError as error:
        raise CommandError(f"How long may a prompt wait? {error}.") from None
    if seconds is None:
        raise CommandError("How long may a prompt wait? Write /queue 30m, or /queue off.")
    return QueueTerms(expires_s=seconds)


def said_of_queue(terms: QueueTerms | None) -> str:
    """What holds from now on, in a sentence."""
    if terms is None:
        return "Whether a prompt waits when nobody can answer is left to the chain."
    waits = span(terms.expires_s)
    return f"When nobody can answer, a prompt waits up to {waits} in the queue; /queue off ends that."


def break_rule(argument: str) -> OnBreak | None:
    """What follows when an answer breaks off; None leaves that to the chain.

    Raises:
        CommandError: There is no such rule.
    """
    chosen = choose(argument, BREAK_RULES, "rule")
    return None if chosen == "chain" else OnBreak(chosen)


def said_of_break(rule: OnBreak | None) -> str:
    """What holds from now on, in a sentence."""
    return f"When an answer breaks off: {BREAK_RULES['chain' if rule is None else rule.value]}."


def chains(snapshot: Snapshot | None) -> list[str]:
    """Names of the chains."""
    return [] if snapshot is None else [chain.name for chain in snapshot.chains]


def accounts(snapshot: Snapshot | None) -> list[str]:
    """Ids of the accounts, in the order of their pools."""
    return [] if snapshot is None else [account.id for pool in snapshot.pools for account in pool.accounts]


def hints(text: str, snapshot: Snapshot | None, listed: Sequence[ChatSession] = ()) -> list[Hint]:
    """Ways to complete what has been typed after a slash, none for anything else.

    Args:
        text: What has been typed.
        snapshot: For the names that there are.
        listed: The sessions of the list, by their numbers.
    """
    if not is_command(text) or "\n" in text:
        return []
    name, space, argument = text[1:].partition(" ")
    if not space:
        return [
            Hint(f"/{command.name}" + (" " if command.argument else ""), command.description)
            for command in COMMANDS
            if command.name.startswith(name.lower())
        ]
    argument = argument.strip().casefold()
    if name == "chain" and snapshot is not None:
        found = [Hint(f"/chain {chain.name}", " → ".join(chain.pools)) for chain in snapshot.chains]
    elif name == "pin" and snapshot is not None:
        found = [
            Hint(f"/pin {account.id}", account.skip.reason.value if account.skip else f"{pool.name}, ready")
            for pool in snapshot.pools
            for account in pool.accounts
        ]
    elif name == "queue":
        found = [
            Hint(f"/queue {time}", "as the chain has it" if time == "off" else "wait up to so long")
            for time in QUEUE_TIMES
        ]
    elif name in ("open", "forget"):
        found = [Hint(f"/{name} {number}", session.title) for number, session in enumerate(listed, 1)]
        if name == "forget":
            found.append(Hint(f"/forget {EVERY}", "delete all sessions"))
    elif name == "break":
        found = [Hint(f"/break {rule}", said) for rule, said in BREAK_RULES.items()]
    else:
        return []
    matching = [hint for hint in found if hint.line.partition(" ")[2].casefold().startswith(argument)]
    return matching[:MOST_HINTS]


def completion(text: str, found: list[Hint]) -> str:
    """What ``text`` becomes when the hints are accepted as far as they agree."""
    if not found:
        return text
    if len(found) == 1:
        return found[0].line
    shared = found[0].line.rstrip()
    for hint in found[1:]:
        line = hint.line.rstrip()
        while not line.startswith(shared):
            shared = shared[:-1]
    return shared if len(shared) > len(text.rstrip()) else text


def settle(typed: Typed, conversation: Conversation, snapshot: Snapshot | None) -> str | None:
    """Carry out a command that sets something for the next prompts.

    Returns:
        What holds from now on, in a sentence; None for a command of another kind.

    Raises:
        CommandError: The argument names nothing that there is.
    """
    match typed.name:
        case "chain":
            conversation.chain = choose(typed.argument, chains(snapshot), "chain")
            return f"From now on the chain {conversation.chain} is asked."
        case "pin":
            conversation.pin = choose(typed.argument, accounts(snapshot), "account")
            return f"Only {conversation.pin} may answer now; /unpin ends that."
        case "unpin":
            said = "The chain chooses again." if conversation.pin else "No account is pinned."
            conversation.pin = None
            return said
        case "queue":
            conversation.queue = queue_terms(typed.argument)
            return said_of_queue(conversation.queue)
        case "break":
            conversation.on_break = break_rule(typed.argument)
            return said_of_break(conversation.on_break)
    return None


def _short(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:23]}…"
