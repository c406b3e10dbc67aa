"""How commands end: one clear line for a user's error, a traceback on request or for a bug."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable


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
        print(f"error: {error}", file=sys.stderr, flush=True)
        code = 1
    except KeyboardInterrupt:
        print(
            "interrupted; the same command resumes from the last checkpoint",
            file=sys.stderr,
            flush=True,
        )
        code = 130
    sys.exit(code)


def first_cause(error: Exception) -> str:
    """One line for an error of ml_collections or absl about flags, which takes several.

    It is the end of a traceback through the config file, or the whole message.
    """
    cause = error.args[0].args[0] if isinstance(error.args[0], KeyError) else error.args[0]
    lines = [line.strip() for line in str(cause).splitlines() if line.strip(". ")]
    return lines[-1] if any(line.startswith("Traceback") for line in lines) else " ".join(lines)
