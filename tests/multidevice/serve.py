"""Runs scripts of this folder as long as it is asked to: a line [script, arguments] on standard
input, a line {"result"} or {"error"} on standard output.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import sys
import traceback

if __name__ == "__main__":
    gc.set_threshold(50_000, 20, 20)  # as conftest.py does, for most of the time is tracing
    answers = sys.stdout
    for line in sys.stdin:
        script, arguments = json.loads(line)
        with contextlib.redirect_stdout(sys.stderr):
            try:
                module = importlib.import_module(f"multidevice.{script}")
                answer = {"result": module.main(*arguments)}
            except Exception:
                answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), file=answers, flush=True)
