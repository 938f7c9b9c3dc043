"""The commands: each parses, calls and prints."""

from __future__ import annotations

import errno
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console

from swathe.errors import BadInputError, SwatheError
from swathe.plain import finite

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_DIFFERENT = 3
EXIT_INTERRUPTED = 130
# A file system that is full, a quota that is used up, and a limit on the size of a file.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

app = typer.Typer(
    help="Swathe: launch sweeps of PyTorch training, compare them in MLflow, reproduce the best.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)

Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Hydra overrides, such as optim=adam or 'optim.lr=tag(log,interval(1e-5,1))'."),
]
SweepName = Annotated[str, typer.Argument(help="The name of a sweep that was launched here.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the result only.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Events = Annotated[bool, typer.Option("--events", help="Print a JSON line at each change, and one at the end.")]


def _console() -> Console:
    return Console(highlight=False, soft_wrap=not sys.stdout.isatty())


def _print_json(value: object) -> None:
    typer.echo(json.dumps(finite(value), indent=2, default=str, allow_nan=False))


def _print_line(value: object, file: TextIO) -> None:
    print(json.dumps(finite(value), default=str, allow_nan=False), file=file, flush=True)


def _prints_aside(as_json: bool) -> AbstractContextManager[Any]:
    """Send what a trial prints in this process to stderr, so that stdout holds the JSON alone."""
    return redirect_stdout(sys.stderr) if as_json else nullcontext()


@app.command()
def launch(
    sweep: Annotated[str, typer.Argument(help="A name in sweeps/ or the path of a YAML file.")],
    overrides: Overrides = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
    events: Events = False,
) -> None:
    """Run a sweep, or go on with one that was stopped.

    Examples:

      swathe launch quickstart

      swathe launch optimizers sweep.trials=60 pruner=median

      swathe launch sweeps/mine.yaml 'optim.lr=tag(log,interval(1e-4,1))'
    """
    _launch(sweep, overrides, quiet=quiet, as_json=as_json, events=events)


@app.command()
def resume(
    name: SweepName,
    overrides: Overrides = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
    events: Events = False,
) -> None:
    """Go on with a sweep that was stopped, killed or has used its budget: the command that launched it, once more.

    Examples:

      swathe resume quickstart

      swathe resume quickstart sweep.trials=80
    """
    from swathe.home import open_home

    _, card = open_home().existing(name)
    sweep, *given = shlex.split(card.command)[2:]
    named = [] if any(word.startswith("sweep.name=") for word in given) else [f"sweep.name={name}"]
    _launch(sweep, [*given, *named, *(overrides or ())], quiet=quiet, as_json=as_json, events=events)


def _launch(sweep: str, overrides: Sequence[str] | None, *, quiet: bool, as_json: bool, events: bool) -> None:
    from swathe import runtime
    from swathe.home import open_home
    from swathe.preflight import check, task_of
    from swathe.view import EventView, open_view
    from swathe.weights import with_weights

    if events and as_json:
        raise BadInputError("--events and --json are not for one command: the last event has what --json prints.")
    plan = _plan(sweep, overrides)
    console = _console()
    home = open_home(create=True)
    plan = with_weights(plan, home)
    check(plan, home.data)
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
    from swathe.space import Space

    composed = compose_sweep(sweep, tuple(overrides or ()))
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
    console.print(f"Sweep {name}: {outcome.reason}, after {outcome.seconds:.1f} s.")
    if overview.best is not None:
        console.print(tables.comparison(rows, overview.metric, title=f"The best trials of {name}"))
        console.print(tables.best_lines(overview))
    again = overview.command if outcome.interrupted else None
    console.print(tables.next_lines(name, again, best=overview.best is not None))


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
    from swathe import analysis, tables
    from swathe.home import open_home

    home = open_home()
    overviews = analysis.overviews(home)
    if as_json:
        _print_json([overview.as_dict() for overview in overviews])
    elif overviews:
        _console().print(tables.sweeps(overviews))
    else:
        _console().print("No sweep was launched here yet. Begin with: swathe launch quickstart")


@app.command()
def status(
    sweep: Annotated[str | None, typer.Argument(help="A sweep; without it, all of them.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Go on until the sweep ends.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show how far a sweep is, its best trial, and why trials failed.

    Examples:

      swathe status optimizers

      swathe status optimizers --watch
    """
    from swathe import analysis, tables
    from swathe.home import open_home

    if sweep is None:
        if watch:
            raise BadInputError("--watch: without a sweep it is not allowed; allowed: swathe status SWEEP --watch.")
        list_sweeps(as_json)
        return
    home = open_home()
    if watch:
        tables.watch(_console(), lambda: analysis.overview(home, sweep))
    overview = analysis.overview(home, sweep)
    if as_json:
        _print_json(overview.as_dict())
    else:
        _console().print(tables.overview(overview))


@app.command()
def stop(sweep: SweepName) -> None:
    """Ask a running sweep to stop; `swathe launch` goes on with it later.

    Example:

      swathe stop optimizers
    """
    from swathe.home import open_home

    folder, _ = open_home().existing(sweep)
    typer.echo(folder.ask_to_stop())


@app.command()
def compare(
    sweep: SweepName,
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
    """Show the best trials of a sweep side by side, from MLflow's record.

    Examples:

      swathe compare optimizers --top 20

      swathe compare optimizers --sort val_accuracy
    """
    from swathe import analysis, tables
    from swathe.home import open_home

    home = open_home()
    rows = analysis.compare(home, sweep, top=top, sort=sort)
    if as_json:
        _print_json([row.as_dict() for row in rows])
        return
    metric = sort or analysis.overview(home, sweep).metric
    _console().print(tables.comparison(rows, metric, title=f"Sweep {sweep}, by {metric}"))


@app.command()
def diagnose(
    target: Annotated[str, typer.Argument(metavar="SWEEP|RUN_ID", help="A sweep, or an MLflow run.")],
    trial: Annotated[int | None, typer.Option("--trial", help="One trial of the sweep.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what went wrong in a run or in a sweep, by what it shows, and what can be done.

    Examples:

      swathe diagnose optimizers

      swathe diagnose optimizers --trial 17
    """
    from swathe import analysis, diagnosed, tables
    from swathe.home import open_home

    home = open_home()
    if trial is not None:
        found: Any = diagnosed.trial_findings(home, target, trial)
    elif analysis.is_run_id(home, target):
        found = diagnosed.run_findings(home, target)
    else:
        found = diagnosed.sweep_findings(home, target)
    if as_json:
        _print_json(found.as_dict())
    else:
        show = tables.run_findings if isinstance(found, diagnosed.RunFindings) else tables.sweep_findings
        _console().print(show(found))


@app.command()
def best(
    sweep: SweepName,
    out: Annotated[Path | None, typer.Option("--out", help="Write the best trial's config to this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the best trial's config, or write it to a file for `swathe train --from`.

    Examples:

      swathe best optimizers

      swathe best optimizers --out best.yaml
    """
    from swathe import analysis
    from swathe.home import open_home

    found = analysis.best(open_home(), sweep)
    text = found.as_yaml()
    if out is not None:
        try:
            out.write_text(text)
        except OSError as error:
            raise BadInputError(
                f"--out: {str(out)!r} cannot be written ({error.strerror}); allowed: a file in an existing folder."
            ) from error
        if not as_json:
            typer.echo(f"Wrote trial {found.trial} ({found.metric} {found.value:.6g}) to {out}.")
            typer.echo(f"Train it with: swathe train --from {out}")
    if as_json:
        _print_json(found.as_dict())
    elif out is None:
        typer.echo(text, nl=False)


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
    from swathe.home import open_home
    from swathe.reporting.write import write_report

    say = lambda line: typer.echo(line, err=True)  # noqa: E731
    made = write_report(open_home(), sweep, out=out, seeds=seeds, pruned=pruned, scientific=scientific or (), say=say)
    typer.echo(str(made.path))


@app.command()
def reproduce(
    target: Annotated[str, typer.Argument(metavar="SWEEP|RUN_ID", help="A sweep (its best trial) or an MLflow run.")],
    trial: Annotated[
        list[int] | None, typer.Option("--trial", help="This trial instead of the best; may be repeated.")
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
    sweep: Annotated[str, typer.Argument(help="A name in sweeps/ or the path of a YAML file.")],
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Print a sweep's composed config and its space; only checks, starts nothing.

    Example:

      swathe config optimizers optim.lr=0.01
    """
    import yaml

    from swathe import tables
    from swathe.preflight import check_options

    plan = _plan(sweep, overrides)
    check_options(plan)
    if as_json:
        _print_json({"config": dict(plan.composed.values), "space": tables.space_dict(plan.space)})
        return
    typer.echo(yaml.safe_dump(dict(plan.composed.values), sort_keys=False), nl=False)
    _console().print(tables.space(plan.space))


@app.command()
def check(
    sweep: Annotated[str, typer.Argument(help="A name in sweeps/ or the path of a YAML file.")],
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Try what a launch tries before its first trial: data, a step of each structure, one batch; starts nothing.

    Exit code 0: a launch would begin; 2: it would be refused.

    Example:

      swathe check quickstart model.activation=sigmoid
    """
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
    sweep: Annotated[str | None, typer.Argument(help="Open at this sweep's experiment.")] = None,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port to serve on.")] = 5000,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a web browser.")] = True,
) -> None:
    """Serve the MLflow UI on this machine and open it.

    Examples:

      swathe ui optimizers

      swathe ui --port 5001 --no-browser
    """
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
    from swathe.doctor import examine

    findings = examine()
    if as_json:
        _print_json(findings)
    else:
        _console().print(tables.facts(findings))


@app.command()
def serve(
    host: Annotated[str, typer.Option("--host", help="Where to listen; others than this machine need tokens.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to serve on; 0: any.")] = 8000,
    tls_cert: Annotated[Path | None, typer.Option("--tls-cert", help="A certificate (PEM), for HTTPS.")] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", help="Its key (PEM).")] = None,
    allow_module: Annotated[
        list[str] | None,
        typer.Option("--allow-module", help="A module whose functions sweeps may name; may be repeated."),
    ] = None,
) -> None:
    """Serve the sweeps of this working folder over HTTP, for those who have a token.

    Examples:

      swathe serve

      swathe serve --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem
    """
    from swathe.home import open_home
    from swathe.service.serve import serve as run_server

    run_server(
        open_home(create=True),
        host=host,
        port=port,
        tls_cert=tls_cert,
        tls_key=tls_key,
        allowed_modules=allow_module or (),
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
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None) -> int:
    """Run the command line and return its exit code; what goes wrong is said on stderr in one sentence."""
    try:
        code = app(args=None if arguments is None else list(arguments), standalone_mode=False)
    except typer.TyperException as error:
        typer.echo(f"swathe: {_in_a_line(error).rstrip('.')}. See: swathe --help", err=True)
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


def _in_a_line(error: BaseException) -> str:
    """Return an error's text, in which other people's may be, with line ends and the like as escape sequences."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in str(error))


if __name__ == "__main__":
    main()
