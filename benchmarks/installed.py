"""Imported first by every benchmark: without LEAP installed one line says so, and Ctrl-C ends it in one line too."""

import sys
from importlib.util import find_spec

if find_spec("leap") is None:
    sys.exit("error: benchmarks need LEAP installed: pip install -c constraints.txt -e . (in LEAP's folder)")

import leap.interrupt  # noqa: F401
