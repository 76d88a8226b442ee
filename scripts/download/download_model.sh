#!/usr/bin/env bash
# Download a model into models/<its name>; without a name, the base model. Every flag of download_model.py may follow.
#   bash scripts/download/download_model.sh
#   bash scripts/download/download_model.sh Qwen/Qwen2.5-VL-3B-Instruct --revision main
set -euo pipefail
trap 'exit 130' INT
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
exec python "$repository/scripts/download/download_model.py" "$@"
