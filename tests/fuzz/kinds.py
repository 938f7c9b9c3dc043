"""The kinds of bad (or odd) input: a table of places to damage and of ways to damage them.

A kind is one place and one way, `optim.lr: a reversed interval`; each gives a strategy for a sweep's file and the words
of a command line. Places are read off the classes that are the schema, so that a new key is damaged as all others are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from swathe import schema
from swathe.training import recipe

GOOD = """
defaults: [/model: mlp, /data: digits, /optim: adamw, _self_]
sweep:
  trials: 3
  space:
    optim.lr: tag(log, interval(1e-4, 1))
"""
FILE = "mine.yaml"


@dataclass(frozen=True, slots=True)
class Input:
    """What a user gives: the text of `mine.yaml` (bytes, as it need not be text) and the words after `swathe`."""

    words: tuple[str, ...]
    file: bytes = GOOD.encode()


# Values.

_ODD = st.text(st.characters(exclude_categories=()), min_size=1, max_size=12)
_NUMBERS = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([0, -1, 2**31, 2**63, -(2**63), 10**400, 1e-320, 1e308, 0.1 + 0.2]),
).map(str)
_BOUND = st.one_of(st.floats(allow_nan=False), st.integers(-3, 3)).map(str)


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _call(name: str, *arguments: SearchStrategy[str]) -> SearchStrategy[str]:
    return st.tuples(*arguments).map(lambda given: f"{name}({','.join(given)})")


# How the value of a key can be odd, in Hydra's grammar.
VALUES: Mapping[str, SearchStrategy[str]] = {
    "nothing": st.just(""),
    "null": st.just("null"),
    "a truth": st.sampled_from(["true", "false", "yes", "off"]),
    "a number": _NUMBERS,
    "not a number": st.sampled_from(["nan", "inf", "-inf", "NaN", "-Inf"]),
    "huge": st.sampled_from(["1" + "0" * 400, "-1" + "0" * 400, "1e999", "99999999999999999999"]),
    "below zero": st.floats(max_value=-1e-300, allow_nan=False, allow_infinity=False).map(str),
    "words": st.sampled_from(["many", "sgd adam", "a.b.c", "--fast", "-", "_", "0x10", "1_000", "1e", "1.2.3"]),
    "odd text": _ODD,
    "odd text in quotes": _ODD.map(_quoted),
    "an empty text": st.sampled_from(["''", '""']),
    "an open quote": st.sampled_from(["'", '"', "'a", 'a"b', "'a''b'"]),
    "lines": st.sampled_from(["'a\nb'", "a\nb", "\n", "'\r\n'", "\t", "'\x00'", "'\x1b[31m'"]),
    "a long text": st.integers(100, 20_000).map(lambda length: "x" * length),
    "a list": st.sampled_from(
        ["[]", "[1]", "[a,b]", "[null]", "[[1],[2]]", "[1,-1]", "[1.5]", "[0]", "[" * 60 + "]" * 60]
    ),
    "a mapping": st.sampled_from(["{}", "{a:1}", "{lr:1}", "{name:sgd}", "{a:{b:{c:1}}}", "{1:2}", "{null:1}"]),
    "an interpolation": st.sampled_from(
        [
            "${epochs}",
            "${nothing}",
            "${sweep.seed}",
            "${optim}",
            "${oc.env:NOTHING_HERE}",
            "${",
            "${oc.nothing:1}",
            "${..}",
        ]
    ),
    "an interpolation of itself": st.just("${KEY}"),
    "an interval": _call("interval", _BOUND, _BOUND),
    "a reversed interval": st.just("interval(2,1)"),
    "an empty interval": st.sampled_from(["interval(1,1)", "interval(0,0)", "interval(1.5,1.5)"]),
    "an endless interval": st.sampled_from(
        ["interval(0,inf)", "interval(-inf,1)", "interval(nan,1)", "interval(-1e308,1e308)"]
    ),
    "a tiny interval": st.sampled_from(["interval(0,5e-324)", "interval(1,1.0000000000000002)"]),
    "an interval of one end": st.sampled_from(["interval(1)", "interval()", "interval(start=1)", "interval(end=1)"]),
    "an interval of words": st.sampled_from(
        ["interval(a,b)", "interval('0','1')", "interval(null,1)", "interval([1],[2])"]
    ),
    "an interval in logarithms": _call("tag", st.just("log"), _call("interval", _BOUND, _BOUND)),
    "an interval of integers": _call("int", _call("interval", _BOUND, _BOUND)),
    "another tag": st.sampled_from(
        ["tag(lin,interval(0,1))", "tag(interval(0,1))", "tag(log,choice(1,2))", "tag(log,1)", "tag()"]
    ),
    "a range": _call("range", _BOUND, _BOUND),
    "a range of no step": st.sampled_from(
        ["range(1,3,0)", "range(1,3,-1)", "range(3,1)", "range(0)", "range(1,2,nan)"]
    ),
    "a huge range": st.sampled_from(["range(0,1000000000000)", "range(0,1,1e-300)", "range(0,1e308,1e300)"]),
    "a choice": st.lists(_NUMBERS, min_size=1, max_size=4).map(lambda given: f"choice({','.join(given)})"),
    "a choice of nothing": st.sampled_from(["choice()", "choice( )", "choice(,)"]),
    "a choice of equals": st.sampled_from(
        ["choice(1,1)", "choice(1,1.0)", "choice(true,1)", "choice(a,'a')", "choice(nan,nan)"]
    ),
    "a choice of all kinds": st.sampled_from(
        ["choice(1,a,null,true,[1],{a:1})", "choice([],{})", "choice(${epochs},1)"]
    ),
    "a choice in a choice": st.sampled_from(
        ["choice(choice(1,2),3)", "choice(interval(0,1),2)", "interval(choice(0,1),2)"]
    ),
    "a simple sweep": st.sampled_from(["1,2", "a,b", ",", "1,", ",1", "1,,2", "[1,2],[3]"]),
    "a shuffle": st.sampled_from(
        ["shuffle(1,2)", "shuffle(range(1,3))", "sort(3,1)", "sort(3,a)", "shuffle(interval(0,1))"]
    ),
    "a cast": st.sampled_from(
        ["int(a)", "float(x)", "bool(2)", "str(1)", "int(3.7)", "json_str({a:1})", "int([1,a])", "float(null)"]
    ),
    "a pattern": st.sampled_from(["glob(*)", "glob(nothing*)", "glob([a*,s*],exclude=sgd)", "glob()", "glob(1)"]),
    "an unknown function": st.sampled_from(["uniform(0,1)", "choices(1,2)", "log(1)", "eval(1)", "f(g(h(1)))"]),
    "an open bracket": st.sampled_from(["interval(0", "choice(1,2", "[1,2", "{a:1", "interval(0,1))", "]", "}", ")"]),
    "an extended list": st.sampled_from(["extend_list(1)", "extend_list(a,b)", "extend_list()"]),
}

# How a key can be odd; KEY stands for it.
NAMES: Mapping[str, SearchStrategy[str]] = {
    "misspelt": st.sampled_from(["KEYs=1", "KEY_=1", "xKEY=1", "KEY =1", " KEY=1"]),
    "below itself": st.sampled_from(["KEY.KEY=1", "KEY.x=1", "KEY.0=1", "KEY..x=1", "KEY.=1", ".KEY=1"]),
    "without a value": st.sampled_from(["KEY", "=1", "=", "KEY:1", "KEY==1", "KEY=1=2"]),
    "taken out": st.sampled_from(["~KEY", "~KEY=1", "~~KEY"]),
    "added": st.sampled_from(["+KEY=1", "++KEY=1", "+++KEY=1", "+KEY.x=1", "++KEY.x.y=1"]),
    "at a package": st.sampled_from(["KEY@x=1", "KEY@_global_=1", "+KEY@=1", "KEY@model=1", "@KEY=1", "KEY@a:b=1"]),
    "twice": st.sampled_from(
        ["KEY=1 KEY=2", "KEY=1 KEY=interval(0,1)", "KEY=choice(1,2) KEY=choice(1,2)", "KEY=1 ~KEY"]
    ),
    "in other letters": _ODD.map(lambda odd: f"KEY{odd}=1"),
}


@dataclass(frozen=True, slots=True)
class Kind:
    """One place with one way to damage it."""

    place: str
    damage: str
    inputs: SearchStrategy[Input]

    def __str__(self) -> str:
        return f"{self.place}: {self.damage}"


# Places.


def _keys() -> dict[str, tuple[str, ...]]:
    """Return every key that a config can have, with the words that choose the group's option in which it is."""
    places: dict[str, tuple[str, ...]] = {
        item.name: () for item in fields(schema.Root) if item.name not in ("params", "sampler", "pruner")
    }
    for section, kind in schema.SECTIONS.items():
        places |= {f"{section}.{item.name}": () for item in fields(kind)}
    options: Mapping[str, Mapping[str, Any]] = {
        "model": recipe.MODELS,
        "data": recipe.DATASETS,
        "optim": recipe.OPTIMIZERS,
        "schedule": recipe.SCHEDULES,
        "transfer": recipe.TRANSFERS,
        "sampler": {kind().name: kind for kind in schema._SAMPLERS},
        "pruner": {kind().name: kind for kind in schema._PRUNERS},
    }
    for group, kinds in options.items():
        places[group] = ()
        for option, kind in kinds.items():
            for item in fields(kind):
                places.setdefault(f"{group}.{item.name}", (f"{group}={option}",))
    for group, kind in (("regularization", recipe.Regularization), ("augmentation", recipe.Augmentation)):
        places |= {f"{group}.{item.name}": () for item in fields(kind)}
    return places


KEYS = _keys()


def _value_kind(key: str, before: tuple[str, ...], damage: str, values: SearchStrategy[str]) -> Kind:
    def given(value: str) -> Input:
        return Input(("config", FILE, *before, f"{key}={value.replace('KEY', key)}"))

    return Kind(key, damage, values.map(given))


def _name_kind(key: str, before: tuple[str, ...], damage: str, names: SearchStrategy[str]) -> Kind:
    def given(text: str) -> Input:
        words = text.split(" ") if damage == "twice" else [text]
        return Input(("config", FILE, *before, *(word.replace("KEY", key) for word in words)))

    return Kind(key, damage, names.map(given))


# Files. Parts of a sweep's file, and what may stand there instead; `%` is the place.
_PARTS: Mapping[str, str] = {
    "defaults": "defaults: %\nsweep: {space: {optim.lr: 'interval(0.1,1)'}}\n",
    "an entry of defaults": "defaults: [%, _self_]\nsweep: {space: {optim.lr: 'interval(0.1,1)'}}\n",
    "a group in defaults": "defaults: [/model: %, _self_]\nsweep: {space: {optim.lr: 'interval(0.1,1)'}}\n",
    "an unknown group in defaults": "defaults: [{/%: mlp}, _self_]\n",
    "the whole file": "%\n",
    "sweep": "sweep: %\n",
    "sweep.space": "sweep: {space: %}\n",
    "a key of the space": "sweep: {space: {%: 'interval(0.1,1)'}}\n",
    "a search of the space": "sweep: {space: {optim.lr: %}}\n",
    "sweep.when": "sweep: {space: {optim: 'choice(sgd,adam)'}, when: %}\n",
    "sweep.enqueue": "sweep: {space: {optim: 'choice(sgd,adam)'}, enqueue: %}\n",
    "a point": "sweep: {space: {optim.lr: 'interval(0.1,1)'}, enqueue: [%]}\n",
    "a value of a point": "sweep: {space: {optim.lr: 'interval(0.1,1)'}, enqueue: [{optim.lr: %}]}\n",
    "sweep.warm_start": "sweep: {space: {optim.lr: 'interval(0.1,1)'}, warm_start: %}\n",
    "a source of a warm start": "sweep: {space: {optim.lr: 'interval(0.1,1)'}, warm_start: [%]}\n",
    "a condition": "sweep: {space: {optim: 'choice(sgd,adam)'}, when: {%: {optim.lr: 'interval(0.1,1)'}}}\n",
    "a branch": "sweep: {space: {optim: 'choice(sgd,adam)'}, when: {optim=sgd: %}}\n",
    "a conditional key": "sweep: {space: {optim: 'choice(sgd,adam)'}, when: {optim=sgd: {%: 'interval(0.1,1)'}}}\n",
    "a conditional search": "sweep: {space: {optim: 'choice(sgd,adam)'}, when: {optim=sgd: {optim.lr: %}}}\n",
    "a nested condition": "sweep: {space: {optim: 'choice(sgd,adam)'}, when: {optim=sgd: {when: %}}}\n",
    "sweep.name": "sweep: {name: %}\n",
    "sweep.metric": "sweep: {metric: %}\n",
    "sweep.storage": "sweep: {storage: %}\n",
    "tracking.uri": "tracking: {uri: %}\n",
    "tracking.experiment": "tracking: {experiment: %}\n",
    "model": "model: %\n",
    "model.hidden": "model: {hidden: %}\n",
    "optim": "optim: %\n",
    "data": "data: %\n",
    "params": "trainable: tests.trials:quick\nparams: %\nsweep: {space: {}}\n",
    "a parameter": "trainable: tests.trials:quick\nparams: {%: 1}\nsweep: {space: {}}\n",
    "trainable": "trainable: %\nsweep: {space: {}}\n",
    "pruner": "pruner: %\n",
    "pruner.wrapped": "defaults: [/pruner: patient, _self_]\npruner: {wrapped: %}\n",
    "sampler": "sampler: %\n",
    "cluster": "cluster: %\n",
    "diagnosis": "diagnosis: %\n",
    "a new key": "%: 1\n",
    "a key twice": "%: 1\n%: 2\n",
}
_YAML: Mapping[str, SearchStrategy[str]] = {
    "nothing": st.sampled_from(["", "~", "null"]),
    "a scalar": st.sampled_from(
        ["1", "-1", "1.5", "true", "a", "''", "2026-01-01", "0o17", "1e5", ".nan", ".inf", "1_000"]
    ),
    "odd text": _ODD.map(lambda odd: '"' + "".join(f"\\U{ord(letter):08x}" for letter in odd) + '"'),
    "raw text": _ODD,
    "a list": st.sampled_from(["[]", "[1]", "[a, b]", "[null]", "[[[]]]", "[{}]", "[{a: 1}, {a: 2}]"]),
    "a mapping": st.sampled_from(
        ["{}", "{a: 1}", "{1: 2}", "{null: 1}", "{true: 1}", "{a: {b: {c: 1}}}", "{? [1]: 2}", "{1.5: 1}"]
    ),
    "an interpolation": st.sampled_from(
        ["'${epochs}'", "'${nothing}'", "'${'", "'${sweep}'", "'${oc.env:NOTHING}'", "???", "'???'"]
    ),
    "a search": st.sampled_from(
        ["'interval(0,1)'", "'interval(1,0)'", "'choice()'", "'range(0,1,0)'", "'tag(x,choice(1))'", "'x=1'"]
    ),
    "an alias": st.sampled_from(["*a", "&a [*a]", "&a {b: *a}", "&a 1", "<<: {a: 1}", "{<<: 1}"]),
    "a type": st.sampled_from(
        ["!!python/object/apply:os.getcwd []", "!!binary aGk=", "!!set {a}", "!x y", "!!int a", "!!timestamp a"]
    ),
    "broken": st.sampled_from(
        ["[", "{", "'", '"', "a: b: c", "- a\n b", "\t", "%", "@", "`", "|", ">", "? ", "- ", ": "]
    ),
}


def _file_kind(part: str, damage: str, values: SearchStrategy[str]) -> Kind:
    def given(value: str) -> Input:
        text = _PARTS[part].replace("%", value)
        return Input(("config", FILE), text.encode("utf-8", "surrogatepass"))

    return Kind(f"{FILE}, {part}", damage, values.map(given))


_BYTES: Mapping[str, SearchStrategy[bytes]] = {
    "no text": st.binary(max_size=64),
    "UTF-16": st.just(GOOD.encode("utf-16")),
    "Latin letters": st.just(GOOD.replace("trials", "träls").encode("latin-1")),
    "zeros": st.just(GOOD.encode() + b"\0" * 100),
    "cut off": st.integers(0, len(GOOD)).map(lambda end: GOOD.encode()[:end]),
    "nested deeply": st.integers(50, 3000).map(lambda depth: b"a: " + b"[" * depth + b"]" * depth),
    "two documents": st.just(GOOD.encode() + b"---\n" + GOOD.encode()),
    "carriage returns": st.just(GOOD.replace("\n", "\r\n").encode()),
    "tabs": st.just(GOOD.replace("  ", "\t").encode()),
}

# Commands.
_ODD_WORDS: Mapping[str, SearchStrategy[str]] = {
    "odd": _ODD,
    "empty": st.just(""),
    "a path": st.sampled_from(["/", ".", "..", "../..", "/dev/null", "no/where.yaml", "./", "a/b", "mine.yaml/x", "~"]),
    "an option": st.sampled_from(["--", "-", "--x", "-x", "--json=1", "--top", "-qqq", "--help=", "--quiet=yes", "-j"]),
    "long": st.integers(200, 5000).map(lambda length: "n" * length),
    "a number": _NUMBERS,
    "with lines": st.sampled_from(["a\nb", "\n", "\t", "a\x00b", "\x1b[0m"]),
    "quoted": st.sampled_from(["'", '"', "'a'", "$HOME", "`id`", "a;b", "a b", "*", "?"]),
}
# Command lines that start nothing whatever stands at %: nothing was launched in this folder.
_LINES: Mapping[str, tuple[str, ...]] = {
    "the command": ("%",),
    "launch SWEEP": ("launch", "no-such-sweep-%"),
    "config SWEEP": ("config", "%"),
    "config --json": ("config", FILE, "--json", "%"),
    "check SWEEP": ("check", "no-such-sweep-%"),
    "resume SWEEP": ("resume", "%"),
    "status SWEEP": ("status", "%"),
    "status --watch": ("status", "%", "--watch"),
    "stop SWEEP": ("stop", "%"),
    "enqueue SWEEP": ("enqueue", "%", "optim.lr=0.1"),
    "enqueue POINT": ("enqueue", "no-such-sweep", "%"),
    "import --study": ("import", "sqlite:///no-such-file", "--study", "%"),
    "import URL": ("import", "sqlite:///no-such-%"),
    "compare SWEEP": ("compare", "%"),
    "compare --top": ("compare", "x", "--top", "%"),
    "compare --sort": ("compare", "x", "--sort", "%"),
    "best SWEEP": ("best", "%"),
    "best --out": ("best", "x", "--out", "%"),
    "diagnose SWEEP": ("diagnose", "%"),
    "diagnose --trial": ("diagnose", "x", "--trial", "%"),
    "report SWEEP": ("report", "%"),
    "report --pruned": ("report", "x", "--pruned", "%"),
    "reproduce SWEEP": ("reproduce", "%"),
    "reproduce --trial": ("reproduce", "x", "--trial", "%"),
    "train OVERRIDE": ("train", "no_such_key=1", "%"),
    "train --from": ("train", "--from", "no-such-file-%"),
    "lr-find --rates": ("lr-find", "no_such_key=1", "--rates", "%"),
    "lr-find --from-lr": ("lr-find", "no_such_key=1", "--from-lr", "%"),
    "lr-find --plot": ("lr-find", "no_such_key=1", "--plot", "%"),
    "ui --port": ("ui", "no-such-sweep", "--port", "%"),
    "ui SWEEP": ("ui", "no-such-sweep-%", "--no-browser"),
    "list": ("list", "%"),
}


def _line_kind(line: str, damage: str, words: SearchStrategy[str]) -> Kind:
    def given(word: str) -> Input:
        return Input(tuple(part.replace("%", word) for part in _LINES[line]))

    return Kind(f"swathe {line}", damage, words.map(given))


def _all() -> tuple[Kind, ...]:
    kinds: list[Kind] = []
    for key, before in KEYS.items():
        kinds += [_value_kind(key, before, damage, values) for damage, values in VALUES.items()]
        kinds += [_name_kind(key, before, damage, names) for damage, names in NAMES.items()]
    for part in _PARTS:
        kinds += [_file_kind(part, damage, values) for damage, values in _YAML.items()]
    kinds += [
        Kind(FILE, damage, content.map(lambda given: Input(("config", FILE), given)))
        for damage, content in _BYTES.items()
    ]
    for line in _LINES:
        kinds += [_line_kind(line, damage, words) for damage, words in _ODD_WORDS.items()]
    return tuple(kinds)


KINDS = _all()
