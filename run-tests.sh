#!/usr/bin/env bash
# LEAP's tests.
#   bash run-tests.sh                 the quick ones: six to seven minutes on two cores
#   bash run-tests.sh --all           the slow ones too (kills, servers, processes), lint, types and the docs site;
#                                     those of vLLM and lmms-eval where LEAP_VLLM_PYTHON and LMMS_EVAL_PYTHON name a Python
#   bash run-tests.sh tests/vlabench/test_scoring.py -k golden       anything else goes to pytest
set -euo pipefail
trap 'exit 130' INT
case "${1:-}" in -h | --help) sed -n '2,6s/^# \?//p' "${BASH_SOURCE[0]}" && exit 0 ;; esac
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$repository"
source scripts/utils/environment.sh
leap_set_up "$repository"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
unset LEAP_ROOT
# One thread each: threads of two processes that wait for each other by spinning make small tensors ten times as slow.
# Three on two cores: a tenth of their time the quick ones wait, a third the slow ones, for what they start.
# tests/conftest.py puts the files in order.
side_by_side() { OMP_NUM_THREADS=1 python -m pytest -n 3 --dist loadfile --no-loadscope-reorder "$@"; }
if [ "${1:-}" = --all ]; then
    shift
    python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[jobs,docs]" # Ray and mkdocs
    ruff check .
    ruff format --check .
    mypy
    mkdocs build --quiet --strict
    side_by_side "$@"
    exit
fi
if [ $# -eq 0 ]; then side_by_side -m "not slow"; else python -m pytest -m "not slow" "$@"; fi
