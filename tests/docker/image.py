"""What a stage of a Dockerfile gives to a container: environment, working folder, command, and programs of ours."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_CONTINUED = re.compile(r"\\\n")


@dataclass(slots=True)
class Image:
    """An image; `copied`: files of the checkout that it has, by the folder that they are in."""

    environment: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    copied: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Line:
    """One instruction of a stage."""

    stage: str
    instruction: str
    words: str


def instructions(dockerfile: Path) -> Iterator[Line]:
    """Yield the instructions of a Dockerfile, each of whose stages has a name."""
    text = "\n".join(line for line in dockerfile.read_text().splitlines() if not line.lstrip().startswith("#"))
    stage = ""
    for line in _CONTINUED.sub(" ", text).splitlines():
        instruction, _, words = line.strip().partition(" ")
        if instruction == "FROM":
            stage = words.split()[-1]
        if instruction:
            yield Line(stage, instruction, words)


def read(dockerfile: Path, target: str) -> Image:
    """Return what a stage gives, and what it has from the stages that it is built on."""
    image = Image()
    lines = [line for line in instructions(dockerfile) if line.stage == target]
    assert lines, f"{dockerfile.name} has no stage {target}"
    for line in lines:
        match line.instruction:
            case "FROM":
                base = line.words.split()[0]
                if any(other.stage == base for other in instructions(dockerfile)):
                    image = read(dockerfile, base)
            case "ENV":
                image.environment |= dict(pair.split("=", 1) for pair in shlex.split(line.words))
            case "WORKDIR":
                image.workdir = line.words
            case "ENTRYPOINT":
                image.entrypoint = tuple(json.loads(line.words))
            case "CMD":
                image.command = tuple(json.loads(line.words))
            case "COPY" if not line.words.startswith("--from="):
                *sources, folder = line.words.split()
                image.copied += [(source, folder.rstrip("/")) for source in sources]
            case "COPY" | "RUN" | "USER" | "EXPOSE" | "HEALTHCHECK" | "ARG":
                pass
            case other:
                raise AssertionError(f"{dockerfile.name}: tests/docker does not know {other}")
    return image
