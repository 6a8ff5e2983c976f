"""The tests of both packages; they mirror the tree."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The checkout."""

STANDIN = ROOT.parent / "shared" / "corpora"
"""Corpora of real speech, where they lie beside the checkout."""
