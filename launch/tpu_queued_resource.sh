#!/bin/bash
# Trains on a slice of Cloud TPUs: asks for a queued resource, trains on all of its hosts, and asks
# again when it is taken away.
#
#   export ZONE=us-east5-b TYPE=v6e-16 RUNTIME=v2-alpha-tpuv6e IMAGE=.../eo_jax:tpu NFS=10.0.0.2:/share
#   launch/tpu_queued_resource.sh NAME --config=configs/FILE.py --workdir=/data/runs/NAME
#
# NAME is that of the queued resource and of its TPU; what follows goes to `python -m eo_jax.train`.
# Every host mounts NFS, a file system that all of them share, as /data, and runs IMAGE
# (launch/Dockerfile, target tpu). CAPACITY is spot (the default), reserved or guaranteed. The same
# command takes up a slice that is there already. The slice is deleted when training ends, with or
# without an error; interrupting this script deletes nothing:
#
#   gcloud compute tpus queued-resources delete NAME --zone=ZONE --force
set -euo pipefail
: "${ZONE:?zone of the slice}" "${TYPE:?accelerator type, as v6e-16}" "${RUNTIME:?runtime version}"
: "${IMAGE:?container image}" "${NFS:?HOST:/SHARE of a file system for all hosts}"
: "${CAPACITY:=spot}" "${POLL_S:=30}"
name=$1
shift

resource() { # VERB OPTION...: on the queued resource
    local verb=$1
    shift
    gcloud compute tpus queued-resources "$verb" "$name" --zone="$ZONE" --quiet "$@"
}

state() { # of the queued resource; nothing where there is none
    resource describe --format='value(state.state)' 2>/dev/null || true
}

create() {
    resource create --node-id="$name" --accelerator-type="$TYPE" --runtime-version="$RUNTIME" \
        "--$CAPACITY"
}

until_active() {
    local now
    while now=$(state) && [ "$now" != ACTIVE ]; do
        echo "$name: ${now:-does not exist}"
        case "$now" in
            '') create ;;
            SUSPENDED) resource delete --force ;; # taken away: it never comes back by itself
            FAILED)
                echo "$name cannot be had; 'describe' says why" >&2
                exit 1
                ;;
            *) sleep "$POLL_S" ;;
        esac
    done
}

train() { # ARGUMENT...: on all hosts; the first exit code that is not 0, or 255 without connection
    local remote
    remote="set -e; mountpoint -q /data || { sudo apt-get install -y -q nfs-common; \
sudo mkdir -p /data; sudo mount $(printf %q "$NFS") /data; }; \
sudo gcloud auth configure-docker --quiet $(printf %q "${IMAGE%%/*}"); \
sudo docker rm --force train 2>/dev/null || true; \
sudo docker run --rm --name=train --privileged --network=host --ulimit=memlock=-1 \
--stop-timeout=300 --volume=/data:/data \
--env=EO_JAX_XLA_FLAGS=$(printf %q "${EO_JAX_XLA_FLAGS:-on}") \
--env=LIBTPU_INIT_ARGS=$(printf %q "${LIBTPU_INIT_ARGS:-}") \
$(printf '%q ' "$IMAGE" --distributed=auto "$@")"
    gcloud compute tpus tpu-vm ssh "$name" --zone="$ZONE" --quiet --worker=all --command="$remote"
}

lost=0
while true; do
    until_active
    code=0
    train "$@" || code=$?
    echo "$name: exit code $code"
    if [ "$code" -ne 0 ]; then
        sleep "$POLL_S" # a slice that is taken away may say ACTIVE for some seconds
        if [ "$(state)" != ACTIVE ]; then continue; fi
    fi
    case "$code" in
        143) lost=0 ;; # stopped with its state saved
        255)
            lost=$((lost + 1))
            if ((lost == 5)); then
                echo "$name is active but does not answer; it still exists and costs" >&2
                exit 1
            fi
            ;;
        *)
            resource delete --force
            exit "$code"
            ;;
    esac
done
