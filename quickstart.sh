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

# Where a GPU computes, the cores have little to do: what need not wait for each other runs side by side.
gpu=
titles=() pids=() beside_started=
trap 'for pid in "${pids[@]}"; do kill -- "-$pid" 2>/dev/null || true; done' EXIT
beside() { # title, command...: a stage, which with a GPU runs until `together`
    if [ -z "$gpu" ]; then
        stage "$@"
        return
    fi
    titles+=("$1")
    beside_started=${beside_started:-$SECONDS}
    shift
    set -m # a process group of its own, which Ctrl-C does not reach and the trap ends whole
    "$@" > "$LEAP_ROOT/logs/stage-${#titles[@]}.log" 2>&1 &
    set +m
    pids+=($!)
}
together() { # waits for them, shows what each printed, and ends where one failed
    local index failed=0
    for index in "${!pids[@]}"; do
        printf '\n== %s\n' "${titles[index]}"
        wait "${pids[index]}" || failed=$?
        cat "$LEAP_ROOT/logs/stage-$((index + 1)).log"
        [ "$failed" = 0 ] || exit "$failed"
        stages+=("$(printf '%5d s  %s, beside others' $((SECONDS - beside_started)) "${titles[index]}")")
    done
    titles=() pids=() beside_started=
}

stage "set up" leap_set_up "$repository"
finds_gpu() { # and has a cold disk read what the later stages load, which takes it many seconds
    nvidia-smi -L && python -c 'import leap.report.figures, leap.training.loop, torch
torch.ones(8, 8, device="cuda").mm(torch.ones(8, 8, device="cuda")).tolist()'
}
finds_gpu >/dev/null 2>&1 & # the next stage needs neither
finding=$!
export LEAP_ROOT="$repository/demo" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
stage "make the demo workspace" python scripts/utils/make_demo_workspace.py
if wait "$finding"; then
    gpu=${CUDA_VISIBLE_DEVICES:-0}
    export CUDA_VISIBLE_DEVICES=${gpu%%,*} # training refuses to guess what one process is to do with several
fi
mkdir -p "$LEAP_ROOT/logs"
evaluate() {
    python scripts/evaluation/run_vlm_evaluation.py --baseline_model models/leap-tabletop \
        --scorer leap --prompt leap --max_new_tokens 200 --batch_size "$([ -n "$gpu" ] && echo 108 || echo 36)" "$@"
}
beside "evaluate the base" evaluate --dimension baseline
stage "fine-tune" bash scripts/training/run-training.sh --recipe demo
together
checkpoint=$(ls -d demo/output/checkpoint-* | sort -V | tail -1)
beside "evaluate the checkpoint" evaluate --checkpoint "output/${checkpoint##*/}" --dimension all
beside "image control: the same checkpoint with other scenes' images" \
    evaluate --checkpoint "output/${checkpoint##*/}" --dimension all --image_control swapped
beside "image control: the same checkpoint with blank images" \
    evaluate --checkpoint "output/${checkpoint##*/}" --dimension all --image_control blank
review() {
    python scripts/evaluation/run_vlm_output.py \
        --baseline_model models/leap-tabletop --max_checkpoints 1 --max_new_tokens 64 --temperature 0
    python scripts/evaluation/analyze_output_results.py --judge rubric
    python scripts/evaluation/draw_blind10_scores.py
}
beside "blind review: plans of both models, judged by the deterministic rubric" review
together
beside "draw" python scripts/evaluation/draw_evaluation_results.py
beside "report" python scripts/evaluation/build_report.py
together

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
