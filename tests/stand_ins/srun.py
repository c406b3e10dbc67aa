"""Starts the tasks of a step on this machine, and returns the highest exit code. With LIMIT=1 the
time limit comes as soon as all have started: they get the signal that the job asks for.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from common import FOLDER, called, code_of

called()
options = [word for word in sys.argv[1:] if word.startswith("-")]
start = next(i for i, word in enumerate(sys.argv) if i and not word.startswith("-"))
tasks = [
    subprocess.Popen(
        sys.argv[start:],
        env=os.environ
        | {
            "SLURM_PROCID": str(number),
            "SLURM_LOCALID": str(number),
            "SLURM_STEP_NODELIST": "localhost",
        },
    )
    for number in range(int(os.environ["SLURM_NTASKS"]))
]
attempt = os.environ["SLURM_RESTART_COUNT"]
while len(list(FOLDER.glob(f"started-{attempt}-*"))) < len(tasks):
    time.sleep(0.01)
time.sleep(0.1)  # what fails at once has failed
stopped = os.environ.get("LIMIT") == "1" and os.environ["SIGNAL"].startswith("TERM@")
failed = "--kill-on-bad-exit=1" in options and any(task.poll() for task in tasks)
if stopped or failed:
    for task in tasks:  # SLURM signals tasks, not what they have started
        if task.poll() is None:
            task.send_signal(signal.SIGTERM)
sys.exit(max(code_of(task) for task in tasks))
