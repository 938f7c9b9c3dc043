"""The examples' own functions as trainables, and variants of them that misbehave."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

import swathe

# A trial seeds PyTorch if it is imported by then.
assert torch.__version__

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@cache
def example(folder: str, module: str = "train") -> ModuleType:
    """Import a module of an example, whose name others have, too."""
    spec = importlib.util.spec_from_file_location(f"example_{folder}", EXAMPLES / folder / f"{module}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


def lightning(params: Any) -> Any:
    return example("lightning").train(params)


def hugging_face(params: Any) -> Any:
    return example("hugging_face").train(params)


def dies_once(params: Any) -> Any:
    """Train with the library `params.library`, and kill the process after the third report, once."""
    report = swathe.report

    def counting(values: Any, step: int) -> bool:
        if step == 4 and not (marker := Path(f"{params.marker}.{params.library}")).exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return report(values, step=step)

    swathe.report = counting
    try:
        return {"lightning": lightning, "hugging_face": hugging_face}[params.library](params)
    finally:
        swathe.report = report
