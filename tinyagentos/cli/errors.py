"""The one map from our errors to exit statuses, and how a failure is said."""

from __future__ import annotations

import sys
from collections.abc import Callable

from tinyagentos.model.errors import Cancelled, InvalidInput, TaosError

DONE, FAILED, USAGE, CANCELLED = 0, 1, 2, 3


def exit_status(error: TaosError) -> int:
    """The status a command ends with after the error."""
    match error:
        case InvalidInput():
            return USAGE
        case Cancelled():
            return CANCELLED
        case _:
            return FAILED


def say(error: TaosError) -> None:
    """One sentence and a hint on standard error."""
    print(f"taos: {error.message}", file=sys.stderr)  # noqa: T201 - the terminal is our output
    if error.hint:
        print(f"  hint: {error.hint}", file=sys.stderr)  # noqa: T201 - the terminal is our output


def guarded(command: Callable[[], None]) -> int:
    """Run the command line; the exit status, with expected failures said and not traced."""
    try:
        command()
    except TaosError as error:
        say(error)
        return exit_status(error)
    except KeyboardInterrupt:
        say(Cancelled("Stopped.", hint="Work that the server has begun goes on: `taos job list`."))
        return CANCELLED
    except BrokenPipeError:
        # Whoever read our output has seen enough.
        sys.stderr.close()
        return DONE
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else FAILED
    return DONE
