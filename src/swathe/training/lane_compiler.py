"""Compiled programs of lane blocks: made ahead of time by TorchInductor, in a process of their own, and kept on disk.

For a CPU a program is two shared libraries without any Python in them, which load in milliseconds. For a GPU it is two
archives of Triton's kernels and of the Python that launches them: what launches them costs nothing where a step is
replayed as a CUDA graph, and there is no C++ to be compiled. A program is made once for a structure, whatever the
number of lanes, in half a minute; who does not want to wait trains uncompiled meanwhile.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from swathe.training import (
    augment,
    gan,
    gan_program,
    health,
    lane_graph,
    lane_layout,
    lane_modules,
    lane_optim,
    lane_program,
    lane_stack,
    lstm,
    models,
    own,
    precision,
    resnet,
    sequences,
    streams,
    transfer,
    transformer,
)
from swathe.training.lane_program import Geometry, Graph, network_of
from swathe.training.own_source import source_digest
from swathe.training.recipe import MODELS, OWN, Own, SequenceShape
from swathe.training.structure import MODEL_VALUES

_STEP, _EVALUATION = "step", "evaluation"
# The files of a CPU's program and of a GPU's.
_LIBRARY, _ARCHIVE = ".so", ".artifact"
# Letters of a failure that fit into a line.
_MOST_TEXT = 200
# What a program is made from, besides its geometry.
_SOURCES = (
    *(augment, health, lane_graph, lane_layout, lane_modules, lane_optim, lane_program, models, precision, resnet),
    *(gan, gan_program, lane_stack, lstm, own, sequences, streams, transfer, transformer),
)
_DTYPES = {str(dtype): dtype for dtype in (torch.float32, torch.float64)}


def program_folder(geometry: Geometry, cache: Path) -> Path:
    """Return where the compiled program of a geometry is, or is to be; `cache` is the data's, beside which it lies."""
    return cache.absolute().parent / "programs" / _digest(geometry)


def is_compiled(geometry: Geometry, cache: Path) -> bool:
    """Whether the compiled program is there."""
    return program_folder(geometry, cache).is_dir()


@lru_cache(maxsize=1)
def no_compiler() -> str:
    """Return one line when nothing can be compiled on this machine, else ""."""
    compilers = (os.environ.get("CXX"), "g++", "clang++")
    if any(shutil.which(name) for name in compilers if name):
        return ""
    return "lanes run uncompiled, as there is no C++ compiler on this machine; with g++ they are several times faster."


def start(geometry: Geometry, cache: Path) -> None:
    """Begin to compile in a process of its own, which goes on when the sweep ends: the next one has its program.

    `is_compiled` or `failure` say when it is over.
    """
    _failure_file(geometry, cache).unlink(missing_ok=True)
    # Its parent is gone at once, as Ray ends the children of a worker with it.
    orphan = "import os, sys\nif os.fork(): os._exit(0)\nos.setsid()\nos.execv(sys.argv[1], sys.argv[1:])"
    _run(geometry, cache, [sys.executable, "-c", orphan])


def failure(geometry: Geometry, cache: Path) -> str:
    """Return one line when the last compilation failed, else ""."""
    try:
        reason = _failure_file(geometry, cache).read_text()
    except FileNotFoundError:
        return ""
    return f"lanes run uncompiled, as their program could not be compiled: {reason}"


def compile_now(geometry: Geometry, cache: Path) -> str:
    """Compile and wait for it; returns one line when it failed, else ""."""
    if is_compiled(geometry, cache):
        return ""
    _failure_file(geometry, cache).unlink(missing_ok=True)
    _run(geometry, cache, [])
    return "" if is_compiled(geometry, cache) else failure(geometry, cache) or "lanes run uncompiled."


def _run(geometry: Geometry, cache: Path, before: list[str]) -> None:
    asked = json.dumps({"geometry": _plain(geometry), "cache": str(cache.absolute()), "path": sys.path})
    command = [*before, sys.executable, "-m", "swathe.training.lane_compiler"]
    nowhere = subprocess.DEVNULL
    subprocess.run(command, input=asked.encode(), stdout=nowhere, stderr=nowhere, env=_environment(), check=False)


def _failure_file(geometry: Geometry, cache: Path) -> Path:
    return program_folder(geometry, cache).with_suffix(".failed")


def load(folder: Path) -> tuple[Graph, Graph]:
    """Return the two graphs of a compiled program: of a step, and of an evaluation."""
    step, evaluation = (_runner(folder, name) for name in (_STEP, _EVALUATION))
    return step, evaluation


def _runner(folder: Path, name: str) -> Graph:
    archive = folder / f"{name}{_ARCHIVE}"
    if not archive.exists():
        from torch._C import _aoti

        return _aoti.AOTIModelContainerRunnerCpu(str(folder / f"{name}{_LIBRARY}"), 1).run

    from torch._inductor.standalone_compile import CompiledArtifact

    artifact = CompiledArtifact.load(path=str(archive))

    @torch.no_grad()
    def run(tensors: list[Tensor]) -> list[Tensor]:
        return list(artifact(*tensors))

    return run


def _plain(geometry: Geometry) -> dict[str, Any]:
    plain = asdict(geometry)
    plain["dtype"] = str(geometry.dtype)
    return plain


def _geometry(plain: dict[str, Any]) -> Geometry:
    name = plain["model"]["name"]
    model = Own(**plain["model"]) if name == OWN else MODELS[name](**plain["model"])
    shape = plain["image_shape"]
    kept = {key: value for key, value in plain.items() if key not in ("model", "dtype", "image_shape")}
    kept["augmentation"] = tuple(kept["augmentation"])
    kept["sequence"] = None if kept["sequence"] is None else SequenceShape(**kept["sequence"])
    return Geometry(model=model, dtype=_DTYPES[plain["dtype"]], image_shape=tuple(shape) if shape else None, **kept)


@lru_cache(maxsize=64)
def _digest(geometry: Geometry) -> str:
    """Return 24 hexadecimal digits for everything that a program's code depends on."""
    plain = _plain(geometry)
    # The key says more of the data than its sizes.
    del plain["key"]
    plain["model"] = {name: value for name, value in plain["model"].items() if name not in MODEL_VALUES}
    if isinstance(geometry.model, Own):
        plain["source"] = source_digest(geometry.model.target)
    facts = {"geometry": plain, "torch": version("torch"), "cpu": torch.backends.cpu.get_cpu_capability()}
    if geometry.device.startswith("cuda"):
        facts["gpu"] = torch.cuda.get_device_name()
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for module in _SOURCES:
        digest.update(Path(str(module.__file__)).read_bytes())
    return digest.hexdigest()[:24]


def _environment() -> dict[str, str]:
    # The compiler's process must find this very package, however the worker found it.
    here = str(Path(__file__).resolve().parents[2])
    others = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": here + (os.pathsep + others if others else "")}


def _compile(geometry: Geometry, folder: Path) -> None:
    torch.set_num_threads(geometry.threads)
    if geometry.device == "cpu":
        _look_at_cpu()
    # Beside its place, so that it is there as a whole or not at all.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="making-") as made:
        work, ready = Path(made) / "work", Path(made) / "ready"
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(made) / "cache")
        for path in (work, ready):
            path.mkdir()
        for name, (graph, inputs) in zip((_STEP, _EVALUATION), network_of(geometry).graphs(), strict=True):
            if geometry.device == "cpu":
                library = f"{name}{_LIBRARY}"
                _compile_library(graph, inputs, work / library, geometry)
                (work / library).rename(ready / library)
            else:
                _compile_archive(graph, inputs, ready / f"{name}{_ARCHIVE}", geometry)
            if inputs[0].fake_mode.shape_env.replacements:
                raise RuntimeError("its code depends on the number of lanes")
        ready.rename(folder)


def _look_at_cpu() -> None:
    """Let Inductor find the instructions of this CPU while it uses the folder that it keeps for all that it makes.

    It does so by six trial programs, which take it some eight seconds, and a program's own folder would not have them.
    """
    from torch._inductor.cpu_vec_isa import valid_vec_isa_list

    valid_vec_isa_list()


def _compile_library(graph: Any, inputs: list[Any], library: Path, geometry: Geometry) -> None:
    import torch._inductor

    options = {"aot_inductor.output_path": str(library), "compile_threads": 1, **_options(geometry)}
    with torch.no_grad():
        torch._inductor.aot_compile(graph, tuple(inputs), options=options)


def _compile_archive(graph: Any, inputs: list[Any], archive: Path, geometry: Geometry) -> None:
    import torch._inductor
    from torch._guards import TracingContext, tracing

    with torch.no_grad(), tracing(TracingContext(inputs[0].fake_mode)):
        artifact = torch._inductor.standalone_compile(
            graph, inputs, dynamic_shapes="from_tracing_context", options={"config_patches": _options(geometry)}
        )
    artifact.save(path=str(archive))


def _options(geometry: Geometry) -> dict[str, Any]:
    options: dict[str, Any] = {"cpp.threads": geometry.threads}
    if geometry.augmentation:
        # All places that pixels are taken from lie inside, and to check each again takes a third of the time.
        options["assert_indirect_indexing"] = False
    return options


def main() -> None:
    """Compile what standard input asks for, unless another process has done it by the time of this one's turn."""
    asked = json.load(sys.stdin)
    # Where a network of the user's own is.
    sys.path += [folder for folder in asked["path"] if folder not in sys.path]
    geometry, cache = _geometry(asked["geometry"]), Path(asked["cache"])
    folder = program_folder(geometry, cache)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():
            return
        try:
            _compile(geometry, folder)
        # Inductor and the compiler beneath it have many ways to fail; whoever waits is told of each.
        except Exception as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())[:_MOST_TEXT]
            _failure_file(geometry, cache).write_text(text)


if __name__ == "__main__":
    main()
