#!/usr/bin/env bash
# Evaluate the base model and the published checkpoint-5000 as published (10 examples a task) and whole (4,500), print
# both beside the published table, and leave one small file to send. Resumable: the same command goes on.
#   bash reproduce.sh --check                   # after the set-up, only says what it downloads, the disk and the hours
#   bash reproduce.sh
#   bash reproduce.sh --engine vllm --vllm_python ~/vllm/bin/python     # flags go to run_vlm_evaluation.py
set -euo pipefail
trap 'exit 130' INT
case "${1:-}" in -h | --help) sed -n '2,6s/^# \?//p' "${BASH_SOURCE[0]}" && exit 0 ;; esac
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$repository"
source scripts/utils/environment.sh

export MUJOCO_GL="${MUJOCO_GL:-disabled}" # nothing is rendered here
leap_set_up "$repository"
python scripts/evaluation/reproduce.py --check
if [ "${1:-}" = --check ]; then exit; fi
if [[ "$*" != *--prompt* && ! -e VLABench/VLABench ]]; then
    git submodule update --init VLABench || echo "without VLABench's prompt: LEAP's own is no match of the published table" >&2
fi
bash scripts/download/download_model.sh
python scripts/download/download_vlabench_with_retry.py
python scripts/download/download_leap_data.py --checkpoints 5000
# One image size for both, which leaves the benchmark's images as they are.
evaluate() {
    python scripts/evaluation/run_vlm_evaluation.py --output_dir eva_results/reproduction \
        --image_tokens_min 256 --image_tokens_max 1024 "$@"
}
for examples in 10 all; do # a task; all goes on where 10 ended
    evaluate --dimension baseline --num_episodes "$examples" "$@"
    evaluate --checkpoint output/checkpoint-5000 --num_episodes "$examples" "$@"
    python scripts/evaluation/reproduce.py
done
