#!/usr/bin/env bash
# Models and dimensions of VLABench in parallel ("bing xing"), one job a GPU; every option of run_parallel_evaluation.py.
#   bash run_vlabench_evaluation_bingXing.sh --batch_mode --max_checkpoints 8
#   bash run_vlabench_evaluation_bingXing.sh --checkpoint output/checkpoint-200 --dimension "M&T" Complex --gpus 0,1
# Without an option: the baseline and every checkpoint in output/.
set -euo pipefail
trap 'exit 130' INT
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[ $# -gt 0 ] || set -- --batch_mode
exec python "$repository/scripts/evaluation/run_parallel_evaluation.py" "$@"
