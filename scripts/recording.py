"""Record docs/images/pruning.svg: the app of docs/hydra.md run as it is, then with the two lines that let it be pruned.

    python scripts/recording.py

A real run in a terminal of 80 columns (tmux), some minutes. The files and the two lines are those that the page prints.
Only waiting is cut: what the terminal showed for longer than `LONGEST` is shown for that long.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from rich.console import Console  # noqa: E402
from rich.segment import Segment  # noqa: E402
from rich.style import Style  # noqa: E402
from rich.terminal_theme import MONOKAI  # noqa: E402
from rich.text import Text  # noqa: E402
from tests.docs.snippets import blocks  # noqa: E402

PAGE, PICTURE = ROOT / "docs" / "hydra.md", ROOT / "docs" / "images" / "pruning.svg"
COLUMNS, ROWS = 80, 24
# Seconds: between two looks at the terminal, the longest that it shows one thing, and its last screen.
LOOK, LONGEST, LAST = 0.1, 1.5, 8.0
MOST_SECONDS = 600.0
# Letters that are typed between two looks.
TYPED = 6
# Of a letter, in the picture's pixels.
WIDTH, HEIGHT = 8.43, 19
THEME = MONOKAI
PROMPT = "$ "
RUN = (
    "python train.py -m hydra/sweeper=swathe hydra.sweeper.study_name={} \\\n"
    "    hydra.sweeper.n_trials=30 hydra.sweeper.pruner.min_resource=5 \\\n"
    "    'lr=tag(log,interval(1e-4,1))' hidden=16,32,64"
)
COMMANDS = (
    "tail -n 12 train.py",
    RUN.format("whole"),
    "clear; patch -b < two-lines.diff; diff -U1 --color train.py.orig train.py",
    RUN.format("pruned"),
    "clear; swathe status whole; swathe status pruned",
    "swathe export pruned --curves --out epochs.csv  # of 900 epochs, it trained",
)


@dataclass(frozen=True, slots=True)
class Frame:
    """A screen, as lines of text with colours (ANSI), and since when it was there (seconds)."""

    at: float
    lines: tuple[str, ...]


def main() -> None:
    """Run the commands in a terminal, and write what it showed."""
    with tempfile.TemporaryDirectory(prefix="swathe-recording-") as name:
        folder = Path(name)
        for file, text in files():
            (folder / file).write_text(text)
        frames = record(folder)
    PICTURE.write_text(animated(frames))
    print(f"{PICTURE.relative_to(ROOT)}: {len(frames)} screens, {PICTURE.stat().st_size / 1000:.0f} kB")


def files() -> Iterator[tuple[str, str]]:
    """Yield the files that the page prints: the app, its config, and the two lines."""
    for block in blocks(PAGE):
        if block.file:
            yield block.file, block.text.split("\n", 1)[1]
        elif block.language == "diff":
            yield "two-lines.diff", block.text


def record(folder: Path) -> list[Frame]:
    """Type the commands into a terminal, one after the other, and return all that it showed."""
    tmux = ["tmux", "-S", str(folder / "tmux"), "-f", "/dev/null"]
    path = f"{ROOT / '.venv' / 'bin'}:$PATH"
    shell = f"PATH={path} PS1={shlex.quote(PROMPT)} PS2='> ' exec bash --norc --noprofile"
    size = ["-x", str(COLUMNS), "-y", str(ROWS)]
    subprocess.run([*tmux, "new-session", "-d", *size, "-s", "r", "-c", str(folder), shell], check=True)
    frames: list[Frame] = []
    try:
        until_idle(tmux, frames)
        for command in COMMANDS:
            for line in command.split("\n"):
                for letters in (line[start : start + TYPED] for start in range(0, len(line), TYPED)):
                    # A semicolon at the end would be tmux's own.
                    typed = letters[:-1] + letters[-1].replace(";", "\\;")
                    subprocess.run([*tmux, "send-keys", "-t", "r", "-l", "--", typed], check=True)
                    time.sleep(LOOK)
                    look(tmux, frames)
                subprocess.run([*tmux, "send-keys", "-t", "r", "Enter"], check=True)
            until_idle(tmux, frames)
    finally:
        subprocess.run([*tmux, "kill-server"], check=False)
    return frames


def until_idle(tmux: Sequence[str], frames: list[Frame]) -> None:
    """Look on until the last line is an empty prompt; ends the program where that takes too long."""
    deadline = time.monotonic() + MOST_SECONDS
    while True:
        time.sleep(LOOK)
        look(tmux, frames)
        last = next((plain(line) for line in reversed(frames[-1].lines) if plain(line).strip()), "")
        if last.strip() == PROMPT.strip():
            return
        if time.monotonic() > deadline:
            sys.exit("\n".join(frames[-1].lines))


def look(tmux: Sequence[str], frames: list[Frame]) -> None:
    """Add what the terminal shows, if it is something new."""
    shown = subprocess.run([*tmux, "capture-pane", "-t", "r", "-e", "-p"], check=True, capture_output=True, text=True)
    lines = tuple(shown.stdout.split("\n")[:ROWS])
    if not frames or frames[-1].lines != lines:
        frames.append(Frame(time.monotonic(), lines))


def plain(line: str) -> str:
    """Return a line without its colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", line)


def animated(frames: Sequence[Frame]) -> str:
    """Draw the frames one below the other in a picture that shows one at a time; a line that stays is drawn once.

    Who asks for less motion sees the last one.
    """
    starts, seconds = times(frames)
    drawn: dict[str, str] = {}
    screens: list[str] = []
    for number, frame in enumerate(frames):
        uses = []
        for row, line in enumerate(frame.lines):
            if plain(line).strip():
                name = drawn.setdefault(line, f"l{len(drawn)}")
                uses.append(f'<use href="#{name}" y="{row * HEIGHT}"/>')
        screens.append(f'<g transform="translate(0 {number * ROWS * HEIGHT})">{"".join(uses)}</g>')
    steps = "".join(
        f"{start / seconds:.4%}{{transform:translateY({-number * ROWS * HEIGHT}px)}}"
        for number, start in enumerate(starts)
    )
    lines = "".join(f'<g id="{name}">{"".join(spans(line))}</g>' for line, name in drawn.items())
    width, height = round(COLUMNS * WIDTH) + 24, ROWS * HEIGHT + 24
    last = -(len(frames) - 1) * ROWS * HEIGHT
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">
<title>An app run as it is, then with two lines more, which let its bad trials end early</title>
<style>
text{{font:14px "DejaVu Sans Mono",Menlo,Consolas,monospace;white-space:pre}}
#s{{animation:s {seconds:.1f}s step-end infinite;transform:translateY({last}px)}}
@keyframes s{{{steps}}}
@media (prefers-reduced-motion:reduce){{#s{{animation:none}}}}
</style>
<rect width="{width}" height="{height}" rx="8" fill="{colour(THEME.background_color)}"/>
<defs>{lines}</defs>
<svg x="12" y="12" width="{width - 24}" height="{height - 24}"><g id="s" fill="{colour(THEME.foreground_color)}">
{chr(10).join(screens)}
</g></svg>
</svg>
"""


def times(frames: Sequence[Frame]) -> tuple[list[float], float]:
    """Return when each frame begins, with waiting cut, and how long they take together (seconds)."""
    starts = [0.0]
    for before, frame in pairwise(frames):
        starts.append(starts[-1] + min(frame.at - before.at, LONGEST))
    return starts, starts[-1] + LAST


def spans(line: str) -> Iterator[str]:
    """Yield the pieces of a line as SVG, each where its first letter is."""
    column = 0
    for text, style in segments(line):
        if text.strip():
            fill = style.color.get_truecolor(THEME) if style and style.color and not style.color.is_default else None
            look = f' fill="{colour(fill)}"' if fill else ""
            look += ' font-weight="bold"' if style and style.bold else ""
            end = text.rstrip()
            lead = len(end) - len(end.lstrip())
            yield (
                f'<text x="{(column + lead) * WIDTH:.1f}" y="14" textLength="{(len(end) - lead) * WIDTH:.1f}"{look}>'
                f"{escape(end.lstrip())}</text>"
            )
        column += len(text)


def segments(line: str) -> Iterable[tuple[str, Style | None]]:
    """Return the pieces of a line and their styles."""
    console = Console(width=COLUMNS * 2, color_system="truecolor", force_terminal=True)
    text = Text.from_ansi(line)
    return [(segment.text, segment.style) for segment in text.render(console, end="") if isinstance(segment, Segment)]


def colour(of: Sequence[int]) -> str:
    """Return a colour as SVG has it."""
    return "#" + "".join(f"{part:02x}" for part in of)


if __name__ == "__main__":
    main()
