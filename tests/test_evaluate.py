"Scores on real predictions, intervals that cover, Runs on the mock and on the real sky, and what can go wrong"
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galaxy_cnn.evaluate import (
    calibration_slope,
    evaluate,
    format_table,
    onto_the_line,
    rmse_of_samples,
    search_quality,
)
from galaxy_cnn.figures import density_figure, distribution_figure, gallery_figure
from galaxy_cnn.files import InputError
from galaxy_cnn.metrics import (
    METRICS,
    binned_errors,
    bootstrap,
    median_bias,
    nmad,
    paired_difference,
    resamples,
    rmse,
    scores,
    with_interval,
)
from galaxy_cnn.run import read_run
from galaxy_cnn.survey import write_survey
from galaxy_cnn.train import train

# Wu & Boada 2019, their network's predictions for 20,366 test galaxies at several cutout sizes:
# RMSE, NMAD, median residual [dex]
PUBLISHED = {
    128: (0.0850, 0.0650, -0.0104),
    64: (0.0880, 0.0678, -0.0111),
    32: (0.0930, 0.0709, 0.0005),
    16: (0.1044, 0.0800, -0.0198),
}
QUICK = dict(arch="xresnet_tiny", precision="fp32", calibrate=False, quiet=True)  # `evaluate` fits the error model


def paper(real):
    "The published predictions"
    return pd.read_csv(real / "facts" / "wu_boada_2019_test_predictions.csv", dtype={"objID": "int64"})


def numbers(metrics):
    "All values of metrics.json in order, as one flat table"
    return pd.json_normalize(metrics).T[0]


@pytest.fixture(scope="session")
def mock_run(mock_survey, tmp_path_factory):
    "A Run on the mock sky, three epochs, evaluated; copy it before changing it"
    run = train(mock_survey, tmp_path_factory.mktemp("runs") / "mock", epochs=3, **QUICK)
    evaluate(run)
    return run


@pytest.fixture
def run(mock_run, tmp_path):
    "A fresh copy of `mock_run`"
    shutil.copytree(mock_run.path, tmp_path / "run")
    return read_run(tmp_path / "run")


# --- the published predictions

@pytest.mark.parametrize("px", PUBLISHED)
def test_published_predictions_give_the_published_numbers(real, px):
    table = paper(real)
    true, pred = table["oh_p50"].to_numpy(), table[f"pred_{px}"].to_numpy()
    assert len(table) == 20_366
    assert tuple(round(float(f(true, pred)), 4) for f in (rmse, nmad, median_bias)) == PUBLISHED[px]


def test_published_predictions_with_intervals_and_figures(real):
    table = paper(real)
    true, pred = table["oh_p50"].to_numpy(), table["pred_128"].to_numpy()
    found = bootstrap(rmse, true, pred)
    assert found["n"] == 20_366 and found["lo"] < 0.0850 < found["hi"] and found["hi"] - found["lo"] < 0.004
    assert paired_difference(rmse, true, pred, table["pred_64"].to_numpy())["hi"] < 0, "more pixels are better"
    figure = density_figure(true, pred)
    assert "n = 20,366\nRMSE = 0.0850 dex\nNMAD = 0.0650 dex" in [t.get_text() for t in figure.axes[0].texts]


def test_what_the_published_predictions_say_beyond_the_paper(real):
    "Recomputed independently for the review of November 2026: slopes, what recalibration leaves, searches, samples"
    table = paper(real)
    true, pred = table["oh_p50"].to_numpy(), {px: table[f"pred_{px}"].to_numpy() for px in PUBLISHED}
    slopes = {px: round(float(calibration_slope(true, p)), 3) for px, p in pred.items()}
    assert slopes == {128: 0.983, 64: 1.093, 32: 1.088, 16: 1.059}
    moved = {px: float(rmse(true, onto_the_line(true, p))) for px, p in pred.items()}
    assert moved == pytest.approx({128: 0.0848, 64: 0.0866, 32: 0.0911, 16: 0.1035}, abs=1e-4)
    poor = search_quality(true, pred[128], high=8.4)
    assert (round(poor["completeness"]["value"], 2), round(poor["purity"]["value"], 2)) == (0.47, 0.69)
    few = rmse_of_samples(true, pred[128], [400], draws=500).iloc[0]
    assert 0.073 < few["low"] < 0.077 and 0.094 < few["high"] < 0.098
    by_pred = binned_errors(true, pred[128], by=pred[128])
    assert by_pred["n"].sum() == 20_366 and by_pred.loc[by_pred["low"].between(8.35, 9.15), "bias"].abs().max() < 0.02
    gap = ((9.02 <= true) & (true < 9.04)).sum()  # the labels lie on a grid
    assert gap < 0.15 * ((9.0 <= true) & (true < 9.02)).sum()


# --- what one RMSE hides

@given(st.integers(0, 99), st.floats(0.3, 3), st.floats(-1, 1))
@settings(max_examples=25, deadline=None)
def test_a_straight_line_undoes_a_straight_line(seed, slope, shift):
    rng = np.random.default_rng(seed)
    true = rng.normal(8.9, 0.2, 500)
    pred = true + rng.normal(0, 0.05, 500)
    bent = 8.9 + slope * (pred - 8.9) + shift
    assert calibration_slope(true, bent) == pytest.approx(calibration_slope(true, pred) / slope)
    np.testing.assert_allclose(onto_the_line(true, bent), onto_the_line(true, pred), atol=1e-9)


def test_recalibration_of_a_galaxy_has_not_seen_its_label():
    rng = np.random.default_rng(0)
    true, pred = rng.normal(size=200), rng.normal(size=200)
    half = np.random.default_rng(0).permutation(200) % 2 == 0
    other = np.where(half, true + 5, true)  # other labels in one half
    same, moved = onto_the_line(true, pred), onto_the_line(other, pred)
    assert np.array_equal(same[half], moved[half]) and (moved[~half] > same[~half] + 4).all()


@given(st.lists(st.floats(8, 9.5), min_size=1, max_size=200), st.integers(1, 30))
@settings(max_examples=50, deadline=None)
def test_no_galaxy_is_left_out_of_the_bins(values, least):
    true = np.array(values)
    table = binned_errors(true, true + 0.1, min_n=least)
    assert table["n"].sum() == len(true) and np.allclose(table["bias"], 0.1)
    assert len(table) == 1 or table["n"].iloc[[0, -1]].min() >= least


# --- intervals

def test_ninety_five_percent_intervals_cover():
    rng = np.random.default_rng(0)
    hits = 0
    for i in range(300):
        x = rng.normal(0.02, 0.1, 150)
        found = bootstrap(rmse, np.zeros(150), x, seed=i, n_boot=400)
        hits += found["lo"] < np.hypot(0.1, 0.02) < found["hi"]
    assert 0.90 <= hits / 300 <= 0.985


def test_a_paired_difference_is_the_difference_and_has_its_sign():
    rng = np.random.default_rng(1)
    true = rng.normal(size=300)
    a, b = true + 0.1 * rng.normal(size=300), true + 0.2 * rng.normal(size=300)
    ab, ba = paired_difference(rmse, true, a, b), paired_difference(rmse, true, b, a)
    assert ab["value"] == pytest.approx(rmse(true, a) - rmse(true, b)) and ab["hi"] < 0
    assert (ab["lo"], ab["hi"]) == pytest.approx((-ba["hi"], -ba["lo"]))
    assert paired_difference(rmse, true, a, a) == {"value": 0, "lo": 0, "hi": 0, "n": 300}


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_groups_are_drawn_whole(groups, seed):
    groups = np.array(groups)
    for (index,) in resamples(len(groups), 5, seed, groups):
        times = np.bincount(index, minlength=len(groups))
        assert all(len(set(times[groups == g])) == 1 for g in groups)
        assert sum(times[groups == g][0] for g in set(groups)) == len(set(groups))


@given(st.integers(2, 40), st.floats(-3, 3), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_metrics_do_what_a_shift_and_a_scale_demand(n, shift, seed):
    true, noise = np.random.default_rng(seed).normal(size=(2, n))
    pred = true + noise
    assert nmad(true, pred + shift) == pytest.approx(nmad(true, pred), abs=1e-9)
    assert median_bias(true, pred + shift) == pytest.approx(median_bias(true, pred) + shift, abs=1e-9)
    assert rmse(2 * true, 2 * pred) == pytest.approx(2 * rmse(true, pred))
    assert METRICS["spearman"](np.exp(true), pred) == pytest.approx(METRICS["spearman"](true, pred), nan_ok=True)
    assert METRICS["r2"](true, true) == 1


def test_many_galaxies_are_drawn_piece_by_piece():
    pieces = list(resamples(500_000, 10, 0, None))
    assert len(pieces) == 3 and sum(len(p) for p in pieces) == 10


def test_a_constant_prediction_has_no_rank_correlation_and_the_rest_holds():
    true = np.random.default_rng(0).normal(size=100)
    found = scores(true, np.zeros(100))
    assert np.isnan(found["spearman"]["value"]) and with_interval(found["spearman"]) == "-"
    assert found["rmse"]["value"] == pytest.approx(np.sqrt(np.mean(true**2)))


@pytest.mark.parametrize("columns, message", [
    (([], []), "empty"),
    (([1.0, np.nan], [1.0, 2.0]), "1 of 2 galaxies"),
    (([1.0, 2.0], [np.inf, 2.0]), "not finite"),
])
def test_what_cannot_be_measured_is_said(columns, message):
    with pytest.raises(ValueError, match=message): bootstrap(rmse, *columns)


# --- figures

@pytest.mark.parametrize("n", [3, 80, 3000])
def test_figures_can_be_drawn_with_few_galaxies_and_with_many(n, tmp_path):
    rng = np.random.default_rng(0)
    true = rng.normal(8.9, 0.2, n)
    pred = true + rng.normal(0, 0.1, n)
    for figure in (density_figure(true, pred, sky="mock sky"), distribution_figure(true, pred, sky="mock sky")):
        figure.savefig(tmp_path / "figure.png", dpi=40)
        assert any("mock" in ax.get_title(loc="right") for ax in figure.axes)
    constant = distribution_figure(true, np.full(n, 8.9))
    constant.savefig(tmp_path / "constant.png", dpi=40)


def test_a_gallery_of_fewer_galaxies_than_it_has_places(mock_survey):
    figure = gallery_figure(mock_survey.image_files[:5], np.arange(5.0), np.arange(5.0), sky="mock sky")
    assert sum(bool(ax.images) for ax in figure.axes) == 15 and "mock" in figure.get_suptitle()


# --- Runs

@pytest.fixture
def no_pictures(monkeypatch):
    "`evaluate` without drawing its figures, which takes as long as all the rest"
    monkeypatch.setattr("galaxy_cnn.evaluate.save_figures", lambda *args: None)


def test_evaluate_leaves_what_it_should_and_says_the_same_of_a_survey_that_has_moved(
        run, mock_survey, tmp_path, no_pictures):
    first = numbers(json.loads((run.path / "metrics.json").read_text()))
    card = (run.path / "model.json").read_bytes()
    moved = tmp_path / "elsewhere" / mock_survey.path.name
    shutil.copytree(mock_survey.path, moved)
    metrics = evaluate(run.path, moved)
    # a forest adds up its trees in the order in which they end
    pd.testing.assert_series_equal(numbers(metrics), first, rtol=1e-9)
    table = pd.read_parquet(run.path / "predictions.parquet")
    split = run.split
    assert table["objID"].dtype == "Int64"
    assert table["image"].tolist() == [str(i) for i in mock_survey.catalog["objID"]]
    assert (table["split"] == split.names).all() and set(mock_survey.catalog) < set(table)
    found = metrics["targets"]["metallicity"]
    assert metrics["sky"] == "mock" and metrics["split"] == "test"
    assert metrics["n"] == split.held_out.sum() == found["cnn"]["rmse"]["n"]
    assert {"label_noise", "quoted_label_noise", "cnn_against_truth"} <= set(found) and "mean" in found["baselines"]
    assert (run.path / "model.json").read_bytes() == card, "the card is written once, by the training"
    assert not list(run.path.rglob(".*")), "no temporary file is left behind"


def test_every_number_has_its_n_and_interval(run):
    def check(v):
        if isinstance(v, dict) and "value" in v:
            assert {"value", "lo", "hi", "n"} <= set(v)
            assert v["value"] is None or v["lo"] <= v["hi"]
        elif isinstance(v, dict):
            for w in v.values(): check(w)
        else: assert not isinstance(v, float)
    metrics = json.loads((run.path / "metrics.json").read_text())
    check(metrics["targets"])
    text = format_table(metrics)
    assert "mock sky" in text and "label noise" in text and "eight symmetries" in text


def test_the_held_out_prediction_comes_from_the_network_that_never_saw_the_galaxy(few, tmp_path):
    targets = ["metallicity", "log_mass"]
    run = train(few, tmp_path / "run", targets=targets, epochs=1, folds=2, **QUICK)
    metrics = evaluate(run, figure_format="pdf")
    table = pd.read_parquet(run.path / "predictions.parquet").set_index("objID")
    for k in range(2):
        ids = run.split.objID[run.split.names == f"fold{k}"][:20]
        files = [few.image_path(i) for i in ids]
        expected = run.predict(files, k).mean
        assert np.allclose(table.loc[ids, ["metallicity_pred", "log_mass_pred"]], expected, atol=1e-5)
        assert not np.allclose(expected, run.predict(files, 1 - k).mean, atol=1e-4)
    assert metrics["split"] == "out-of-fold" and metrics["n"] == run.split.held_out.sum()
    assert set(metrics["targets"]) == set(targets)
    figures = {f.name for f in (run.path / "figures").iterdir()}
    assert {"density.pdf", "density_log_mass.pdf", "history.pdf"} <= figures


def test_predictions_are_the_same_whichever_way_the_galaxy_lies(run, mock_survey):
    from galaxy_cnn.images import read_images
    images = read_images(mock_survey.image_files[:8])
    plain = run.predict(images).mean
    for view in (images[:, ::-1], images[:, :, ::-1], images.transpose(0, 2, 1, 3), np.rot90(images, 3, (1, 2))):
        assert np.allclose(run.predict(np.ascontiguousarray(view)).mean, plain, atol=1e-4)


def test_half_precision_moves_a_prediction_by_less_than_a_hundredth(run, mock_survey):
    full = run.predict(mock_survey.image_files[:16]).mean
    run.card["precision"] = "bf16"
    assert np.abs(run.predict(mock_survey.image_files[:16]).mean - full).max() < 0.01


def test_whole_cells_of_sky_can_be_drawn(run, no_pictures):
    one = json.loads((run.path / "metrics.json").read_text())
    other = evaluate(run, by_cell=True)
    assert other["bootstrap"]["unit"] == "sky cell"
    a, b = (m["targets"]["metallicity"]["cnn"]["rmse"] for m in (one, other))
    assert a["value"] == b["value"] and a["lo"] != b["lo"]


def test_another_survey_is_refused(run, mock_survey, tmp_path):
    (tmp_path / "images").symlink_to(mock_survey.path / "images")
    write_survey(tmp_path, mock_survey.catalog.iloc[1:], mock_survey.info)
    with pytest.raises(InputError, match="is not the Survey"): evaluate(run, tmp_path)


def test_too_few_held_out_galaxies_are_too_few(run, monkeypatch):
    monkeypatch.setattr("galaxy_cnn.splits.is_held_out", lambda names: np.arange(len(names)) < 2)
    with pytest.raises(InputError, match="2 test galaxies, too few"): evaluate(run)


def test_an_image_lost_since_training_is_named(run, mock_survey, tmp_path):
    with pytest.raises(InputError, match="does not exist"): run.predict([*mock_survey.image_files[:3], tmp_path / "gone.jpg"])


def test_the_real_sample_pools_its_folds(real, tmp_path, no_pictures):
    run = train(real / "sdss_sample", tmp_path / "run", epochs=1, folds=2, **QUICK)
    metrics = evaluate(run, tta=False)
    found = metrics["targets"]["metallicity"]
    assert (metrics["sky"], metrics["split"], metrics["n"], metrics["tta"]) == ("real", "out-of-fold", 400, False)
    assert "label_noise" not in found and {"mean", "ridge"} <= set(found["baselines"])
    assert "random_forest" in found["not_possible"]
    assert 0.19 < found["baselines"]["mean"]["rmse"]["value"] < 0.21
    assert found["cnn"]["rmse"]["value"] < 0.25 and "real sky" in format_table(metrics)
    with pytest.raises(InputError, match="no coordinates"): evaluate(run, tta=False, by_cell=True)
