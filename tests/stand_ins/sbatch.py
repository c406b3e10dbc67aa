"""Runs a batch script at once, from a copy as SLURM does, and again as often as it is queued."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from common import FOLDER, called

called()
script = next(word for word in sys.argv[1:] if not word.startswith("-"))
position = sys.argv.index(script)
text = Path(script).read_text()
lines = re.findall(r"^#SBATCH (--\S+)", text, re.MULTILINE)
options = dict(word[2:].partition("=")[::2] for word in [*lines, *sys.argv[1:position]])
copy = FOLDER / "slurm_script"
shutil.copy(script, copy)
tasks = int(options["ntasks-per-node"]) * int(options.get("nodes", 1))
queued = FOLDER / "queued"
for restarts in range(5):
    queued.unlink(missing_ok=True)
    environment = os.environ | {
        "SLURM_JOB_ID": "4711",
        "SLURM_SUBMIT_DIR": os.getcwd(),
        "SLURM_NTASKS": str(tasks),
        "SLURM_RESTART_COUNT": str(restarts),
        "SIGNAL": options.get("signal", ""),
    }
    code = subprocess.run(["bash", copy, *sys.argv[position + 1 :]], env=environment).returncode
    if not queued.exists():
        break
sys.exit(code)
