#!/bin/bash
# Starts N processes of one run on this machine, to try out on a laptop what clusters do.
#
#   launch/local_many.sh 2 .venv/bin/python -m eo_jax.train \
#       --config=configs/mae_demo.py:smoke --workdir=runs/two
#
# Processes find each other by the environment; --distributed would hide it, and is left out.
# PLATFORM is cpu (the default), or gpu for one GPU per process. SIGTERM and Ctrl-C reach all
# processes as SIGTERM. When one process ends with an error, the others are stopped. The exit code
# is the worst one: an error, then 75 (another process failed), 143 (stopped, state saved), 0.
set -euo pipefail
: "${PLATFORM:=cpu}" "${PYTHON:=python}"
if [[ $# -lt 2 || ! $1 =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: launch/local_many.sh N COMMAND..." >&2
    exit 2
fi
count=$1
shift

free_port='import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
port=$("$PYTHON" -c "$free_port")
export EO_JAX_COORDINATOR="127.0.0.1:$port" EO_JAX_NUM_PROCESSES="$count" PYTHON

running=()
stop_all() {
    ((${#running[@]} == 0)) || kill -TERM "${running[@]}" 2>/dev/null || true
}
trap stop_all TERM INT

for ((i = 0; i < count; i++)); do
    if [ "$PLATFORM" = gpu ]; then export CUDA_VISIBLE_DEVICES="$i"; fi
    EO_JAX_PROCESS_ID="$i" "${BASH_SOURCE[0]%/*}/with_flags.sh" "$PLATFORM" "$@" &
    running+=("$!")
done

# How bad an exit code is.
rank() {
    case "$1" in
        0) echo 0 ;;
        143) echo 1 ;;
        75) echo 2 ;;
        *) echo 3 ;;
    esac
}

worst=0
while ((${#running[@]})); do
    wait -n "${running[@]}" || true # returns when a process ends, and when a signal comes
    left=()
    for pid in "${running[@]}"; do
        if kill -0 "$pid" 2>/dev/null; then
            left+=("$pid")
            continue
        fi
        code=0
        wait "$pid" || code=$?
        if (($(rank "$code") <= $(rank "$worst"))); then continue; fi
        worst=$code
        if [ "$(rank "$code")" -eq 3 ]; then stop_all; fi
    done
    running=("${left[@]}")
done
exit "$worst"
