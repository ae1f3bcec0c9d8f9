import os
import signal
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real():
    "The folder with sdss_sample/, sdss_spirals/ and facts/: real galaxies, which are not part of the repository"
    folder = os.environ.get("GALAXY_CNN_REAL")
    if not folder: pytest.skip("GALAXY_CNN_REAL is not set: no real galaxies to test on")
    return Path(folder)


@pytest.fixture(scope="session")
def mock_survey(tmp_path_factory):
    "240 simulated galaxies, shared by the tests; copy it before changing it"
    from galaxy_cnn.mock_images import make_mock
    return make_mock(tmp_path_factory.mktemp("sky") / "mock", n=240, seed=1, workers=1)


@pytest.fixture(scope="session")
def few(mock_survey, tmp_path_factory):
    "The first 96 of them, as a Survey: the least that a training can be interrupted on"
    from galaxy_cnn.survey import write_survey
    folder = tmp_path_factory.mktemp("sky") / "few"
    folder.mkdir()
    (folder / "images").symlink_to(mock_survey.path / "images")
    return write_survey(folder, mock_survey.catalog.head(96), mock_survey.info)


@pytest.fixture(scope="session")
def mock_run(mock_survey, tmp_path_factory):
    "A Run of one epoch: it knows nothing, and is whole"
    from galaxy_cnn.train import train
    return train(mock_survey, tmp_path_factory.mktemp("runs") / "run", arch="xresnet_tiny", epochs=1, quiet=True)


@pytest.fixture(scope="session")
def small_run(mock_survey, tmp_path_factory):
    "A Run of one epoch on crops of 64 px, in single precision: the quickest to answer"
    from galaxy_cnn.run import read_run
    from galaxy_cnn.train import train
    out = tmp_path_factory.mktemp("runs") / "small"
    train(mock_survey, out, epochs=1, init="none", size=64, precision="fp32", quiet=True)
    return read_run(out)


@pytest.fixture
def heeding():
    "Ctrl-C is heard, as in a terminal: what a shell starts in the background inherits that it is ignored"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
