"""The one list of what an operator can do.

Key bindings, footer, help, command palette and ``:`` command line are all made from it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from textual.binding import Binding


class Group(StrEnum):
    """Chapters of the help screen."""

    ACCOUNTS = "Accounts"
    CIRCUITS = "Circuits"
    QUEUE = "Queue"
    SIMULATION = "Simulation"
    VIEW = "View"
    CONSOLE = "Console"


class Target(StrEnum):
    """What an action needs to be pointed at."""

    NONE = "none"
    ACCOUNT = "account"
    PROVIDER = "provider"
    CIRCUIT = "circuit"
    """An account, ``account/model`` or a provider."""
    POOL = "pool"
    QUEUED = "queued"
    """A request that waits in the queue, by its id."""
    SCENARIO = "scenario"
    """A scenario by its name, or an edge case by its number."""
    FAULTY = "faulty"
    """An account, a pool or a provider whose calls are to meet a fault."""


@dataclass(frozen=True, slots=True)
class Action:
    """One thing an operator can do.

    Attributes:
        id: Names it in key overrides.
        title: In a few words, for palette and help.
        keys: Default keys, separated by commas; empty for none.
        verbs: Its words on the command line; a toggle has one for each way.
        usage: The arguments that the command line takes.
        footer: Its word in the footer; empty keeps it out.
        dangerous: Changes how requests are answered; a read-only console doesn't have it at all.
        asks: Asks for confirmation first.
        shown_key: How the key is written, where its name is not what one would write.
    """

    id: str
    title: str
    group: Group
    description: str
    keys: str = ""
    verbs: tuple[str, ...] = ()
    usage: str = ""
    footer: str = ""
    target: Target = Target.NONE
    dangerous: bool = False
    asks: bool = False
    shown_key: str = ""

    @property
    def needs_target(self) -> bool:
        """Whether it acts on something chosen."""
        return self.target is not Target.NONE

    @property
    def target_optional(self) -> bool:
        """Whether its command also makes sense without a target."""
        return self.usage.startswith("[")

    @property
    def key_text(self) -> str:
        """The keys as written in help."""
        return self.shown_key or self.keys.replace(",", " ")


ACTIONS: tuple[Action, ...] = (
    Action(
        "drain",
        "Drain or resume account",
        Group.ACCOUNTS,
        "No new requests; running answers finish. On a drained account: make it active again.",
        keys="d",
        verbs=("drain", "resume"),
        usage="ACCOUNT [REASON]",
        footer="Drain",
        target=Target.ACCOUNT,
        dangerous=True,
        asks=True,
    ),
    Action(
        "disable",
        "Disable or enable account",
        Group.ACCOUNTS,
        "Out of service at once. On a disabled account: back in service, attention cleared.",
        keys="x",
        verbs=("disable", "enable"),
        usage="ACCOUNT [REASON]",
        footer="Disable",
        target=Target.ACCOUNT,
        dangerous=True,
        asks=True,
    ),
    Action(
        "failover",
        "Force failover from account",
        Group.ACCOUNTS,
        "Moves traffic away now: opens its circuit and switches requests that wait for a first token.",
        keys="f",
        verbs=("failover",),
        usage="ACCOUNT [DURATION] [REASON]",
        footer="Failover",
        target=Target.ACCOUNT,
        dangerous=True,
        asks=True,
    ),
    Action(
        "failover_provider",
        "Force failover from provider",
        Group.ACCOUNTS,
        "The same for all accounts behind the provider of the chosen line.",
        keys="F",
        verbs=("failover-provider",),
        usage="PROVIDER [DURATION] [REASON]",
        target=Target.PROVIDER,
        dangerous=True,
        asks=True,
    ),
    Action(
        "refresh_quota",
        "Refresh quota of account",
        Group.ACCOUNTS,
        "Asks the account's quota source now instead of when its time comes.",
        keys="R",
        verbs=("refresh",),
        usage="ACCOUNT",
        target=Target.ACCOUNT,
    ),
    Action(
        "correct_quota",
        "Correct quota of account",
        Group.ACCOUNTS,
        "Sets by hand how much of the binding quota window is used, in percent, and lifts a quota wall.",
        keys="K",
        verbs=("correct",),
        usage="ACCOUNT PERCENT",
        target=Target.ACCOUNT,
        dangerous=True,
        asks=True,
    ),
    Action(
        "strategy",
        "Switch strategy of pool",
        Group.ACCOUNTS,
        "Lets the pool of the chosen line select by another strategy.",
        keys="s",
        verbs=("strategy",),
        usage="POOL STRATEGY",
        footer="Strategy",
        target=Target.POOL,
        dangerous=True,
    ),
    Action(
        "open_circuit",
        "Open circuit",
        Group.CIRCUITS,
        "Holds the circuit open, for a time or until it is reset. On a pool's line: its provider's.",
        keys="o",
        verbs=("open",),
        usage="TARGET [DURATION] [REASON]",
        footer="Open",
        target=Target.CIRCUIT,
        dangerous=True,
        asks=True,
    ),
    Action(
        "close_circuit",
        "Close circuit",
        Group.CIRCUITS,
        "Closes it now; its counts start anew.",
        keys="c",
        verbs=("close",),
        usage="TARGET [REASON]",
        footer="Close",
        target=Target.CIRCUIT,
        dangerous=True,
        asks=True,
    ),
    Action(
        "reset_circuit",
        "Reset circuit",
        Group.CIRCUITS,
        "Closed, with counts and back-off cleared, and any cooldown lifted.",
        keys="r",
        verbs=("reset",),
        usage="TARGET [REASON]",
        footer="Reset",
        target=Target.CIRCUIT,
        dangerous=True,
        asks=True,
    ),
    Action(
        "circuit_mode",
        "Set mode of circuit",
        Group.CIRCUITS,
        "Normal, half-open (probe now), observe-only (turns nothing away) or disabled (counts nothing).",
        keys="m",
        verbs=("mode",),
        usage="TARGET MODE [REASON]",
        target=Target.CIRCUIT,
        dangerous=True,
        asks=True,
    ),
    Action(
        "drop_queued",
        "Drop queued request",
        Group.QUEUE,
        "Takes a request out of the queue: it fails with the error for which it waits.",
        keys="D",
        verbs=("drop",),
        usage="REQUEST",
        target=Target.QUEUED,
        dangerous=True,
        asks=True,
    ),
    Action(
        "simulate",
        "Run scenario",
        Group.SIMULATION,
        "Rehearses an outage on the real code path and judges it step by step; all is as before after it.",
        verbs=("simulate",),
        usage="[SCENARIO]",
        target=Target.SCENARIO,
        dangerous=True,
    ),
    Action(
        "stop_simulation",
        "Stop the running scenario",
        Group.SIMULATION,
        "Ends it before its verdict; its faults go at once and all is as before.",
        keys="X",
        verbs=("stop",),
        dangerous=True,
    ),
    Action(
        "fault",
        "Inject fault",
        Group.SIMULATION,
        "Lets calls of the chosen account or pool meet a fault for a time. fault stop ends all of them.",
        keys="b",
        verbs=("fault",),
        usage="TARGET [FAULT [NUMBER] [DURATION] [SHARE%]]",
        footer="Fault",
        target=Target.FAULTY,
        dangerous=True,
    ),
    Action(
        "stop_faults",
        "Stop faults",
        Group.SIMULATION,
        "Ends one fault that is in force, or all of them.",
        keys="B",
        verbs=("fault-stop",),
        dangerous=True,
    ),
    Action(
        "undo",
        "Undo the last change",
        Group.ACCOUNTS,
        "Takes back the last change, where that is possible.",
        keys="u",
        verbs=("undo",),
        dangerous=True,
    ),
    Action(
        "pause",
        "Pause or go on",
        Group.VIEW,
        "The screen stands still; events are kept and shown when it goes on.",
        keys="p",
        verbs=("pause",),
        footer="Pause",
    ),
    Action(
        "filter",
        "Filter",
        Group.VIEW,
        "Shows only accounts and requests that hold a text; esc clears it.",
        keys="slash",
        verbs=("filter",),
        usage="[TEXT]",
        footer="Filter",
        shown_key="/",
    ),
    Action(
        "sort",
        "Sort accounts",
        Group.VIEW,
        "Next order: configured, quota, requests, last used, name.",
        keys="S",
        verbs=("sort",),
        usage="[configured|quota|requests|last|name]",
    ),
    Action(
        "zoom",
        "Zoom the focused pane",
        Group.VIEW,
        "One pane fills the screen; again brings the others back.",
        keys="z",
        verbs=("zoom",),
        footer="Zoom",
    ),
    Action("pane_accounts", "Go to accounts", Group.VIEW, "Shows and focuses the pane.", keys="1"),
    Action("pane_metrics", "Go to metrics", Group.VIEW, "Shows fairness, latency and traffic.", keys="2"),
    Action("pane_routing", "Go to routing", Group.VIEW, "Shows and focuses the pane.", keys="3"),
    Action(
        "pane_chat",
        "Go to chat",
        Group.VIEW,
        "Shows and focuses the chat; esc leaves it.",
        keys="4,i",
        verbs=("chat",),
        footer="Chat",
        shown_key="i 4",
    ),
    Action(
        "sessions",
        "Chat sessions",
        Group.VIEW,
        "Lists the sessions that are kept, or those that hold some words; the chosen one is opened again.",
        keys="C",
        verbs=("sessions",),
        usage="[WORDS]",
    ),
    Action(
        "recovery",
        "Recoveries and queue",
        Group.VIEW,
        "How errors were recovered, by cause and by action, the latest ones, and who waits in the queue.",
        keys="v,5",
        verbs=("recovery",),
        footer="Recovery",
        shown_key="v 5",
    ),
    Action(
        "simulation",
        "Simulation",
        Group.VIEW,
        "Scenarios to rehearse outages with, the run step by step, faults in force, and the history of runs.",
        keys="w,6",
        verbs=("simulation",),
        footer="Simulate",
        shown_key="w 6",
    ),
    Action(
        "store",
        "Store and instances",
        Group.VIEW,
        "Where state is kept and how well, what waits to be sent, and every instance that shares it.",
        keys="n,7",
        verbs=("store", "instances"),
        footer="Store",
        shown_key="n 7",
    ),
    Action(
        "theme",
        "Choose theme",
        Group.CONSOLE,
        "Colours of the console; a list, or the name on the command line.",
        keys="t",
        verbs=("theme",),
        usage="[NAME]",
        footer="Theme",
    ),
    Action(
        "command",
        "Command line",
        Group.CONSOLE,
        "Type an action and its target, such as drain ag-3. A ! after the verb skips the question.",
        keys="colon",
        footer="Command",
        shown_key=":",
    ),
    Action(
        "screenshot",
        "Export a screenshot",
        Group.CONSOLE,
        "Writes the screen as an SVG file to the current directory, or to a named file.",
        keys="e",
        verbs=("screenshot",),
        usage="[FILE]",
    ),
    Action(
        "help",
        "Help",
        Group.CONSOLE,
        "All keys and commands.",
        keys="question_mark",
        verbs=("help",),
        footer="Help",
        shown_key="?",
    ),
    Action(
        "quit",
        "Quit",
        Group.CONSOLE,
        "Ends the console; running answers are cancelled.",
        keys="q,ctrl+c",
        verbs=("quit", "q"),
        footer="Quit",
        shown_key="q ctrl+c",
    ),
)
"""All actions, in the order in which they are shown."""

BY_ID = {action.id: action for action in ACTIONS}
BY_VERB = {verb: action for action in ACTIONS for verb in action.verbs}


def available(*, read_only: bool) -> tuple[Action, ...]:
    """The actions that a console has."""
    return tuple(action for action in ACTIONS if not (read_only and action.dangerous))


def bindings(actions: Iterable[Action]) -> list[Binding]:
    """Key bindings for actions; their ids allow keys to be overridden."""
    return [
        Binding(
            action.keys,
            f"operate('{action.id}')",
            action.footer or action.title,
            show=bool(action.footer),
            key_display=action.shown_key.split(" ")[0] or None,
            tooltip=action.description,
            id=action.id,
        )
        for action in actions
        if action.keys
    ]
