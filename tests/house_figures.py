"""Figures of how the package reads, and the bounds that the tests hold them to: python tests/house_figures.py [FOLDER OF PACKAGE [FOLDER OF NOTEBOOKS]]"""
import ast
import json
import re
import sys
import threading
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
GENERATED = {"__init__.py", "_modidx.py", "all.py"}
BOUNDS = {  # what the tests hold: figure -> largest (or, for the share shown, smallest) value allowed
    "lines of the largest module": 650,
    "lines of the median module": 400,
    "exported names a module, mean": 17.2,  # 620 in the 36 chapters of the first house
    "exported names of the largest module": 40,
    "lines over 120 columns [%]": 2.0,
    "lines over 140 columns": 0,
    "AST nodes a line, p90": 30,
    "lines of the median function": 8,
    "lines of the longest function": 45,
    "longest run of export cells": 4,
}
AT_LEAST = {"exported names shown in their own chapter [%]": 80}
ROOMS = {"predict": 14, "evaluate": 25}  # functions that are handed the Run; of commit 30ae772: 15 and 30


def modules(package):
    "The modules that people read: all but the generated ones"
    return [p for p in sorted(Path(package).glob("**/*.py")) if p.name not in GENERATED]


def exports(tree):
    "Names in `__all__`"
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__": return ast.literal_eval(node.value)
    return []


def headers(node):
    "The parts of a statement that stand on its own lines: all of a simple one, the head of a compound one"
    if isinstance(node, (ast.For, ast.AsyncFor)): return [node.target, node.iter]
    if isinstance(node, (ast.While, ast.If)): return [node.test]
    if isinstance(node, (ast.With, ast.AsyncWith)): return node.items
    if isinstance(node, ast.Try): return []
    return [node]


def nodes_a_line(tree):
    "AST nodes of each line of statements, signatures left out: those of a statement are spread over its lines, two on one line add up"
    found = {}
    for node in ast.walk(tree):
        if not isinstance(node, ast.stmt) or isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)): continue
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant): continue  # a docstring
        parts = headers(node)
        first = min([node.lineno, *(p.lineno for p in parts if hasattr(p, "lineno"))])
        last = max([node.lineno, *(p.end_lineno for p in parts if hasattr(p, "lineno"))])
        count = 1 + sum(1 for p in parts for n in ast.walk(p) if n is not node)
        for line in range(first, last + 1): found[line] = found.get(line, 0) + count / (last - first + 1)
    return list(found.values())


def function_lengths(tree):
    "Lines of each function, decorators included"
    functions = [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    return [n.end_lineno - min([n.lineno, *(d.lineno for d in n.decorator_list)]) + 1 for n in functions]


def code_cells(notebook):
    "Sources of the code cells of a notebook"
    return ["".join(c["source"]) for c in json.loads(Path(notebook).read_text())["cells"] if c["cell_type"] == "code"]


def is_export(source):
    "Whether a cell goes into the package"
    return source.startswith(("#| export", "#|export"))


def shown_names(notebook):
    "Names used in those cells of a notebook that are not exported"
    source = "\n".join(s for s in code_cells(notebook) if not is_export(s))
    source = "\n".join("pass" if re.match(r"\s*[%!]", line) else line for line in source.split("\n"))
    nodes = list(ast.walk(ast.parse(source)))
    return {n.id for n in nodes if isinstance(n, ast.Name)} | {n.attr for n in nodes if isinstance(n, ast.Attribute)}


def longest_export_run(notebook):
    "Export cells in a row with nothing between them; the first one, of imports, does not count"
    run = longest = 0
    for cell in json.loads(Path(notebook).read_text())["cells"]:
        source = "".join(cell["source"])
        run = run + 1 if cell["cell_type"] == "code" and is_export(source) else 0
        if re.match(r"#\| export\n(import|from) ", source): run = 0
        longest = max(longest, run)
    return longest


def chapter_modules(notebooks):
    "Module name of each notebook that has one"
    found = {}
    for notebook in sorted(Path(notebooks).glob("*.ipynb")):
        name = re.search(r"^#\| default_exp (\w+)", "\n".join(code_cells(notebook)), re.M)
        if name: found[notebook] = name.group(1)
    return found


def figures(package=ROOT / "galaxy_cnn", notebooks=ROOT / "nbs"):
    "All figures of a package and its notebooks, by name"
    files = modules(package)
    trees = {p: ast.parse(p.read_text()) for p in files}
    lines = [line for p in files for line in p.read_text().splitlines()]
    sizes = [len(p.read_text().splitlines()) for p in files]
    names = {p.stem: exports(t) for p, t in trees.items()}
    density = [x for t in trees.values() for x in nodes_a_line(t)]
    functions = [x for t in trees.values() for x in function_lengths(t)]
    found = {
        "modules": len(files),
        "lines of the largest module": max(sizes),
        "lines of the median module": int(np.median(sizes)),
        "exported names": sum(map(len, names.values())),
        "exported names a module, mean": sum(map(len, names.values())) / len(names),
        "exported names of the largest module": max(map(len, names.values())),
        "lines over 120 columns [%]": round(100 * np.mean([len(line) > 120 for line in lines]), 2),
        "lines over 140 columns": sum(len(line) > 140 for line in lines),
        "AST nodes a line, median": float(np.median(density)),
        "AST nodes a line, p90": round(float(np.percentile(density, 90)), 1),
        "functions": len(functions),
        "lines of the median function": int(np.median(functions)),
        "lines of the longest function": max(functions),
    }
    chapters = chapter_modules(notebooks) if Path(notebooks).is_dir() else {}
    if chapters:
        shown = {m: shown_names(n) for n, m in chapters.items()}
        public = [(m, name) for m in chapters.values() for name in names.get(m, [])]
        found["exported names shown in their own chapter [%]"] = round(100 * np.mean([name in shown[m] for m, name in public]), 1)
        found["longest run of export cells"] = max(map(longest_export_run, chapters))
    return found


def worst(package=ROOT / "galaxy_cnn", notebooks=ROOT / "nbs"):
    "Per module: lines, exports, lines over 120 and 140, p90 of nodes, longest function, not shown, longest export run"
    chapters = {m: n for n, m in chapter_modules(notebooks).items()}
    rows = []
    for p in modules(package):
        text, tree = p.read_text(), ast.parse(p.read_text())
        lines = text.splitlines()
        density, functions = nodes_a_line(tree), function_lengths(tree)
        hidden = [n for n in exports(tree) if p.stem in chapters and n not in shown_names(chapters[p.stem])]
        run = longest_export_run(chapters[p.stem]) if p.stem in chapters else 0
        rows.append((p.stem, len(lines), len(exports(tree)), sum(len(x) > 120 for x in lines), sum(len(x) > 140 for x in lines),
                     round(float(np.percentile(density, 90)), 1) if density else 0, max(functions, default=0), run, " ".join(hidden)))
    return rows


def rooms(work, package=ROOT / "galaxy_cnn"):
    "Functions and methods of the package that one who follows `work()` enters with a Run in hand: an argument of theirs is one"
    entered = set()

    def see(frame, event, arg):
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(str(package)): return
        names = code.co_varnames[:code.co_argcount + code.co_kwonlyargcount]
        if any(type(frame.f_locals.get(name)).__name__ == "Run" for name in names):
            entered.add(f"{Path(code.co_filename).stem}.{code.co_qualname}")

    threading.setprofile(see)
    sys.setprofile(see)
    try: work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return entered


if __name__ == "__main__":
    places = [Path(a) for a in sys.argv[1:3]]
    for name, value in figures(*places).items():
        bound = f"at most {BOUNDS[name]}" if name in BOUNDS else f"at least {AT_LEAST[name]}" if name in AT_LEAST else ""
        print(f"{name:<48} {value!s:>8}  {bound}")
    if not places:
        print("\nmodule: lines, exports, lines over 120, over 140, nodes a line p90, longest function, longest run of export cells, not shown")
        for row in worst(): print(*row)
