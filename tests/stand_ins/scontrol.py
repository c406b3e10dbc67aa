"""Queues a job again."""

from __future__ import annotations

import os
import sys

from common import FOLDER, called

called()
assert sys.argv[1:] == ["requeue", os.environ["SLURM_JOB_ID"]]
(FOLDER / "queued").touch()
