"""What only plans or lists brings no torch, torchaudio or transformers."""

import subprocess
import sys

import pytest

from tests import ROOT

HEAVY = ("torch", "torchaudio", "transformers")
PROGRAM = f"""
import sys
import cli
sys.argv[0] = "distill"
try:
    cli.distill_main()
finally:
    print("brought", *[name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
"""


def brought_by(*args) -> set[str]:
    """Heavy modules that a command has imported by its end."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, args)],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return set(done.stderr.strip().splitlines()[-1].split()[1:])


@pytest.mark.parametrize("command", [("run",), ("experiment", "table2")], ids=lambda c: c[0])
def test_a_plan_brings_no_torch(small_store, tmp_path, command):
    where = ("--store", small_store, "--runs", tmp_path / "runs", "--student", "tiny")
    flags = ("--fold", "1..2", "--device", "cpu", "--dry-run")
    assert brought_by(*command, *where, *flags) == set()


def test_the_package_loads_what_a_notebook_needs_when_it_is_first_used():
    code = f"""
import sys
import distill
before = [name for name in {HEAVY} if name in sys.modules]
assert not before, before
assert distill.report.collect and distill.predict and distill.Student.from_pretrained
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
