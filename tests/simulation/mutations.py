"""Small bugs for the controller, each of which the simulation must find, or its passing would say nothing.

A mutation is an exact piece of the controller's source and what stands in its place.
"""

from __future__ import annotations

import inspect
import sys
from types import ModuleType

from swathe import controller
from swathe.controller import Controller

MUTATIONS: dict[str, tuple[str, str]] = {
    "what is left of a point that is out trains on": (
        "            commands += self._drop_unneeded()\n",
        "",
    ),
    "a point has the value of its last repeat": (
        "            self._improves(ended.number, (ended.value,), feasible=ended.feasible)\n",
        "            self._improves(number, (value or ended.value,), feasible=ended.feasible)\n",
    ),
    "the trials of a lost worker are forgotten": (
        "                self._wait_again(trial)\n",
        "                del self._trials[number]\n",
    ),
    "a lost worker's trials are given away and kept as its own": (
        "        worker = self._workers.pop(name, None)\n",
        "        worker = self._workers.get(name)\n",
    ),
    "an end that comes twice counts twice": (
        "        trial = self._trials[number] if number in worker.running else None\n",
        "        trial = self._trials.get(number) or _Trial(number, {}, ALONE, step=1, value=0.0)\n",
    ),
    "what a second attempt says again is recorded again": (
        "            if trial.step is not None and report.step <= trial.step:\n",
        "            if trial.attempt == 0 and trial.step is not None and report.step <= trial.step:\n",
    ),
    "one trial too many is drawn": (
        "- drawn, self._budget.trials - self._proposed)\n",
        "- drawn, self._budget.trials - self._proposed + 1)\n",
    ),
    "the lane of a pruned trial is not given to the next": (
        "        self._workers[trial.worker].stop(trial.number)\n        self._roomy.add(trial.worker)\n",
        "        self._workers[trial.worker].stop(trial.number)\n",
    ),
    "a worker that ends a trial gets no other": (
        "            self._count_runner(key, -1)\n        self._roomy.add(name)\n        return trial\n",
        "            self._count_runner(key, -1)\n        return trial\n",
    ),
    "the budget of epochs is looked at one report late": (
        "        if epochs is not None and self._epochs >= epochs:\n",
        "        if epochs is not None and self._epochs > epochs:\n",
    ),
    "a trial that was running when the driver died is left out": (
        "        self._wait(_Trial(past.number, past.params, self._key(past.params), step=step, value=value))\n",
        "        self._waiting += 0\n",
    ),
    "the pruner does not hear of earlier sessions": (
        "        self._pruner.restore(past.number, past.values, past.state)\n",
        "        self._waiting += 0\n",
    ),
    "the pruner does not hear of a trial's end": (
        "        self._pruner.finish(trial.number, state)\n",
        "        self._waiting += 0\n",
    ),
    "a stop leaves the trials that wait": (
        '            self._ending = Done("stopped on request", interrupted=True)\n'
        "        yield from self._empty_queues()\n",
        '            self._ending = Done("stopped on request", interrupted=True)\n',
    ),
    "the sweep ends while a worker still runs what it was told to stop": (
        "        if any(worker.stopping for worker in self._workers.values()):\n            return\n",
        "",
    ),
    "a lost worker's trial is tried for ever": (
        "            trial.attempt += number in begun\n",
        "",
    ),
    "a worker that hangs is left alone": (
        '                yield Kill(name, f"nothing was heard of its trials for {self._trial_timeout:g} s")\n',
        "                yield from ()\n",
    ),
    "a worker that is told nothing is taken for one that hangs": (
        "            if silent and not worker.killed and (worker.running or worker.stopping):\n",
        "            if silent and not worker.killed:\n",
    ),
    "a sweep whose target was reached goes on when it is launched again": (
        "                commands += self._end_what_is_over()\n",
        "",
    ),
    "the best trial is not kept over a break": (
        "                self._improves(past.number, past.objectives or (past.value,), feasible=past.feasible)\n",
        "                self._waiting += 0\n",
    ),
    "patience counts anew after a break": (
        "            self._stagnation.restore(ended, self._sign)\n",
        "            self._waiting += 0\n",
    ),
    "a sweep goes on when its patience is over": (
        "            yield from self._end(stagnation_reason(patience, self._budget.min_improvement))\n",
        "            yield from ()\n",
    ),
}


def mutant(name: str) -> type[Controller]:
    """Return a controller with that bug; raises `LookupError` when its source has changed, so that there is none."""
    before, after = MUTATIONS[name]
    source = inspect.getsource(controller)
    if source.count(before) != 1:
        raise LookupError(f"{name!r}: the piece is {source.count(before)} times in the controller's source")
    module = ModuleType("swathe_controller_mutant")
    # Its dataclasses look up their own module.
    sys.modules[module.__name__] = module
    exec(compile(source.replace(before, after), "mutant", "exec"), module.__dict__)
    made: type[Controller] = module.__dict__["Controller"]
    return made
