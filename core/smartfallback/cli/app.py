"""The commands and their options; each command's work is loaded when it is called."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from smartfallback.cli.terminal import run_command

_CREDENTIALS: Final = re.compile(r"(?<=://)[^\s'\"]*@")


class _Commands(TyperGroup):
    """Repeats no password of an address when it complains about what was typed."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except Exception as error:  # whichever click there is: its own errors have a message
            message = getattr(error, "message", None)
            if isinstance(message, str):
                error.message = _CREDENTIALS.sub("***@", message)  # type: ignore[attr-defined]  # as above
            raise


app = typer.Typer(
    name="smartfallback",
    cls=_Commands,
    help="Send each request to the LLM account that should answer it.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 130 cancelled with Ctrl+C.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="The file; by default the one in your config directory."),
]
RedisOption = Annotated[
    str | None,
    typer.Option(
        "--redis-url",
        metavar="URL",
        help="Share state through this Redis server, before what the configuration says. Other users see the "
        "command line: with a password better SMARTFALLBACK_REDIS_URL, or the configuration.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object of a versioned form.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"smartfallback {version('smartfallback-console')}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    """Nothing of its own: the options that belong to no command."""


@app.command(epilog="Exit codes: 0 written, 2 the file exists already or can't be written.")
def init(
    path: Annotated[
        Path | None,
        typer.Option("--path", metavar="FILE", help="Where to write; by default your config directory."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
) -> None:
    """Write a commented configuration to start from."""
    from smartfallback.cli.init import write_starter

    run_command(lambda: write_starter(path, force=force))


@app.command(
    epilog="Exit codes: 0 all accounts and the state can be used, 1 not all, 2 no or a wrong configuration."
)
def check(config: ConfigOption = None, redis_url: RedisOption = None, as_json: JsonOption = False) -> None:
    """Check the configuration, its secrets, where state is kept, and whether each account can be reached.

    Nothing is spent: upstreams are asked for their list of models, never for an answer.
    """
    from smartfallback.cli.check import check_config

    run_command(lambda: check_config(config, redis_url=redis_url, as_json=as_json))


@app.command(
    epilog="Exit codes: 0 answered, 1 nobody could answer or the answer broke off, "
    "2 wrong usage or configuration, 130 cancelled with Ctrl+C."
)
def chat(
    prompt: Annotated[str, typer.Argument(help='What to ask; "-" reads it from standard input.')],
    chain: Annotated[
        str | None,
        typer.Option("--chain", metavar="NAME", help='The chain to ask; by default "default".'),
    ] = None,
    config: ConfigOption = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="Ask the simulated upstreams, whatever is configured.")
    ] = False,
    redis_url: RedisOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask a question; the answer streams to stdout, who answered and what was tried goes to stderr.

    Without a configuration the built-in demo answers, which says so.
    """
    from smartfallback.cli.chat import ask

    run_command(
        lambda: ask(prompt, chain=chain, config=config, demo=demo, redis_url=redis_url, as_json=as_json)
    )


@app.command(
    epilog="Exit codes: 0 every verdict passes, 1 one fails, 2 wrong usage, configuration or scenario file, "
    "130 cancelled with Ctrl+C."
)
def simulate(
    name: Annotated[
        str | None, typer.Argument(help='The scenario, or "all"; "--list" names them.', show_default=False)
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="List the scenarios.")] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="Rehearse with the accounts of this configuration; by default with simulated ones.",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", help="Of all random choices; drawn by default.")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Ask configured accounts without a typed confirmation.")
    ] = False,
    requests: Annotated[
        int,
        typer.Option("--requests", min=1, help="The most that a scenario sends to configured accounts."),
    ] = 200,
    tokens: Annotated[
        int,
        typer.Option("--tokens", min=1, help="From so many used tokens on it sends no more to them."),
    ] = 100_000,
    redis_url: RedisOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of verdicts.")] = False,
) -> None:
    """Rehearse an outage on the real code path, and read a verdict.

    Faults are injected on the client side and always removed; what happens to accounts is put back.
    """
    from smartfallback.cli import simulate as command

    def run() -> int:
        if listed:
            return command.list_scenarios(as_json=as_json)
        # A script whose variable is empty must not read "nothing failed" from a list.
        return command.simulate(
            name or "",
            config=config,
            redis_url=redis_url,
            seed=seed,
            yes=yes,
            as_json=as_json,
            requests=requests,
            tokens=tokens,
        )

    run_command(run)


def main() -> None:
    """Entry point of ``smartfallback``."""
    app()
