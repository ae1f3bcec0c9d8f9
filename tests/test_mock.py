"""The mock sky: what the notebook does not show - bytes, faults, extremes, distributions"""
import hashlib
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord, search_around_sky

from galaxy_cnn import literature, mock_catalog, mock_images
from galaxy_cnn.catalogs import COLUMNS
from galaxy_cnn.files import InputError
from galaxy_cnn.images import FIELD_R90, decode
from galaxy_cnn.survey import TARGETS, TRUTH, read_survey, validate


@pytest.fixture(scope="module")
def catalog(): return mock_catalog.draw_catalog(20_000, seed=3)


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    return mock_images.make_mock(tmp_path_factory.mktemp("mock") / "sky", n=60, seed=5, workers=1)


def digest(survey):
    "Hash of every file of a survey that must not depend on how it was made"
    files = sorted((survey.path / "images").iterdir()) + [survey.path / "catalog.parquet"]
    return hashlib.sha256(b"".join(f.name.encode() + f.read_bytes() for f in files)).hexdigest()


def test_same_bytes_whatever_the_number_of_processes(survey, tmp_path):
    assert digest(mock_images.make_mock(tmp_path / "two", n=60, seed=5, workers=2)) == digest(survey)


def test_a_small_sky_is_the_beginning_of_a_large_one(survey, tmp_path):
    small = mock_images.make_mock(tmp_path / "small", n=7, seed=5, workers=1)
    assert small.catalog.equals(survey.catalog.head(7))
    assert all(small.image_path(i).read_bytes() == survey.image_path(i).read_bytes() for i in small.catalog.objID)


def test_another_seed_is_another_sky(catalog):
    other = mock_catalog.draw_catalog(100, seed=4)
    assert not set(other.objID) & set(catalog.objID)
    assert not np.allclose(other.oh_true, catalog.oh_true.head(100))


def test_schema(catalog):
    not_drawn = {"lgm_tot_p16", "lgm_tot_p84", "sfr_tot_p16", "sfr_tot_p84", "ebv"}  # SDSS's, which no mock galaxy has
    drawn = [c for c in COLUMNS if c not in not_drawn]
    assert {c: str(catalog[c].dtype) for c in drawn} == {c: COLUMNS[c].dtype for c in drawn}
    assert set(TRUTH.values()) <= set(catalog) and not catalog.isna().any().any()
    assert catalog.objID.is_unique and catalog.specObjID.is_unique
    assert catalog.objID.astype(str).str.len().eq(19).all()
    truths = ["av_true", "bt_true", "axis_ratio_true", "re_true"]   # beside SDSS's columns, what pretraining learns
    assert set(truths) <= set(catalog)
    assert catalog.bt_true.between(0, 1).all() and catalog.axis_ratio_true.between(0, 1).all()


def test_selection(catalog):
    assert (catalog.z > 0.02).all() and catalog.petroMag_r.between(10, 18).all()
    assert catalog.zErr.between(0, 0.01, inclusive="neither").all()
    assert (catalog.modelMag_u - catalog.modelMag_r).between(0, 6).all()
    assert all(catalog[f"modelMag_{b}"].between(10, 25).all() for b in "ugriz")
    far = catalog.z > 0.1
    assert catalog.lgm_true[far].mean() > catalog.lgm_true[~far].mean() + 0.3   # Malmquist


def test_distributions(catalog):
    assert catalog.lgm_true.mean() == pytest.approx(10.01, abs=0.03)
    assert catalog.lgm_true.std() == pytest.approx(0.56, abs=0.03)
    assert np.percentile(catalog.lgm_true, [25, 50, 75]) == pytest.approx([9.65, 10.06, 10.42], abs=0.03)
    assert catalog.oh_p50.mean() == pytest.approx(8.9065, abs=0.02)
    assert catalog.oh_p50.std() == pytest.approx(0.1986, abs=0.02)
    assert np.percentile(catalog.oh_p50, [25, 50, 75]) == pytest.approx([8.8088, 8.9556, 9.0537], abs=0.025)
    assert catalog.petroMag_r.mean() == pytest.approx(17.11, abs=0.15)
    assert np.median(catalog.petroR90_r) == pytest.approx(4.2, abs=0.4)


def test_metallicity_scatter_is_tied_to_star_formation(catalog):
    residual = catalog.oh_true - literature.mass_metallicity(catalog.lgm_true)
    assert residual.std() == pytest.approx(0.10, abs=0.01)
    massive = catalog.lgm_true > 10.3
    assert residual[massive].std() < residual[~massive].std()
    excess = catalog.sfr_true - literature.main_sequence(catalog.lgm_true)
    assert excess.corr(residual) < -0.2


def test_colors_tell_metallicity_only_as_far_as_the_physics_says():
    physics = mock_catalog.MockPhysics(gr_oh=0, ri_oh=0, dust_oh=0)
    told, untold = (mock_catalog.draw_catalog(10_000, 3, physics=p) for p in (mock_catalog.MOCK_PHYSICS, physics))
    for sky, lowest, highest in ((told, 0.25, 1), (untold, -0.1, 0.1)):
        known = np.stack([np.ones(len(sky)), sky.lgm_true, sky.lgm_true**2, sky.sfr_true, sky.z, np.log(sky.re_true),
                          np.log(sky.axis_ratio_true)], axis=1)
        wanted = np.stack([sky.oh_true, sky.mag_g_true - sky.mag_r_true], axis=1)
        residual = wanted - known @ np.linalg.lstsq(known, wanted, rcond=None)[0]
        assert lowest < np.corrcoef(residual.T)[0, 1] < highest


def test_labels_are_wrong_by_as_much_as_they_say(catalog):
    pull = (catalog.oh_p50 - catalog.oh_true) / ((catalog.oh_p84 - catalog.oh_p16) / 2)
    assert pull.mean() == pytest.approx(0, abs=0.02) and pull.std() == pytest.approx(1, abs=0.02)
    assert mock_catalog.label_error_rms(catalog) == pytest.approx(0.045, abs=0.01)
    mass_sigma = mock_catalog.MOCK_SURVEY.mass_sigma
    assert mock_catalog.label_error_rms(catalog, "log_mass") == pytest.approx(mass_sigma, rel=0.03)
    assert (catalog.oh_p2p5 < catalog.oh_p16).all() and (catalog.oh_p84 < catalog.oh_p97p5).all()


def test_lines_agree_with_metallicity_and_star_formation(catalog):
    bright = catalog[(catalog.bptclass == 1)]
    n2 = np.log10(bright.nii_6584_flux / bright.h_alpha_flux)
    assert n2.corr(bright.oh_true, method="spearman") > 0.9
    balmer = bright.h_alpha_flux / bright.h_beta_flux
    assert balmer.median() > mock_catalog.MOCK_SURVEY.case_b
    assert balmer.corr(bright.av_true, method="spearman") > 0.7
    assert catalog.d4000.corr(catalog.sfr_true - catalog.lgm_true) < -0.7


def test_neighbors_beyond_chance(catalog):
    sky = SkyCoord(catalog.ra, catalog.dec, unit="deg")
    i, j, _, _ = search_around_sky(sky, sky, 30 * u.arcsec)
    pairs = (i < j).sum()
    by_chance = len(catalog) ** 2 / 2 * np.pi * (30 / 3600) ** 2 / 8000   # footprint of some 8000 square degrees
    assert pairs > 20 and pairs > 5 * by_chance
    together = np.abs(catalog.z.to_numpy()[i] - catalog.z.to_numpy()[j])[i < j]
    assert np.median(together) < 0.005   # groups share a redshift


def test_footprint(catalog):
    assert catalog.ra.between(0, 360).all() and catalog.dec.between(-12, 75).all()
    assert (catalog.ra.between(100, 270)).mean() == pytest.approx(0.875, abs=0.03)


def test_survey_is_valid(survey):
    assert survey.is_mock and survey.size == 128 and validate(survey, targets=TARGETS) == []
    assert survey.info["mock_version"] == mock_catalog.MOCK_VERSION and survey.info["n"] == 60
    label_error = mock_catalog.label_error_rms(survey.catalog)
    assert survey.info["label_noise_dex"]["metallicity"] == pytest.approx(label_error, abs=1e-4)


def test_cutouts_are_compressed_like_real_ones(survey):
    from PIL import Image, JpegImagePlugin
    with Image.open(survey.image_files[0]) as image:
        assert image.quantization[0][:8] == [3, 2, 2, 3, 4, 6, 8, 10] and JpegImagePlugin.get_sampling(image) == 2
    sizes = [len(survey.image_path(i).read_bytes()) for i in survey.catalog.objID]
    assert 1500 < np.mean(sizes) < 2300


def test_galaxies_look_their_color(survey):
    images = np.stack([decode(f) for f in survey.image_files]).astype(float)
    center = images[:, 56:74, 56:74].mean((1, 2))
    red = np.log(center[:, 0] / center[:, 2])
    assert pd.Series(red).corr(survey.catalog.modelMag_g - survey.catalog.modelMag_i, method="spearman") > 0.8
    # a galaxy in the middle, dark sky at the edge
    assert (center.mean(1) > 3 * images[:, :10].mean((1, 2, 3))).mean() > 0.9


@pytest.mark.parametrize("field, coarse", [(8, 1), (100, 1), (110, 2), (260, 4)])
def test_wide_fields_come_from_coarser_frames(field, coarse):
    stamp = mock_images.StampGrid(field, np.random.default_rng(0))
    assert stamp.coarse == coarse and stamp.n < 300


def test_extreme_galaxies_can_be_drawn(catalog):
    for column in ("petroR90_r", "axis_ratio_true", "re_true", "bt_true", "clumps_true", "mag_r_true"):
        order = catalog[column].to_numpy().argsort()
        for row in catalog.iloc[[order[0], order[-1]]].to_dict("records"):
            assert mock_images.draw_cutout(row, seed=3).max() > 30


def test_total_flux_is_the_catalogs(catalog):
    row = catalog[(catalog.petroR90_r > 4) & (catalog.petroR90_r < 6)].to_dict("records")[0]
    rng = np.random.default_rng(0)
    stamp = mock_images.StampGrid(FIELD_R90 * row["petroR90_r"], rng)
    total = sum(flux * transform[0, 0].real for transform, flux in mock_images._parts(row, stamp, rng))
    assert total == pytest.approx(mock_images.band_flux([row[f"mag_{b}_true"] for b in "irg"]), rel=0.05)


def test_asking_again_returns_what_is_there(survey):
    before = [f.stat().st_mtime_ns for f in survey.path.glob("images/*")]
    again = mock_images.make_mock(survey.path, n=60, seed=5)
    assert [f.stat().st_mtime_ns for f in again.path.glob("images/*")] == before
    with pytest.raises(InputError, match="already holds"): mock_images.make_mock(survey.path, n=60, seed=6)


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_): raise RuntimeError("the disk is full")
    monkeypatch.setattr(mock_images, "write_survey", fail)
    with pytest.raises(RuntimeError): mock_images.make_mock(tmp_path / "sky", n=2, workers=1)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_run_leaves_no_survey(tmp_path):
    code = """import os, sys
from galaxy_cnn import mock_images
mock_images.write_survey = lambda *a: os.kill(os.getpid(), 9)
mock_images.make_mock(sys.argv[1], n=2, workers=1)"""
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "sky")], capture_output=True).returncode == -9
    assert not (tmp_path / "sky").exists()
    assert len(mock_images.make_mock(tmp_path / "sky", n=2, workers=1)) == 2


@pytest.mark.parametrize("arguments, message", [
    (dict(n=0), "n is 0"), (dict(n=5, seed=-1), "seed is -1"), (dict(n=5, seed=5000), "seed is 5000"),
    (dict(n=5, size=4), "size is 4")])
def test_wrong_arguments(tmp_path, arguments, message):
    with pytest.raises(InputError, match=message): mock_images.make_mock(tmp_path / "sky", **arguments)


def test_a_row_whose_id_went_through_a_float(catalog):
    row = catalog[["objID", "z"]].astype(float).iloc[0]
    with pytest.raises(ValueError, match="to_dict"): mock_images.draw_cutout(row, seed=3)


def test_survey_on_disk_reads_back(survey):
    assert read_survey(survey.path).fingerprint == survey.fingerprint
