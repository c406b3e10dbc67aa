"""The command line of data_prep: dispatches to a command and turns errors into an exit code.

    python -m data_prep --help
    python -m data_prep convert spectral-earth --input /data/spectral_earth \\
        --output /data/stores/spectral_earth
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
from collections.abc import Sequence

COMMANDS = {
    "simulate": "write a synthetic archive in a published layout",
    "convert": "turn an archive into a store",
    "sensor": "show or write the sensor row that a file describes",
    "verify": "check a store for damage",
    "inspect": "show the contents of a store in tables, pictures or a page",
    "stats": "compute statistics and quantiles of every band of a store",
    "subset": "write a store with some samples of another",
    "merge": "write a store with all samples of several others",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns 0, 1 for an error in the data, 2 for a wrong option, 130 when interrupted.
    """
    args = _top_parser().parse_args(arguments)
    # Imported only now, because `--help` needs no GDAL.
    module = importlib.import_module(f"data_prep.{args.command}")
    parser = argparse.ArgumentParser(
        f"python -m data_prep {args.command}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    module.add_arguments(parser)
    options = parser.parse_args(args.arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return module.run(options)
    except KeyboardInterrupt:
        print(
            f"interrupted; finished work is kept, and the same {args.command} command resumes it",
            file=sys.stderr,
        )
        return 130
    # StoreError, RecordError and ArchiveError are ValueErrors.
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _top_parser() -> argparse.ArgumentParser:
    lines = "\n".join(f"  {name:<10} {purpose}" for name, purpose in COMMANDS.items())
    parser = argparse.ArgumentParser(
        "python -m data_prep",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Turns archives of satellite images into stores that eo_jax trains on.",
        epilog=f"commands:\n{lines}\n\n"
        "`python -m data_prep COMMAND --help` shows the options of a command.\n"
        "example: python -m data_prep convert enmap-tiles --input /data/tiles "
        "--output /data/stores/tiles",
    )
    parser.add_argument(
        "command", choices=COMMANDS, metavar="COMMAND", help="one of the commands below"
    )
    parser.add_argument(
        "arguments", nargs=argparse.REMAINDER, metavar="...", help="options of the command"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
