"""The page of a claim, in Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from benchmarks import machine
from scripts.results.finding import Claim, Finding
from scripts.results.trials import Record


def page(claim: Claim, finding: Finding, record: Record, sweep: str) -> str:
    """Return the page; `sweep` is the text of the sweep's file."""
    return "\n".join(_lines(claim, finding, record, sweep))


def picture(claim: Claim, ending: str) -> str:
    """Return the file name of one of its charts."""
    return f"{claim.name}{ending}.svg"


def _lines(claim: Claim, finding: Finding, record: Record, sweep: str) -> Iterator[str]:
    yield f"<!-- Made by `make results` from the record of `swathe launch {claim.name}`: do not edit. -->"
    yield from (f"# {claim.title}", "")
    yield from (f"**Claim.** {claim.text}", "")
    yield from (f"**Verdict: {finding.verdict}.**", "")
    yield from _table(
        ["part of the claim", "verdict", "numbers"],
        [[part.statement, str(part.verdict), part.numbers] for part in finding.parts],
    )
    yield from ("", f"**Rule**, written before the sweep was run. {claim.rule}", "")
    for ending, chart in finding.charts.items():
        yield from (f"![{chart.title}]({picture(claim, ending)})", "")
    yield from _table(finding.header, finding.rows)
    yield ""
    for remark in finding.remarks:
        yield from (remark, "")
    yield from (
        "Brackets are 95 % intervals over the seeds: of a mean Student's, of a share Wilson's; differences are "
        "taken seed by seed. They are not corrected for the number of comparisons, and say nothing of other splits "
        "of the data, which is the same one for all trials.",
        "",
    )
    commands = (" ".join([claim.name if words else name, *words]) for name, words in claim.launches)
    yield from ("## The sweep", "", *(f"    swathe launch {words}" for words in commands), "")
    yield from ("```yaml", sweep.rstrip(), "```", "")
    yield from (_origin(record), "")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield "|---" * len(header) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _origin(record: Record) -> str:
    """Say what the trials were trained on; the page is written where they were trained."""
    here = machine.describe("torch")
    states = _counted(trial.state for trial in record.trials)
    engines = _counted("as lanes" if made["engine"] == "lanes" else "alone" for made in record.geometries)
    versions = ", ".join(sorted({f"PyTorch {made['torch']}, Python {made['python']}" for made in record.geometries}))
    devices = ", ".join(sorted({made["device_name"] for made in record.geometries}))
    where = f"{here['cores']} cores ({here['cpu']}); {devices}; {versions}"
    return f"{len(record.trials)} trials: {states}; trained {engines}. On {where}."


def _counted(words: Iterable[str]) -> str:
    return ", ".join(f"{count} {word}" for word, count in sorted(Counter(words).items()))
