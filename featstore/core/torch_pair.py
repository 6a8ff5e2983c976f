"""torchaudio, or why it cannot be loaded: its C++ parts fit certain releases of torch only.

The one module that imports torchaudio, and only when a command needs it. torchaudio does not say
which torch it fits, and a misfit shows as an undefined symbol of a library.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from featstore.core.schema import UserError

PAIR = ("torch>=2.13,<2.16", "torchaudio>=2.11.1,<2.12")
"""The project's own ranges: any two releases within them fit."""

_INSTALL = "python -m pip install"
_BOTH = " ".join(f'"{one}"' for one in PAIR)
_FITTING = f"what fits is {' with '.join(PAIR)}"


@cache
def load_torchaudio() -> Any:
    """Import torchaudio.

    Returns:
        The module, with its ``functional``, ``models``, ``pipelines`` and ``transforms``.

    Raises:
        UserError: it does not fit the installed torch, or cannot be loaded for another reason.
    """
    torch, torchaudio = _version("torch"), _version("torchaudio")
    if torch and torchaudio and not fits(torch, torchaudio):
        hint = f"{_INSTALL} {_BOTH}"
        if _numbers(torch)[:2] == (2, 11):
            hint += f'; or, to keep torch {torch}: {_INSTALL} "torchaudio==2.11.0"'
        raise UserError(f"torchaudio {torchaudio} does not fit torch {torch}; {_FITTING}", hint)
    try:
        import torchaudio as module
    except Exception as error:  # an OSError of the linker's, as a rule; older ones a RuntimeError
        raise _unloadable(torch, torchaudio, error) from error
    return module


def fits(torch: str, torchaudio: str) -> bool:
    """Whether two releases work together, by all that was tried.

    >>> fits("2.11.0", "2.11.0"), fits("2.11.0", "2.11.1"), fits("2.13.0+cpu", "2.11.1+cpu")
    (True, False, True)
    """
    of_torch, of_torchaudio = _numbers(torch), _numbers(torchaudio)
    if of_torchaudio < (2, 11, 1):
        return of_torch[:2] == of_torchaudio[:2]
    return of_torch >= (2, 13)


def _unloadable(torch: str, torchaudio: str, error: Exception) -> UserError:
    if not (torch and torchaudio):
        missing = [name for name, one in (("torch", torch), ("torchaudio", torchaudio)) if not one]
        return UserError(f"{' and '.join(missing)}: not installed", f"{_INSTALL} {_BOTH}")
    number, _, build = torchaudio.partition("+")
    if build != torch.partition("+")[2]:
        return UserError(
            f"torchaudio {torchaudio} cannot be loaded beside torch {torch}: they are builds for "
            f"different hardware; what fits is torchaudio {number} of the build of this torch",
            f'{_INSTALL} --force-reinstall --no-deps "torchaudio=={number}" --index-url URL, '
            "where URL is the index that torch was installed from",
        )
    first_line = (str(error).splitlines() or [type(error).__name__])[0]
    return UserError(
        f"torchaudio {torchaudio} cannot be loaded beside torch {torch}: {first_line}; {_FITTING}",
        f"{_INSTALL} --force-reinstall {_BOTH}",
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(one) for one in re.findall(r"\d+", release.partition("+")[0])[:3])
