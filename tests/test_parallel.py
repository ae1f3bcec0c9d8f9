"Several processes that train one network: the same weights in all, those of one process, and an exact resume"
import hashlib
import multiprocessing as mp
import os
import socket

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from galaxy_cnn import checkpoint as checkpoint_module
from galaxy_cnn import loaders as loaders_module
from galaxy_cnn import train as train_module
from galaxy_cnn.files import InputError, read_json
from galaxy_cnn.learner import Recipe
from galaxy_cnn.survey import read_survey, write_survey
from galaxy_cnn.train import train

# xresnet9 draws nothing itself: its turns are the loader's, which are those of one process
OPTIONS = dict(arch="xresnet9", size=32, epochs=2, bs=8, precision="fp32", device="cpu", split_by="random", calibrate=False,
               recipe=Recipe("adam", lr=1e-4, ema=0.9), quiet=True)


def one_of_two(number, port, survey, out, options, queue, stop=None):
    "What one of two processes does; `stop` ends all after so many epochs, as a kill would"
    os.environ |= {"RANK": str(number), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    weights = {}
    make = train_module.make_learner
    def watched(*args):
        learn = make(*args)
        weights["of"] = learn.model
        return learn
    train_module.make_learner = watched
    save = checkpoint_module.write_history
    def stopping(folder, rows):
        save(folder, rows)
        if len(rows) == stop: os._exit(9)
    checkpoint_module.write_history = stopping
    try: train(survey, out, **options)
    except InputError as error: queue.put(str(error))
    else:
        data = b"".join(v.numpy().tobytes() for v in weights["of"].state_dict().values())
        queue.put(hashlib.sha256(data).hexdigest())


def kept_by_two(number, port, survey, queue, stop=None):
    "What one of two processes keeps of the cutouts, where the second has little memory"
    os.environ |= {"RANK": str(number), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if number: loaders_module.free_memory = lambda device="cpu": 10**6
    torch.distributed.init_process_group("gloo")
    queue.put(loaders_module.load_cutouts(read_survey(survey))[0] is None)
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def in_two():
    "Trains in two processes, which have torch and fastai loaded already; what each says"
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["galaxy_cnn.train"])
    def run(*args, target=one_of_two, stop=None):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        queue = context.Queue()
        started = [context.Process(target=target, args=(i, port, *args, queue, stop)) for i in range(2)]
        for process in started: process.start()
        if stop:
            started[0].join(120)
            started[1].kill()  # as torchrun does when one has gone
        said = [] if stop else [queue.get(timeout=120) for _ in started]
        for process in started: process.join(120)
        return said
    return run


@pytest.fixture(scope="module")
def tiny(mock_survey, tmp_path_factory):
    "64 galaxies"
    folder = tmp_path_factory.mktemp("sky") / "tiny"
    folder.mkdir()
    (folder / "images").symlink_to(mock_survey.path / "images")
    write_survey(folder, mock_survey.catalog.head(64), mock_survey.info)
    return str(folder)


def test_two_processes_train_what_one_does_and_go_on_after_a_kill(tiny, in_two, tmp_path):
    alone, both, killed = (str(tmp_path / name) for name in ("alone", "both", "killed"))
    train(tiny, alone, **OPTIONS)
    said = in_two(tiny, both, OPTIONS)
    assert len(said[0]) == 64 and said[0] == said[1], said  # all weights and statistics, bit by bit
    one, two = (load_file(f"{folder}/models/0.safetensors") for folder in (alone, both))
    assert max((one[name].double() - two[name].double()).abs().max() for name in one) < 1e-5
    rows = [pd.read_csv(f"{folder}/history.csv").drop(columns="seconds") for folder in (alone, both)]
    pd.testing.assert_frame_equal(*rows, check_exact=False, rtol=1e-4, atol=1e-5)
    assert read_json(f"{both}/model.json")["arguments"]["processes"] == 2
    in_two(tiny, killed, OPTIONS, stop=1)
    with pytest.raises(InputError, match="processes was 2, now 1"): train(tiny, killed, resume=True, **OPTIONS)
    assert in_two(tiny, killed, OPTIONS | {"resume": True}) == said
    for name, value in load_file(f"{killed}/models/0.safetensors").items(): assert torch.equal(value, two[name])


def test_where_one_process_has_too_little_memory_all_stream(tiny, in_two):
    assert in_two(tiny, target=kept_by_two) == [True, True]


def test_what_several_processes_cannot_do_is_said_in_all(tiny, in_two, tmp_path):
    first, second = in_two(tiny, str(tmp_path / "odd"), OPTIONS | {"bs": 5})
    assert first == second == "2 processes cannot share batches of 5 evenly: take batches of 4."
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/mine.txt").write_text("")
    first, second = in_two(tiny, str(tmp_path / "taken"), OPTIONS)
    assert first == second and "holds files and is not a Run" in first
