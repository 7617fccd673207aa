"""Starts the console: ``smartfallback-console``."""

from __future__ import annotations

import argparse
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from smartfallback import StateSettings
    from smartfallback_console.app import ConsoleApp
    from smartfallback_console.bridge import CoreThread
    from smartfallback_console.system import System, SystemFactory

CREDENTIALS = re.compile(r"(?<=://)[^\s'\"]*@")
"""User and password in an address."""
QUIET = logging.NullHandler()
"""Without a handler Python prints what is logged to stderr, across the screen."""

EXIT_CRASH = 1
"""The console met an error that it did not expect; the details are in a file."""
EXIT_CONFIGURATION = 2
"""The configuration, or an option, can't be used."""
EXIT_CORE = 3
"""The core did not start or did not end."""
EXIT_LIMIT_S = 5.0
"""How long the interface may take to end after its terminal went, before it is ended."""
EXIT_INTERRUPTED = 130
"""Ctrl+C before the interface stood; a key like any other from then on."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the console; ends the process with an exit code."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the console and return its exit code."""
    options = _parser().parse_args(arguments)
    # The screen is the interface's: what the log would say is shown there, as notices.
    logging.getLogger("smartfallback").addHandler(QUIET)
    # Read once, when textual is imported: half of its default rate is plenty for figures.
    os.environ.setdefault("TEXTUAL_FPS", "30")
    factory = _factory(options)
    if factory is None:
        return EXIT_CONFIGURATION

    from smartfallback_console.bridge import CoreThread

    core = CoreThread(factory)
    core.start()  # before the interface is imported, so that both start at the same time
    crash: str | BaseException | None = None
    code = 0
    try:
        app = _app(core, options)
        _end_with_the_terminal(app, core)
        app.run()
        crash, code = None if app.leaving else app.crash, app.return_code or 0
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except Exception as error:
        crash = error
    finally:
        ended = core.stop()
    if crash is not None:
        from smartfallback_console.crash import tell

        _say(tell(crash))
        return EXIT_CRASH
    if core.failure:
        _say(core.failure)
    return EXIT_CORE if core.failure or not ended else code


def _say(text: str) -> None:
    """To stderr, while the terminal is not the interface's."""
    print(f"smartfallback-console: {text}", file=sys.stderr)  # noqa: T201 - the one place that prints


class _Parser(argparse.ArgumentParser):
    """Repeats no password when it complains about what was typed."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and end."""
        super().error(CREDENTIALS.sub("***@", message))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="smartfallback-console",
        description="Shows live how requests are routed to LLM accounts, and lets an operator act. "
        "Without a configuration it starts a demo on simulated upstreams.",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--config", type=Path, metavar="FILE", help="configuration (TOML)")
    source.add_argument("--demo", action="store_true", help="simulated upstreams, whatever is configured")
    parser.add_argument(
        "--redis-url",
        metavar="URL",
        help="share state through this Redis server, before what the configuration says; demos share with "
        "demos. Other users see the command line: with a password better SMARTFALLBACK_REDIS_URL or the "
        "configuration",
    )
    parser.add_argument("--theme", metavar="NAME", help="theme to start with (t lists them)")
    parser.add_argument(
        "--read-only", action="store_true", help="without the actions that change how requests are answered"
    )
    return parser


def _factory(options: argparse.Namespace) -> SystemFactory | None:
    """What to run; None after the mistakes of a configuration were reported."""
    from smartfallback import ConfigError, RedisUrlError, choose_state, load_config, locate_config

    config = None if options.demo else locate_config(options.config)
    try:
        if config is None:
            state = choose_state(None, options.redis_url)
            return lambda: _demo(state)
        loaded = load_config(config)
        state = choose_state(loaded.state, options.redis_url)
    except (ConfigError, RedisUrlError, OSError) as error:
        _say(str(error))
        return None

    def configured() -> AbstractAsyncContextManager[System]:
        from smartfallback_console.configured import configured_system

        return configured_system(loaded.spec, state)

    return configured


def _demo(state: StateSettings) -> AbstractAsyncContextManager[System]:
    from smartfallback import demo, open_stores

    stores = open_stores(state, keep=False)
    return demo(shared=stores.shared, sharing=stores.sharing)


def config_folder() -> Path:
    """The user's folder for configuration and themes."""
    from platformdirs import user_config_path

    return user_config_path("smartfallback")


def _app(core: CoreThread, options: argparse.Namespace) -> ConsoleApp:
    from smartfallback_console.app import ConsoleApp

    theme = options.theme or os.environ.get("SMARTFALLBACK_THEME")
    return ConsoleApp(core, theme=theme, theme_folder=config_folder() / "themes", read_only=options.read_only)


def _end_with_the_terminal(app: ConsoleApp, core: CoreThread) -> None:
    """A lost terminal or a request to end leaves in order: the core is stopped, its children too."""

    def leave(number: int, _frame: object) -> None:
        if not app.leaving:
            app.leaving = True
            watchdog = threading.Timer(EXIT_LIMIT_S, end_hard, (core, number))
            watchdog.daemon = True
            watchdog.start()
        app.call_later(app.exit)

    for name in ("SIGHUP", "SIGTERM"):
        number = getattr(signal, name, None)
        if number is not None:
            signal.signal(number, leave)


def end_hard(core: CoreThread, number: int) -> None:
    """End the process although the interface does not: without a terminal its output can block it.

    State is saved and children end all the same.
    """
    core.stop()
    os._exit(128 + number)


if __name__ == "__main__":
    main()
