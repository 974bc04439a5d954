#!/bin/bash
# A run on a slice of Cloud TPUs, asked for as a queued resource; the same command runs on every worker.
#
#     NAME=reid ZONE=us-central2-b PROJECT=my-project bash docs/clusters/tpu.sh request    # wait for the slice
#     ... bash docs/clusters/tpu.sh install                                                # once it is ACTIVE
#     ... bash docs/clusters/tpu.sh train configs/mfv.py:market1501 /shared/runs/mfv
#     ... bash docs/clusters/tpu.sh delete
#
# The run folder is on a file system that all workers mount. After a preemption of a spot slice: delete, request,
# install, and train again; the run continues.
set -euo pipefail
: "${NAME:?expected a name for the slice in NAME}"
: "${ZONE:?expected a zone in ZONE}"
: "${PROJECT:?expected a project in PROJECT}"
TYPE=${TYPE:-v5litepod-16}
RUNTIME=${RUNTIME:-v2-alpha-tpuv5-lite}
SOURCE=${SOURCE:-https://example.org/reid_jax.git} # where the workers clone this repository from

place=(--zone "$ZONE" --project "$PROJECT")
on_every_worker() {
    gcloud compute tpus tpu-vm ssh "$NAME" "${place[@]}" --worker=all --command="$1"
}

case "${1:?expected request, install, train or delete}" in
request)
    gcloud compute tpus queued-resources create "$NAME" --node-id "$NAME" "${place[@]}" \
        --accelerator-type "$TYPE" --runtime-version "$RUNTIME" --spot
    gcloud compute tpus queued-resources describe "$NAME" "${place[@]}" --format="value(state.state)"
    ;;
install)
    on_every_worker "git clone --depth 1 $(printf %q "$SOURCE") reid_jax && cd reid_jax &&
        python3 -m venv .venv && .venv/bin/pip install --quiet --constraint constraints.txt --editable '.[tpu]'"
    ;;
train)
    config=${2:?expected a config, such as configs/mfv.py:market1501}
    workdir=${3:?expected a run folder that all workers share}
    shift 3
    on_every_worker "cd reid_jax && .venv/bin/python scripts/main.py \
        --config $(printf %q "$config") --workdir $(printf %q "$workdir") $(printf '%q ' "$@")"
    ;;
delete)
    gcloud compute tpus queued-resources delete "$NAME" "${place[@]}" --force --quiet
    ;;
*)
    echo "expected request, install, train or delete, got $1" >&2
    exit 2
    ;;
esac
