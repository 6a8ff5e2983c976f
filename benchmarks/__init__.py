"""Figures side by side: one question a file, variants interleaved in one run.

``python -m benchmarks [names]`` writes ``RESULTS.md``; ``--quick`` runs all of it small and writes
nothing.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy or torch read it; children inherit it
os.environ.setdefault("HF_HUB_OFFLINE", "1")
