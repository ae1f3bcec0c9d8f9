"""Seconds and bytes of a user's installation, and what of it a machine without a GPU can do without

    python benchmarks/installation.py [--out results/installation.json]

Installs this source tree into a fresh virtual environment with pip, from whatever index pip is set to, takes away the
packages that were found not to be needed on a CPU, and lets what is left import and train. Seconds hold the download.
"""
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import ROOT, machine, option_parser, write_results

NOT_NEEDED = ("triton", "nvidia-cusolver")
GROUPS = ("nvidia", "torch", "triton")  # folders of site-packages; what else there is is counted together
TRIAL = """
import sys, torch, torchvision
from galaxy_cnn.all import *
survey = make_mock(sys.argv[1] + "/sky", n=60, workers=1)
run = train(survey, sys.argv[1] + "/run", epochs=1, folds=2, quiet=True)
print("trained", evaluate(run)["targets"]["metallicity"]["cnn"]["rmse"]["n"])
"""


def size(folder):
    "Bytes of the files below a folder"
    return sum(f.lstat().st_size for f in folder.rglob("*") if f.is_file())


def trial(python, folder):
    "Whether the installation imports and trains: the last line that it says"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"MPLBACKEND": "Agg"}
    options = dict(capture_output=True, text=True, env=environment, cwd=folder)
    done = subprocess.run([python, "-W", "ignore", "-c", TRIAL, folder], **options)
    return (done.stdout + done.stderr).strip().splitlines()[-1]


def main(args):
    with tempfile.TemporaryDirectory() as work:
        env, python = Path(work) / "env", Path(work) / "env/bin/python"
        source = Path(work) / "source"  # pip builds in the tree
        subprocess.run(f"mkdir {source} && git archive HEAD | tar -x -C {source}", shell=True, cwd=ROOT, check=True)
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "venv", env], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", source], check=True)
        seconds = time.perf_counter() - start
        (packages,) = env.glob("lib/python*/site-packages")
        found = {"seconds": seconds, "bytes": size(env), "bytes of": {g: size(packages / g) for g in GROUPS}}
        subprocess.run([python, "-m", "pip", "uninstall", "-q", "-y", *NOT_NEEDED], check=True)
        found |= {"taken away": NOT_NEEDED, "bytes without them": size(env), "what is left": trial(python, work)}
    write_results(args.out, {"machine": machine(), **found}, "a user's installation in a fresh virtual environment")
    print(found)


if __name__ == "__main__":
    main(option_parser(__doc__, out="installation.json").parse_args())
