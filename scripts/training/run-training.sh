#!/usr/bin/env bash
# Full fine-tuning with the recipe configs/recipes/full.yaml; every flag of run-finetuning.py may follow.
#   bash scripts/training/run-training.sh
#   bash scripts/training/run-training.sh --dry_run
# NUM_GPUS=4 trains on four GPUs of this machine; several nodes: docs/training.md.
set -euo pipefail
trap 'exit 130' INT
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
script="$repository/scripts/training/run-finetuning.py"
exec python -P -m leap.launch "$script" "$@"
