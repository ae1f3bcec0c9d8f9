"The benchmarks share one harness; the one that is meant for a GPU works from end to end, here at toy size on a CPU."
import ast
import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import house_figures
import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
import harness

SCRIPTS = sorted((ROOT / "benchmarks").glob("*.py"))
SECTIONS = [
    "ceilings", "sky", "step", "fit", "captured fit", "same fit", "cold", "prediction", "peers", "launches",
    "synchronisations", "loader", "decode", "all fits", "variants", "compiled",
]


# ---- the harness

def test_contenders_take_turns_and_each_number_has_its_range():
    calls, paces = [], iter([4.0, 1.0, 6.0, 3.0, 5.0, 2.0])
    def contender(name):
        calls.append(name)
        return next(paces)
    found = harness.interleaved({name: lambda name=name: contender(name) for name in "ab"}, 3)
    assert calls == ["a", "b"] * 3
    assert found["a"]["images_per_second"] == {"median": 5.0, "min": 4.0, "max": 6.0, "repeats": 3}
    gain = harness.ratio(found["a"]["images_per_second"], found["b"]["images_per_second"])
    assert gain == {"value": 2.5, "lo": 4 / 3, "hi": 6.0}


def test_calls_to_warm_up_are_not_counted():
    ticks = iter(range(100))
    calls = []
    assert harness.times(lambda: calls.append(1), repeats=3, warm=2, clock=lambda: next(ticks)) == [1, 1, 1]
    assert len(calls) == 5


def test_a_section_is_skipped_stopped_or_keeps_what_it_found_before_an_error():
    def sleep(found):
        found["before"] = 1
        try: time.sleep(30)
        except Exception: pass  # this must not keep the end of the time
    def fail(found): raise ValueError("no")
    early, late, wrong = {}, {}, {}
    harness.Budget(time.perf_counter() + 5).section(sleep, early, 10, 20)
    harness.Budget(time.perf_counter() + 5).section(sleep, late, 1, 0.2)
    harness.Budget(time.perf_counter() + 5).section(fail, wrong, 1, 1)
    assert list(early) == ["skipped"] and "left" in early["skipped"]
    assert late["before"] == 1 and late["error"].startswith("Overtime") and late["section"]["value"] < 3
    assert wrong["error"] == "ValueError: no"


def test_results_say_what_was_measured_on_which_sky_and_how(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/elsewhere/speed.py", "--repeats", "3"])
    harness.write_results(tmp_path / "found.json", {"pace": np.float32(2)}, "a pace", "mock", 7)
    expected = {"what": "a pace", "sky": "mock", "n": 7, "command": "python benchmarks/speed.py --repeats 3", "pace": 2.0}
    assert json.loads((tmp_path / "found.json").read_text()) == expected


def test_a_fresh_process_finds_this_tree_and_its_memory_is_its_own():
    held = np.ones(2**26)  # 512 MiB that a child must not be charged with
    code = "import galaxy_cnn, harness; print(galaxy_cnn.__file__, harness.peak_memory())"
    file, peak = harness.fresh_python("-c", code).split()
    assert Path(file).parent.parent == ROOT and int(peak) < held.nbytes < harness.peak_memory()
    with pytest.raises(RuntimeError, match="no such thing"): harness.fresh_python("-c", "raise SystemExit('no such thing')")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_a_benchmark_is_short_of_line_and_takes_options_machine_and_writer_from_the_harness(script):
    text = script.read_text()
    if script.stem != "readme":
        assert max(map(len, text.splitlines())) <= 120
        assert np.percentile(house_figures.nodes_a_line(ast.parse(text)), 90) <= 32
    if script.stem in ("harness", "readme"): return
    assert len(text.splitlines()) <= 460
    for own in ("import argparse", "/proc/cpuinfo", "json.dump(", "statistics.median"): assert own not in text, own


# ---- the numbers of the README


def test_the_readme_has_no_number_in_dex_that_is_not_generated_or_published():
    from galaxy_cnn.literature import NESTED_RMSE
    text = (ROOT / "README.md").read_text()
    before, generated, after = re.split(r"<!-- /?results -->", text)
    known = {f"{NESTED_RMSE[key]:.4f}" for key in ("mean", "std")}
    assert set(re.findall(r"\b0\.\d{3,}", before + after)) <= known
    assert len(set(re.findall(r"\b0\.\d{3,}", generated))) >= 10
    assert len(text.splitlines()) <= 170, "short, and a pleasure to read"


def test_a_galaxy_held_out_in_several_deals_is_drawn_with_all_its_residuals():
    import real_sample
    rng = np.random.default_rng(0)
    once = rng.normal(0, 0.1, 100)
    deals = {name: np.tile(once * f, 3) for name, f in (("default", 1), ("scratch", 1.2))}
    width = {}
    for kind, ids in (("one galaxy", np.tile(np.arange(100), 3)), ("three galaxies", np.arange(300))):
        row = real_sample.curve_row(deals, ids)
        width[kind] = row["default"]["hi"] - row["default"]["lo"]
        assert row["default_minus_scratch"]["hi"] < 0 and row["galaxies"] == len(set(ids))
    assert width["one galaxy"] == pytest.approx(3**0.5 * width["three galaxies"], rel=0.15)


def test_experiments_measured_alone_leave_the_others_as_they_were(tmp_path):
    import experiments
    file = tmp_path / "experiments_mock.json"
    assert experiments.merged(file, {"leak": 1}) == {"leak": 1}
    file.write_text(json.dumps({"experiments": {"leak": "old", "baselines": "kept"}}))
    assert list(experiments.merged(file, {"leak": "new"}).items()) == [("baselines", "kept"), ("leak", "new")]


def test_the_learning_curve_pairs_quarter_turns_with_any_angle(monkeypatch):
    import mock_learning_curve as curve
    import torch
    torch.manual_seed(0)
    free = curve.random_turns(64)
    torch.manual_seed(0)
    quarter = curve.quarter_turns(64)
    square = quarter[..., :2]
    assert torch.allclose(torch.linalg.det(square), torch.linalg.det(free[..., :2]), atol=1e-6)  # mirrors, zooms the same
    assert (square.abs().amin((1, 2)) == 0).all() and (free[..., :2].abs().amin((1, 2)) > 0).all()
    true, noise = np.zeros(2000), np.random.default_rng(0).normal(0, 0.1, (8, 2000))
    def point(seed, factor, arch="xresnet_tiny"):
        about = {"arch": arch, "epochs": 1, "batch": 2, "images": 3, "precision": "fp32", "cpu_seconds": 1, "seed": seed}
        return about | {"pred": factor * noise[seed]}
    points = {("xresnet_tiny", 500, s, q): point(s, 1 + 0.05 * q) for s in range(8) for q in (False, True)}
    points["xresnet18", 500, 3, False] = point(3, 1.2, "xresnet18")
    monkeypatch.setattr(curve, "read_json", lambda file: {"picture_floor": {"value": 0.08}})
    found = curve.summary(true, points)
    assert [(r["arch"], len(r["seeds"])) for r in found["rows"]] == [("xresnet18", 1), ("xresnet_tiny", 8)]
    assert found["turns"][0]["any_minus_quarter"]["value"] == pytest.approx(-0.005, rel=0.03)
    assert found["xresnet18_minus_tiny"][0]["difference"]["value"] == pytest.approx(0.02, rel=0.05)
    assert curve.figure(found).axes[0].get_legend() is not None


# ---- benchmarks/gpu.py


def gpu(out, *options):
    "What benchmarks/gpu.py writes and prints, from a folder that is not the source tree's"
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--small", "--out", str(out), *options]
    done = subprocess.run(command, cwd=out.parent, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text()), done.stdout


def measured(found, path=()):
    "Path and contents of each number with a unit"
    for key, v in found.items():
        if isinstance(v, dict) and "unit" in v: yield (*path, key), v
        elif isinstance(v, dict): yield from measured(v, (*path, key))


def said(found, name):
    "Values of a key, wherever it stands"
    inner = [v for v in found.values() if isinstance(v, dict)]
    return [v[name] for v in inner if name in v] + [x for v in inner for x in said(v, name)]


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


def test_a_cold_training_says_where_its_time_went(report):
    (cold,) = [v for k, v in report[0]["sections"]["cold"].items() if k != "section"]
    seconds = {k: v["value"] for k, v in cold.items() if v["unit"] == "s"}
    assert seconds["its epochs"] + seconds["around its epochs"] == pytest.approx(seconds["train"])
    assert seconds["first epoch"] < seconds["its epochs"] and cold["memory"]["unit"] == "GiB"
    assert seconds["import"] + seconds["train"] < seconds["process"]


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
