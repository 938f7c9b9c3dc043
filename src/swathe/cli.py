"""The commands: each parses, calls and prints."""

from __future__ import annotations

import errno
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from swathe.errors import BadInputError, SwatheError, writing
from swathe.leaving import end_with
from swathe.output import EXIT_BAD_INPUT, EXIT_DIFFERENT, EXIT_FAILED, EXIT_INTERRUPTED
from swathe.output import console as _console
from swathe.output import print_json as _print_json
from swathe.output import print_line as _print_line

# Each command imports what it needs, so that none waits for what others need.
if TYPE_CHECKING:
    from swathe.client import Server
    from swathe.overview import Best, Overview, Row

# A file system that is full, a quota that is used up, and a limit on the size of a file.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# Commands that have nothing to ask a server for, and the URL of the server that a command is for.
HERE_ONLY = ("serve", "token", "enqueue", "tag", "note")
_SERVER: ContextVar[str | None] = ContextVar("server", default=None)

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)


def _complete_override(incomplete: str) -> list[str]:
    from swathe.completion import overrides

    return overrides(incomplete)


def _complete_launchable(incomplete: str) -> list[str]:
    from swathe.completion import launchable

    return launchable(incomplete)


def _complete_launched(incomplete: str) -> list[str]:
    from swathe.completion import launched

    return launched(incomplete)


Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="Hydra overrides, such as optim=adam or 'optim.lr=tag(log,interval(1e-5,1))'.",
        autocompletion=_complete_override,
    ),
]
SweepToLaunch = Annotated[
    str, typer.Argument(help="A name in sweeps/ or the path of a YAML file.", autocompletion=_complete_launchable)
]
SweepName = Annotated[
    str, typer.Argument(help="The name of a sweep that was launched here.", autocompletion=_complete_launched)
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the result only.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Detach = Annotated[bool, typer.Option("--detach", help="With a server: return as soon as it is in the queue.")]
Priority = Annotated[int, typer.Option("--priority", help="With a server: its place in the queue, -100 to 100.")]
Events = Annotated[bool, typer.Option("--events", help="Print a JSON line at each change, and one at the end.")]


@app.callback()
def options(
    context: typer.Context,
    server: Annotated[
        str | None,
        typer.Option("--server", envvar="SWATHE_SERVER", help="Ask the server at this URL, with SWATHE_TOKEN's token."),
    ] = None,
) -> None:
    """Swathe: launch sweeps of PyTorch training, compare them in MLflow, reproduce the best."""
    _SERVER.set(server or None)
    if server and context.invoked_subcommand in HERE_ONLY:
        raise BadInputError(
            f"--server: {context.invoked_subcommand!r} works in this folder only; allowed: to call it without --server "
            "and SWATHE_SERVER."
        )


def _refuse_with_server(option: str, value: object) -> None:
    if value:
        raise BadInputError(f"{option}: a server does not do that; allowed: in the folder where its sweeps are.")


def _server() -> Server | None:
    """Return the server that the command is for; None where it is for the working folder."""
    url = _SERVER.get()
    if url is None:
        return None
    from swathe.client import Server

    return Server(url)


def _prints_aside(as_json: bool) -> AbstractContextManager[Any]:
    """Send what a trial prints in this process to stderr, so that stdout holds the JSON alone."""
    return redirect_stdout(sys.stderr) if as_json else nullcontext()


@app.command()
def launch(
    sweep: SweepToLaunch,
    overrides: Overrides = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
    events: Events = False,
    detach: Detach = False,
    priority: Priority = 0,
) -> None:
    """Run a sweep, or go on with one that was stopped.

    Examples:

      swathe launch quickstart

      swathe launch optimizers sweep.trials=60 pruner=median

      swathe launch sweeps/mine.yaml 'optim.lr=tag(log,interval(1e-4,1))'
    """
    _refuse_two_forms(events=events, as_json=as_json)
    if (server := _server()) is not None:
        from swathe import remote, remote_jobs

        shown = remote_jobs.Shown(quiet, as_json, events, detach)
        body = {**remote.sweep_body(sweep, overrides or ()), "priority": priority}
        raise typer.Exit(remote_jobs.run_sweep(server, "/sweeps", body, shown))
    _refuse_queue_options(detach, priority)
    _launch(sweep, overrides, quiet=quiet, as_json=as_json, events=events)


def _refuse_two_forms(*, events: bool, as_json: bool) -> None:
    if events and as_json:
        raise BadInputError("--events and --json are not for one command: the last event has what --json prints.")


def _refuse_queue_options(detach: bool, priority: int) -> None:
    if detach or priority:
        option = "--detach" if detach else "--priority"
        raise BadInputError(f"{option}: there is no queue here; allowed: with a server, which --server names.")


@app.command()
def resume(
    name: SweepName,
    overrides: Overrides = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
    events: Events = False,
    detach: Detach = False,
    priority: Priority = 0,
) -> None:
    """Go on with a sweep that was stopped, killed or has used its budget: the command that launched it, once more.

    Examples:

      swathe resume quickstart

      swathe resume quickstart sweep.trials=80
    """
    _refuse_two_forms(events=events, as_json=as_json)
    if (server := _server()) is not None:
        from swathe import remote, remote_jobs

        shown = remote_jobs.Shown(quiet, as_json, events, detach)
        body = {"overrides": overrides or [], "priority": priority}
        raise typer.Exit(remote_jobs.run_sweep(server, remote.sweep_path(name, "resume"), body, shown))
    _refuse_queue_options(detach, priority)
    from swathe.home import open_home

    _, card = open_home().existing(name)
    if not card.command.startswith("swathe launch "):
        raise BadInputError(f"SWEEP: {name!r} is not allowed; allowed: what goes on with it, {card.command}")
    sweep, *given = shlex.split(card.command)[2:]
    named = [] if any(word.startswith("sweep.name=") for word in given) else [f"sweep.name={name}"]
    _launch(sweep, [*given, *named, *(overrides or ())], quiet=quiet, as_json=as_json, events=events)


def _launch(sweep: str, overrides: Sequence[str] | None, *, quiet: bool, as_json: bool, events: bool) -> None:
    from swathe import runtime
    from swathe.home import open_home
    from swathe.preflight import made_ready, task_of
    from swathe.view import EventView, open_view

    plan = _plan(sweep, overrides)
    console = _console()
    home = open_home(create=True)
    plan = made_ready(plan, home)
    task = task_of(plan, home)
    # A live table would be drawn over what pdb asks.
    inline = plan.composed.cluster.kind == "inline"
    stdout = sys.stdout
    shown: AbstractContextManager[Any] = open_view(console, quiet=quiet or as_json, live=not inline)
    if events:
        shown = nullcontext(EventView(lambda event: _print_line(event, stdout)))
    with shown as view, _prints_aside(as_json or events):
        outcome = runtime.run(plan, home, view, task)
    if events:
        _print_line({"event": "end", **_outcome(plan.card.name, outcome)}, stdout)
    else:
        _print_outcome(console, plan.card.name, outcome, as_json=as_json)
    if outcome.interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)
    if outcome.failed:
        raise typer.Exit(EXIT_FAILED)


def _plan(sweep: str, overrides: Sequence[str] | None) -> Any:
    from swathe import runtime
    from swathe.config import compose_sweep
    from swathe.home import open_home
    from swathe.placement import placement
    from swathe.space import Space

    composed = compose_sweep(sweep, (*(overrides or ()), *placement()))
    command = shlex.join(["swathe", "launch", sweep, *(overrides or ())])
    return runtime.prepare(composed, Space.parse(composed), open_home(), command)


def _outcome(name: str, outcome: Any) -> dict[str, Any]:
    from swathe import analysis
    from swathe.home import open_home

    facts = {"reason": outcome.reason, "failed": outcome.failed, "interrupted": outcome.interrupted}
    overview, _ = analysis.leaders(open_home(), name, top=0)
    return {**facts, "seconds": outcome.seconds, **overview.as_dict()}


def _print_outcome(console: Console, name: str, outcome: Any, *, as_json: bool) -> None:
    from swathe import analysis, tables
    from swathe.home import open_home

    if as_json:
        _print_json(_outcome(name, outcome))
        return
    overview, rows = analysis.leaders(open_home(), name, top=8)
    console.print(tables.ended(overview, outcome.reason, outcome.seconds))
    if overview.best is not None:
        if not overview.several:
            console.print(tables.comparison(rows, overview.metric, title=f"The best trials of {name}"))
        console.print(tables.best_lines(overview))
    again = overview.command if outcome.interrupted else None
    console.print(tables.next_lines(name, again, best=overview.best is not None, several=overview.several))


@app.command()
def train(
    overrides: Overrides = None,
    from_file: Annotated[
        Path | None, typer.Option("--from", help="A config file, such as `swathe best --out` writes.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train one run, without a search, and record it in MLflow.

    Examples:

      swathe train data=digits optim=adamw optim.lr=0.003 epochs=10

      swathe train --from best.yaml
    """
    if (server := _server()) is not None:
        from swathe import remote_jobs

        raise typer.Exit(remote_jobs.train(server, from_file, overrides or (), as_json=as_json))
    from swathe import standalone, tables
    from swathe.home import open_home
    from swathe.tracking import shown

    home = open_home(create=True)
    config, settings = standalone.load(from_file, tuple(overrides or ()))
    console = _console()
    if settings.notice is not None:
        typer.echo(settings.notice, err=True)
    show: Callable[[Any], None] = lambda report: None  # noqa: E731
    if not as_json:
        show = lambda report: console.print(tables.report_line(report))  # noqa: E731
    with _prints_aside(as_json):
        run, run_id = standalone.train(config, settings, home, show)
    if as_json:
        _print_json({"run_id": run_id, "reports": [{"step": r.step, **r.metrics} for r in run.reports]})
    else:
        where = "; see it with: swathe ui" if settings.uri is None else f" at {shown(settings.uri)}."
        console.print(f"Recorded as run {run_id} in MLflow{where}")


@app.command("lr-find")
def lr_find(
    overrides: Overrides = None,
    from_file: Annotated[
        Path | None, typer.Option("--from", help="A config file, such as `swathe best --out` writes.")
    ] = None,
    from_lr: Annotated[float, typer.Option("--from-lr", help="The lowest rate to try.")] = 1e-7,
    to_lr: Annotated[float, typer.Option("--to-lr", help="The highest rate to try.")] = 10.0,
    rates: Annotated[int, typer.Option("--rates", help="How many rates to try, at equal ratios.")] = 33,
    steps: Annotated[int, typer.Option("--steps", help="Steps (batches) to train at each rate.")] = 100,
    plot: Annotated[Path | None, typer.Option("--plot", help="Write the plot to this .html file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Find the learning rate of a run: try many rates at once, each for some steps.

    Examples:

      swathe lr-find model=mlp data=digits optim=adamw

      swathe lr-find --from best.yaml --from-lr 1e-5 --to-lr 1 --steps 300
    """
    if (server := _server()) is not None:
        from swathe import remote_jobs

        _refuse_with_server("--plot", plot)
        asked = {"from_lr": from_lr, "to_lr": to_lr, "rates": rates, "steps": steps}
        raise typer.Exit(remote_jobs.lr_find(server, from_file, overrides or (), asked, as_json=as_json))
    from swathe import lr_find, lr_plot, standalone
    from swathe.home import open_home

    options = lr_find.Options(from_lr, to_lr, rates, steps)
    lr_find.check(options, plot)
    home = open_home(create=True)
    config, settings = standalone.load(from_file, tuple(overrides or ()))
    if settings.notice is not None:
        typer.echo(settings.notice, err=True)
    result = lr_find.run(config, settings, home, options, plot)
    if as_json:
        _print_json(result.as_dict())
    else:
        _console().print(f"Tried {result.note}, in {result.seconds:.1f} s.\n")
        typer.echo(lr_plot.chart(result.test, result.finding))
        _console().print(lr_plot.table(result.test, result.finding))
        typer.echo("\n".join(result.lines()))
    if result.finding.lr is None:
        raise typer.Exit(EXIT_FAILED)


@app.command("list")
def list_sweeps(as_json: AsJson = False) -> None:
    """List the sweeps of this working folder.

    Example:

      swathe list
    """
    from swathe import tables

    overviews = _overviews()
    if as_json:
        _print_json([overview.as_dict() for overview in overviews])
    elif overviews:
        _console().print(tables.sweeps(overviews))
    else:
        _console().print("No sweep was launched here yet. Begin with: swathe launch quickstart")


def _overviews() -> list[Overview]:
    if (server := _server()) is not None:
        from swathe import remote

        return remote.overviews(server)
    from swathe import analysis
    from swathe.home import open_home

    return analysis.overviews(open_home())


@app.command()
def status(
    sweep: Annotated[
        str | None, typer.Argument(help="A sweep; without it, all of them.", autocompletion=_complete_launched)
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Go on until the sweep ends.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show how far a sweep is, its best trial, and why trials failed.

    Examples:

      swathe status optimizers

      swathe status optimizers --watch
    """
    from swathe import tables

    if sweep is None:
        if watch:
            raise BadInputError("--watch: without a sweep it is not allowed; allowed: swathe status SWEEP --watch.")
        list_sweeps(as_json)
        return
    read = _reader(sweep)
    if watch:
        tables.watch(_console(), read)
    overview = read()
    if as_json:
        _print_json(overview.as_dict())
    else:
        _console().print(tables.overview(overview))


def _reader(sweep: str) -> Callable[[], Overview]:
    if (server := _server()) is not None:
        from swathe import remote

        remote.overview(server, sweep)
        return remote.reader(server, sweep)
    from swathe import analysis
    from swathe.home import open_home

    home = open_home()
    return lambda: analysis.overview(home, sweep)


@app.command()
def stop(sweep: SweepName) -> None:
    """Ask a running sweep to stop; `swathe launch` goes on with it later.

    Example:

      swathe stop optimizers
    """
    if (server := _server()) is not None:
        from swathe import remote

        typer.echo(remote.stop(server, sweep))
        return
    from swathe.home import open_home

    folder, _ = open_home().existing(sweep)
    typer.echo(folder.ask_to_stop())


@app.command()
def enqueue(
    sweep: SweepName,
    point: Annotated[list[str], typer.Argument(help="Values of its space, such as optim.lr=0.001 batch_size=64.")],
) -> None:
    """Let a sweep try a point next, whether it runs or was stopped; the sampler draws what is not given.

    Example:

      swathe enqueue optimizers optim=adam optim.lr=0.001
    """
    from swathe.enqueueing import enqueue as leave
    from swathe.home import open_home

    typer.echo(leave(open_home(), sweep, point))


OfTrial = Annotated[int | None, typer.Option("--trial", help="One of its trials, by number.")]


@app.command()
def tag(
    sweep: SweepName,
    tags: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="What to set.")] = None,
    trial: OfTrial = None,
    remove: Annotated[list[str] | None, typer.Option("--remove", metavar="KEY", help="What to take away.")] = None,
    as_json: AsJson = False,
) -> None:
    """Tag a sweep, or one of its trials, in MLflow, whose UI filters by tags; without tags, print those there are.

    Examples:

      swathe tag optimizers team=vision stage=baseline

      swathe tag optimizers --trial 12 keep=true --remove stage
    """
    from swathe import annotating
    from swathe.annotations import parsed_tags
    from swathe.home import open_home

    found = annotating.tag(open_home(), sweep, trial, parsed_tags(tags or ()), remove or ())
    if as_json:
        _print_json(found)
    for name, value in found.items() if not as_json else ():
        typer.echo(f"{name}={value}")


@app.command()
def note(
    sweep: SweepName,
    text: Annotated[
        str | None, typer.Argument(help="The note, in Markdown; without it, print the one there is.")
    ] = None,
    trial: OfTrial = None,
) -> None:
    """Write a note on a sweep, or on one of its trials, which MLflow shows above what Swathe says of it.

    Examples:

      swathe note optimizers "Momentum needs a smaller rate than I thought."

      swathe note optimizers --trial 12 "An outlier: look at its curve."
    """
    from swathe import annotating
    from swathe.annotations import checked_note
    from swathe.home import open_home

    shown = annotating.note(open_home(), sweep, trial, None if text is None else checked_note(text, "TEXT"))
    if text is None:
        typer.echo(shown)


@app.command()
def compare(
    sweeps: Annotated[
        list[str],
        typer.Argument(help="A sweep that was launched here, or several.", autocompletion=_complete_launched),
    ],
    top: Annotated[int, typer.Option("--top", min=1, help="How many trials to show.")] = 10,
    sort: Annotated[
        str | None,
        typer.Option(
            "--sort",
            help="A recorded metric: accuracies downwards, losses upwards, the sweep's own its way.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the best trials of a sweep side by side, from MLflow's record; or several sweeps.

    Examples:

      swathe compare optimizers --top 20

      swathe compare optimizers optimizers_compared

      swathe compare optimizers --sort val_accuracy
    """
    from swathe import tables

    if len(sweeps) > 1:
        _compare_sweeps(sweeps, sort, as_json=as_json)
        return
    sweep = sweeps[0]
    metric, others, rows = _compared(sweep, top, sort)
    if as_json:
        _print_json([row.as_dict() for row in rows])
        return
    _console().print(tables.comparison(rows, metric, title=f"Sweep {sweep}, by {metric}", others=others))


def _compare_sweeps(names: Sequence[str], sort: str | None, *, as_json: bool) -> None:
    if sort is not None:
        raise BadInputError(f"--sort: {sort!r} is for the trials of one sweep; allowed: several sweeps without it.")
    from swathe import tables

    if (server := _server()) is not None:
        from swathe import remote

        found = remote.versus(server, names)
    else:
        from swathe.home import open_home
        from swathe.versus import versus

        found = versus(open_home(), names)
    if as_json:
        _print_json(found.as_dict())
    else:
        _console().print(tables.versus(found))


def _compared(sweep: str, top: int, sort: str | None) -> tuple[str, Sequence[str], list[Row]]:
    """Return the metric by which trials are sorted, the objectives where there are several, and the trials."""
    if (server := _server()) is not None:
        from swathe import remote

        return remote.compare(server, sweep, top=top, sort=sort)
    from swathe import analysis
    from swathe.home import open_home

    home = open_home()
    card = home.existing(sweep)[1]
    return sort or card.metric, card.metrics, analysis.compare(home, sweep, top=top, sort=sort)


@app.command()
def diagnose(
    target: Annotated[
        str,
        typer.Argument(metavar="SWEEP|RUN_ID", help="A sweep, or an MLflow run.", autocompletion=_complete_launched),
    ],
    trial: Annotated[int | None, typer.Option("--trial", help="One trial of the sweep.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what went wrong in a run or in a sweep, by what it shows, and what can be done.

    Examples:

      swathe diagnose optimizers

      swathe diagnose optimizers --trial 17
    """
    from swathe import tables

    found = _findings(target, trial)
    if as_json:
        _print_json(found)
    else:
        show = tables.run_findings if "run_id" in found else tables.sweep_findings
        _console().print(show(found))


def _findings(target: str, trial: int | None) -> Mapping[str, Any]:
    if (server := _server()) is not None:
        from swathe import remote

        return remote.findings(server, target, trial)
    from swathe import analysis, diagnosed
    from swathe.home import open_home

    home = open_home()
    if trial is not None:
        return diagnosed.trial_findings(home, target, trial).as_dict()
    if analysis.is_run_id(home, target):
        return diagnosed.run_findings(home, target).as_dict()
    return diagnosed.sweep_findings(home, target).as_dict()


@app.command()
def best(
    sweep: SweepName,
    out: Annotated[Path | None, typer.Option("--out", help="Write the best trial's config to this file.")] = None,
    trial: Annotated[int | None, typer.Option("--trial", help="This complete trial instead of the best.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the best trial's config, or write it to a file for `swathe train --from`.

    Of a sweep with several objectives, show its front: the trials that no other one beats in all of them.

    Examples:

      swathe best optimizers

      swathe best optimizers --out best.yaml

      swathe best accuracy_and_size --trial 7 --out small.yaml
    """
    if trial is None and (overview := _several(sweep)) is not None:
        _show_front(overview, out, as_json=as_json)
        return
    found = _best(sweep, trial)
    text = found.as_yaml()
    if out is not None:
        _write_out(out, text)
        if not as_json:
            values = ", ".join(f"{name} {value:.6g}" for name, value in found.values.items())
            values += "" if found.repeats is None else f", {found.repeats.words}"
            typer.echo(f"Wrote trial {found.trial} ({values}) to {out}.")
            typer.echo(f"Train it with: swathe train --from {out}")
    if as_json:
        _print_json(found.as_dict())
    elif out is None:
        typer.echo(text, nl=False)


def _write_out(path: Path, text: str) -> None:
    with writing("--out", path):
        path.write_text(text)


def _several(sweep: str) -> Overview | None:
    """Return how a sweep with several objectives stands; None for one with one."""
    if (server := _server()) is not None:
        from swathe import remote

        found = remote.overview(server, sweep)
        return found if found.several else None
    from swathe import analysis
    from swathe.home import open_home

    home = open_home()
    return analysis.leaders(home, sweep, top=0)[0] if home.existing(sweep)[1].metrics else None


def _show_front(overview: Overview, out: Path | None, *, as_json: bool) -> None:
    from swathe import tables

    numbers = ", ".join(str(one.trial) for one in overview.front)
    if not numbers:
        raise BadInputError(f"Sweep {overview.name!r} has no complete trial yet that its front could be made of.")
    if out is not None:
        raise BadInputError(
            f"--out: {str(out)!r} is not allowed alone, as several objectives have no one best trial; allowed: with "
            f"--trial and one of the front, {numbers}."
        )
    if as_json:
        known = overview.as_dict()
        _print_json({key: known[key] for key in ("name", "metrics", "directions", "constraints", "front")})
        return
    _console().print(tables.front(overview))
    typer.echo(f"A trial's config: swathe best {overview.name} --trial {overview.front[0].trial}")


def _best(sweep: str, trial: int | None) -> Best:
    if (server := _server()) is not None:
        from swathe import remote

        return remote.best(server, sweep, trial)
    from swathe import analysis
    from swathe.home import open_home

    return analysis.best(open_home(), sweep, trial)


@app.command()
def report(
    sweep: SweepName,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The file to write; without it SWEEP-report.html in the sweep's folder."),
    ] = None,
    seeds: Annotated[
        bool, typer.Option("--seeds/--no-seeds", help="Train the best config with five other seeds.")
    ] = True,
    pruned: Annotated[
        int, typer.Option("--pruned", min=0, help="Train so many pruned trials to the end; 0: none.")
    ] = 5,
    scientific: Annotated[
        list[str] | None,
        typer.Option("--scientific", help="A parameter to compare, such as model.norm; may be repeated."),
    ] = None,
) -> None:
    """Write one HTML page that says what a sweep found and how sure it is.

    The page opens offline, and is kept in MLflow with the sweep.

    Examples:

      swathe report optimizers

      swathe report optimizers --scientific optim --pruned 10

      swathe report optimizers --no-seeds --pruned 0 --out report.html
    """
    if (server := _server()) is not None:
        from swathe import remote_jobs

        _refuse_with_server("--scientific", scientific)
        path = Path(f"{sweep}-report.html") if out is None else out
        _write_out(path, remote_jobs.report(server, sweep, seeds=seeds, pruned=pruned))
        typer.echo(str(path))
        return
    from swathe.home import open_home
    from swathe.reporting.write import write_report

    say = lambda line: typer.echo(line, err=True)  # noqa: E731
    made = write_report(open_home(), sweep, out=out, seeds=seeds, pruned=pruned, scientific=scientific or (), say=say)
    typer.echo(str(made.path))


@app.command()
def reproduce(
    target: Annotated[
        str,
        typer.Argument(
            metavar="SWEEP|RUN_ID", help="A sweep (its best trial) or an MLflow run.", autocompletion=_complete_launched
        ),
    ],
    trial: Annotated[
        list[int] | None,
        typer.Option("--trial", help="This trial instead of the best, or of the whole front; may be repeated."),
    ] = None,
    solo: Annotated[
        bool, typer.Option("--solo", help="Train a lane alone; its losses must be equal within a tolerance.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train a recorded trial again and compare every reported number.

    Exit code 0: identical bits, or with --solo losses within the tolerance; 3: different, with what differs.

    Examples:

      swathe reproduce optimizers

      swathe reproduce optimizers --trial 3 --trial 17

      swathe reproduce optimizers --solo
    """
    if (server := _server()) is not None:
        from swathe import remote_jobs

        _refuse_with_server("--solo", solo)
        raise typer.Exit(remote_jobs.reproduce(server, target, trial or (), as_json=as_json))
    from swathe import analysis, tables
    from swathe.home import open_home
    from swathe.reproduce import reproduce as again

    home = open_home()
    records, runs, metric = analysis.runs_to_reproduce(home, target, trial or [])
    say_compiling = lambda: typer.echo("Compiling its lanes' program again, some twenty seconds ...", err=as_json)  # noqa: E731
    results = []
    for run in runs:
        if not as_json:
            typer.echo(f"Training trial {run.number} again (run {run.run_id}) ...")
        with _prints_aside(as_json):
            results.append(again(records, run, home, metric=metric, solo=solo, on_compile=say_compiling))
        if not as_json:
            _console().print(tables.reproduction(results[-1]))
    if as_json:
        _print_json([tables.reproduction_dict(result) for result in results])
    elif len(results) > 1:
        same = sum(result.good for result in results)
        typer.echo(f"{same} of {len(results)} trials {'identical or within the tolerance' if solo else 'identical'}.")
    if not all(result.good for result in results):
        raise typer.Exit(EXIT_DIFFERENT)


@app.command()
def config(
    sweep: SweepToLaunch,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Print a sweep's composed config and its space; only checks, starts nothing.

    Example:

      swathe config optimizers optim.lr=0.01
    """
    import yaml

    from swathe import tables

    values, space = _composed(sweep, overrides or ())
    if as_json:
        _print_json({"config": values, "space": space})
        return
    typer.echo(yaml.safe_dump(values, sort_keys=False), nl=False)
    _console().print(tables.space(space))


def _composed(sweep: str, overrides: Sequence[str]) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Return a sweep's config and its space, as rows; raises `BadInputError`."""
    if (server := _server()) is not None:
        from swathe import remote

        found = remote.validate(server, sweep, overrides)
        return found["config"], found["space"]
    from swathe import tables
    from swathe.preflight import check_options

    plan = _plan(sweep, overrides)
    check_options(plan)
    return dict(plan.composed.values), tables.space_dict(plan.space)


@app.command()
def check(
    sweep: SweepToLaunch,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Try what a launch tries before its first trial: data, a step of each structure, one batch; starts nothing.

    Exit code 0: a launch would begin; 2: it would be refused.

    Example:

      swathe check quickstart model.activation=sigmoid
    """
    if (server := _server()) is not None:
        from swathe import remote

        found = remote.validate(server, sweep, overrides or ())
        if as_json:
            _print_json({"name": found["name"], "trials": found["trials"]})
        else:
            typer.echo(f"A launch of {found['name']} would begin; its first worker tries data, steps and one batch.")
        return
    from swathe import preflight, tables
    from swathe.home import open_home
    from swathe.weights import with_weights

    plan = _plan(sweep, overrides)
    home = open_home(create=True)
    plan = with_weights(plan, home)
    verdict = preflight.try_now(plan, home)
    if as_json:
        _print_json({"name": plan.card.name, **verdict.as_dict()})
    else:
        _console().print(tables.preflight(plan.card.name, verdict))
    if verdict.errors:
        raise typer.Exit(EXIT_BAD_INPUT)


@app.command()
def ui(
    sweep: Annotated[
        str | None, typer.Argument(help="Open at this sweep's experiment.", autocompletion=_complete_launched)
    ] = None,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port to serve on.")] = 5000,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a web browser.")] = True,
) -> None:
    """Serve the MLflow UI on this machine and open it.

    Examples:

      swathe ui optimizers

      swathe ui --port 5001 --no-browser
    """
    if (server := _server()) is not None:
        from swathe import remote

        page = f"{server.url}/mlflow/"
        if sweep is not None:
            remote.overview(server, sweep)
        typer.echo(f"The MLflow UI: {page} (log in at {server.url} first)")
        if browser:
            typer.launch(page)
        return
    from swathe import analysis
    from swathe.home import open_home
    from swathe.ui import serve

    home = open_home()
    uri, experiment = home.tracking_uri, None
    if sweep is not None:
        uri, experiment = analysis.experiment(home, sweep)
    raise typer.Exit(serve(uri, home, experiment, port, browser=browser))


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say what this machine has: versions, devices, compiler, data.

    Example:

      swathe doctor
    """
    from swathe import tables

    findings = _facts()
    if as_json:
        _print_json(findings)
    else:
        _console().print(tables.facts(findings))


def _facts() -> dict[str, Any]:
    if (server := _server()) is not None:
        from swathe import remote

        return dict(remote.cluster_facts(server))
    from swathe.doctor import examine

    return examine()


@app.command()
def export(
    sweep: SweepName,
    out: Annotated[Path, typer.Option("--out", help="The file: .csv, .parquet or .json.")],
    curves: Annotated[bool, typer.Option("--curves", help="A row for each report, in place of each trial.")] = False,
) -> None:
    """Write a sweep's trials as a table: CSV, Parquet or JSON.

    Examples:

      swathe export optimizers --out trials.parquet

      swathe export optimizers --curves --out curves.csv
    """
    from swathe import exporting

    frame = _exported(sweep, curves=curves)
    exporting.write(frame, out)
    typer.echo(f"Wrote {len(frame)} rows to {out}.")


def _exported(sweep: str, *, curves: bool) -> Any:
    from swathe import exporting

    if (server := _server()) is not None:
        from swathe import remote

        _refuse_with_server("--curves", curves)
        return exporting.table(remote.trials(server, sweep))
    from swathe.home import open_home

    return (exporting.curves if curves else exporting.trials)(open_home(), sweep)


@app.command("import")
def import_sweep(
    source: Annotated[
        str,
        typer.Argument(help="A sweep.yaml of W&B, module:name of a param_space of Ray Tune, or a storage of Optuna's."),
    ],
    study: Annotated[str | None, typer.Option("--study", help="With Optuna: which study of the storage.")] = None,
    function: Annotated[str | None, typer.Option("--function", help="Your function, as module:function.")] = None,
    metric: Annotated[str | None, typer.Option("--metric", help="The metric that the function reports.")] = None,
    direction: Annotated[str | None, typer.Option("--direction", help="minimize or maximize.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write the sweep to this file.")] = None,
) -> None:
    """Turn a sweep of W&B, Ray Tune or Optuna into one that `swathe launch` runs, with your own function.

    With --out, an Optuna study's trials are written beside the sweep, which begins with what they say.

    Examples:

      swathe import sweep.yaml --function train:main --out sweeps/mine.yaml

      swathe import tune_app:param_space --metric loss

      swathe import sqlite:///study.db --study mine --function train:main --out sweeps/mine.yaml
    """
    from swathe import import_optuna, importing

    said = {"function": function, "metric": metric, "direction": direction}
    trials, assumed = 0, ""
    if import_optuna.is_storage(source):
        text, trials = import_optuna.import_study(source, study=study, out=out, **said)
    elif study is not None:
        raise BadInputError(f"--study: {study!r} is not allowed; allowed: with a storage of Optuna's as SOURCE.")
    else:
        text, assumed = importing.import_sweep(source, out=out, **said)
    if out is None:
        typer.echo(text, nl=False)
        return
    _write_out(out, text)
    begins = f"It begins with what {trials} trials say, in {out.with_suffix('.trials.json')}." if trials else ""
    typer.echo(" ".join(filter(None, (f"Wrote {out}.", begins, assumed, f"Check it with: swathe config {out}"))))


@app.command()
def serve(
    host: Annotated[str, typer.Option("--host", help="Where to listen; others than this machine need tokens.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to serve on; 0: any.")] = 8000,
    tls_cert: Annotated[Path | None, typer.Option("--tls-cert", help="A certificate (PEM), for HTTPS.")] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", help="Its key (PEM).")] = None,
    behind_proxy: Annotated[
        bool, typer.Option("--behind-proxy", help="Everybody comes through a proxy that has TLS.")
    ] = False,
    allow_module: Annotated[
        list[str] | None,
        typer.Option("--allow-module", help="A module whose functions sweeps may name; may be repeated."),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option("--address", help="The dashboard of a Ray to run jobs on; else one is started here."),
    ] = None,
    stop: Annotated[bool, typer.Option("--stop", help="End the Ray that a server here left running.")] = False,
) -> None:
    """Serve the sweeps of this working folder over HTTP, for those who have a token.

    Examples:

      swathe serve

      swathe serve --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem

      swathe serve --address http://10.0.0.1:8265
    """
    from swathe.home import open_home
    from swathe.service.serve import end_cluster
    from swathe.service.serve import serve as run_server

    if stop:
        typer.echo(end_cluster(open_home(create=True)))
        return
    run_server(
        open_home(create=True),
        host=host,
        port=port,
        tls_cert=tls_cert,
        tls_key=tls_key,
        behind_proxy=behind_proxy,
        allowed_modules=allow_module or (),
        address=address,
        say=typer.echo,
    )


token_app = typer.Typer(help="Make, list and revoke the tokens of `swathe serve`.", no_args_is_help=True)
app.add_typer(token_app, name="token")


@token_app.command("create")
def token_create(
    name: Annotated[str, typer.Argument(help="Whose it is.")],
    role: Annotated[str, typer.Option("--role", help="viewer: reads; runner: also validates, stops; admin: all.")],
    days: Annotated[int | None, typer.Option("--days", help="It expires after so many days.")] = None,
) -> None:
    """Make a token and print it, once.

    Example:

      swathe token create ada --role runner --days 90
    """
    from swathe.home import open_home
    from swathe.service.tokens import create_token

    made = create_token(open_home(create=True), name, role, days)
    typer.echo(f"The token of {name}, which cannot be shown again:", err=True)
    typer.echo(made)


@token_app.command("list")
def token_list(as_json: AsJson = False) -> None:
    """List the tokens, without their secrets.

    Example:

      swathe token list
    """
    from swathe.home import open_home
    from swathe.service.tokens import read_tokens, token_table

    found = read_tokens(open_home())
    if as_json:
        _print_json([token.as_dict() for token in found])
    elif found:
        _console().print(token_table(found))
    else:
        _console().print("No token was made yet. Make one with: swathe token create NAME --role viewer")


@token_app.command("revoke")
def token_revoke(name: Annotated[str, typer.Argument(help="Whose it is.")]) -> None:
    """Take a token back; a running server sees it at once.

    Example:

      swathe token revoke ada
    """
    from swathe.home import open_home
    from swathe.service.tokens import revoke_token

    revoke_token(open_home(), name)
    typer.echo(f"Revoked the token of {name}.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code: see the table of exit codes in the README."""
    if arguments is None:
        end_with(lambda: run(None))
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None) -> int:
    """Run the command line and return its exit code; what goes wrong is said on stderr in one sentence."""
    words = _server_first(list(sys.argv[1:] if arguments is None else arguments))
    return run_command(lambda: app(args=words, standalone_mode=False))


def run_command(command: Callable[[], Any]) -> int:
    """Run a command and return the exit code that it gives or that its error has; the error is said in one sentence."""
    try:
        code = command()
    except typer.TyperException as error:
        typer.echo(f"swathe: {_usage_error(error)}", err=True)
        return EXIT_BAD_INPUT
    except (typer.Abort, KeyboardInterrupt):
        typer.echo("Interrupted.", err=True)
        return EXIT_INTERRUPTED
    except BadInputError as error:
        typer.echo(f"swathe: {_in_a_line(error)}", err=True)
        return EXIT_BAD_INPUT
    except SwatheError as error:
        typer.echo(f"swathe: {_in_a_line(error)}", err=True)
        return EXIT_FAILED
    except BrokenPipeError:
        # The reader of our output went away (`swathe compare x | head`): nothing to say, and nobody to say it to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        reason = error.strerror
        typer.echo(f"swathe: The disk takes no more ({reason}); with room on it, the same command goes on.", err=True)
        return EXIT_FAILED
    return code if isinstance(code, int) else 0


def _server_first(words: list[str]) -> list[str]:
    """Return the words with --server URL before the command, where it is an option, wherever it was given."""
    end = words.index("--") if "--" in words else len(words)
    for place, word in enumerate(words[:end]):
        if word.startswith("--server=") or (word == "--server" and place + 1 < end):
            size = 1 if "=" in word else 2
            return [*words[place : place + size], *words[:place], *words[place + size :]]
    return words


def _usage_error(error: typer.TyperException) -> str:
    """Say what is wrong with the words of a command, and where its options are explained."""
    context = getattr(error, "ctx", None)
    # The first word is how the program was called.
    command = [] if context is None else context.command_path.split()[1:]
    return f"{_in_a_line(error.format_message()).rstrip('.')}. See: {' '.join(['swathe', *command, '--help'])}"


def _in_a_line(error: BaseException | str) -> str:
    """Return an error's text, in which other people's may be, with line ends and the like as escape sequences."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in str(error))


if __name__ == "__main__":
    main()
