"""The house keeps its own rules: chapters lean on earlier ones only, notebooks are clean, the package root is light."""
import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import house_figures
import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "nbs").glob("[0-9][0-9]_*.ipynb"))
CHAPTERS = [n for n in NOTEBOOKS if n.stem not in ("00_tour", "46_another_survey")]  # these two tell and export nothing
NUMBER = {n.stem[3:]: int(n.stem[:2]) for n in CHAPTERS}
TORCH_FREE = [name for name, number in NUMBER.items() if number <= 22] + ["cli"]


def cells(notebook): return json.loads(notebook.read_text())["cells"]


def test_every_chapter_has_its_module_and_no_module_is_without_chapter():
    modules = {p.stem for p in (ROOT / "galaxy_cnn").glob("*.py")} - {"__init__", "__main__", "_modidx", "all"}
    assert modules == set(NUMBER)


@pytest.mark.parametrize("chapter", NUMBER)
def test_a_chapter_imports_only_from_chapters_before_it(chapter):
    tree = ast.parse((ROOT / "galaxy_cnn" / f"{chapter}.py").read_text())
    froms = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    used = {n.module.split(".")[-1] for n in froms if n.module and (n.level or n.module.startswith("galaxy_cnn."))}
    used |= {a.name for n in froms if n.module == "galaxy_cnn" or (n.level and not n.module) for a in n.names} & set(NUMBER)
    late = [u for u in used if NUMBER[u] >= NUMBER[chapter]]
    assert not late, f"{chapter} (chapter {NUMBER[chapter]}) imports {late}"


@pytest.mark.parametrize("figure", [*house_figures.BOUNDS, *house_figures.AT_LEAST])
def test_the_package_reads_as_it_should(figure):
    value = house_figures.figures()[figure]
    if figure in house_figures.BOUNDS: assert value <= house_figures.BOUNDS[figure], "python tests/house_figures.py says where"
    else: assert value >= house_figures.AT_LEAST[figure], "python tests/house_figures.py says where"


def test_no_exported_name_is_defined_twice():
    homes = {}
    for chapter in set(NUMBER) - {"cli"}:  # commands bear the names of the functions that they call
        tree = ast.parse((ROOT / "galaxy_cnn" / f"{chapter}.py").read_text())
        for name in house_figures.exports(tree): homes.setdefault(name, []).append(chapter)
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}


def test_ground_sky_features_and_command_line_import_neither_torch_nor_fastai():
    imports = "; ".join(f"import galaxy_cnn.{name}" for name in TORCH_FREE)
    code = f"import sys; {imports}; print(*[m for m in ('torch', 'fastai') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


def test_importing_the_package_is_cheap():
    code = "import sys, galaxy_cnn; print(*[m for m in ('torch', 'fastai', 'numpy', 'pandas', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda n: n.stem)
def test_kept_outputs_are_small_and_say_nothing_of_a_machine(notebook):
    assert notebook.stat().st_size < 1_500_000
    for cell in cells(notebook):
        for output in cell.get("outputs", []):
            assert output["output_type"] != "error", "".join(cell["source"])
            assert output.get("name") != "stderr", "".join(cell["source"])
            text = "".join(output.get("text", [])) + "".join(output.get("data", {}).get("text/plain", []))
            assert not re.search(r"/(home|root|tmp|work|Users)/|it/s|\d\d:\d\d<", text), text


@pytest.mark.parametrize("notebook", CHAPTERS, ids=lambda n: n.stem)
def test_a_chapter_opens_with_a_title_and_a_sentence_and_tests_what_it_exports(notebook):
    first = "".join(cells(notebook)[0]["source"])
    assert re.match(r"# .+\n+> .+", first)
    code = ["".join(c["source"]) for c in cells(notebook) if c["cell_type"] == "code"]
    tests = [s for s in code if not s.startswith("#| export") and re.search(r"^\s*(assert|test_\w+\()", s, re.M)]
    assert len(tests) >= 3, "a chapter shows its tests"


def test_the_numbers_of_the_readme_are_those_of_the_results():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from readme import results_page, with_results
    text = (ROOT / "README.md").read_text()
    assert with_results(text, ROOT / "results") == text, "run python benchmarks/readme.py"
    assert results_page(ROOT / "results") == (ROOT / "results/README.md").read_text(), "run python benchmarks/readme.py"


def test_the_links_of_the_readmes_lead_somewhere():
    for page in (ROOT / "README.md", ROOT / "results/README.md", ROOT / "data/README.md"):
        for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
            assert link.startswith("http") or (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_ten_lines_of_the_readme_run_as_they_stand(tmp_path):
    code, = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert len(code.strip().splitlines()) <= 11
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "dex, mock" in done.stdout and "metallicity_hi90" in done.stdout
