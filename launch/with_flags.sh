#!/bin/bash
# Runs a command as one process of a run, in the environment of a platform: XLA flags, compile
# cache, and JAX bound to that platform.
#
#   launch/with_flags.sh gpu .venv/bin/python -m eo_jax.train --config=... --workdir=...
#
# The first argument is cpu, gpu or tpu. PYTHON is the interpreter whose jaxlib counts. What the
# environment sets already wins.
set -euo pipefail
: "${PYTHON:=python}"
platform=$1
shift

flags=$("$PYTHON" "${BASH_SOURCE[0]%/*}/xla_flags.py" "$platform")
eval "$flags"

# JAX trains on the CPU, with a warning, if it finds no driver: hours are lost before one notices.
case "$platform" in
    gpu) platforms=cuda,cpu ;;
    tpu) platforms=tpu,cpu ;;
    *) platforms=cpu ;;
esac
export JAX_PLATFORMS="${JAX_PLATFORMS:-$platforms}"

# On a disk that all processes share: process 0 writes what every restart reads.
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$PWD/.cache/jax}"

# exec: a signal to this process is one to the command, and its exit code that of the command.
exec "$@"
