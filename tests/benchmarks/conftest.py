"""The scripts of benchmarks/ import each other by their plain names, as they do when they are run."""

import sys
from pathlib import Path

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")
if BENCHMARKS not in sys.path:
    sys.path.append(BENCHMARKS)  # at the end: it must not hide other modules
