"""One import brings every chapter's names, and nothing heavy comes with the package or with the command line's help."""
import importlib
import re
import subprocess
import sys
from pathlib import Path

import house_figures
import pytest

ROOT = Path(__file__).parent.parent
# the command line is left out: its commands bear the names of the functions that they call
CHAPTERS = [m for m in house_figures.chapter_modules(ROOT / "nbs").values() if m != "cli"]
HEAVY = ("torch", "fastai", "numpy", "pandas", "matplotlib")


def heavy_modules(code):
    "Those heavy modules that a program imports, run in a process of its own"
    code = f"import sys; {code}; print(*(m for m in {HEAVY} if m in sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return run.stdout.splitlines()[-1].split()


def test_all_names_every_chapter_in_order():
    text = (ROOT / "galaxy_cnn" / "all.py").read_text()
    assert re.findall(r"^from \.(\w+) import \*$", text, re.M) == CHAPTERS


@pytest.fixture(scope="module")
def everything():
    "What `from galaxy_cnn.all import *` brings"
    names = {}
    exec("from galaxy_cnn.all import *", names)
    return names


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_all_brings_every_public_name_of_a_chapter(everything, chapter):
    module = importlib.import_module(f"galaxy_cnn.{chapter}")
    assert module.__all__
    for name in module.__all__: assert everything[name] is getattr(module, name), name


def test_the_check_for_heavy_modules_sees_one(): assert heavy_modules("import numpy") == ["numpy"]


def test_the_package_itself_imports_nothing_heavy(): assert heavy_modules("import galaxy_cnn") == []


@pytest.mark.parametrize("words", [[], ["train"], ["explain"]])
def test_help_imports_nothing_heavy(words):
    call = f"from galaxy_cnn.cli import app; app({[*words, '--help']}, standalone_mode=False)"
    assert heavy_modules(call) == []


def test_without_the_extra_for_hats_all_else_is_there_and_its_commands_say_what_to_install(tmp_path):
    for name in ("sky", "hats", "run"): (tmp_path / name).mkdir()
    (tmp_path / "hats" / "partition_info.csv").write_text("Norder,Npix\n")
    program = """
import sys
for name in ("lsdb", "hats", "dask", "distributed"): sys.modules[name] = None  # an import of it fails
import galaxy_cnn.all
from galaxy_cnn.cli import main
for words in ("catalog sky", "catalog hats", "predict run hats"):
    sys.argv = ["galaxy-cnn", *words.split(), "--out", "new"]
    try: main()
    except SystemExit as e: print(e.code)
"""
    options = dict(cwd=tmp_path, capture_output=True, text=True)
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", program], **options)
    assert run.stdout.split() == ["2"] * 3, run.stdout + run.stderr
    assert run.stderr.count("pip install 'galaxy_cnn[scale]'") == 3
    assert not (tmp_path / "new").exists()
