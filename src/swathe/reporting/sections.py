"""What each part of the report says: sentences made of the sweep's facts, with their charts and tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from swathe.plots import SHOWN_POINTS
from swathe.reporting import charts, page
from swathe.reporting.facts import SweepFacts
from swathe.reporting.page import Section
from swathe.reporting.retrain import Retrained
from swathe.reporting.stats import (
    Axis,
    Fate,
    Roles,
    SweptTrial,
    best_of,
    bound_for_bad,
    by_bin,
    expected_best,
    mean_interval,
    saved,
    scores,
    share_interval,
)
from swathe.reporting.suggest import Suggestion
from swathe.reporting.tradeoffs import tradeoffs

# Of a parameter with more values than that, the best-of-n curves of those with the most trials are drawn.
_LINES = 8
# A value with fewer trials than that is not compared.
_FEW = 5


@dataclass(frozen=True, slots=True)
class Again:
    """What was trained again: the best config by seed, some pruned trials by number; None with the reason why not."""

    seeds: Mapping[int, Retrained] | None
    no_seeds: str
    pruned: Mapping[int, Retrained] | None
    no_pruned: str


def number(value: float | None) -> str:
    """Return a number with four digits."""
    return "none" if value is None else f"{value:.4g}"


def duration(seconds: float) -> str:
    """Return a time as people say it: `8.2 s`, `3 min 5 s`, `2 h 10 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def share(value: float) -> str:
    """Return a share in percent: `12 %`, `3.5 %`."""
    digits = 0 if value >= 0.0995 or value == 0 else 1
    # A space at which no line breaks.
    return f"{100 * value:.{digits}f}\u00a0%"


def counted(count: int, word: str) -> str:
    """Return a count with its noun, in the plural unless it is one."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def headline(facts: SweepFacts) -> str:
    """Return the head of the page: how many trials, how they ended, how long it took and what it cost."""
    states = Counter(trial.fate for trial in facts.trials)
    parts = [f"{states[fate]} {_WORDS[fate]}" for fate in Fate if states[fate]]
    cost = sum(trial.seconds for trial in facts.trials)
    over = len(facts.trials)
    sentence = f"{counted(over, 'trial')}: {', '.join(parts)}. The sweep {_status(facts.status)}."
    if facts.unfinished:
        sentence += f" {counted(facts.unfinished, 'trial')} more began or wait, and are not in this report."
    best = facts.best
    if facts.repeats > 1:
        sentence += (
            f" Each of these trials is a point here, which was trained with {facts.repeats} seeds: its value is of all "
            "of them, and its number that of the best one. A point is over as soon as one of its trainings was stopped."
        )
    found = [
        (str(over), f"points of {facts.repeats} trials that are over" if facts.repeats > 1 else "trials that are over"),
        (duration(facts.seconds), "from the first trial to the last"),
        (f"{cost:.1f} s", "of device time, its cost"),
    ]
    if best is not None:
        found.insert(0, (number(best.value), f"best {facts.metric} ({facts.direction.value}d), trial {best.number}"))
    return page.paragraph(sentence) + page.cards(found)


_WORDS = {
    Fate.COMPLETE: "complete",
    Fate.PRUNED: "pruned",
    Fate.DIVERGED: "diverged",
    Fate.STOPPED: "stopped otherwise",
    Fate.FAILED: "failed",
}


def _status(status: str) -> str:
    word, _, reason = status.partition(": ")
    if word in ("finished", "failed"):
        return f"has {word} ({reason})"
    return "is still running" if status.startswith("running") else f"is {status}"


def build(facts: SweepFacts, roles: Roles, rule: str, suggestion: Suggestion, again: Again) -> list[Section]:
    """Return all sections in their order."""
    return [
        *([tradeoffs(facts)] if facts.goal.several else []),
        _best(facts, again),
        _reproduce(facts),
        _importance(facts),
        _isolation(facts),
        _edges(facts, suggestion),
        _curves(facts),
        _diverged(facts),
        _roles(facts, roles, rule),
        _best_of_n(facts, roles),
        _pruning(facts, again),
    ]


# The best config.


def _best(facts: SweepFacts, again: Again) -> Section:
    best = facts.best
    if best is None:
        done = "completed and keeps the constraints" if facts.goal.constraints else "completed"
        return Section("Best config", f"No trial {done}, so there is no best one.")
    complete = sum(trial.fate is Fate.COMPLETE for trial in facts.trials)
    whole = counted(complete, "complete trial")
    sentence = f"Trial {best.number} has the best {facts.metric}, {number(best.value)}, of {whole}."
    if facts.best_repeats is not None:
        sentence = f"{sentence.removesuffix('.')}: {facts.best_repeats.words}."
    if facts.goal.constraints:
        kept = sum(trial.fate is Fate.COMPLETE and trial.feasible for trial in facts.trials)
        bounds = ", ".join(map(str, facts.goal.constraints))
        sentence = sentence.removesuffix(".") + f"; {kept} of these keep the constraints ({bounds}) and count."
    body = page.table(["parameter", "value"], [(name, _setting(value)) for name, value in best.params.items()])
    if again.seeds is None:
        return Section("Best config", f"{sentence} How much of it is luck is not known: {again.no_seeds}.", body)
    values = {seed: run.value(facts.metric) for seed, run in again.seeds.items()}
    finite = [value for value in values.values() if value is not None and value - value == 0]
    broken = len(values) - len(finite)
    if broken or len(finite) < 2:
        sentence += f" Of {len(values)} trainings with other seeds {broken} diverged or failed: it is not stable."
    else:
        mean, interval = mean_interval(finite)
        worse = sum((value < (best.value or 0.0)) is facts.maximize and value != best.value for value in finite)
        sentence += (
            f" Trained again with {len(finite)} other seeds it comes to {number(mean)} on average, 95 % confidence "
            f"interval {number(interval.low)} to {number(interval.high)}: expect that. {worse} of {len(finite)} are "
            "worse than the recorded value, which was selected for being the best."
        )
    rows = [(seed, _result(values[seed], run)) for seed, run in again.seeds.items()]
    cost = sum(run.seconds for run in again.seeds.values())
    note = (
        "The interval is Student's t; seeds change initialisation, data order and dropout. "
        f"They took {cost:.1f} device seconds."
    )
    body = page.row([body, page.table(["seed", facts.metric], rows, numbers=[0, 1])]) + page.small(note)
    return Section("Best config", sentence, body)


def _result(value: float | None, run: Retrained) -> str:
    return f"failed: {run.failure}" if run.failure else number(value)


def _setting(value: object) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _reproduce(facts: SweepFacts) -> Section:
    if facts.best is None:
        return Section("Reproduce", "Without a complete trial there is nothing to reproduce.")
    which = "the trials of the front" if facts.goal.several else "the best trial"
    sentence = f"This command trains {which} again and compares every recorded number."
    return Section("Reproduce", sentence, page.code(f"swathe reproduce {facts.name}"))


# Parameters.


def _importance(facts: SweepFacts) -> Section:
    title = "Parameter importance"
    complete = sum(trial.fate is Fate.COMPLETE for trial in facts.trials)
    if len(facts.importances) < 1 or complete < 4:
        return Section(title, f"{counted(complete, 'complete trial')}: too few to say which parameter matters.")
    first, *rest = facts.importances.items()
    sentence = f"{first[0]} matters most ({share(first[1])})"
    sentence += f", then {rest[0][0]} ({share(rest[0][1])})." if rest else "."
    left_out = [name for name in facts.axes if name not in facts.importances]
    note = (
        f"PED-ANOVA (Watanabe et al. 2023): how far the best of {complete} complete trials differ from all of these in "
        "a parameter's values. Pruned trials do not count: with a strict pruner it is what matters among good ones."
    )
    if left_out:
        note += f" Not all trials have {', '.join(left_out)}, so it is left out."
    return Section(title, sentence, charts.importance(facts.importances) + page.small(note))


def _isolation(facts: SweepFacts) -> Section:
    title = "Isolation plots"
    bad = bound_for_bad(facts.trials, maximize=facts.maximize)
    if bad is None:
        return Section(title, "No trial reported a number that could be drawn.")
    drawn = []
    for name, axis in facts.axes.items():
        having = [trial for trial in facts.trials if name in trial.params and trial.fate is not Fate.FAILED]
        winners = [best_of(group, maximize=facts.maximize) for group in by_bin(axis, having)]
        newest = having[-SHOWN_POINTS:]
        chart = charts.isolation(axis, newest, winners, bad, facts.metric, maximize=facts.maximize)
        drawn.append((name, _isolation_sentence(facts, axis, winners), chart))
    sentence = (
        f"Each plot has one parameter and the {facts.metric} of every trial, whatever its other parameters were: the "
        "diamonds, the best complete trial of each part of a range, say what a value can reach."
    )
    note = f"What is worse than {number(bad)}, about the median trial's first report, is drawn there."
    if len(facts.trials) > SHOWN_POINTS:
        note += f" The newest {SHOWN_POINTS} trials are drawn, and the best of all."
    return Section(title, sentence, page.grid(drawn) + page.small(note))


def _isolation_sentence(facts: SweepFacts, axis: Axis, winners: Sequence[SweptTrial | None]) -> str:
    parts = axis.bins()
    found = [(winner, part) for winner, part in zip(winners, parts, strict=True) if winner is not None]
    if not found:
        return "No trial with it completed."
    top = best_of([winner for winner, _ in found], maximize=facts.maximize)
    label = next(part.label for winner, part in found if winner is top)
    sentence = f"Best at {label}: {number(top.value if top else None)}."
    empty = [part.label for winner, part in zip(winners, parts, strict=True) if winner is None]
    if axis.is_choice and empty:
        return f"{sentence} No trial completed with {', '.join(empty)}."
    return f"{sentence} No trial completed in {len(empty)} of {len(parts)} parts." if empty else sentence


def _edges(facts: SweepFacts, suggestion: Suggestion) -> Section:
    title = "Edges of the space"
    if not suggestion.widenings:
        over = sum(trial.fate is not Fate.FAILED for trial in facts.trials)
        sentence = "The best trials touch no edge of a range, so no range needs to be wider."
        if over < 20:
            sentence = f"{counted(over, 'trial')}: too few to say whether the best ones crowd at an edge of a range."
        return Section(title, sentence)
    names = list(dict.fromkeys(widening.name for widening in suggestion.widenings))
    sentence = f"The best trials crowd at an edge of {', '.join(names)}: better values may lie beyond."
    rows = [
        (
            w.name,
            "lower" if w.low else "upper",
            number(w.start),
            "no farther allowed" if w.end is None else number(w.end),
            w.evidence,
        )
        for w in suggestion.widenings
    ]
    body = page.table(["parameter", "end", "is", "should be", "because"], rows, numbers=[2])
    if suggestion.yaml:
        body += page.paragraph("A sweep over the wider space; save it as wider.yaml and run: swathe launch wider.yaml")
        body += page.code(suggestion.yaml)
    elif suggestion.refusal:
        body += page.paragraph(f"No new space can be written here: {suggestion.refusal}")
    return Section(title, sentence, body)


# Training.


def _curves(facts: SweepFacts) -> Section:
    title = "Training curves"
    if not facts.curves:
        return Section(title, "No trial completed, so there are no curves of the best.")
    trials = list(dict.fromkeys(curve.trial for curve in facts.curves))
    drawn = []
    for metric in dict.fromkeys(curve.metric for curve in facts.curves):
        found = [curve for curve in facts.curves if curve.metric == metric]
        drawn.append((metric, "", charts.curves(found, metric)))
    own = next(curve for curve in facts.curves if curve.trial == trials[0])
    # The first of equals: an accuracy that stays where it is needs no longer training.
    best_step = own.steps[own.values.index((max if facts.maximize else min)(own.values))]
    last = own.steps[-1]
    ending = (
        "it was best at its last step, so longer training may pay"
        if best_step == last
        else f"it was best at step {best_step} of {last}"
    )
    sentence = f"How the best {counted(len(trials), 'trial')} learned; of the very best (thick), {ending}."
    return Section(title, sentence, page.grid(drawn))


def _diverged(facts: SweepFacts) -> Section:
    title = "Where trials diverge"
    ran = [trial for trial in facts.trials if trial.fate is not Fate.FAILED]
    lost = sum(trial.fate is Fate.DIVERGED for trial in ran)
    if not lost:
        return Section(title, f"None of {counted(len(ran), 'trial')} diverged (reported a value that is not finite).")
    drawn, worst = [], (0.0, "")
    for name, axis in facts.axes.items():
        groups = by_bin(axis, ran)
        counts = [
            (part, sum(trial.fate is Fate.DIVERGED for trial in group), len(group))
            for part, group in zip(axis.bins(), groups, strict=True)
        ]
        drawn.append((name, "", charts.diverged(axis, counts)))
        # By the interval's lower end: one of one is no region.
        worst = max(
            [
                worst,
                *(
                    (share_interval(bad, all_).low, f"{name} {part.label} ({bad} of {all_})")
                    for part, bad, all_ in counts
                    if bad
                ),
            ]
        )
    sentence = (
        f"{lost} of {counted(len(ran), 'trial')} diverged ({share(lost / len(ran))}), most clearly at {worst[1]}."
    )
    note = "Above each bar: how many diverged, of how many. A trial that was pruned first could not diverge any more."
    return Section(title, sentence, page.grid(drawn) + page.small(note))


# Roles.


def _roles(facts: SweepFacts, roles: Roles, rule: str) -> Section:
    sentence = (
        f"{counted(len(roles.scientific), 'scientific parameter')} to compare, {len(roles.nuisance)} nuisance to be "
        f"tuned so that it is fair, and {len(facts.fixed)} fixed, to which every conclusion is tied."
    )
    rows = [(name, "scientific", _searched(facts.axes[name])) for name in roles.scientific]
    rows += [(name, "nuisance", _searched(facts.axes[name])) for name in roles.nuisance]
    body = page.table(["parameter", "role", "searched"], rows)
    fixed = [(name, value) for name, value in facts.fixed.items()]
    body += (
        f"<details><summary>{len(fixed)} fixed parameters</summary>{page.table(['fixed', 'value'], fixed)}</details>"
    )
    note = f"{rule} (Deep Learning Tuning Playbook, Godbole et al. 2023.)"
    if facts.varied:
        note += f" Drawn for each trial, or different by its choices: {', '.join(facts.varied)}."
    return Section("Scientific, nuisance, fixed", sentence, body + page.small(note))


def _searched(axis: Axis) -> str:
    if axis.is_choice:
        return ", ".join(map(str, axis.choices))
    scale = ", in logarithms" if axis.log else ""
    return f"{axis.low:.4g} to {axis.high:.4g}{scale}"


def _best_of_n(facts: SweepFacts, roles: Roles) -> Section:
    title = "Best of n trials"
    bad = bound_for_bad(facts.trials, maximize=facts.maximize)
    if bad is None:
        return Section(title, "No trial reported a number.")
    drawn = [_best_of_n_chart(facts, facts.axes[name], bad) for name in roles.scientific]
    drawn = [chart for chart in drawn if chart[2]]
    every = expected_best(scores(facts.trials, bad, maximize=facts.maximize), maximize=facts.maximize)
    drawn.append(("all trials", "", charts.best_of_n({"all": every}, facts.metric, None)))
    half = every[max(0, len(every) // 2 - 1)]
    sentence = (
        f"The best {facts.metric} to expect of n trials: {number(every[0])} of one, {number(half)} of "
        f"{max(1, len(every) // 2)}, {number(every[-1])} of {len(every)}; choices are compared at equally many."
    )
    note = (
        "Dodge et al. 2019, Show Your Work: trials are taken as drawn independently, which holds for random search; a "
        "sampler that learns has better trials later and more of them where it is good. A pruned trial counts with its "
        f"last value; a trial that diverged, failed or ended worse than {number(bad)} counts as {number(bad)}."
    )
    return Section(title, sentence, page.grid(drawn) + page.small(note))


def _best_of_n_chart(facts: SweepFacts, axis: Axis, bad: float) -> tuple[str, str, str]:
    groups = {part.label: group for part, group in zip(axis.bins(), by_bin(axis, facts.trials), strict=True) if group}
    most = sorted(groups, key=lambda label: -len(groups[label]))[:_LINES]
    found = {
        label: expected_best(scores(groups[label], bad, maximize=facts.maximize), maximize=facts.maximize)
        for label in groups
        if label in most
    }
    if len(found) < 2:
        return axis.name, "", ""
    compared = [label for label in found if len(found[label]) >= _FEW]
    if len(compared) < 2:
        sentence = f"Fewer than two values have {_FEW} trials, which is too few to compare them."
        return axis.name, sentence, charts.best_of_n(found, facts.metric, None)
    equal = min(len(found[label]) for label in compared)
    ranked = sorted(compared, key=lambda label: found[label][equal - 1], reverse=facts.maximize)
    order = ", ".join(f"{label} {number(found[label][equal - 1])}" for label in ranked)
    sentence = f"At an equal budget of {equal} trials each (dotted): {order}."
    if few := [f"{label} ({len(found[label])})" for label in found if label not in compared]:
        sentence += f" Too few trials: {', '.join(few)}."
    return axis.name, sentence, charts.best_of_n(found, facts.metric, equal)


# Pruning.


def _pruning(facts: SweepFacts, again: Again) -> Section:
    title = "What pruning saved"
    pruned = [trial for trial in facts.trials if trial.fate is Fate.PRUNED]
    if not pruned:
        return Section(title, "No trial was pruned, so nothing was saved and nothing missed.")
    found = saved(facts.trials)
    sentence = f"{counted(len(pruned), 'trial')} of {len(facts.trials)} were pruned."
    if found.trials:
        sentence = (
            f"{counted(len(pruned), 'trial')} of {len(facts.trials)} were pruned, which left out {found.steps} of "
            f"{found.steps + found.trained} epochs ({share(found.share)}), {duration(found.seconds)} of device time."
        )
    if again.pruned is None:
        return Section(title, f"{sentence} Whether a winner was among them is not known: {again.no_pruned}.")
    best = facts.best
    assert best is not None
    assert best.value is not None
    recorded = {trial.number: trial for trial in pruned}
    rows, wins = [], 0
    for trial, run in again.pruned.items():
        end = run.value(facts.metric)
        won = end is not None and end != best.value and (end > best.value) is facts.maximize and end - end == 0
        wins += won
        then = recorded[trial]
        there = number(run.value(facts.metric, then.step))
        rows.append((trial, then.step, number(then.value), there, _result(end, run), "yes" if won else "no"))
    header = ["trial", "pruned at step", f"{facts.metric} there", "there again", "at the end", "won"]
    cost = sum(run.seconds for run in again.pruned.values())
    note = (
        f"Won: better than the best trial's {number(best.value)}, with the trial's own seed. Trained as lanes, which "
        f"gives the recorded numbers up to rounding; it took {cost:.1f} device seconds."
    )
    sentence += f" {_would_have_won(wins, len(rows), len(pruned))}"
    return Section(title, sentence, page.table(header, rows, numbers=[0, 1, 2, 3, 4]) + page.small(note))


def _would_have_won(wins: int, sample: int, pruned: int) -> str:
    """Say how many pruned trials would have won, and how sure that is."""
    if sample == pruned:
        return f"All of them were trained to the end: {wins} would have won."
    interval = share_interval(wins, sample)
    first = f"Of {sample} drawn at random and trained to the end, {wins} would have won"
    low, high = share(interval.low), share(interval.high)
    if wins == 0:
        return f"{first}: with 95 % confidence at most {high} of all pruned ones (the rule of three, exactly)."
    if wins == sample:
        return f"{first}: with 95 % confidence at least {low} of all pruned ones (the rule of three, exactly)."
    return f"{first}: with 95 % confidence {low} to {high} of all pruned ones (Wilson's interval)."
