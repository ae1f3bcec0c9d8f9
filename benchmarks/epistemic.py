"""Does the epistemic sigma mean something? It must fall with labels, grow off the training set, and rank the errors.

    GALAXY_CNN_REAL=FOLDER python benchmarks/epistemic.py [--work runs/epistemic]

`galaxy-cnn train` with no option on 80 and on all labels outside a fold (317), for two of five folds of the real 400,
which answer for their own fold; and on 80 and 320 mock galaxies, which answer for another mock sky. Then the same
held-out pictures blurred, reddened and with other levels. Raw sigmas, as `Run.predict` gives them; root mean squares.
Writes results/epistemic.json. About ten minutes of two cores, all but two of them to train.
"""
import numpy as np
from harness import RESULTS, option_parser, real_folder, write_results
from real_sample import part, trained
from scipy.ndimage import gaussian_filter

from galaxy_cnn.images import read_images
from galaxy_cnn.metrics import bootstrap, rmse, spearman
from galaxy_cnn.mock_images import make_mock
from galaxy_cnn.splits import assign_folds
from galaxy_cnn.survey import read_survey

FOLDS, SEED = (0, 1), 1  # of five; of the dealing and of the choice of labels
LABELS = (80, 320)  # at most; a real fold leaves 310 to 320
TEST = 200  # mock galaxies that are asked about


def scaled(images, factors): return np.clip(np.round(images * np.array(factors)), 0, 255).astype(np.uint8)


CHANGES = {
    "blurred by 2 px": lambda x: np.round(gaussian_filter(x.astype(float), (0, 2, 2, 0))).astype(np.uint8),
    "reddened, E(B-V) 0.10": lambda x: scaled(x, (0.86, 0.78, 0.71)),
    "levels x 1.25": lambda x: scaled(x, (1.25, 1.25, 1.25)),
}


def rms(v): return np.sqrt(np.mean(v**2, -1))


def mock_jobs(work):
    "Of each number of labels: Survey to train on, rows, name; and the galaxies asked about"
    sky = make_mock(work / "mock-train", n=960, seed=22)
    other = make_mock(work / "mock-test", n=1000, seed=21)
    asked = other.image_files[:TEST], other.target("metallicity")[:TEST]
    return {n: [(sky, np.arange(n), work / f"mock/{n}-0", asked)] for n in LABELS}


def real_jobs(work):
    "The same of the folds of the real sample"
    survey = read_survey(real_folder("sdss_sample/") / "sdss_sample")
    fold = assign_folds(survey.catalog, 5, SEED)
    files, true = np.array(survey.image_files), survey.target("metallicity")
    def rows(k, n): return np.sort(np.random.default_rng(SEED).permutation(np.flatnonzero(fold != k))[:n])
    return {n: [(survey, rows(k, n), work / f"real/{n}-{k}", (files[fold == k], true[fold == k])) for k in FOLDS]
            for n in LABELS}


def answers(jobs, change=lambda images: images):
    "True values, means, both raw sigmas [4, n] of the galaxies that the Runs of some jobs answer for"
    found = []
    for survey, rows, folder, (files, true) in jobs:
        run, _ = trained(part(survey, rows, folder / "survey"), folder / "run")
        p = run.predict(change(read_images(files)))
        sigmas = [p.aleatoric[:, 0], p.epistemic[:, 0]]
        found.append([true, p.mean[:, 0], *sigmas])
    return np.concatenate(found, 1)


def thirds(true, pred, epistemic):
    "RMSE of the thirds of lowest, middle and highest epistemic sigma, and its rank correlation with the error"
    parts = np.array_split(np.argsort(epistemic), 3)
    found = []
    for i in parts:
        error = bootstrap(rmse, true[i], pred[i])
        found.append({"epistemic": float(rms(epistemic[i])), **error})
    return {"rmse_by_third": found,
            "spearman_with_error": bootstrap(spearman, epistemic, np.abs(pred - true))}


def one_sky(jobs):
    "All numbers of a sky"
    by_labels = {n: answers(jobs[n]) for n in LABELS}
    most = jobs[LABELS[-1]]
    true, pred, _, epistemic = by_labels[LABELS[-1]]
    changed = {name: answers(most, change) for name, change in CHANGES.items()}
    def entry(a):
        columns = {"aleatoric": a[2], "epistemic": a[3]}
        error = bootstrap(rmse, a[0], a[1])
        return {"rmse": error, **{k: bootstrap(rms, v) for k, v in columns.items()}}
    return {"n": len(true), "by_labels": {n: entry(a) for n, a in by_labels.items()},
            "changed_pictures": {name: entry(a) for name, a in changed.items()}, **thirds(true, pred, epistemic)}


def main(args):
    work = args.work.resolve()
    found = {"real": one_sky(real_jobs(work)), "mock": one_sky(mock_jobs(work))}
    write_results(RESULTS / "epistemic.json", found, "raw epistemic and aleatoric sigma of 12 + log(O/H) [dex]", "both")
    for sky, v in found.items():
        rows = {**v["by_labels"], **v["changed_pictures"]}
        for name, e in rows.items():
            values = {k: round(x["value"], 4) for k, x in e.items()}
            print(sky, name, values)
        print(sky, [round(t["value"], 4) for t in v["rmse_by_third"]])
        print(sky, round(v["spearman_with_error"]["value"], 3))


if __name__ == "__main__": main(option_parser(__doc__, work="runs/epistemic").parse_args())
