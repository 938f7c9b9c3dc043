"""Every block of code in README.md and docs/ runs as it is printed, or says in a comment why it cannot run here."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import pytest
import yaml

from swathe import cli, standalone
from swathe.config import compose_sweep
from swathe.space import Space
from tests.docs.commands import COMPOSING, TRAINING, NotUnderstoodError, parsed, parts, understand, written
from tests.docs.snippets import LANGUAGES, ROOT, SHOWN, Block, all_blocks
from tests.integration import swathes

BLOCKS = all_blocks()
RUN = [block for block in BLOCKS if block.not_run is None and block.language not in SHOWN]
YAML = [block for block in RUN if block.language == "yaml"]
PAGES = sorted({block.page for block in RUN})
QUICKSTART = (ROOT / "sweeps" / "quickstart.yaml").read_text()
SHIPPED = [path.read_text() for path in sorted((ROOT / "sweeps").glob("*.yaml"))]
# What is run against one small sweep, with the name that pages give it. Others start a sweep or a server.
READING = ("status", "compare", "best", "diagnose", "report", "export", "reproduce", "list", "doctor")
SWEEP = "quickstart"
# Where a page has no such file, the sweep of a reader's own.
OWN = "sweeps/mine.yaml"


def files_of(page: str) -> dict[str, str]:
    """Return the files that a page prints, those of README, which every page may speak of, and a reader's own."""
    printed = {block.file: block.text for block in BLOCKS if block.page in ("README.md", page) and block.file}
    pieces = {name_of(block): whole(block.text) for block in YAML if block.page == page and not block.file}
    return {OWN: QUICKSTART, **pieces, **printed}


def name_of(block: Block) -> str:
    return block.file or f"piece-{block.line}.yaml"


def whole(text: str) -> str:
    """Return a sweep's file: that of the quickstart, with the pieces that a page shows of one."""
    sweep, piece = yaml.safe_load(QUICKSTART), yaml.safe_load(text)
    if "defaults" in piece:
        return text
    return str(
        yaml.safe_dump({**sweep, **piece, "sweep": {**sweep["sweep"], **piece.get("sweep", {})}}, sort_keys=False)
    )


def commands_of(page: str) -> Iterator[tuple[str, list[str]]]:
    for block in RUN:
        if block.page == page and block.language == "sh":
            for line in block.commands():
                yield from ((block.place, part) for part in parts(line))


def is_shipped(block: Block) -> bool:
    return any(block.text in text for text in SHIPPED)


def test_every_block_says_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert not [f"{block.place}: {block.language!r}" for block in BLOCKS if block.language not in LANGUAGES]
    names = Counter((block.page, block.file) for block in BLOCKS if block.file)
    assert not [f"{page} has {name} twice" for (page, name), count in names.items() if count > 1]
    kinds = Counter(block.language for block in BLOCKS if block.not_run is None)
    reasons = Counter(block.not_run for block in BLOCKS if block.not_run is not None)
    with capsys.disabled():
        print(f"\n{len(BLOCKS)} blocks of code: {', '.join(f'{count} {kind}' for kind, count in kinds.most_common())}")
        print("".join(f"  {count} not run: {reason}\n" for reason, count in reasons.most_common()), end="")


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_one(page: str) -> None:
    wrong: list[str] = []
    files = list(files_of(page))
    for place, words in commands_of(page):
        try:
            understand(words, files)
        except NotUnderstoodError as error:
            wrong.append(f"{place}: {' '.join(words)}: {error}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("block", YAML, ids=lambda block: block.place)
def test_every_yaml_can_be_read(block: Block) -> None:
    assert isinstance(yaml.safe_load(block.text), dict)


def sweeps_of(page: str) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yield (place, sweep, overrides): each file and each piece of one on a page, and each command that composes."""
    for block in YAML:
        foreign = block.file and "sweep:" not in block.text
        if block.page == page and not foreign and not is_shipped(block):
            yield block.place, name_of(block), ()
    for place, words in commands_of(page):
        if words[0] == "swathe":
            name, arguments = parsed(words[1:])
            if name in COMPOSING:
                yield place, arguments["sweep"], tuple(arguments["overrides"] or ())
            elif name in TRAINING and arguments["from_file"] is None:
                yield place, "", tuple(arguments["overrides"] or ())


def composed() -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    """Yield (page, place, sweep, overrides) once for each sweep and its keys.

    A ready sweep as it ships is composed by the tests of the sweeps.
    """
    seen = set()
    for page in PAGES:
        for place, sweep, overrides in sweeps_of(page):
            key = sweep, page if sweep.endswith(".yaml") else "", *(word.partition("=")[0] for word in overrides)
            if key not in seen and (overrides or sweep.endswith(".yaml")):
                seen.add(key)
                yield page, place, sweep, overrides


def imported(page: str) -> None:
    """Make the files that a page has `swathe import` make of its own."""
    for place, words in commands_of(page):
        if words[:2] == ["swathe", "import"] and words[2] in files_of(page):
            assert cli.run(words[1:]) == 0, f"{place}: {' '.join(words)}"


def standing_in(overrides: tuple[str, ...], page: str) -> tuple[str, ...]:
    """Return overrides in which the sweep that was launched here stands for those that the page launches."""
    names = re.findall(r"sweep\.name=(\w+)", (ROOT / page).read_text())
    return tuple(re.sub(rf"=({'|'.join(names) or '-'})$", f"={SWEEP}", word) for word in overrides)


@pytest.mark.slow
def test_every_sweep_composes(launched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWATHE_HOME", str(launched / ".swathe"))
    for page, place, sweep, overrides in composed():
        folder = tmp_path / page
        written(folder, files_of(page))
        with chdir(folder):
            imported(page)
            try:
                if sweep:
                    Space.parse(compose_sweep(sweep, overrides))
                else:
                    standalone.load(None, standing_in(overrides, page))
            except Exception as error:
                raise AssertionError(f"{place}: {sweep} {' '.join(overrides)}") from error


def test_every_ready_sweep_is_there() -> None:
    names = {path.stem for path in (ROOT / "sweeps").glob("*.yaml")}
    named = {sweep for page in PAGES for _, sweep, _ in sweeps_of(page) if sweep and not sweep.endswith(".yaml")}
    assert named <= names


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which a small sweep of the pages' name has been run."""
    folder = tmp_path_factory.mktemp("launched")
    small = (
        "cluster=inline",
        "sweep.trials=18",
        "epochs=2",
        "pruner=none",
        "data.limit=300",
        "batch_size=64",
        "model.norm=none",
    )
    said = swathes.succeed(folder, "launch", SWEEP, *small)
    assert "18 trials" in said or "Best config" in said, said
    return folder


def readings() -> list[tuple[str, tuple[str, ...]]]:
    """Return the commands that read a sweep, each once, in the order of the pages."""
    found: dict[tuple[str, ...], str] = {}
    for page in PAGES:
        for place, words in commands_of(page):
            if words[0] != "swathe" or "--watch" in words or "--server" in words:
                continue
            name, _ = parsed(words[1:])
            target = next((word for word in words[2:] if not word.startswith("-")), SWEEP)
            if name in READING and target in (SWEEP, "RUN_ID"):
                found.setdefault(tuple(words[1:]), place)
    return [(place, words) for words, place in found.items()]


@pytest.mark.slow
def test_every_command_that_reads_a_sweep_runs(
    launched: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(launched)
    monkeypatch.setenv("SWATHE_HOME", str(launched / ".swathe"))
    assert cli.run(["compare", SWEEP, "--json"]) == 0
    run_id = re.search(r'"run_id": "(\w+)"', capsys.readouterr().out)
    assert run_id
    for place, words in readings():
        code = cli.run([run_id[1] if word == "RUN_ID" else word for word in words])
        said = capsys.readouterr()
        assert code == 0, f"{place}: swathe {' '.join(words)}\n{said.out}{said.err}"


@pytest.mark.slow
def test_the_tutorial_runs_from_its_first_command_to_its_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = "docs/tutorial.md"
    written(tmp_path, files_of(page))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SWATHE_HOME", str(tmp_path / ".swathe"))
    last = {}
    for place, words in commands_of(page):
        # In this very process, which saves the seconds of starting Ray.
        here = ["cluster=inline"] if words[1] == "launch" else []
        code = cli.run([*words[1:], *here])
        said = capsys.readouterr()
        assert code == 0, f"{place}: {' '.join(words)}\n{said.out}{said.err}"
        last[words[1]] = said.out
    assert "val_loss" in last["compare"]
    assert "have the same bits" in last["reproduce"]
    assert "all 60 trials are done" in last["resume"]


PYTHON = [block for block in RUN if block.language == "python"]


@pytest.mark.parametrize("page", sorted({block.page for block in PYTHON if block.file}))
def test_a_module_can_be_imported(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, files_of(page))
    monkeypatch.chdir(tmp_path)
    for block in PYTHON:
        if block.page == page and block.file:
            runpy.run_path(block.file)


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted({block.page for block in PYTHON if not block.file}))
def test_python_runs_as_it_is_printed(page: str, launched: Path, tmp_path: Path) -> None:
    """A page's blocks are one program, in their order; a block that is a file is a module beside it."""
    written(tmp_path, files_of(page))
    (tmp_path / ".swathe").symlink_to(launched / ".swathe")
    texts = [block.text for block in PYTHON if block.page == page and not block.file]
    (tmp_path / "page.py").write_text("\n\n".join(texts))
    # Ray Tune would else join the Ray of whoever else works on this machine, and fill the home folder.
    here = {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "HOME": str(tmp_path), "RAY_ADDRESS": "local"}
    done = subprocess.run(
        [sys.executable, "page.py"],
        cwd=tmp_path,
        env={**swathes.environment(), **here},
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert done.returncode == 0, f"{page}\n{(done.stdout + done.stderr)[-4000:]}"
