"""The documentation site, from the notebooks as they are stored: python docs/build.py [FOLDER, by default _docs]

A page for each chapter, the API with signatures and docments, the README and the results. It works from a folder
without a network: search and formulas need no server. What it needs: pip install -e '.[docs]'."""
import ast
import json
import re
import shutil
import sys
import tempfile
from pathlib import Path

from sphinx.cmd.build import build_main

ROOT = Path(__file__).parent.parent
REPOSITORY = "https://github.com/galaxy-cnn/galaxy_cnn/blob/main"


def page_of_chapter(notebook):
    "A chapter as it is read: without hidden cells and directives of nbdev, with the cells of the package folded"
    notebook = json.loads(json.dumps(notebook))
    cells = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if re.search(r"^#\|\s*hide\b", source, re.M): continue
        if cell["cell_type"] == "code":
            if re.search(r"^#\|\s*export", source, re.M): cell["metadata"]["tags"] = ["hide-input"]
            source = re.sub(r"^#\|.*\n?", "", source, flags=re.M).strip("\n")
            if not source: continue
        cell["source"] = source
        cells.append(cell)
    notebook["cells"] = cells
    return notebook


def exported(tree):
    "Names in `__all__`"
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return ast.literal_eval(node.value)
    return []


def signature(node, lines):
    "The lines of a definition up to its docstring, comments of the parameters included"
    head = "\n".join(lines[node.lineno - 1:node.body[0].lineno - 1]).rstrip()
    if head: return head
    return lines[node.lineno - 1].partition(":")[0] + ":"


def entry(node, lines):
    "A name of the API: heading, signature, docstring"
    doc = ast.get_docstring(node) or ""
    methods = []
    if isinstance(node, ast.ClassDef):
        public = [m for m in node.body if isinstance(m, ast.FunctionDef) and not m.name.startswith("_")]
        methods = [f"```python\n{signature(m, lines)}\n```\n{ast.get_docstring(m) or ''}\n" for m in public]
    return "\n".join([f"## {node.name}\n", f"```python\n{signature(node, lines)}\n```\n", doc, "", *methods])


def page_of_module(file, chapter):
    "Markdown of a module: its sentence, its chapter, and what it exports"
    text = file.read_text(encoding="utf-8")
    tree, lines = ast.parse(text), text.splitlines()
    names = exported(tree)
    told = f"Told in [{chapter}](../nbs/{chapter}.ipynb).\n"
    parts = [f"# galaxy_cnn.{file.stem}\n", f"{ast.get_docstring(tree)}\n", told]
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name in names: parts.append(entry(node, lines))
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in names:
            parts.append(f"## {node.targets[0].id}\n\n```python\n{ast.get_source_segment(text, node)}\n```\n")
    return "\n".join(parts)


def with_links(text, folder=""):
    "Markdown whose links to files that the site does not hold lead to the repository"
    def link(match):
        label, target = match.groups()
        path = target.partition("#")[0]
        held = path.endswith((".ipynb", ".png", ".jpg", "README.md"))
        if held or not path or "://" in path: return match[0]
        return f"[{label}]({REPOSITORY}/{folder}{path})"
    return re.sub(r"\[([^\]]*)\]\(([^)\s]+)\)", link, text)


def chapter_of_module(notebook):
    "The module that a chapter exports, or None"
    code = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    found = re.search(r"^#\|\s*default_exp (\w+)", "\n".join(code), re.M)
    return found and found[1]


def contents(title, pages):
    "A page that lists others, which the sidebar then shows"
    return "\n".join([f"# {title}\n", "```{toctree}\n:maxdepth: 1\n", *pages, "```\n"])


def write_source(out):
    "All pages in the folder `out`, as Sphinx wants them"
    for folder in ("nbs", "api", "results", "data"): (out / folder).mkdir(parents=True)
    shutil.copy(ROOT / "docs" / "conf.py", out)
    modules = {}
    for file in sorted((ROOT / "nbs").glob("*.ipynb")):
        notebook = json.loads(file.read_text(encoding="utf-8"))
        module = chapter_of_module(notebook)
        if module: modules[module] = file.stem
        page = page_of_chapter(notebook)
        for cell in page["cells"]:
            if cell["cell_type"] == "markdown": cell["source"] = with_links(cell["source"], "nbs/")
        (out / "nbs" / file.name).write_text(json.dumps(page), encoding="utf-8")
    for module, chapter in modules.items():
        text = page_of_module(ROOT / "galaxy_cnn" / f"{module}.py", chapter)
        (out / "api" / f"{module}.md").write_text(text, encoding="utf-8")
    for picture in (ROOT / "results").glob("*.png"): shutil.copy(picture, out / "results")
    for folder in ("results", "data"):
        text = (ROOT / folder / "README.md").read_text(encoding="utf-8")
        (out / folder / "README.md").write_text(with_links(text, f"{folder}/"), encoding="utf-8")
    chapters = [f.stem for f in sorted((ROOT / "nbs").glob("*.ipynb"))]
    (out / "nbs" / "index.md").write_text(contents("Chapters", chapters), encoding="utf-8")
    (out / "api" / "index.md").write_text(contents("API", list(modules)), encoding="utf-8")
    index = with_links((ROOT / "README.md").read_text(encoding="utf-8"))
    pages = ["nbs/index", "api/index", "results/README", "data/README"]
    hidden = "\n".join(["```{toctree}\n:hidden:\n", *pages, "```\n"])
    (out / "index.md").write_text(f"{index}\n\n{hidden}", encoding="utf-8")


def build(site):
    "The site in the folder `site`, which appears when it is whole; `SystemExit` where Sphinx fails or warns"
    site = Path(site).absolute()
    with tempfile.TemporaryDirectory() as tmp:
        source, built = Path(tmp) / "source", Path(tmp) / "site"
        write_source(source)
        code = build_main(["-q", "-W", "--keep-going", "-b", "html", str(source), str(built)])
        if code: raise SystemExit(f"The site was not built: Sphinx ended with {code}.")
        shutil.rmtree(site, ignore_errors=True)
        shutil.move(built, site)
    print(f"{site}/index.html")


if __name__ == "__main__": build(sys.argv[1] if len(sys.argv) > 1 else ROOT / "_docs")
