#!/usr/bin/env bash
# LEAP's whole road on a small scale, in the workspace demo/: a base that sees is fine-tuned into one that plans from what
# it sees, and two controls show that it looks. Evaluated on six dimensions, with figures and a page of every example.
# No GPU needed. A second run continues where the first one stopped and repeats nothing that is done.
#   bash quickstart.sh
set -euo pipefail
trap 'exit 130' INT
case "${1:-}" in
    '') ;;
    -h | --help) sed -n '2,5s/^# \?//p' "${BASH_SOURCE[0]}" && exit 0 ;;
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
    python scripts/evaluation/run_vlm_evaluation.py --baseline_model models/leap-tabletop \
        --scorer leap --prompt leap --max_new_tokens 200 --batch_size 36 "$@"
}
stage "evaluate the base" evaluate --dimension baseline
stage "evaluate the checkpoint" evaluate --checkpoint "output/${checkpoint##*/}" --dimension all
stage "image control: the same checkpoint with other scenes' images" \
    evaluate --checkpoint "output/${checkpoint##*/}" --dimension all --image_control swapped
stage "image control: the same checkpoint with blank images" \
    evaluate --checkpoint "output/${checkpoint##*/}" --dimension all --image_control blank
stage "draw" python scripts/evaluation/draw_evaluation_results.py
stage "blind review: plans of both models" python scripts/evaluation/run_vlm_output.py \
    --baseline_model models/leap-tabletop --max_checkpoints 1 --max_new_tokens 64 --temperature 0
review() {
    python scripts/evaluation/analyze_output_results.py --judge rubric
    python scripts/evaluation/draw_blind10_scores.py
}
stage "blind review: the deterministic rubric" review
stage "report" python scripts/evaluation/build_report.py

printf '\n== done in %d s\n' "$SECONDS"
printf '%s\n' "${stages[@]}"
printf '\nSteps of a plan that name the right object (grounded, at most 100):\n\n'
grep '^|' demo/eva_results/figures/grounded.md
cat <<'END'

The base sees but writes no plan, so it has none. The checkpoint plans from what it sees: shown other scenes' images, or
blank ones, it falls to the floor, which a planner that never looks has, or below. What each number means: docs/scores.md.

Look at   demo/eva_results/report/index.html        every example, with its images, plan and diagnosis
          demo/eva_results/figures/                 figures and tables
          demo/eva_results/blind_10/figures/        the blind review
Then      LEAP_ROOT=demo python scripts/evaluation/plan_one.py --help      plan for an image of your own
          bash scripts/ablation/run-ablation-experiments.sh --demo         is LoRA enough for this?
          README.md                                                        the same with the real model and data
END
[ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] || printf 'First     source .venv/bin/activate\n'
