"""distill: train speech-only students from a store of cached teacher outputs.

For notebooks, loaded when they are first used, so that importing this package loads no torch:

* :class:`~distill.model.student.Student`: ``Student.from_pretrained("runs/.../student")``;
* :func:`predict`, which is :func:`distill.model.predict.predict_files`: audio files to a table of
  class probabilities;
* :mod:`distill.report`: ``report.summarise(report.collect([runs]))``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distill import report
    from distill.model.predict import predict_files as predict
    from distill.model.student import Student

__all__ = ["Student", "predict", "report"]


def __getattr__(name: str) -> Any:
    if name == "Student":
        return import_module("distill.model.student").Student
    if name == "predict":
        return import_module("distill.model.predict").predict_files
    if name == "report":
        return import_module("distill.report")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
