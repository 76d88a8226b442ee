# Sourced by quickstart.sh and run-tests.sh: the active Python environment, or .venv made here, with LEAP installed.
# A second call finds that nothing changed and returns at once. Sets nothing but PATH and MUJOCO_GL.

leap_fail() { echo "error: $1" >&2; exit 1; }

leap_set_up() {
    local repository=$1 python stamp wanted make_venv=
    if [ -n "${VIRTUAL_ENV:-}" ] || { [ -n "${CONDA_PREFIX:-}" ] && [ "${CONDA_DEFAULT_ENV:-base}" != base ]; }; then
        python=$(command -v python) || leap_fail "the active environment has no python"
    elif [ -x "$repository/.venv/bin/python" ]; then
        python="$repository/.venv/bin/python"
    else
        python=$(leap_find_python)
        make_venv=1
    fi
    leap_check_system "$python"
    if [ -n "$make_venv" ]; then
        echo "making .venv with $("$python" --version)"
        "$python" -m venv "$repository/.venv" || {
            rm -rf "$repository/.venv"
            leap_fail "python's venv module is missing: apt-get install python3-venv"
        }
        python="$repository/.venv/bin/python"
    fi
    export PATH="$(dirname "$python"):$PATH"
    stamp="$("$python" -c 'import sys; print(sys.prefix)')/.leap-installed"
    wanted=$(cat "$repository/pyproject.toml" "$repository/constraints.txt" <(echo "$repository") | sha256sum)
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        echo "installing LEAP and its libraries (once; PyTorch makes it several GB)"
        "$python" -m pip install --quiet --disable-pip-version-check \
            -c "$repository/constraints.txt" -e "$repository[demo,dev]" || leap_fail "pip could not install LEAP, see above"
        echo "$wanted" > "$stamp"
    fi
}

leap_find_python() {
    local candidate
    for candidate in python3.11 python3 python3.12 python3.13 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    leap_fail "LEAP needs Python 3.11 or newer: apt-get install python3.11 python3.11-venv, or conda env create -f qwen-ft-env.yml"
}

# What pip cannot bring: checked before anything long begins.
leap_check_system() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || leap_fail "$1 is older than Python 3.11"
    if [ "$(uname -s)" = Linux ] && [ -z "${MUJOCO_GL:-}" ]; then
        export MUJOCO_GL=egl
        "$1" -c 'import ctypes; ctypes.CDLL("libEGL.so.1")' 2>/dev/null ||
            leap_fail "MuJoCo renders through libEGL, which is missing: apt-get install libegl1 libgl1-mesa-dri (Fedora: mesa-libEGL mesa-dri-drivers)"
    fi
}
