"""The mass-metallicity relation: known correlations found again, relations by hand, and Surveys without masses."""
import shutil
from functools import partial

import numpy as np
import pandas as pd
import pytest

from galaxy_cnn import mzr as mzr_module
from galaxy_cnn.files import InputError, read_json, write_json
from galaxy_cnn.literature import TREMONTI04_TABLE3, mannucci10_fmr, tremonti04
from galaxy_cnn.metrics import bootstrap
from galaxy_cnn.mzr import (
    MASS_COLUMN,
    binned_percentiles,
    fixed_mass_figure,
    fixed_mass_sentence,
    format_mzr,
    measure_relation,
    mzr,
    mzr_figure,
    partial_correlation_at_fixed_mass,
    relation_scatter,
    scatter_figure,
)
from galaxy_cnn.run import read_run
from galaxy_cnn.survey import MISSING, write_survey
from galaxy_cnn.train import train


def draw(n, rho, seed=0):
    "Galaxies on Tremonti+04 with 0.1 dex scatter and a best prediction whose deviation correlates with theirs by rho"
    rng = np.random.default_rng(seed)
    log_mass = np.clip(rng.normal(10.0, 0.5, n), 8.6, 11.4)
    a, b = rng.normal(size=(2, n))
    best = (rho * a + np.sqrt(1 - rho**2) * b) * max(rho, 0.3)
    return log_mass, tremonti04(log_mass) + 0.1 * a, tremonti04(log_mass) + 0.1 * best


@pytest.mark.parametrize("log_mass, oh", [(9.0, 8.62994), (10.0, 8.952), (11.0, 9.11354)])
def test_tremonti_by_hand(log_mass, oh): assert tremonti04(log_mass) == pytest.approx(oh, abs=1e-9)


@pytest.mark.parametrize("log_mass, log_sfr, oh", [
    (10, 0, 8.90), (11, 1, 9.006), (9, -1, 8.90 - 0.37 + 0.14 - 0.19 + 0.12 - 0.054)])
def test_mannucci_by_hand(log_mass, log_sfr, oh):
    assert mannucci10_fmr(log_mass, log_sfr) == pytest.approx(oh, abs=1e-9)


def test_table_3_is_the_published_one(real):
    assert np.array_equal(TREMONTI04_TABLE3, pd.read_csv(real / "facts" / "tremonti04_table3.csv").to_numpy())


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.6, 0.9])
def test_the_partial_correlation_that_was_put_in_comes_out(rho):
    found = partial_correlation_at_fixed_mass(*draw(3000, rho))
    assert found["partial_correlation"]["value"] == pytest.approx(rho, abs=0.05)
    variance_left = 1 - found["r2_mass"]["value"]
    assert found["r2_beyond_mass"]["value"] == pytest.approx(rho**2 * variance_left, abs=0.02)


def test_its_intervals_cover():
    hits = 0
    for seed in range(60):
        found = partial_correlation_at_fixed_mass(*draw(300, 0.5, seed))["partial_correlation"]
        hits += found["lo"] < 0.5 < found["hi"]
    assert hits >= 51  # of 57 expected; fewer than 51 have a chance below 1 %


def test_a_nuisance_of_mass_does_not_look_like_knowledge():
    log_mass, true, _ = draw(3000, 0)
    rng = np.random.default_rng(5)
    # a function of mass alone, and not of the relation's shape
    steep = 8.0 + 0.9 * (log_mass - 9) + 0.3 * np.sin(2 * log_mass) + 0.05 * rng.normal(size=3000)
    assert np.corrcoef(true, steep)[0, 1] > 0.7
    found = partial_correlation_at_fixed_mass(log_mass, true, steep)
    assert found["partial_correlation"]["lo"] < 0 < found["partial_correlation"]["hi"]
    assert "does not measurably follow" in fixed_mass_sentence(found)


def with_mass_errors(n, knows, seed, sigma=0.09, other=0.2):
    """Galaxies on Tremonti+04 with 0.1 dex scatter, their masses cataloged with an error, and a prediction from another
    estimate of the mass and from a share `knows` of the deviation; sigma is one error [dex] or [n]"""
    rng = np.random.default_rng(seed)
    mass = np.clip(rng.normal(10.0, 0.55, n), 8.6, 11.4)
    cataloged, seen = mass + sigma * rng.normal(size=n), mass + other * rng.normal(size=n)
    deviation = 0.1 * rng.normal(size=n)
    return cataloged, tremonti04(mass) + deviation, tremonti04(np.clip(seen, 8.51, 11.49)) + knows * deviation


@pytest.fixture
def few_resamples(monkeypatch): monkeypatch.setattr(mzr_module, "bootstrap", partial(bootstrap, n_boot=200))


def verdicts(n, knows, samples):
    "How often the answer is that the prediction follows, that it does not measurably, and how often r alone says so"
    found = [partial_correlation_at_fixed_mass(*with_mass_errors(n, knows, seed), mass_sigma=0.09)
             for seed in range(samples)]
    said = [fixed_mass_sentence(f) for f in found]
    alone = np.mean([f["partial_correlation"]["lo"] > 0 for f in found])
    words = ("prediction follows the", "does not measurably follow")
    return *(np.mean([w in text for text in said]) for w in words), alone


@pytest.mark.parametrize("n, samples", [(930, 100), (20_000, 40)])
def test_a_predictor_of_mass_alone_is_uninformative_and_one_that_knows_more_is_found(n, samples, few_resamples):
    follows, nothing, alone = verdicts(n, 0.0, samples)
    assert nothing >= 0.95 and follows <= 0.05
    assert alone > 0.5  # what the partial correlation by itself would claim
    assert verdicts(n, 0.4, 6)[0] == 1


def test_mass_errors_galaxy_by_galaxy_count_as_they_are():
    sigma = np.tile([0.02, 0.15], 6000)
    found = partial_correlation_at_fixed_mass(*with_mass_errors(12_000, 0.0, 3, sigma), mass_sigma=sigma)
    assert found["partial_correlation"]["lo"] > 0.05
    assert found["beyond_mass_errors"]["value"] == pytest.approx(0, abs=0.03)
    assert found["mass_sigma"] == pytest.approx(np.sqrt((0.02**2 + 0.15**2) / 2))


def test_a_prediction_that_shares_the_catalogs_mass_error_is_not_said_to_run_against():
    log_mass, true, _ = with_mass_errors(5000, 0.0, 1)
    found = partial_correlation_at_fixed_mass(log_mass, true, tremonti04(np.clip(log_mass, 8.51, 11.49))
                                              + 0.05 * np.random.default_rng(0).normal(size=5000), mass_sigma=0.09)
    assert found["beyond_mass_errors"]["hi"] < 0
    assert "does not measurably follow" in fixed_mass_sentence(found)


def test_few_galaxies_get_no_answer():
    found = partial_correlation_at_fixed_mass(*draw(149, 0.9))
    assert "149 galaxies are too few" in fixed_mass_sentence(found)
    assert "follows the metallicity" in fixed_mass_sentence(partial_correlation_at_fixed_mass(*draw(150, 0.9)))


def test_an_answer_from_before_mass_errors_counted_is_asked_for_again():
    found = partial_correlation_at_fixed_mass(*draw(300, 0.5))
    del found["beyond_mass_errors"]
    assert "run `galaxy-cnn mzr` again" in fixed_mass_sentence(found)


def test_a_constant_prediction_has_no_correlation_and_no_crash():
    log_mass, true, _ = draw(500, 0)
    found = partial_correlation_at_fixed_mass(log_mass, true, np.full(500, 8.9))
    assert np.isnan(found["partial_correlation"]["value"])
    assert "does not measurably follow" in fixed_mass_sentence(found)


def test_regression_to_the_mean_narrows_the_predicted_relation():
    log_mass, true, pred = draw(3000, 0.5)
    for relation in ("tremonti04", "running_median"):
        observed, predicted = (relation_scatter(log_mass, oh)[relation]["all"]["rmse"] for oh in (true, pred))
        assert predicted["hi"] < 0.6 * observed["lo"]
        assert predicted["value"] / observed["value"] == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("n", [80, 3000])
def test_figures_with_few_galaxies_and_with_many(n, tmp_path):
    log_mass, true, pred = draw(n, 0.6)
    log_mass[:2] = 7.9, 12.1  # where the polynomial has no value
    found = partial_correlation_at_fixed_mass(log_mass, true, pred)
    figures = (
        mzr_figure(log_mass, true, pred, "mock sky"),
        scatter_figure(relation_scatter(log_mass, true), relation_scatter(log_mass, pred), "mock sky"),
        fixed_mass_figure(log_mass, true, pred, found, "mock sky"))
    for figure in figures:
        figure.savefig(tmp_path / "figure.png", dpi=40)
        assert any("mock" in ax.get_title(loc="right") for ax in figure.axes)


def test_bins_hold_only_their_galaxies():
    log_mass = np.repeat([9.05, 9.65, 10.05], [2000, 2000, 9])
    found = binned_percentiles(log_mass, np.repeat([8.5, 8.9, 9.9], [2000, 2000, 9]))
    assert found["n"].tolist() == [2000, 2000] and found["p50"].tolist() == [8.5, 8.9]


@pytest.fixture(scope="module")
def mock_run(mock_survey, tmp_path_factory):
    "A Run on the mock sky with two folds; copy it before changing it"
    folder = tmp_path_factory.mktemp("runs") / "mock"
    run = train(mock_survey, folder, arch="xresnet_tiny", epochs=2, folds=2, precision="fp32", quiet=True)
    mzr(run)
    return run


def test_what_a_run_gets(mock_run, mock_survey):
    found = read_json(mock_run.path / "metrics.json")
    relation = found["mzr"]
    assert relation["sky"] == "mock" and "fixed_true_mass" in relation
    assert relation["n"] + relation["without_mass"] == found["n"]
    for name in ("mzr", "mzr_scatter", "mzr_fixed_mass"):
        assert (mock_run.path / "figures" / f"{name}.png").stat().st_size > 1000
    text = format_mzr(relation)
    assert "mock sky" in text and "partial correlation" in text and "n = " in text


def test_missing_masses_are_left_out_and_counted(mock_run):
    table = pd.read_parquet(mock_run.path / "predictions.parquet")
    table.loc[table.index[:4], MASS_COLUMN] = [MISSING, -1.0, 0.0, np.nan]
    found = measure_relation(table)
    assert found["without_mass"] == 4 and found["n"] == len(table) - 4


def test_predictions_of_other_weights_are_not_used(mock_run, tmp_path):
    shutil.copytree(mock_run.path, tmp_path / "run")
    metrics = read_json(tmp_path / "run" / "metrics.json")
    write_json(tmp_path / "run" / "metrics.json", {**metrics, "networks": ["of another training"], "n": -1})
    mzr(tmp_path / "run")
    again = read_json(tmp_path / "run" / "metrics.json")
    assert again["n"] == metrics["n"]
    assert again["networks"] == [n["sha256"] for n in read_run(tmp_path / "run").card["networks"]]


def test_a_survey_without_masses_gets_a_sentence(mock_survey, tmp_path):
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "images").symlink_to(mock_survey.path / "images")
    survey = write_survey(tmp_path / "bare", mock_survey.catalog[["objID", "oh_p50"]], {"source": "mock"})
    run = train(survey, tmp_path / "run", arch="xresnet_tiny", epochs=1, folds=2, precision="fp32", quiet=True)
    found = mzr(run.path)
    assert "no stellar masses" in format_mzr(found) and read_json(run.path / "metrics.json")["mzr"] == found
    assert not list((run.path / "figures").glob("mzr*"))


def test_a_run_that_predicts_something_else_gets_a_sentence(mock_survey, tmp_path):
    options = dict(arch="xresnet_tiny", epochs=1, precision="fp32", quiet=True)
    run = train(mock_survey, tmp_path / "run", targets=("log_mass",), **options)
    assert "does not predict the metallicity" in mzr(run)["reason"]


def test_another_survey_is_refused(mock_run, tmp_path):
    with pytest.raises(InputError): mzr(mock_run, tmp_path / "nowhere")
