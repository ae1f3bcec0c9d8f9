"""The golden record: what commit 30ae772 wrote for fixed inputs, before the chapters were cut anew; the package of today must agree."""
import hashlib
import json
import shutil
from pathlib import Path

import house_figures
import numpy as np
import pandas as pd
import pytest

from galaxy_cnn.download import download
from galaxy_cnn.evaluate import evaluate
from galaxy_cnn.features import measure
from galaxy_cnn.local_server import serve
from galaxy_cnn.mock_images import make_mock
from galaxy_cnn.mzr import mzr
from galaxy_cnn.predict import predict
from galaxy_cnn.run import read_run
from galaxy_cnn.splits import Split, assign_folds, assign_split
from galaxy_cnn.survey import content_hash, read_survey
from galaxy_cnn.verify import verify

HERE = Path(__file__).parent / "golden"
GOLDEN = json.loads((HERE / "golden.json").read_text())
# predictions come from sums of float32 in an order that depends on the processor: 1e-5 dex is a hundred times less than the noise of one view
DEX = 1e-5


def sha(items):
    "SHA-256 of things, one a line"
    return hashlib.sha256("\n".join(map(str, items)).encode()).hexdigest()


def flat(x, prefix=""):
    "Paths and values of nested dicts and lists"
    if isinstance(x, dict): children = x.items()
    elif isinstance(x, list): children = enumerate(x)
    else:
        yield prefix, x
        return
    for key, value in children: yield from flat(value, f"{prefix}/{key}")


def assert_same(found, expected, tolerance):
    "Two flat dicts with the same keys, numbers within a tolerance (relative beyond one)"
    assert list(found) == list(expected)
    for key, value in expected.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if number: assert found[key] == pytest.approx(value, rel=tolerance, abs=tolerance), key
        else: assert found[key] == value, key


def assert_same_table(table, expected, tolerance=DEX):
    "Columns of numbers within a tolerance"
    for name, values in expected.items():
        if isinstance(values[0], str): assert table[name].astype(str).tolist() == values, name
        else: np.testing.assert_allclose(table[name].astype(float), values, rtol=0, atol=tolerance, err_msg=name)


@pytest.fixture(scope="module")
def sky(): return read_survey(HERE / "sky")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "A Run as the old `train` left it: two networks and Gaussian processes, no error model"
    folder = tmp_path_factory.mktemp("golden") / "run"
    shutil.copytree(HERE / "run", folder)
    return read_run(folder)


@pytest.fixture(scope="module")
def evaluation(run, sky):
    "What `evaluate` returns, and the functions that the Run is handed to on the way"
    found = []
    entered = house_figures.rooms(lambda: found.append(evaluate(run, sky)))
    return found[0], entered


@pytest.fixture(scope="module")
def metrics(evaluation): return evaluation[0]


def test_the_mock_sky_is_the_same_to_the_byte(sky, tmp_path):
    drawn = make_mock(tmp_path / "sky", n=120, seed=11, workers=1)
    assert content_hash(drawn.catalog) == content_hash(sky.catalog) == GOLDEN["mock"]["catalog"]
    for survey in (drawn, sky):
        assert sha(hashlib.sha256(Path(f).read_bytes()).hexdigest() for f in survey.image_files) == GOLDEN["mock"]["images"]


def test_splits_are_the_same(sky):
    for key, expected in GOLDEN["splits"].items():
        by, seed = key.split("/")
        found = [assign_split(sky.catalog, int(seed), by), assign_folds(sky.catalog, 5, int(seed), by)]
        assert [sha(s) for s in found] == expected
        assert sha(Split.make(sky.catalog, int(seed), by).names) == expected[0]
        assert sha(Split.make(sky.catalog, int(seed), by, 5).network) == expected[1]


def test_features_are_the_same(sky):
    found = measure(sky.image_files)
    expected = pd.DataFrame(GOLDEN["features"])
    assert list(found) == list(expected)
    np.testing.assert_allclose([found.mean(), found.std(), found.iloc[7]], expected, rtol=1e-6, atol=1e-9)


SINCE = ("networks", "fingerprint", "picture_floor", "residual_slopes")  # other names, or not known to the record


def test_an_old_run_gives_the_same_metrics_and_table(run, metrics):
    found = {k: v for k, v in flat(metrics) if not any(part in k for part in SINCE)}
    found["/survey"] = GOLDEN["metrics"]["/survey"]  # the folder has another name here
    assert_same(found, GOLDEN["metrics"], 1e-4)  # quantiles of resamples jump where two galaxies change places
    assert_same_table(pd.read_parquet(run.path / "predictions.parquet"), GOLDEN["predictions"])


def test_one_who_follows_a_run_enters_few_rooms(run, evaluation, sky, tmp_path):
    predicting = house_figures.rooms(lambda: predict(run.path, sky.image_files[0], tmp_path / "table.csv"))
    for name, entered in (("evaluate", evaluation[1]), ("predict", predicting)):
        assert 0 < len(entered) <= house_figures.ROOMS[name], sorted(entered)


def test_an_old_run_predicts_the_same(run, metrics, sky, tmp_path):
    predict(run, str(sky.path), tmp_path / "table.parquet")
    table = pd.read_parquet(tmp_path / "table.parquet")
    assert list(table) == GOLDEN["table_columns"]
    assert_same_table(table, GOLDEN["table"])


def test_the_relation_is_the_same(run, metrics, sky):
    found = {k: v for k, v in flat(mzr(run, sky)) if "networks" not in k and "fingerprint" not in k}
    found["/survey"] = GOLDEN["mzr"].get("/survey")
    if found["/survey"] is None: del found["/survey"]
    assert_same(found, GOLDEN["mzr"], 1e-4)


def told(report):
    "A report without the row on labels, which the record does not know"
    return "\n".join(line for line in str(report).split("\n") if line.split()[:1] != ["labels"])


def test_downloads_leave_the_same_tables(sky, tmp_path):
    expected, copy = GOLDEN["download"], tmp_path / "copy"
    with serve(sky) as server:
        summary = download(copy, base_url=server.url, connections=2)
        assert (summary["outcomes"], summary["requests"]) == (expected["outcomes"], expected["requests"])
        new = ["lgm_tot_p16", "lgm_tot_p84", "sfr_tot_p16", "sfr_tot_p84", "ebv"]  # asked for since the record was made
        assert content_hash(read_survey(copy).catalog.drop(columns=new)) == expected["catalog"]
        assert told(verify(copy)) == expected["verify"]
        (copy / "images" / f"{sky.catalog['objID'].iloc[3]}.jpg").write_bytes(b"broken")
        assert told(verify(copy)).replace(str(copy), "COPY") == expected["damaged"]
        assert told(verify(copy, repair=True, base_url=server.url)).replace(str(copy), "COPY") == expected["repaired"]


def test_real_galaxies_are_the_same(real, run, metrics, tmp_path):
    survey, expected = read_survey(real / "sdss_sample"), GOLDEN["real"]
    assert content_hash(survey.catalog) == expected["catalog"]
    assert [sha(assign_split(survey.catalog)), sha(assign_folds(survey.catalog))] == expected["splits"]
    found = measure(survey.image_files[:60])
    np.testing.assert_allclose([found.mean(), found.std(), found.iloc[7]], pd.DataFrame(expected["features"]), rtol=1e-6, atol=1e-9)
    spirals = read_survey(real / "sdss_spirals")
    assert [content_hash(spirals.catalog), sha(assign_split(spirals.catalog))] == expected["spirals"]
    predict(run, survey.image_files[:60], tmp_path / "table.parquet", accept_shift=True)
    assert_same_table(pd.read_parquet(tmp_path / "table.parquet"), expected["table"])
