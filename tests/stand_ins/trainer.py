"""Python, but `-m eo_jax.train` is a program that does what RUNS says: a list with, per attempt,
the behaviour of each process.

    done    ends with 0
    stop    waits for SIGTERM, then ends with 143
    early   waits, and dies of SIGTERM, as before a handler is in place
    notice  has no handler either; ends with 75 after a while, since another process has failed
    a number is the exit code
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time

from common import FOLDER, record

NUMBERS = ("EO_JAX_PROCESS_ID", "SLURM_PROCID", "WORKER", "SKYPILOT_NODE_RANK")
SHOWN = ("EO_JAX", "SLURM", "XLA", "LIBTPU", "JAX_PLATFORMS", "JAX_COMP", "CUDA")


def main() -> None:
    if sys.argv[1:3] != ["-m", "eo_jax.train"]:
        os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
    process = next(int(os.environ[name]) for name in NUMBERS if name in os.environ)
    attempt = len(list(FOLDER.glob(f"started-*-{process}")))
    behaviour = json.loads(os.environ["RUNS"])[attempt][process]
    if behaviour == "stop":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    record(
        "trained.jsonl",
        process=process,
        arguments=sys.argv[3:],
        environment={name: os.environ[name] for name in os.environ if name.startswith(SHOWN)},
    )
    (FOLDER / f"started-{attempt}-{process}").touch()
    time.sleep({"stop": 60, "early": 60, "notice": 0.5}.get(behaviour, 0))
    sys.exit({"done": 0, "notice": 75}.get(behaviour, behaviour))


main()
