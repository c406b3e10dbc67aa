"""Stand-ins for the commands of clusters: they write down how they were called, and start the
processes that a cluster would start, on this machine.

STAND_INS is the folder for what they write; RUNS says what each attempt of a run does (trainer.py).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

FOLDER = Path(os.environ["STAND_INS"])
ROOT = Path(__file__).parents[2]


def record(file: str, **what: object) -> None:
    """Adds a line to a file of the folder; lines of several processes do not mix."""
    with open(FOLDER / file, "a") as lines:
        lines.write(json.dumps(what) + "\n")


def called() -> None:
    """Writes down this call."""
    record("calls.jsonl", command=Path(sys.argv[0]).stem, arguments=sys.argv[1:])


def code_of(process: subprocess.Popen) -> int:
    """Exit code as shells and clusters report it: 128 + the signal that ended the process."""
    code = process.wait()
    return 128 - code if code < 0 else code


def entry_point(image: str) -> list[str]:
    """What a container of the image starts, by its target in the Dockerfile: eo_jax:tpu. There is
    no tini here, and the checkout is /eo_jax.
    """
    text = (ROOT / "launch" / "Dockerfile").read_text()
    stage = re.search(rf"AS {image.rpartition(':')[2]}\n.*?ENTRYPOINT (\[.*?\])", text, re.DOTALL)
    tini, dashes, *command = json.loads(stage[1])
    assert (tini, dashes) == ("tini", "--")
    return [word.replace("/eo_jax/", f"{ROOT}/") for word in command]
