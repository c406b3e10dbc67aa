"""How commands end: one clear line for a user's error, a traceback on request or for a bug."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator

_ALSO = "also: "  # before our notes to an error; libraries add theirs


def run(main: Callable[[], int]) -> None:
    """Runs a command and exits with its code.

    ValueError and OSError, whose messages are for users, end as one line and exit code 1;
    EO_JAX_TRACEBACK=1 shows their traceback.
    """
    try:
        code = main()
    except (ValueError, OSError) as error:
        if os.environ.get("EO_JAX_TRACEBACK") == "1":
            raise
        code = _end(1, f"error: {error}", error)
    except KeyboardInterrupt as error:
        code = _end(130, "interrupted; the same command resumes from the last checkpoint", error)
    sys.exit(code)


def _end(code: int, line: str, error: BaseException) -> int:
    """Prints the last line, with what else went wrong as the command ended."""
    also = [note for note in getattr(error, "__notes__", ()) if note.startswith(_ALSO)]
    print("; ".join([line, *also]), file=sys.stderr, flush=True)
    return code


@contextlib.contextmanager
def noted(error: BaseException) -> Iterator[None]:
    """Adds an OSError of the block to the error that ends the command, which may be the same one,
    as a note.
    """
    try:
        yield
    except OSError as failed:
        if failed is not error:
            error.add_note(f"{_ALSO}{failed}")


def first_cause(error: Exception) -> str:
    """One line for an error of ml_collections or absl about flags, which takes several.

    It is the end of a traceback through the config file, or the whole message.
    """
    cause = error.args[0].args[0] if isinstance(error.args[0], KeyError) else error.args[0]
    lines = [line.strip() for line in str(cause).splitlines() if line.strip(". ")]
    return lines[-1] if any(line.startswith("Traceback") for line in lines) else " ".join(lines)
