"""What our code never does, read from its syntax trees: run what a file from somebody else says."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ROOT

SOURCES = sorted(
    path
    for top in ("cli.py", "featstore", "distill", "benchmarks")
    for path in ([ROOT / top] if top.endswith(".py") else (ROOT / top).rglob("*.py"))
)

MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "dbm", "yaml"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
CALLS = {
    "os.system", "os.popen", "yaml.load", "torch.hub.load", "pd.read_pickle", "pandas.read_pickle",
}  # fmt: skip
KEYWORDS = {
    "weights_only": False, "allow_pickle": True, "trust_remote_code": True, "shell": True,
}  # fmt: skip


def offences(code: str) -> Iterator[str]:
    """Everything in ``code`` that could run a stranger's code, as ``line: what``."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".")[0] for alias in node.names]
            yield from (f"{node.lineno}: import {name}" for name in names if name in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            yield f"{node.lineno}: from {node.module} import"
        elif isinstance(node, ast.Call):
            yield from (f"{node.lineno}: {what}" for what in _calls(node))


def _calls(node: ast.Call) -> Iterator[str]:
    name = ast.unparse(node.func)
    if name in BUILTINS or name in CALLS:
        yield f"{name}()"
    keywords = {word.arg: word.value for word in node.keywords}
    for word, bad in KEYWORDS.items():
        value = keywords.get(word)
        if value is None or (isinstance(value, ast.Constant) and value.value is not bad):
            continue
        yield f"{name}({word}={ast.unparse(value)})"
    if name == "torch.load" and "weights_only" not in keywords:
        yield "torch.load() without weights_only"


def test_every_source_is_looked_at() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in SOURCES}
    assert {"cli.py", "featstore/store/store.py", "distill/training/checkpoint.py"} <= names
    assert len(names) > 80


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_runs_a_stranger_s_code(path: Path) -> None:
    assert list(offences(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle", "import os, marshal", "from shelve import open", "import yaml.loader",
        "from joblib.memory import Memory", "eval('1')", "exec(text)", "compile(a, b, 'exec')",
        "torch.load(f)", "torch.load(f, weights_only=False)", "torch.load(f, weights_only=trust)",
        "np.load(f, allow_pickle=True)", "zarr.open(f, allow_pickle=yes)", "yaml.load(f)",
        "AutoModel.from_pretrained(x, trust_remote_code=True)", "subprocess.run(x, shell=True)",
        "os.system('ls')", "pd.read_pickle(f)", "__import__(name)",
        "def f():\n    import dill\n",
    ],
)  # fmt: skip
def test_it_catches(code: str) -> None:
    assert len(list(offences(code))) == 1


@pytest.mark.parametrize(
    "code",
    [
        "torch.load(f, weights_only=True, map_location='cpu')", "model.eval()", "re.compile(x)",
        "AutoModel.from_pretrained(x, trust_remote_code=False)", "subprocess.run([x])",
        "import json", "store.load(f)",
    ],
)  # fmt: skip
def test_it_lets_pass(code: str) -> None:
    assert list(offences(code)) == []
