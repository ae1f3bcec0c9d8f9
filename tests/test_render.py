"Planes as others have them: one bad galaxy among many, numbers that are missing, and folders that hold something else"
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits

from galaxy_cnn.files import Incomplete, InputError
from galaxy_cnn.render import read_planes, render_survey
from galaxy_cnn.survey import read_survey

Y, X = np.mgrid[-32:32, -32:32]
GRI = np.array([0.5, 1.0, 1.5])[:, None, None] * np.exp(-(X**2 + Y**2) / 200)
CARDS = dict(BUNIT="nanomaggy", BANDS="gri", CTYPE1="RA---TAN", CTYPE2="DEC--TAN", CDELT1=-1.1e-4, CDELT2=1.1e-4)
SIP = dict(CTYPE1="RA---TAN-SIP", CTYPE2="DEC--TAN-SIP", A_ORDER=2, B_ORDER=2, A_2_0=1e-6, B_0_2=1e-6)


def write(file, planes=GRI, **cards):
    "A FITS file of planes"
    header = fits.Header()
    for key, value in {**CARDS, **cards}.items():
        if value is not None: header[key] = value
    fits.writeto(file, planes, header)
    return file


@dataclass
class Sky:
    "Planes of three galaxies, and a folder with their catalog"
    planes: Path
    own: Path

    def catalog(self, survey=None, **columns):
        table = pd.DataFrame({"objID": [1, 2, 3], "petroR90_r": [3.0, 3.0, 3.0], **columns})
        table.to_csv(self.own / "catalog.csv", index=False)
        (self.own / "survey.json").write_text(json.dumps(survey or {}))
        return self.own


@pytest.fixture
def sky(tmp_path):
    planes, own = tmp_path / "planes", tmp_path / "own"
    for folder in (planes, own): folder.mkdir()
    for i in (1, 2, 3): write(planes / f"{i}.fits")
    found = Sky(planes, own)
    found.catalog()
    return found


def test_no_survey_is_written_over_but_a_rendering_of_the_same_planes(sky, tmp_path):
    render_survey(sky.planes, tmp_path / "out", sky.own)
    render_survey(sky.planes, tmp_path / "out", sky.own)
    before = (sky.own / "catalog.csv").read_bytes()
    for out in (sky.own, sky.planes, tmp_path / "out"):
        source = sky.planes if out != tmp_path / "out" else write(tmp_path / "others.fits", np.stack([GRI] * 3))
        with pytest.raises(InputError, match="no rendering of .*: give another --out"): render_survey(source, out, sky.own)
    assert (sky.own / "catalog.csv").read_bytes() == before and not (sky.own / "images").exists()
    assert not (sky.planes / "images").exists() and len(read_survey(tmp_path / "out")) == 3


def test_downloaded_planes_are_not_written_over(sky, tmp_path):
    sky.catalog({"flux_pixel": 0.396})
    (sky.own / "images").mkdir()
    for i in (1, 2, 3): write(sky.own / "images" / f"{i}.fits")
    with pytest.raises(InputError, match="no rendering of"): render_survey(sky.own, sky.own)
    assert render_survey(sky.own, tmp_path / "out")["n"] == 3
    assert json.loads((sky.own / "survey.json").read_text()) == {"flux_pixel": 0.396}


def test_the_median_seeing_stands_where_the_catalog_has_none(sky, tmp_path):
    psf_fwhm = {"g": 1.3, "r": 1.2, "i": 1.1}
    sky.catalog({"flux_pixel": 0.396, "psf_fwhm": psf_fwhm}, psf_fwhm_g=[0.8, None, 0.9], psf_fwhm_r=[0.8, 0.8, -9999])
    (sky.own / "images").symlink_to(sky.planes)
    notes = render_survey(sky.own, tmp_path / "out")["notes"]
    found = read_survey(tmp_path / "out").catalog
    assert found["psf_fwhm_g"].tolist() == [0.8, 1.3, 0.9] and found["psf_fwhm_r"].tolist() == [0.8, 0.8, 1.2]
    assert (found["psf_fwhm_i"] == 1.1).all()
    assert f"The seeing was taken as the survey's median: {psf_fwhm}." in notes
    sky.catalog({"flux_pixel": 0.396, "psf_fwhm": psf_fwhm}, psf_fwhm_g=[0.8, None, 0.9], psf_fwhm_r=0.8, psf_fwhm_i=0.8)
    assert any("median for 1 of 3 galaxies" in note for note in render_survey(sky.own, tmp_path / "out")["notes"])


def test_what_is_missing_of_some_galaxies_is_counted(sky, tmp_path):
    seeing = {f"psf_fwhm_{band}": ["0.8", "--", "0.9"] for band in "gri"}
    sky.catalog(ebv=[0.01, -99, -99], **seeing)
    notes = render_survey(sky.planes, tmp_path / "out", sky.own)["notes"]
    assert "The Galaxy's dust was left for 2 of 3 galaxies: the catalog has no ebv." in notes
    assert "The seeing was left as it is for 1 of 3 galaxies: the catalog has no psf_fwhm_g, _r and _i." in notes
    sky.catalog(psf_fwhm_g=["0.8", "good", "0.9"])
    with pytest.raises(InputError, match="row 2: psf_fwhm_g is 'good'"): render_survey(sky.planes, tmp_path / "out", sky.own)


def test_the_scale_of_the_labels_goes_with_them(sky, tmp_path):
    labels = {"oh_p50": {"calibration": "N2"}}
    sky.catalog({"labels": labels}, oh_p50=[8.5, 8.6, 8.7])
    render_survey(sky.planes, tmp_path / "out", sky.own)
    assert read_survey(tmp_path / "out").info["labels"] == labels


@pytest.mark.parametrize("cards, text", [
    (SIP, "astrometry that is not understood .*give the pixel scale"), (dict(CTYPE2="GLAT-CAR"), "give the pixel scale"),
    (dict(BUNIT=None, MAGZERO="25 mag"), "MAGZERO = '25 mag', which is no number: give the zero point"),
    (dict(BUNIT=None, FLUXMAG0="much"), "FLUXMAG0 = 'much', which is no number"),
])
def test_a_file_that_is_not_understood_is_one_galaxy_of_many(cards, text, sky, tmp_path):
    (sky.planes / "2.fits").unlink()
    write(sky.planes / "2.fits", **cards)
    with pytest.raises(InputError, match=text): read_planes(sky.planes / "2.fits")
    with pytest.raises(Incomplete, match="1 of 3 galaxies could not be rendered"): render_survey(sky.planes, tmp_path / "out", sky.own)
    assert pd.read_csv(tmp_path / "out" / "render.errors.csv")["objID"].tolist() == [2]


def test_a_card_that_cannot_be_parsed(tmp_path):
    file = write(tmp_path / "1.fits")
    file.write_bytes(file.read_bytes().replace(b"'nanomaggy'", b" nano'maggy", 1))
    with pytest.raises(InputError, match="cannot be read as FITS"): read_planes(file, pixel_scale=0.396)


def test_one_bad_galaxy_in_a_cube_is_named_and_the_rest_is_done(sky, tmp_path):
    cube = np.stack([GRI] * 3)
    cube[1, :, :20] = np.nan
    file = write(tmp_path / "all.fits", cube)
    with pytest.raises(Incomplete, match="holds 2 cutouts; 1 of 3"): render_survey(file, tmp_path / "out", sky.own)
    assert read_survey(tmp_path / "out").catalog["objID"].tolist() == [1, 3]
    assert pd.read_csv(tmp_path / "out" / "render.errors.csv")["objID"].tolist() == [2]
    with pytest.raises(InputError, match="no measured value"): read_planes(file)


def test_ids_that_are_not_there(sky, tmp_path):
    with pytest.raises(InputError, match="holds all galaxies in one file: give their ids with --catalog"):
        render_survey(sky.planes / "1.fits", tmp_path / "out")
    write(sky.planes / f"{2**63}.fits")
    with pytest.raises(InputError, match=f"a file {2**63}: an objID is below"): render_survey(sky.planes, tmp_path / "out")
    assert not (tmp_path / "out").exists()
