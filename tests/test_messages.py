"""Remedies: every command and option that a message names exists, on each command that can say it."""
import ast
import re
from functools import cache
from pathlib import Path

import pytest
from typer.main import get_command

from galaxy_cnn import cli

PACKAGE = Path(cli.__file__).parent
COMMANDS = {name: {o for p in c.params for o in (*p.opts, *p.secondary_opts)} for name, c in get_command(cli.app).commands.items()}
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
NAMED = re.compile(rf"(?:galaxy-cnn |`|\b)({'|'.join(COMMANDS)})\b(?: with)?((?: [A-Z.{{][^\s`]*| --[^\s`;,]+)*)")  # a command and its options
SAYS_A_COMMAND = re.compile(r"galaxy-cnn ([a-z]+)")


def module_of(node): return node.module.split(".")[-1]
def from_here(node): return isinstance(node, ast.ImportFrom) and node.module and (node.level or node.module.startswith("galaxy_cnn"))


@cache
def program():
    "Functions, methods and constants of the package by (module, name), and what the names in a module and of methods mean"
    units, names, methods = {}, {}, {}
    trees = {f.stem: ast.parse(f.read_text()) for f in PACKAGE.glob("*.py") if f.stem not in ("_modidx", "all", "__init__")}
    for module, tree in trees.items():
        names[module] = {}
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                own = {f.name: (module, f"{node.name}.{f.name}") for f in node.body if isinstance(f, ast.FunctionDef)}
                units.update({own[f.name]: f for f in node.body if isinstance(f, ast.FunctionDef)})
                for name, unit in own.items(): methods.setdefault(name, []).append(unit)
                names[module][node.name] = [unit for name, unit in own.items() if name.startswith("__")]
            found = [node.name] if isinstance(node, ast.FunctionDef) else []
            if isinstance(node, ast.Assign): found = [t.id for t in node.targets if isinstance(t, ast.Name)]
            for name in found:
                units[module, name] = node
                names[module][name] = [(module, name)]
    for module, tree in trees.items():
        for node in filter(from_here, ast.walk(tree)):
            for a in node.names: names[module].setdefault(a.asname or a.name, names.get(module_of(node), {}).get(a.name, []))
    return units, names, methods


def hushed(node):
    "What stands in a `try` that swallows what is wrong"
    for t in ast.walk(node):
        if not isinstance(t, ast.Try): continue
        swallows = any(h.type and re.search("InputError|Incomplete", ast.unparse(h.type)) and not h.name for h in t.handlers)
        if swallows: yield from (n for statement in t.body for n in ast.walk(statement))


def uses(unit):
    "Units that a unit may call and hear of: a method of that name of any class, a property only where it is not called"
    units, names, methods = program()
    nodes = set(ast.walk(units[unit])) - set(hushed(units[unit]))
    called = {n.func for n in nodes if isinstance(n, ast.Call)}
    for node in nodes:
        if isinstance(node, ast.Name): yield from names[unit[0]].get(node.id, ())
        if not isinstance(node, ast.Attribute): continue
        for method in methods.get(node.attr, ()):
            is_property = any("property" in ast.unparse(d) for d in units[method].decorator_list)
            if is_property != (node in called): yield method


@cache
def reached(command):
    "Everything that a command may run"
    todo, seen = [("cli", command)], set()
    for text in re.findall(r'"(\w+\.\w+)"', ast.unparse(ast.Module(program()[0]["cli", command].decorator_list, [])).replace("'", '"')):
        module, name = text.split(".")
        todo += program()[1][module].get(name, [])
    while todo:
        unit = todo.pop()
        if unit in seen: continue
        seen.add(unit)
        todo += uses(unit)
    return seen


def texts(node):
    "Texts in a piece of code, save its docstring; {} for what is filled in"
    inside = {id(c) for n in ast.walk(node) if isinstance(n, ast.JoinedStr) for c in ast.walk(n) if c is not n}
    doc = node.body[0].value if isinstance(node, ast.FunctionDef) and isinstance(node.body[0], ast.Expr) else None
    for n in ast.walk(node):
        if id(n) in inside or n is doc: continue
        if isinstance(n, ast.JoinedStr): yield "".join(v.value if isinstance(v, ast.Constant) else "{}" for v in n.values)
        elif isinstance(n, ast.Constant) and isinstance(n.value, str): yield n.value


NEVER_SAID = {("recalibrate", "train", name) for name in ("_run_folder", "_kept")}  # it trains in a folder that it makes and removes
REMEDIES = [(unit, text) for unit, node in program()[0].items() for text in texts(node)
            if " " in text and (OPTION.search(text) or SAYS_A_COMMAND.search(text))]


def faults(unit, text):
    "What a message asks for that there is not"
    rest = text
    for name, options in NAMED.findall(text):
        yield from (f"{name} has no {o}" for o in OPTION.findall(options) if o not in COMMANDS[name])
        if OPTION.search(options): rest = rest.replace(options, "", 1)
    yield from (f"there is no command {name}" for name in SAYS_A_COMMAND.findall(text) if name not in COMMANDS)
    for command in COMMANDS:
        if unit in reached(command) and (command, *unit) not in NEVER_SAID:
            yield from (f"{command} can say it and has no {o}" for o in OPTION.findall(rest) if o not in COMMANDS[command])


@pytest.mark.parametrize("unit, text", REMEDIES, ids=[".".join(unit) for unit, _ in REMEDIES])
def test_a_remedy_is_one_that_the_command_can_follow(unit, text): assert list(faults(unit, text)) == []


def test_the_search_finds_what_it_should():
    assert len(REMEDIES) > 20
    assert ("train", "_load_labeled") in reached("train") & reached("pretrain") and ("run", "Run.survey") in reached("evaluate")
    assert ("run", "Run.survey") not in reached("predict") | reached("train") | reached("download")
    assert list(faults(("run", "Run.survey"), "say where with --suvey"))[0] == "evaluate can say it and has no --suvey"
    assert list(faults(("run", "Run.survey"), "try `galaxy-cnn predict RUN --survey`")) == ["predict has no --survey"]
    assert list(faults(("run", "Run.survey"), "train with --folds on more, or galaxy-cnn verify {} --repair")) == []
    assert list(faults(("run", "Run.survey"), "see galaxy-cnn mend")) == ["there is no command mend"]
