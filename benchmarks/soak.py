"""Kills a run over and over: does it end as if nothing had happened?

    python -m benchmarks.soak --kills 100 --json /tmp/soak.json
    python -m benchmarks.soak --kills 20 --processes 2

The training command runs once in one go, on a tiny store, and once more with a SIGKILL at a random
moment of each of its lives: while it starts and compiles, a number of steps later, or while Orbax
writes a checkpoint. After the last one it may finish. Then every array of the state, every line of
metrics.jsonl (what depends on the clock aside) and the list of files have to be those of the run in
one go. Of several processes a random one is killed, or all; those that are left have to end by
themselves with exit code 75. At the start it is always all: who comes late is waited for.

The exit code is 1 if anything differs. A kill counts as "before the first step" until that has its
line in metrics.jsonl. Compiled functions are kept in a folder of their own, unless
JAX_COMPILATION_CACHE_DIR is set, so that a life begins with a few seconds of starting.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import datetime
import importlib.metadata
import itertools
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from eo_jax.data.store.files import write_atomically

TESTS = Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(TESTS))  # as pytest does; the tests import each other

from run_results import hashes, numbers  # noqa: E402
from several_processes import PATIENCE, Processes  # noqa: E402
from tiny_store import write_tiny_store  # noqa: E402

KINDS = {"start": 0.3, "step": 0.3, "save": 0.4}  # what is aimed at, and how often
SAVE_EVERY, EVALUATE_EVERY = 8, 40
MOST_STEPS, MOST_SAVES = 20, 3  # of one life
SAVE_S, STEP_S = 0.25, 0.05  # about what they take; only how kills spread depends on it
PEER_TIMEOUT_S = 5
PHASES = ("before the first step", "between steps", "during a save")
_TICK_S = 0.002


class Kill(NamedTuple):
    """A moment in the life of a run, and which of its processes are killed then.

    Attributes:
        kind: of `KINDS`.
        after: steps or saves that this life gets to before.
        fraction: of the time that a start, a step or a save takes, after that.
    """

    kind: str
    after: int
    fraction: float
    victims: tuple[int, ...]


def draw(rng: random.Random, processes: int) -> Kill:
    """The next kill."""
    (kind,) = rng.choices(list(KINDS), list(KINDS.values()))
    after = {"start": 0, "step": rng.randint(1, MOST_STEPS), "save": rng.randint(1, MOST_SAVES)}
    everyone = tuple(range(processes))
    alone = (rng.randrange(processes),)
    victims = everyone if kind == "start" else rng.choice((alone, alone, everyone))
    return Kill(kind, after[kind], rng.random(), victims)


class Life:
    """A run from one start to its end, seen from outside.

    Attributes:
        first: the step that it resumes at.
        began_s: seconds from its start to the log line of its first step; None before.
    """

    def __init__(self, run: Processes):
        self._run, self._metrics = run, run.workdir / "metrics.jsonl"
        self._born_s, self._born_ns = time.monotonic(), time.time_ns()
        # A resumed run replaces this file by one without the lines that it will write again.
        self._old, self._saves = _inode(self._metrics), set()
        self.first, self.began_s = max(run.saved(), default=0), None

    def steps(self) -> int:
        """Logged since its start."""
        if _inode(self._metrics) == self._old:
            return 0
        steps = max(0, _last_step(self._metrics) - self.first)
        if steps and self.began_s is None:
            self.began_s = time.monotonic() - self._born_s
        return steps

    def saving(self) -> set[str]:
        """The folders of checkpoints that it is writing."""
        found = set()
        for folder in self._run.workdir.glob("checkpoints/*.orbax-checkpoint-tmp"):
            with contextlib.suppress(FileNotFoundError):  # renamed meanwhile
                if folder.stat().st_mtime_ns > self._born_ns:  # else left by a life before
                    found.add(folder.name)
        return found

    def wait_for(self, kill: Kill, start_s: float) -> None:
        """Until that moment; `start_s` is how long a start takes. Raises RuntimeError where the run
        ends before.
        """
        while not self._has_reached(kill):
            self._check()
            time.sleep(_TICK_S)
        time.sleep(kill.fraction * {"start": start_s, "step": STEP_S, "save": SAVE_S}[kill.kind])

    def _has_reached(self, kill: Kill) -> bool:
        self._saves |= self.saving()
        return {"start": 0, "step": self.steps(), "save": len(self._saves)}[kill.kind] >= kill.after

    def _check(self) -> None:
        ended = any(process.poll() is not None for process in self._run.processes.values())
        if ended or time.monotonic() > self._born_s + PATIENCE:
            codes, outputs = self._run.ends(timeout=10)
            raise RuntimeError(
                f"the run {'ended' if ended else 'hung'} by itself; exit codes {codes}:\n"
                + "\n".join(output[-2000:] for output in outputs)
            )

    def phase(self) -> str:
        """One of `PHASES`."""
        if self.saving():
            return PHASES[2]
        return PHASES[1] if self.steps() else PHASES[0]


def _inode(path: Path) -> int:
    return path.stat().st_ino if path.exists() else 0


def _last_step(metrics: Path) -> int:
    """Of the last whole line; 0 without one."""
    with open(metrics, "rb") as file:
        file.seek(max(0, metrics.stat().st_size - 8192))
        found = re.findall(rb'^{"step": (\d+),.*}\n', file.read(), re.M)
    return int(found[-1]) if found else 0


# ------------------------------------------------------------------------------------ the two runs


class Soak:
    """The two runs of one command, in a folder."""

    def __init__(self, work: Path, kills: int, processes: int, seed: int):
        self._work, self._kills, self._processes = work, kills, processes
        self._store = write_tiny_store(work / "store")
        self._rng = random.Random(seed)
        # A life gets through 5 on average, so that some are left for the last.
        self.steps = 8 * (kills + 8)
        self._variables = {
            "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
            "JAX_COMPILATION_CACHE_DIR": os.environ.get(
                "JAX_COMPILATION_CACHE_DIR", str(work / "compiled")
            ),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "EO_JAX_PEER_TIMEOUT": str(PEER_TIMEOUT_S),
        }

    def _start(self, name: str) -> Processes:
        return Processes(
            self._store,
            self._work / name,
            f"--config.run.steps={self.steps}",
            f"--config.run.save_every={SAVE_EVERY}",
            f"--config.evals.reconstruction.every={EVALUATE_EVERY}",
            count=self._processes,
            **self._variables,
        )

    def whole(self) -> tuple[Path, float]:
        """(workdir of the run in one go, seconds from its start to its first step)."""
        with self._start("whole") as run:
            life = Life(run)
            life.wait_for(Kill("step", 1, 0.0, ()), 0.0)
            _finish(run)
        return run.workdir, life.began_s

    def killed(self, start_s: float) -> tuple[Path, dict[str, Any]]:
        """(workdir of the run that is killed, what happened to it)."""
        phases, resumed, wrong, began = collections.Counter(), set(), [], time.monotonic()
        for n in range(1, self._kills + 1):
            kill = draw(self._rng, self._processes)
            with self._start("killed") as run:
                life = Life(run)
                life.wait_for(kill, start_s)
                for k in kill.victims:
                    run.send(k, signal.SIGKILL)
                phase = life.phase()
                codes, outputs = run.ends(timeout=6 * PEER_TIMEOUT_S)
            start_s = life.began_s or start_s
            phases[phase] += 1
            resumed |= _resumed_at(outputs)
            if codes != (due := _due(kill, self._processes)):
                wrong.append({"kill": n, "codes": codes, "expected": due})
            _tell(n, self._kills, phase, life.first, time.monotonic() - began)
        with self._start("killed") as run:
            resumed |= _resumed_at(_finish(run))
        return run.workdir, {
            "kills": {phase: phases[phase] for phase in PHASES},
            "starts": self._kills + 1,
            "resumed_from": len(resumed),
            "wrong_exit_codes": wrong,
        }


def _due(kill: Kill, processes: int) -> list[int]:
    """Exit codes by process."""
    return [-signal.SIGKILL if k in kill.victims else 75 for k in range(processes)]


def _finish(run: Processes) -> list[str]:
    """Waits for the end; returns the outputs. Raises RuntimeError where it is not a success."""
    codes, outputs = run.ends(timeout=3600)
    if any(codes):
        raise RuntimeError(f"exit codes {codes}:\n" + "\n".join(text[-2000:] for text in outputs))
    return outputs


def _resumed_at(outputs: Sequence[str]) -> set[int]:
    """The step of a checkpoint that was resumed from, if one was."""
    return {int(step) for step in re.findall(r"resuming at step (\d+)", "".join(outputs))}


def _tell(n: int, kills: int, phase: str, first: int, seconds: float) -> None:
    speed = f"{60 * n / seconds:.1f} per minute, {seconds / n * (kills - n) / 60:.0f} min left"
    print(f"kill {n}/{kills} {phase}, in a life from step {first}; {speed}", flush=True)


# ----------------------------------------------------------------------------------- their results


def compared(whole: Path, killed: Path) -> dict[str, Any]:
    """How the workdir of a run that was killed differs from that of one that was not."""
    arrays, lines = (
        [hashes(workdir) for workdir in (whole, killed)],
        (numbers(whole), numbers(killed)),
    )
    paths = arrays[0].keys() | arrays[1].keys()
    names = [set(_names(workdir)) for workdir in (whole, killed)]
    return {
        "leaves": len(paths),
        "differing_leaves": sorted(p for p in paths if arrays[0].get(p) != arrays[1].get(p)),
        "lines": len(lines[0]),
        "differing_lines": sum(a != b for a, b in itertools.zip_longest(*lines)),
        "left_over": sorted(names[1] - names[0]),
        "missing": sorted(names[0] - names[1]),
    }


def _names(workdir: Path) -> Iterator[str]:
    """What lies in a workdir; Orbax' own names within a checkpoint are random."""
    for pattern in ("*", "checkpoints/*", "checkpoints/*/*"):
        yield from (str(path.relative_to(workdir)) for path in workdir.glob(pattern))


def survived(figures: Mapping[str, Any]) -> bool:
    """Whether nothing differs."""
    faults = ("wrong_exit_codes", "differing_leaves", "differing_lines", "left_over", "missing")
    return not any(figures[fault] for fault in faults)


def _print(figures: Mapping[str, Any]) -> None:
    kills = ", ".join(f"{count} {phase}" for phase, count in figures["kills"].items())
    differing = len(figures["differing_leaves"])
    print(
        f"{sum(figures['kills'].values())} kills: {kills}",
        f"{figures['starts']} starts of {figures['processes']} process(es), resumed from "
        f"{figures['resumed_from']} checkpoints, {figures['steps']} steps",
        f"{figures['leaves']} leaves compared; differing leaves: {differing}",
        f"{figures['lines']} lines compared; differing lines: {figures['differing_lines']}",
        *(
            f"{fault}: {figures[fault]}"
            for fault in ("differing_leaves", "left_over", "missing", "wrong_exit_codes")
            if figures[fault]
        ),
        "the run is the one that was not killed" if survived(figures) else "THE RUNS DIFFER",
        sep="\n",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns 0, 1 where anything differs or a run fails."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m benchmarks.soak", description=__doc__, formatter_class=raw
    )
    add = parser.add_argument
    add("--kills", type=int, default=100, metavar="N", help="(default: 100)")
    add("--processes", type=int, default=1, choices=(1, 2), help="(default: 1)")
    add("--seed", type=int, default=0, metavar="N", help="of the moments (default: 0)")
    add("--json", type=Path, metavar="PATH", help="also write the figures to this file")
    args = parser.parse_args(arguments)
    if args.kills < 1:
        parser.error(f"--kills {args.kills}: expected at least 1")
    jax.config.update("jax_platforms", "cpu")
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="soak-") as work:
            soak = Soak(Path(work), args.kills, args.processes, args.seed)
            whole, start_s = soak.whole()
            killed, happened = soak.killed(start_s)
            figures = happened | compared(whole, killed)
    except (RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    figures |= {
        "steps": soak.steps,
        "processes": args.processes,
        "seed": args.seed,
        "minutes": round((time.monotonic() - began) / 60, 1),
        "date": datetime.date.today().isoformat(),
        "versions": {
            name: importlib.metadata.version(name) for name in ("jax", "orbax-checkpoint")
        },
    }
    _print(figures)
    if args.json:
        write_atomically(args.json, (json.dumps(figures, indent=1) + "\n").encode())
    return 0 if survived(figures) else 1


if __name__ == "__main__":
    sys.exit(main())
