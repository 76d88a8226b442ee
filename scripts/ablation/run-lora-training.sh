#!/usr/bin/env bash
# LoRA fine-tuning with a preset (--preset or LORA_PRESET: light, standard, full, aggressive), into output/lora_<preset>.
# Every flag of run-lora-finetuning.py may follow.
#   bash scripts/ablation/run-lora-training.sh
#   bash scripts/ablation/run-lora-training.sh --preset full --lr 1.0e-4 --epochs 2 --batch_size 2
#   LORA_PRESET=light bash scripts/ablation/run-lora-training.sh --max_steps 100 --warmup_steps 10 --output_dir output/try
# NUM_GPUS=4 trains on four GPUs of this machine.
set -euo pipefail
trap 'exit 130' INT
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
script="$repository/scripts/ablation/run-lora-finetuning.py"
exec python -P -m leap.launch "$script" "$@"
