"""The one map from our errors to exit statuses, and how a failure is said."""

from __future__ import annotations

import tomllib
import traceback
from collections.abc import Callable

from pydantic import ValidationError

from tinyagentos.cli import screen
from tinyagentos.config import SETTINGS_FILE, Settings, read_program
from tinyagentos.model.errors import Cancelled, InvalidInput, TaosError
from tinyagentos.visible import visible_line, visible_quote

DONE, FAILED, USAGE, CANCELLED = 0, 1, 2, 3
INTERRUPTED = 130  # what Typer makes of Ctrl-C


def exit_status(error: TaosError) -> int:
    """The status a command ends with after the error."""
    match error:
        case InvalidInput():
            return USAGE
        case Cancelled():
            return CANCELLED
        case _:
            return FAILED


def as_typed(text: str, program: str = "") -> str:
    """The text with our commands as the person runs them. program: else what they typed."""
    return text.replace("`taos ", f"`{program or read_program()} ")


def say(error: TaosError) -> None:
    """One sentence and a hint on standard error."""
    screen.write_error(visible_quote(as_typed(f"taos: {error.message}")) + "\n")
    if error.hint:
        screen.write_error(visible_line(as_typed(f"  hint: {error.hint}")) + "\n")


def guarded(command: Callable[[], None]) -> int:
    """Run the command line; the exit status, with expected failures said and not traced."""
    try:
        command()
    except TaosError as error:
        say(error)
        return exit_status(error)
    except ValidationError as error:
        if error.title != Settings.__name__:
            return _say_unexpected()
        first = error.errors()[0]
        say(
            InvalidInput(
                f"The setting `{first['loc'][0]}` cannot be used: {first['msg']}.",
                hint=f"Mend it in {SETTINGS_FILE}, or in the environment.",
            )
        )
        return USAGE
    except tomllib.TOMLDecodeError as error:
        say(InvalidInput(f"{SETTINGS_FILE} cannot be read: {error}.", hint="Mend that line."))
        return USAGE
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            say(Cancelled("Stopped.", hint="What the server has begun goes on: `taos job list`."))
            return CANCELLED
        return ended.code if isinstance(ended.code, int) else FAILED
    except Exception:
        return _say_unexpected()
    return DONE


def _say_unexpected() -> int:
    # It may quote what anybody sent.
    screen.write_error(visible_quote(traceback.format_exc()) + "\n")
    return FAILED
