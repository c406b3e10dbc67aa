"""Lists the commands.

python -m eo_jax
"""

from __future__ import annotations

COMMANDS = {
    "eo_jax.train": "pretrain, or resume",
    "eo_jax.plan": "say whether a config fits a pod, and how fast it would be",
    "eo_jax.doctor": "measure what training waits for",
    "eo_jax.report": "write the HTML page of a run",
    "eo_jax.replay": "repeat one step, and show its batch and gradient",
    "eo_jax.export": "write an encoder for PyTorch",
    "eo_jax.embed": "write the features of GeoTIFFs: tables and maps",
    "eo_jax.import_torch": "start a run from a published PyTorch encoder",
    "eo_jax.checkpoint": "list, verify, compare, average and slice checkpoints",
    "data_prep": "turn archives into stores; inspect, verify, subset and merge them",
}


def main() -> None:
    """Prints each command with its task."""
    print("commands (each has --help):")
    for command, task in COMMANDS.items():
        print(f"  python -m {command:<20} {task}")


if __name__ == "__main__":
    main()
