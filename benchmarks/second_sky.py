"""Predictions for planes of a second survey, rendered, against those for SDSS's pictures of the same mock galaxies.

    python benchmarks/second_sky.py [--run RUN] [--galaxies 600] [--work runs/second_sky] [--out FILE]

RUN was trained on mock cutouts of SDSS, as by benchmarks/mock_coverage.py (8,000 of them); without it the shipped
defaults are trained on 400. Other mock galaxies are drawn on both skies; the second one's
planes (`galaxy_cnn.second_sky`: another seeing, depth, pixel, unit) are rendered, with each step of it left out in
turn, and the viewer's own JPEG is tried. Per galaxy the prediction is compared with that for SDSS's picture of it:
bias and scatter.
Also how many are flagged, whether the batch is announced as another population, and the coverage of the
90 % intervals. Writes results/second_sky.json and .png.
"""
from pathlib import Path

import numpy as np
from flag import share
from harness import option_parser, save_figure, write_results

from galaxy_cnn.figures import new_figure
from galaxy_cnn.images import decode, read_images
from galaxy_cnn.metrics import bootstrap, rmse
from galaxy_cnn.mock_images import make_mock, to_jpeg
from galaxy_cnn.ood import Population, explain_shift, ood_features
from galaxy_cnn.providers import LEGACY, cutout_scale
from galaxy_cnn.render import Planes, render_cutout
from galaxy_cnn.run import read_run
from galaxy_cnn.second_sky import draw_planes, second_seeing, viewer_picture
from galaxy_cnn.survey import read_survey
from galaxy_cnn.train import train
from galaxy_cnn.uncertainty import ErrorModel

SEED, LIMIT = 77, 0.01  # of the galaxies that are predicted; [dex] largest bias
MEDIAN = [LEGACY.about["psf_fwhm"][band] for band in "irg"]  # [arcsec]


def as_sent(image): return decode(to_jpeg(image))


def views(galaxy, seeing):
    "Name and picture of each way to make a picture of a galaxy's planes"
    r90 = float(galaxy["petroR90_r"])
    scale = float(cutout_scale("r90", r90))
    sent = draw_planes(galaxy, SEED, scale, 128)
    flux = sent[::-1, ::-1].astype("float64")  # i, r, g, north up
    planes = Planes(flux / LEGACY.about["flux_pixel"] ** 2, scale)
    def noise(): return np.random.default_rng(galaxy["objID"] % 2**63)
    yield "rendered, the seeing of each galaxy", render_cutout(planes, r90, seeing=seeing, rng=noise())
    yield "rendered, the survey's median seeing", render_cutout(planes, r90, seeing=MEDIAN, rng=noise())
    yield "seeing left", render_cutout(planes, r90, rng=noise())
    yield "noise left", render_cutout(planes, r90, seeing=seeing)
    yield "seeing and noise left", render_cutout(planes, r90)
    yield "counts taken per pixel sent", render_cutout(Planes(flux / scale**2, scale), r90, seeing=seeing, rng=noise())
    yield "the viewer's JPEG", viewer_picture(sent)


def compared(run, errors, truth, images, plain):
    "What predictions for pictures are worth, and how they differ from those for SDSS's"
    table = ood_features(images)
    rows = run.predict(images).to_table(run.targets, errors, errors.detector.flag(table))
    answer = rows["metallicity_pred"].to_numpy()
    population = Population(errors.detector)
    population.add(table)
    held = (rows["metallicity_lo90"] <= truth) & (truth <= rows["metallicity_hi90"])
    found = {"rmse": bootstrap(lambda e: rmse(e, 0 * e), answer - truth), "coverage_90": share(held),
             "flagged": share(rows["flag"]), "distance": population.shift(), "announced": population.shift() > 1,
             "mean_level": images.mean((0, 1, 2))}
    if found["announced"]: found["text"] = explain_shift(population, images[::3]).text
    if plain is not None:
        found["bias"] = bootstrap(lambda d: d.mean(-1), answer - plain)
        found["scatter"] = bootstrap(lambda d: d.std(-1), answer - plain)
    return answer, found


def figure(answers, found):
    "Predictions on both skies, and the bias of each way"
    fig = new_figure(10, 4)
    left, right = fig.subplots(1, 2)
    plain, name = answers["SDSS's picture"], "rendered, the seeing of each galaxy"
    for key, color in (("the viewer's JPEG", "C3"), (name, "C0")):
        left.plot(plain, answers[key], ".", ms=3, color=color, label=key)
    left.axline((9, 9), slope=1, c="k", lw=0.8)
    left.set(xlabel="12 + log(O/H) for SDSS's picture [dex]", ylabel="for planes of the second survey [dex]",
             title=f"{len(plain)} mock galaxies on two skies")
    left.legend(fontsize=8)
    names = [k for k, v in found.items() if "bias" in v][::-1]
    for y, key in enumerate(names):
        v = found[key]["bias"]
        right.errorbar(v["value"], y, xerr=[[v["value"] - v["lo"]], [v["hi"] - v["value"]]], fmt="o", color="C0", ms=4)
    right.axvspan(-LIMIT, LIMIT, color="0.9")
    right.axvline(0, c="k", lw=0.8)
    right.set(yticks=range(len(names)), xlabel="mean change of the prediction [dex], mock")
    right.set_yticklabels(names, fontsize=8)
    return fig


def main(args):
    folder = args.run or args.work / "run"
    if not (folder / "detector.npz").is_file():
        train(make_mock(args.work / "known", n=400, seed=7, workers=1), folder, resume=True)
    run, errors = read_run(folder), ErrorModel.load(folder)
    if not (args.work / "sky").exists(): make_mock(args.work / "sky", n=args.galaxies, seed=SEED, workers=1)
    sky = read_survey(args.work / "sky")
    seeing = second_seeing(sky.catalog, SEED).to_numpy()
    pictures = {"SDSS's picture": read_images(sky.image_files)}
    for galaxy, width in zip(sky.catalog.to_dict("records"), seeing):
        for name, image in views(galaxy, width): pictures.setdefault(name, []).append(as_sent(image))
    truth, plain, answers, found = sky.target("metallicity"), None, {}, {}
    for name, images in pictures.items():
        answers[name], found[name] = compared(run, errors, truth, np.stack(images), plain)
        if plain is None: plain = answers[name]
        print(name, {k: v.get("value") if isinstance(v, dict) else v for k, v in found[name].items()}, flush=True)
    bias = found["rendered, the seeing of each galaxy"]["bias"]
    result = {"trained_on": run.card["survey"]["n"], "limit_dex": LIMIT, "ways": found,
              "pass": bool(max(abs(bias["lo"]), abs(bias["hi"])) <= LIMIT)}
    write_results(args.out, result, "planes of a second survey, rendered, against SDSS's pictures", "mock", len(sky))
    save_figure(args.out.with_suffix(".png"), figure(answers, found))


if __name__ == "__main__":
    parser = option_parser(__doc__, out="second_sky.json", work="runs/second_sky")
    parser.add_argument("--run", type=Path, help="a Run of mock cutouts")
    parser.add_argument("--galaxies", type=int, default=600, help="mock galaxies that are predicted")
    main(parser.parse_args())
