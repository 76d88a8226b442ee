#!/usr/bin/env bash
# LEAP's whole road on a small scale, in the workspace demo/: make data, fine-tune, evaluate on six dimensions, draw.
# No GPU needed. A second run continues where the first one stopped and repeats nothing that is done.
#   bash quickstart.sh
set -euo pipefail
trap 'exit 130' INT
case "${1:-}" in
    '') ;;
    -h | --help) sed -n '2,4s/^# \?//p' "${BASH_SOURCE[0]}" && exit 0 ;;
    *) echo "error: quickstart.sh takes no arguments, found '$1'" >&2 && exit 2 ;;
esac
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$repository"
source scripts/utils/environment.sh

stages=()
stage() { # title, command...
    local title=$1 started=$SECONDS
    shift
    printf '\n== %s\n' "$title"
    "$@"
    stages+=("$(printf '%5d s  %s' $((SECONDS - started)) "$title")")
}

stage "set up" leap_set_up "$repository"
export LEAP_ROOT="$repository/demo" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
stage "make the demo workspace" python scripts/utils/make_demo_workspace.py
stage "fine-tune" bash scripts/training/run-training.sh --recipe demo
checkpoint=$(ls -d demo/output/checkpoint-* | sort -V | tail -1)
evaluate() {
    python scripts/evaluation/run_vlm_evaluation.py --baseline_model models/leap-demo \
        --scorer leap --prompt leap --max_new_tokens 256 --batch_size 36 "$@"
}
stage "evaluate the baseline" evaluate --dimension baseline
stage "evaluate the checkpoint" evaluate --checkpoint "output/${checkpoint##*/}" --dimension all
stage "image control: the same checkpoint with other scenes' images" \
    evaluate --checkpoint "output/${checkpoint##*/}" --dimension all --image_control swapped
stage "draw" python scripts/evaluation/draw_evaluation_results.py
stage "blind review: plans of both models" python scripts/evaluation/run_vlm_output.py \
    --baseline_model models/leap-demo --max_checkpoints 1 --max_new_tokens 64 --temperature 0
review() {
    python scripts/evaluation/analyze_output_results.py --judge rubric
    python scripts/evaluation/draw_blind10_scores.py
}
stage "blind review: the deterministic rubric" review

printf '\n== done in %d s\n' "$SECONDS"
printf '%s\n' "${stages[@]}"
printf '\nLook at demo/eva_results/figures/total_scores.png,\n'
printf 'demo/eva_results/blind_10/figures/blind10_final_scores.png and demo/data/images/.\n'
