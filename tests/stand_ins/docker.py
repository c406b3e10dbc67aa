"""Runs the entry point of an image of this repository, without a container."""

from __future__ import annotations

import os
import sys

from common import ROOT, called, entry_point

called()
if sys.argv[1] == "rm":
    sys.exit(1)  # there is none
image = next(i for i, word in enumerate(sys.argv[2:], 2) if not word.startswith("-"))
settings = [word.partition("=")[2] for word in sys.argv[2:image] if word.startswith("--env=")]
environment = os.environ | dict(setting.partition("=")[::2] for setting in settings)
os.chdir(ROOT)
command = [*entry_point(sys.argv[image]), *sys.argv[image + 1 :]]
os.execvpe(command[0], command, environment)
