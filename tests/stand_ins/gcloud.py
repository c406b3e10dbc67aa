"""Cloud TPUs with one queued resource of two hosts. SLICES says what each `tpu-vm ssh` meets:

run      both hosts run the command
preempt  the slice is taken away: no connection, and soon SUSPENDED
refuse   as preempt, but ssh sees it first and ends with 1
lost     no connection, and the slice stays
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

from common import FOLDER, called, code_of

STATES = FOLDER / "states.json"  # what the next calls of `describe` print; the last one stays
ASKED = ["ACCEPTED", "PROVISIONING", "ACTIVE"]


def describe() -> int:
    if not STATES.exists():
        print("ERROR: NOT_FOUND", file=sys.stderr)
        return 1
    states = json.loads(STATES.read_text())
    print(states[0])
    STATES.write_text(json.dumps(states[1:] or states))
    return 0


def create() -> int:
    assert not STATES.exists(), "exists already"
    STATES.write_text(json.dumps(ASKED))
    return 0


def delete() -> int:
    assert "--force" in sys.argv, "an active resource is only deleted with --force"
    STATES.unlink()
    return 0


def ssh() -> int:
    turns = sorted(FOLDER.glob("ssh-*"))
    (FOLDER / f"ssh-{len(turns)}").touch()
    met = json.loads(os.environ["SLICES"])[len(turns)]
    if met in ("preempt", "refuse"):
        STATES.write_text(json.dumps(["SUSPENDING", "SUSPENDED"]))
    if met != "run":
        return 1 if met == "refuse" else 255
    assert "--worker=all" in sys.argv
    command = next(word for word in sys.argv if word.startswith("--command=")).partition("=")[2]
    hosts = [
        subprocess.Popen(["bash", "-c", command], env=os.environ | {"WORKER": str(number)})
        for number in range(2)
    ]
    return next((code for host in hosts if (code := code_of(host))), 0)


called()
if sys.argv[1] == "auth":
    sys.exit(0)
verb = sys.argv[4]
sys.exit({"describe": describe, "create": create, "delete": delete, "ssh": ssh}[verb]())
