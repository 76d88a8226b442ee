#!/usr/bin/env bash
# Evaluate a well-known model on all six dimensions; what follows the key goes to run_vlm_evaluation.py.
#   bash eval.sh qwen3_2b
#   bash eval.sh qwen2.5_3b --dimension "M&T" Complex
#   bash eval.sh qwen3_2b_1shot --dry_run       prints the command and stops
#   bash eval.sh monitor --once
# The models lie in models/ of the workspace (LEAP_ROOT, or else this repository).
set -euo pipefail
trap 'exit 130' INT
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

usage() {
    cat <<'TEXT'
usage: bash eval.sh KEY [--dry_run] [options of run_vlm_evaluation.py]

  qwen3_2b        Qwen/Qwen3-VL-2B-Instruct, the baseline
  qwen3_2b_0shot  the same: no solved example in a request
  qwen3_2b_1shot  the same with one solved example in each request
  qwen3_2b_batch  the baseline and every checkpoint in output/
  qwen3_4b        Qwen/Qwen3-VL-4B-Instruct
  qwen2.5_3b      Qwen/Qwen2.5-VL-3B-Instruct
  qwen2_2b        Qwen/Qwen2-VL-2B-Instruct
  internvl        OpenGVLab/InternVL3_5-2B-HF
  minicpm         openbmb/MiniCPM-V-4.6
  monitor         how far the evaluations are (options of monitor_evaluation.py)
  deepseek        not supported
TEXT
}

key=${1:-}
[ $# -eq 0 ] || shift
script=scripts/evaluation/run_vlm_evaluation.py
options=()
case "$key" in
    qwen3_2b) model=Qwen/Qwen3-VL-2B-Instruct ;;
    qwen3_2b_0shot) model=Qwen/Qwen3-VL-2B-Instruct options=(--few_shot_num 0) ;;
    qwen3_2b_1shot) model=Qwen/Qwen3-VL-2B-Instruct options=(--few_shot_num 1) ;;
    qwen3_2b_batch) model=Qwen/Qwen3-VL-2B-Instruct options=(--batch_mode) ;;
    qwen3_4b) model=Qwen/Qwen3-VL-4B-Instruct ;;
    qwen2.5_3b) model=Qwen/Qwen2.5-VL-3B-Instruct ;;
    qwen2_2b) model=Qwen/Qwen2-VL-2B-Instruct ;;
    internvl) model=OpenGVLab/InternVL3_5-2B-HF ;;
    minicpm) model=openbmb/MiniCPM-V-4.6 ;;
    monitor) model='' script=scripts/utils/monitor_evaluation.py ;;
    deepseek)
        echo "error: deepseek is not supported; a model that transformers loads can be tried: run_vlm_evaluation.py --checkpoint FOLDER" >&2
        exit 1
        ;;
    -h | --help)
        usage
        exit 0
        ;;
    *)
        [ -z "$key" ] || echo "error: unknown key '$key'" >&2
        usage >&2
        exit 2
        ;;
esac

if [ -n "$model" ]; then
    folder="${LEAP_ROOT:-$repository}/models/${model##*/}"
    if [ ! -d "$folder" ] && [[ " $* " != *" --help "* && " $* " != *" -h "* ]]; then
        echo "error: $folder: there is no such model; hf download $model --local-dir $folder" >&2
        exit 1
    fi
    [ "$key" = qwen3_2b_batch ] || options+=(--checkpoint "models/${model##*/}")
    options+=(--dimension all)
fi
if [[ "${1:-}" = --dry[-_]run ]]; then
    shift
    printf '%q ' python "$repository/$script" "${options[@]}" "$@"
    echo
    exit 0
fi
exec python "$repository/$script" "${options[@]}" "$@"
