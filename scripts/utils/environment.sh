# Sourced by quickstart.sh, run-tests.sh and reproduce.sh: the active Python environment, or .venv made here, with LEAP installed.
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
        "$python" -c 'import ensurepip' 2>/dev/null ||
            leap_install "python's venv module is missing" "python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
        echo "making .venv with $("$python" --version)"
        "$python" -m venv "$repository/.venv" || {
            rm -rf "$repository/.venv"
            leap_fail "python could not make .venv, see above"
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

leap_find_python() { # prints its path, and nothing else
    local candidate
    command -v python3 >/dev/null || command -v python >/dev/null || leap_install "Python is missing" python3 python3-venv >&2
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
    if [ "$(uname -s)" = Linux ] && [ "${MUJOCO_GL:-egl}" = egl ]; then
        export MUJOCO_GL=egl
        "$1" -c 'import ctypes; ctypes.CDLL("libEGL.so.1")' 2>/dev/null ||
            leap_install "MuJoCo renders through libEGL, which is missing (Fedora: dnf install mesa-libEGL mesa-dri-drivers)" \
                libegl1 libgl1-mesa-dri
    fi
}

# Debian's packages for what is missing: root gets them, anybody else the command.
leap_install() { # what is missing, packages...
    local missing=$1
    shift
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        leap_fail "$missing: sudo apt-get install $*"
    fi
    echo "$missing: installing $*"
    # A fresh system's lists are empty or old; those of one that is kept up to date need no second download.
    apt-get install -y -qq "$@" >/dev/null 2>&1 || { apt-get update -qq && apt-get install -y -qq "$@" >/dev/null; } ||
        leap_fail "apt-get could not install $*, see above"
}
