#!/usr/bin/env bash
# The LoRA ablation: trains, evaluates and reports; every option of run-ablation-experiments.py (--help lists them).
#   bash scripts/ablation/run-ablation-experiments.sh batch --include_full_finetuning --seeds 3
#   MAX_STEPS=1000 LORA_PRESETS="light standard" bash scripts/ablation/run-ablation-experiments.sh
#   LORA_STEPS="1000 7000" bash scripts/ablation/run-ablation-experiments.sh       evaluates these checkpoints
#   bash scripts/ablation/run-ablation-experiments.sh --demo
set -euo pipefail
trap 'exit 130' INT
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
exec python "$repository/scripts/ablation/run-ablation-experiments.py" "$@"
