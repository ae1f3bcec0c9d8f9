"The benchmark that is meant for a GPU works from end to end: here at toy size, on a CPU."
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SECTIONS = ["ceilings", "sky", "decode", "loader", "step", "launches", "synchronisations", "fit", "cold", "peers", "same fit", "prediction", "variants", "compiled"]


def gpu(out, *options):
    "What benchmarks/gpu.py writes and prints, from a folder that is not the source tree's"
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--small", "--out", str(out), *options], cwd=out.parent, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text()), done.stdout


def measured(found, path=()):
    "Path and contents of each number with a unit"
    for key, v in found.items():
        if isinstance(v, dict) and "unit" in v: yield (*path, key), v
        elif isinstance(v, dict): yield from measured(v, (*path, key))


def said(found, name): return [v[name] for v in found.values() if isinstance(v, dict) and name in v] + [x for v in found.values() if isinstance(v, dict) for x in said(v, name)]


@pytest.fixture(scope="module")
def report(tmp_path_factory): return gpu(tmp_path_factory.mktemp("gpu") / "gpu.json", "--device", "cpu", "--minutes", "60")


def test_every_section_measures_something_and_none_fails(report):
    found, _ = report
    assert list(found["sections"]) == SECTIONS
    assert not said(found, "error") and not said(found, "skipped")
    for name in SECTIONS: assert len(list(measured(found["sections"][name]))) >= 2, name


def test_numbers_are_positive_and_lie_in_their_ranges(report):
    for path, v in measured(report[0]):
        assert math.isfinite(v["value"]) and v["value"] > 0, path
        if "lo" in v: assert 0 < v["lo"] <= v["value"] <= v["hi"], path


def test_every_fit_to_the_end_has_its_error(report):
    fits = [(path, v) for path, v in measured(report[0]) if path[-1] in ("fit", "process")]
    assert len(fits) >= 6
    for path, _ in fits:
        place = report[0]
        for key in path[:-1]: place = place[key]
        assert place["rmse"]["unit"] == "dex" and place.get("epochs", {"value": 2})["value"] == 2, path


def test_the_network_predicts_the_same_from_memory_and_as_trained(report):
    sections = report[0]["sections"]
    (trained,) = [v["rmse"]["value"] for k, v in sections["cold"].items() if k != "section"]
    assert abs(sections["prediction"]["one view"]["rmse"]["value"] - trained) < 1e-5  # batch norms are folded for prediction


def test_the_table_has_a_line_for_each_number(report):
    found, table = report
    for path, _ in measured(found["sections"]): assert " | ".join(path) in table


def test_a_section_that_no_longer_fits_is_left_out_and_says_so(tmp_path):
    found, table = gpu(tmp_path / "gpu.json", "--device", "cpu", "--minutes", "0.01", "--sections", "fit")
    assert "left" in found["sections"]["fit"]["skipped"] and "skipped" in table
    assert not [p for p, _ in measured(found["sections"]["fit"])]
