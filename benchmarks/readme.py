"""Write the headline numbers of README.md, and results/README.md with all tables, from the files in results/.

    python benchmarks/readme.py [--demo runs/demo]     # --demo: take the numbers of that Run first (results/demo.json and its figures)
"""
import argparse
import shutil
from pathlib import Path

from galaxy_cnn.files import read_json, write_json
from galaxy_cnn.literature import N_LABELS, NESTED_RMSE
from galaxy_cnn.metrics import with_interval

ROOT = Path(__file__).resolve().parent.parent
NAMES = {"mean": "predict the mean", "ridge": "ridge, image features", "random_forest": "random forest, g r i magnitudes",
         "random_forest_image": "random forest, image features", "gaussian_process": "Gaussian process, image features", "scratch": "network from scratch"}


def take_demo(run, results):
    "Keep the numbers and two figures of a demo Run"
    card = read_json(run / "model.json")
    kept = {k: card[k] for k in ("arch", "precision", "device", "threads", "wall_seconds", "versions")} | {"epochs": card["recipe"]["epochs"], "galaxies": card["survey"]["n"]}
    write_json(results / "demo.json", {**read_json(run / "metrics.json"), "run": kept})
    for figure in ("density", "mzr"): shutil.copy(run / "figures" / f"{figure}.png", results / f"demo_{figure}.png")


def rows(label, arch, found, paired):
    "Table rows: the network, then each baseline with the paired difference"
    yield f"| {label} | **CNN ({arch})** | {found['cnn']['rmse']['n']} | **{with_interval(found['cnn']['rmse'])}** | {with_interval(found['cnn']['nmad'])} | {with_interval(found['cnn']['median_bias'], sign='+')} | |"
    for name, v in found["baselines"].items():
        yield f"| | {NAMES[name]} | {v['rmse']['n']} | {with_interval(v['rmse'])} | {with_interval(v['nmad'])} | {with_interval(v['median_bias'], sign='+')} | {with_interval(paired[name]['rmse'], sign='+')} |"


def section(results):
    "The README's results as Markdown"
    demo, real, paper = (read_json(results / f"{n}.json") for n in ("demo", "real_sample", "paper_predictions"))
    mock, first, net = demo["targets"]["metallicity"], real["runs"][0], paper["by_size_px"]["128"]
    mzr, floor = demo["mzr"], read_json(results / "mock_floor.json")["picture_floor"]
    lines = ["RMSE, NMAD (1.4826 times the median absolute deviation of the residuals from their median) and median bias in dex with 95 % bootstrap intervals, which draw galaxies and not trainings: another training of the same network moves its RMSE, too "
             f"({NESTED_RMSE['networks']} networks of the authors, each fitted to about {NESTED_RMSE['labels']:,} labels, have {NESTED_RMSE['mean']} dex with a scatter of {NESTED_RMSE['std']}). "
             "Where a Survey has coordinates, `galaxy-cnn evaluate --by-cell` draws cells of sky instead; the 400 have none. The last column is the paired difference of the RMSE on the same galaxies.", "",
             "| galaxies | model | n | RMSE | NMAD | median bias | CNN minus it |", "|---|---|---|---|---|---|---|",
             f"| real, predictions of Wu & Boada (2019), a later run of theirs | **resnet34, fitted to {N_LABELS:,} labels** | {paper['n']:,} | **{with_interval(net['rmse'])}** | {with_interval(net['nmad'])} | {with_interval(net['median_bias'], sign='+')} | |",
             *rows(f"real, 400 labels, 5-fold cross-validation, the first of {len(real['runs'])} random divisions into folds", "pretrained, with a Gaussian process", first, first["cnn_minus"]),
             *rows(f"mock, {demo['run']['galaxies']:,} galaxies, test split by sky cell (`make demo`)", demo["arch"], mock, mock["cnn_minus"]),
             f"| | noise of the labels alone, a bound | {mock['label_noise']['n']} | {with_interval(mock['label_noise'])} | | | |",
             f"| mock, another sky | best regression of the noise-free properties that pictures are drawn from: the floor | {floor['n']:,} | {with_interval(floor)} | | | |", "",
             "There is no random forest on magnitudes for the 400, because that sample has none. Made by `benchmarks/real_sample.py`, `benchmarks/paper_predictions.py` and `make demo`. On the mock sky the network does not beat a forest or a "
             "Gaussian process on image features: no more than colors, brightness and shape was drawn into its pictures.", ""]
    return [*lines, *few_labels(results), *held_out(results), *which_network(results), *beyond_the_paper(results), *error_bars(results), *recalibrated(results), *other_pictures(results), *brittle(results), *mzr_lines(mzr), "", *leak(results)]


def few_labels(results):
    "What a few hundred labels give, in sentences and a figure"
    real, curve, folds = (read_json(results / f"{n}.json") for n in ("real_sample", "learning_curve", "folds"))
    seconds = folds["ways"]["side by side, one thread each"]["seconds"]["median"]
    over, minus, size = real["over_seeds"]["rmse"], real["over_seeds"]["cnn_minus"], (results.parent / "galaxy_cnn/pretrained/models/0.safetensors").stat().st_size
    first, last = curve["rows"][0], curve["rows"][-1]
    return ["### A few hundred labels", "",
            f"`galaxy-cnn train` on fewer than 2,000 galaxies starts from a network that comes with the package ({size / 1e6:.1f} MB, pretrained on a mock sky by `galaxy-cnn pretrain`) and puts a Gaussian "
            f"process beside it that reads what this network measures in a picture. On 400 real galaxies, {seconds:.0f} s on {folds['cores']} cores without a GPU. Cross-validated, the "
            f"mean of {len(real['runs'])} random divisions into folds: RMSE **{with_interval(over['cnn'])}** dex, against {with_interval(over['gaussian_process'])} for a Gaussian process on hand-made features "
            f"(paired difference {with_interval(minus['gaussian_process'], sign='+')}) and {with_interval(over['scratch'])} for a network from scratch ({with_interval(minus['scratch'], sign='+')}). "
            f"On the {last['default']['n']} held-out residuals of the figure, of {last['galaxies']} galaxies, it has {with_interval(first['default'])} with {first['labels']} labels and "
            f"{with_interval(last['default'])} with {last['labels']} (drawn by {curve['bootstrap_unit']}).", "",
            "The recipe, the features, the inputs of the Gaussian process and the simulated sky of the pretrained network were chosen with these 400 in sight: by cross-validation on them, or by the "
            "correlations of their labels with image statistics. No network was trained on a galaxy that it is scored on, but the design was not blind to them, and neither was that of the Gaussian process "
            "and of ridge. A few thousandths of a dex more are to be expected of new galaxies, and a smaller lead.", "",
            "![RMSE against the number of labels, real galaxies](learning_curve.png)", ""]


def held_out(results):
    "Galaxies that no choice was made on"
    found = read_json(results / "held_out_2026-11.json")
    held = found["coverage"]
    return ["### Galaxies that nobody looked at", "",
            f"{found['n']} further SDSS galaxies were kept aside and never used for any choice. Trained on the 400 with no option, the package of commit 30ae772 has RMSE "
            f"**{with_interval(found['rmse'])}** dex on them, bias {found['bias']['value']:+.3f}; its 68 and 90 % intervals hold {held['0.68']['value']:.0%} and {held['0.9']['value']:.0%}, and "
            f"{found['flagged']['value']} is flagged. The network of 2019 has {found['network_of_2019']['rmse']['value']:.4f} dex on the same {found['n']}. Whether that network was trained on any of them is "
            f"not recorded, and its number has no interval; {found['n']} galaxies cannot rank the two. `held_out_2026-11.json` is copied from the figures of that run.", ""]


def beyond_the_paper(results):
    "What the paper's predictions allow to say"
    paper = read_json(results / "paper_predictions.json")
    size, step, together = paper["by_size_px"], paper["steps"]["64 - 128 px"], paper["together"]
    slopes = ", ".join(f"{v['calibration_slope']['value']:.3f} at {px} px" for px, v in size.items())
    poor, few = paper["searches"]["below 8.4"], next(r for r in paper["samples"] if r["n"] == 400)
    gaps = ", ".join(f"{v['n']} between {name.replace(' to ', ' and ')}" for name, v in paper["labels_in_gaps"].items())
    return ["### What the paper's predictions say beyond the paper", "",
            f"Of the {paper['n']:,} predictions that the authors left (chapter 32, `benchmarks/paper_predictions.py`):", "",
            f"- Slope of truth on prediction: {slopes}. The finest network is a conditional mean, the others are shrunk. A straight line through each takes the gain of 128 over 64 px from "
            f"{with_interval(step['as they are'])} to {with_interval(step['recalibrated'])} dex.",
            f"- The errors at 128 and 64 px correlate {with_interval(together['error_correlation_128_64_px'], 3)}; the best linear mean of the four has {with_interval(together['rmse_of_linear_stack_of_all'])}.",
            f"- Predicted below 8.4: completeness {with_interval(poor['completeness'], 2)}, purity {with_interval(poor['purity'], 2)}.",
            f"- Random samples of 400 have RMSEs from {few['low']:.4f} to {few['high']:.4f} (95 %). Our RMSE on 400 and theirs on {paper['n']:,} cannot be ranked.",
            f"- The labels lie on a grid ({gaps} dex, where the neighboring bins hold {', '.join(str(round(v['beside'])) for v in paper['labels_in_gaps'].values())}): chapter 02.", "",
            "![Calibration, bias, searches and samples, real](paper_conditional.png)", ""]


def mean_coverage(real, level):
    "Coverage over the deals of the cross-validation, and the ends of its interval (of one deal: they share the galaxies)"
    deals = [run["intervals"][level]["coverage"] for run in real["runs"]]
    return {key: sum(d[key] for d in deals) / len(deals) for key in ("value", "lo", "hi")}


def percent(v):
    "A share with its interval"
    return f"{100 * v['value']:.1f} ({100 * v['lo']:.1f}, {100 * v['hi']:.1f}) %"


def beyond_counting(row, level):
    "Whether a bin's coverage is off by more than three standard deviations of the counting of its own galaxies"
    off = row[f"coverage_{100 * level:.0f}"] - level
    return abs(off) > 3 * (level * (1 - level) / row["n"]) ** 0.5


def error_bars(results):
    "Do the error bars hold, and what is flagged"
    real, mock, paper, flag = (read_json(results / f"{n}.json") for n in ("real_sample", "mock_coverage", "paper_coverage", "flag"))
    lines = ["### Error bars", "", "Every prediction has a sigma, a 90 % interval and a flag for pictures unlike the training galaxies. Share of galaxies inside their interval:", "",
             "| galaxies | n | 68 % | 90 % | 95 % | width of the 90 % interval | one sigma for all, same coverage |", "|---|---|---|---|---|---|---|"]
    held = [r["intervals"] for r in real["runs"]]
    share = [" | ".join(percent(mean_coverage(real, level)) for level in ("0.68", "0.9", "0.95"))]
    width = [sum(w) / len(held) for w in zip(*((h["0.9"]["mean_width"]["value"], h["0.9"]["constant_width"]) for h in held))]
    lines.append(f"| real 400, cross-validated, mean of {len(held)} random divisions | {real['runs'][0]['n']} | {share[0]} | {width[0]:.3f} dex | {width[1]:.3f} dex |")
    for name, found, n in (("mock, another sky", mock["overall"], mock["n"]), ("the paper's residuals, half calibrates half", paper["calibrated"], paper["n_test"])):
        value = {level: v["coverage"]["value"] if isinstance(v["coverage"], dict) else v["coverage"] for level, v in found.items()}
        lines.append(f"| {name} | {n:,} | {' | '.join(f'{value[level]:.1%}' for level in ('0.68', '0.9', '0.95'))} | {found['0.9']['width']:.3f} dex | {found['0.9']['constant_width']:.3f} dex |")
    caught = {kind: v["value"] for kind, v in flag["detectors"]["real"]["caught"].items()}
    worst, spirals = min(caught, key=caught.get), flag["detectors"]["real"]["spirals_flagged"]
    *counted, _ = mock["bins"].values()  # the last are bins of the observed value
    passes = [row[key] for table in counted for row in table for key in row if key.startswith("pass_")]
    stray = sum(beyond_counting(row, level) for table in counted for row in table for level in (0.68, 0.9, 0.95))
    rich, poor = mock["bins"]["predicted Z"][-1], paper["by_value"]["observed_z"]["tenths"][0]
    few = {n: paper["few_galaxies_calibrate"][n] for n in ("60", "300")}
    return [*lines, "", f"They hold on average at a given *prediction*. At a given metallicity they cannot: of the paper's galaxies observed below {poor['high']:.2f}, the 90 % intervals hold {poor['coverage_90']:.0%}. "
            "A calibration is a draw, too: " + ", ".join(f"of {n} galaxies it holds between {v['lowest_5_percent']:.0%} and {v['highest_5_percent']:.0%} (5 to 95 %)" for n, v in few.items()) + ". "
            f"On the mock, {len(passes) - sum(passes)} of {len(passes)} bins of predicted Z, mass, redshift and size (at the three levels, of the same galaxies) lie beyond three standard deviations of the "
            f"calibration's noise and theirs, {stray} beyond three of theirs alone; chance puts {0.0027 * len(passes):.1f} there. The most metal-rich tenth of the predictions has {rich['coverage_68']:.1%}, "
            f"{rich['coverage_90']:.1%} and {rich['coverage_95']:.1%}.", "", f"The flag, trained on the real 400, lets {1 - flag['detectors']['real']['false_flags_cross_validated']['mean_of_seeds']:.1%} of held-out galaxies pass and catches all of our drawings of "
            f"{', '.join(k for k, v in caught.items() if v == 1)}; the least it catches is {worst}, {caught[worst]:.1%}. Of 2,000 real spirals of another selection and scale it flags "
            f"{spirals['as they are']['value']:.0%} ({spirals['at the training scale']['value']:.0%} brought to the training scale); how well the others are predicted is not known, for they have no labels. `benchmarks/mock_coverage.py`, `paper_coverage.py`, `flag.py`.", ""]


def other_pictures(results):
    "What changed pictures do to predictions, what is said of them, and a gate for galaxies that form no stars"
    shift, gate = (read_json(results / f"{n}.json") for n in ("shift", "gate"))
    plain = shift["effects"][0]
    lines = ["### Pictures of another kind", "", f"{plain['shift_dex']['n']} real galaxies, held out from a Run of the shipped defaults on {shift['trained_on']}, changed on purpose:", "",
             "| change | mean shift [dex] | 90 % intervals hold | flagged | `predict` announces |", "|---|---|---|---|---|"]
    for row in shift["effects"]:
        said = row.get("kind") or "no single change" if row["announced"] else "-"
        lines.append(f"| {row['change']} {row['strength']} | {with_interval(row['shift_dex'], 3, '+')} | {percent(row['coverage_90'])} | {percent(row['flagged'])} | {said} |")
    false = [(r["galaxies"], r["announced"]) for r in shift["rates"]["real"] if r["change"] == "none"]
    mock = [r["announced"] for r in shift["rates"]["mock"] if r["change"] == "none"]
    caught = gate["mock"]["color and shape"]["caught"]
    return [*lines, "", "Announced though nothing was changed: " + ", ".join(f"{v['value']:.1%} of {v['n']:,} batches of {n} real galaxies" for n, v in false)
            + f" (halves of one sample, which overlap), {max(v['value'] for v in mock):.1%} of {mock[0]['n']} batches of the mock at most. `benchmarks/shift.py`.", "",
            f"A gate for galaxies that form no stars, from color and shape, catches {percent(caught)} of {caught['n']} that the mock drew, and calls {percent(gate['real']['sdss_sample']['called_passive'])} of the real star-forming "
            f"{gate['real']['sdss_sample']['n']} passive. No real passive galaxy whose class is known was at hand, so it is not part of the package. `benchmarks/gate.py`.", ""]


def brittle(results):
    "A training on disturbed pictures beside the plain one"
    found = read_json(results / "brittle.json")
    real, of = found["real"], found["disturbances"]
    lines = [f"Does a training on disturbed pictures help? Levels times 1 +- {of['levels, std']:.0%}, the color of a reddening of 0 +- {of['E(B-V) [mag], std']} mag, blurred by up to {of['blur [px of 128], most']} px, "
             f"with up to {of['noise [levels], most']} levels of noise; {real['n']} real galaxies, cross-validated {real['seeds']} times, with and without (`benchmarks/brittle.py`):", "",
             "| change | mean shift, plain | disturbed | RMSE, plain | disturbed |", "|---|---|---|---|---|"]
    for row in real["changes"]:
        if row["part"] != "both": continue
        cells = [with_interval(row[arm][key], 3, "+" if key == "shift_dex" else "") for key in ("shift_dex", "rmse") for arm in ("plain", "disturbed")]
        lines.append(f"| {row['change']} | {' | '.join(cells)} |")
    cost = real["cost_at_home"]
    parts = ", ".join(f"{with_interval(cost[part]['rmse_difference_dex'], 4, '+')} dex for {name}" for part, name in (("both", "the answer"), ("network", "the network alone"), ("process", "the Gaussian process alone")))
    return [*lines, "", f"On unchanged pictures the disturbed training costs {parts} (RMSE, disturbed minus plain). Asked for was at most 0.001 dex; it is not the default. On the mock it was not measured.", ""]


def second_survey(results):
    "What predictions for planes of a second survey are worth"
    found = read_json(results / "second_sky.json")
    lines = [f"{found['n']} mock galaxies drawn on two skies, SDSS's and that of the Legacy Surveys; predictions for the second one's planes, against those for SDSS's pictures:", "",
             "| picture of the planes | bias [dex] | scatter [dex] | flagged | distance from the training galaxies (above 1: announced) |", "|---|---|---|---|---|"]
    for name, way in found["ways"].items():
        if "bias" not in way: continue
        lines.append(f"| {name} | {with_interval(way['bias'], 4, '+')} | {way['scatter']['value']:.3f} | {percent(way['flagged'])} | {way['distance']:.1f} |")
    own = found["ways"]["SDSS's picture"]
    return [*lines, "", f"SDSS's own pictures of them: distance {own['distance']:.1f}. \"Left\" means that this step of the rendering was left out. "
            "`benchmarks/second_sky.py`; no planes of the real survey have been through it.", "", "![Predictions on both skies](second_sky.png)", ""]


def recalibrated(results):
    "What labels of another kind of pictures are worth"
    found = read_json(results / "recalibrate.json")
    lines = ["### Labels of another kind of pictures", "", "`galaxy-cnn recalibrate` on changed pictures: RMSE [dex], mean error [dex] and share of galaxies inside their intervals, of galaxies that neither the Run nor the correction has seen, "
             f"before (0 labels) and after. The labeled galaxies were drawn {found['draws']} times; brackets draw the scored galaxies, and behind 90 % stands what a single draw may have (5 to 95 % of the draws).", "",
             "| galaxies | change | labels | RMSE | bias | 68 % | 90 % | one draw |", "|---|---|---|---|---|---|---|---|"]
    for change in found["changes"]:
        for row in change["rows"]:
            one = row["coverage_0.9"]["draws_5_95"]
            spread = "" if not row["labels"] else f"{one[0]:.0%} to {one[1]:.0%}"
            name = "" if row["labels"] else f"{change['sky']}, n = {change['n']} | {change['change']}"
            lines.append(f"| {name or ' | '} | {row['labels']} | {with_interval(row['rmse'])} | {with_interval(row['bias'], 3, '+')} | {percent(row['coverage_0.68'])} | {percent(row['coverage_0.9'])} | {spread} |")
    tuned = [f for f in found["changes"] if "with_fine_tuning" in f]
    worth = "; ".join(f"{f['sky']}, {f['change']}: {t['cross_validated_rmse']['fine-tuning']:.4f} against {t['cross_validated_rmse']['line']:.4f} with offset and slope, {t['labels']} labels" for f in tuned for t in [f["with_fine_tuning"]])
    within = "Every" if found["pass"]["coverage within 3 points with 100 labels"] else "Not every"
    return [*lines, "", f"{within} coverage with 100 labels is within 3 points of its level. Fine-tuning, cross-validated once each: {worth}. `benchmarks/recalibrate.py`.", "", "![Coverage and RMSE against the number of labels](recalibrate.png)", ""]


def reproduction(results):
    "The paper's table beside ours"
    size = next(iter(read_json(results / "experiments_mock.json")["experiments"].values()))["settings"]
    return [f"The paper's numbers are of real galaxies, ours of the mock sky, by networks trained from scratch in {size['steps']} steps: they show that the studies run, not that the paper's results are "
            "reproduced. There is no fine structure in the mock's pictures, so its errors hardly depend on the size, and a forest or a Gaussian process on image features does as well as its network. No column "
            "of real galaxies stands here: on 320 labels a network of a study is worse than either.", "",
            *(results / "experiments.md").read_text().rstrip().splitlines()]


def leak(results):
    "What a split at random gains on the mock by neighbors on the sky, where something was put in and where nothing was"
    found = read_json(results / "experiments_mock.json")["experiments"]["leak"]
    gains = {key: v["rmse"] for key, v in found["differences"].items()}
    def of(model, name):
        gain = gains[f"{model}: leak, shared - control"]
        return f"{with_interval(gain, sign='+')} for the {name} ({gain['n']} repeats)"
    def nothing(model): return with_interval(gains[f"control_{model}: random - sky"], sign="+")
    return ["### The leak", "",
            f"Galaxies of the mock gathered into fields of 50 that share a metallicity offset of 0.1 dex and a cast of their sky of 5 levels, {found['galaxies']:,} galaxies, RMSE of a split at random minus "
            f"that of a split by cells of sky, the same with nothing shared (the control) subtracted: {of('cnn', 'network')}, {of('forest', 'forest on image features')} (dex, mock, Student's interval "
            f"over the repeats). The control alone has {nothing('cnn')} and {nothing('forest')}. No such offset has been measured on the real sky, and no leak.", "",
            "![Errors of both splits, mock](experiments_mock_leak.png)", ""]


def which_network(results):
    "Learning curve of two architectures on the mock, and how the small one is turned"
    found = read_json(results / "mock_learning_curve.json")
    def curve(arch): return [f"{with_interval(r['rmse'])} with {r['n_train']:,}" for r in found["rows"] if r["arch"] == arch]
    lines = [f"On {found['test']:,} galaxies of another mock sky, each network from scratch by its own recipe, xresnet_tiny has an RMSE of {', '.join(curve('xresnet_tiny'))} training galaxies (dex, mock; the best "
             f"regression of what pictures are drawn from has {with_interval(found['picture_floor'])})."]
    minus = [f"{with_interval(d['difference'], sign='+')} with {d['n_train']:,}" for d in found["xresnet18_minus_tiny"]]
    if minus: lines.append(f"xresnet18 minus it, on the same galaxies: {', '.join(minus)}.")
    for t in found["turns"]:
        lines.append(f"Turned by any angle in training minus by quarter turns only, xresnet_tiny with {t['n_train']:,} galaxies: {with_interval(t['any_minus_quarter'], sign='+')} "
                     f"(Student's over {t['any_minus_quarter']['n']} pairs of trainings).")
    return ["### Which network from how many galaxies", "", " ".join(lines), "", "![RMSE against the number of training galaxies, mock](mock_learning_curve.png)", ""]


def mzr_lines(mzr):
    "The relation of the demo in a sentence and a picture"
    at = mzr["fixed_mass"]
    return ["### The relation on the mock sky", "",
            f"What follows is about the simulation and the code that measures it, not about galaxies: colors of mock galaxies follow their metallicity by construction. Scatter about Tremonti et al. (2004) {with_interval(mzr['observed']['tremonti04']['all']['rmse'])} dex observed, "
            f"{with_interval(mzr['predicted']['tremonti04']['all']['rmse'])} dex predicted. At fixed mass the prediction follows the metallicity with a partial correlation "
            f"of {with_interval(at['partial_correlation'], 2)}, and {with_interval(at['beyond_mass_errors'], 2)} less what mass errors of {at['mass_sigma']:.2f} dex explain: what the picture shows beyond mass was put "
            "there by the simulation.", "",
            "| what the network predicts (mock) | the relation it implies (mock) | 400 real galaxies, cross-validated |", "|---|---|---|",
            "| ![predicted against true, mock](demo_density.png) | ![mass-metallicity relation, mock](demo_mzr.png) | ![predicted against true, real](real_density.png) |"]


def exported(results):
    "ONNX files beside their networks, as a table"
    found = read_json(results / "onnx_parity.json")
    rows = [f"| {'xresnet_tiny, as shipped' if name == 'shipped' else f'{name}, random weights'} | {v['outputs']} | {v['megabytes']:.1f} | {v['max_difference']:.1g} |"
            for name, v in found["networks"].items()]
    n = next(iter(found["networks"].values()))["n"]
    return [f"`galaxy-cnn export` writes pictures in, answers out, the eight views inside. Largest difference between the file in onnxruntime and the Run, {n} mock galaxies in batches of "
            f"{', '.join(map(str, found['batches']))} (the exporter saw {found['example_batch']}), exported in a process of one thread (`benchmarks/onnx_parity.py`):", "",
            "| network | outputs | MB | largest difference [dex, or the output's unit] |", "|---|---|---|---|", *rows]


def downloads(results):
    "What was measured of downloads, as Markdown"
    speed, kills, bad, rows = (read_json(results / f"{n}.json") for n in ("download", "kill_download", "corrupt_survey", "catalog_roundtrip"))
    planes = read_json(results / "kill_legacy.json")
    ours, serial = speed["rates"]["galaxy_cnn"], speed["rates"]["serial requests.get"]
    return [f"- With {speed['rates']['latency_s'] * 1000:.0f} ms of latency and {speed['rates']['connections']} connections: {ours['per_second']:.0f} cutouts a second, "
            f"{speed['rates']['galaxy_cnn_of_ceiling']:.0%} of what latency allows; a loop of `requests.get` does {serial['per_second']:.1f}.",
            f"- {kills['kills']} downloads killed at random instants and resumed: {kills['total']['identical']} complete and identical, {kills['total']['fetched_again']} recorded cutouts fetched again. Planes of the Legacy Surveys: {planes['total']['identical']} of {planes['kills']}, {planes['total']['fetched_again']} again.",
            f"- {bad['total']['corruptions']} random corruptions of images, catalog and record: {bad['total']['missed']} missed by `verify`, {bad['total']['rounds_healed']} of {bad['total']['rounds']} Surveys healed.",
            f"- A catalog of {rows['rows']:,} rows and {rows['columns']} columns there and back, three cut streams on the way: {rows['wrong_values']} wrong values."]


def speed(results):
    "What was measured of speed, as Markdown"
    fast, same, full = (read_json(results / f"{n}.json") for n in ("benchmarks", "same_accuracy", "cpu_bf16"))
    machine, memory = fast["machine"], {name.split(" cutouts")[0]: v["peak_MB"] for name, v in fast["parts"]["memory"].items()}
    few = next(v for name, v in fast["parts"]["predict"].items() if name.startswith("few labels"))["images_per_second"]["median"]
    differences = ", ".join(f"{arch} {with_interval(v['fast_minus_stock'], sign='+')}" for arch, v in same["archs"].items())
    about, loader = full["machine"], fast["ratios"]["loader in memory, shifts and turns (xresnets): images/s a core over fastai's DataBlock"]
    return ["Training decodes each JPEG once into one tensor of bytes, on the GPU or in memory, and makes batches by indexing it, inside fastai's `Learner`; prediction gives each core a small batch of its own; where the "
            "processor has bfloat16, both use it. All against the tutorial's DataBlock, fastai's optimizers, `learn.get_preds` and float32 in the same run, on mock cutouts.", "",
            f"### On a CPU, with bfloat16 and without ({about['cpu']}, torch {about['versions']['torch']}; seconds of one core, repeats interleaved)", "", *cpu_table(results), "",
            "Medians, with the least and the most that the repeats allow. Without: AVX2 and no more, for PyTorch and for oneDNN, on the same processor. The DataBlock of the comparison decodes by this package's reader, which "
            "is faster than Pillow. `benchmarks/speed.py`, all numbers: [cpu_bf16.md](cpu_bf16.md), [cpu_float32.md](cpu_float32.md). " + what_limits(results), "",
            "![Images a second of a core, with and without bfloat16](cpu_speed.png)", "",
            *gpu_lines(results), "### More on CPUs", "", *cores_lines(results),
            f"- On {machine['cores']} other cores ({machine['cpu']}, bfloat16, torch {machine['versions']['torch']}, an earlier state): whole training {fast['ratios']['whole training, xresnet_tiny']:.1f} times stock for xresnet_tiny and "
            f"{fast['ratios']['whole training, xresnet18']:.1f} for xresnet18, and the loader alone {loader:.0f} times: [benchmarks.md](benchmarks.md).",
            f"- RMSE on the mock, fast path minus stock recipe, {len(same['seeds'])} seeds, n = {same['n']:,}: {differences} dex ({same['fast']}).",
            f"- A Run of a few hundred labels (five networks, eight views, Gaussian process, flag) answers {few:.0f} galaxies a second on those cores. Predicting 2,000 cutouts takes {memory['predict, 2000']:.0f} MB, ten times as "
            f"many {memory['predict, 20000']:.0f} MB.", batch_study(fast), streamed(results)]


CPU_ROWS = {"whole training, xresnet_tiny": "whole training, xresnet_tiny, 5 epochs of 1,536", "predict, one view, over learn.get_preds, xresnet_tiny": "`predict` over `learn.get_preds`, xresnet_tiny, one view",
            "predict, one view, over learn.get_preds, xresnet18": "`predict` over `learn.get_preds`, xresnet18, one view"}


def cpu_table(results):
    "Ratios and errors with bfloat16 and without"
    both = [read_json(results / f"cpu_{name}.json") for name in ("bf16", "float32")]
    def gain(found, name):
        return "{:.1f} ({:.1f}, {:.1f})".format(found["ratios"][name], *found["ratio_ranges"][name]) if name in found["ratios"] else "not measured"
    lines = ["| times as fast | with bfloat16 | without |", "|---|---|---|"]
    lines += [f"| {title} | {' | '.join(gain(found, name) for found in both)} |" for name, title in CPU_ROWS.items()]
    for path in ("stock", "fast path"):
        errors = [found["parts"].get("fit", {}).get(f"xresnet_tiny, {path}", {}).get("rmse_mock") for found in both]
        shown = " | ".join(f"{e['median']:.4f} ({e['min']:.4f}, {e['max']:.4f}), {e['repeats']} seeds" if e else "not measured" for e in errors)
        lines.append(f"| RMSE [dex, mock] of those trainings, {path} | {shown} |")
    return lines


def what_limits(results):
    "Why the float32 ratios are not larger"
    found = read_json(results / "cpu_float32.json")
    stock, ours = ({k: v["images_per_second"]["median"] for k, v in found["parts"]["predict"].items() if k.startswith("xresnet_tiny") and word in k} for word in ("get_preds", "one view"))
    flagged = ours["xresnet_tiny, predict, one view, error bars and flag"]
    limits = read_json(results / "limits.json")
    training, one = limits["training"], 1e3 * limits["prediction"]["convolutions"]["value"]
    least = 1e3 / max(stock.values()) / one
    return (f"Asked for were 1.5 in training and 2.5 in prediction without bfloat16. Both paths multiply the same numbers: the convolutions of xresnet_tiny run at {training['pace']['value']:.0f} GFLOP/s of a core and take "
            f"{training['share']['value']:.0%} of our training step, so what can be won is the rest. `predict` answers {ours['xresnet_tiny, predict, one view']:.0f} galaxies a second of a core (with error bars and flag {flagged:.0f}), "
            f"`get_preds` {max(stock.values()):.0f}; the convolutions alone take {one:.2f} ms a galaxy, so that a path of nothing else would reach {least:.1f}.")


def gpu_lines(results):
    "What one GPU said, of an earlier state"
    found = read_json(results / "gpu_h100_2026-11.json")
    pace, gpu = found["images_per_second"], found["machine"]
    if (results / "gpu.json").is_file(): return []
    rows = [f"| {name} | {v:,} |" for name, v in pace.items()]
    return [f"### On a GPU: not measured for this state ({gpu['gpu']}, torch {gpu['torch']}, commit 30ae772)", "", "| bf16, xresnet18 at 112 px, batches of 128 where nothing else is said | images/s |", "|---|---|", *rows, "",
            f"Copied from a run of that commit (`gpu_h100_2026-11.json`). Seven epochs of {found['n']:,} took {found['seconds_of_seven_epochs']} s where {found['goal_seconds']} s are the goal: the host launched {found['kernels_a_step']} "
            "kernels a step and the card waited. Since then a step can be captured and launched as one (`train --graph`), which agrees with the plain step to 1e-6 on a CPU and has not run on a GPU: `python benchmarks/gpu.py --minutes 9` "
            "measures it.", ""]


def cores_lines(results):
    "Folds side by side, and a busy machine, where they were measured"
    return [line(read_json(results / f"{name}.json")) for name, line in (("folds", folds_line), ("busy_machine", busy_line)) if (results / f"{name}.json").is_file()]


def folds_line(folds):
    "Five networks in processes of one thread each, and one after the other"
    apart, together = (folds["ways"][name] for name in ("side by side, one thread each", "one after the other, on all threads"))
    return (f"- `galaxy-cnn train` on {folds['n']} real galaxies, {folds['cores']} cores, epochs: {folds['epochs']}: its five networks take {apart['seconds_of_the_networks']['median']:.0f} s side by side, a thread each, and "
            f"{together['seconds_of_the_networks']['median']:.0f} s one after the other on all threads; the whole command {apart['seconds']['median']:.0f} and {together['seconds']['median']:.0f} s (other work beside it: load "
            f"{folds['load']['before']:.0f} before).")


def busy_line(busy):
    "Training beside a neighbor"
    kept, load, repeats = busy["ratios"], busy["load"]["before"], busy["steps"]["sleep, quiet"]["images_per_second"]["repeats"]
    def of(v): return f"{v['value']:.2f} ({v['lo']:.2f}, {v['hi']:.2f})"
    sleep, spin = (kept[f"kept beside a neighbour, threads that {word}"] for word in ("sleep", "spin"))
    return (f"- Threads that wait sleep (`OMP_WAIT_POLICY=PASSIVE`, set by the package unless you have set it). Beside a neighbor that keeps half of the cores busy, training keeps {of(sleep)} of its pace; with threads that spin, as "
            f"torch comes, {of(spin)}. Without the neighbor sleeping has {of(kept['sleep over spin, quiet'])} of the pace of spinning ({repeats} repeats, load {load:.0f} before).")


def batch_study(fast):
    "What a study of the batch size would cost without a GPU"
    pace = fast["parts"]["step"]["xresnet18, bfloat16 (what train does)"]["images_per_second"]["median"]
    hours = 10 * 7 * 104_000 / pace / 3600
    return (f"- Whether batches of 512 are as good as 128 was not studied: two sizes with five seeds of seven epochs of 104,000 images are {hours:.0f} hours at {pace:.0f} images a second, xresnet18's pace on "
            f"{fast['machine']['cores']} cores.")


def streamed(results):
    "More galaxies than memory holds"
    found = read_json(results / "streaming.json")
    rates, ratios = found["images_per_core_second"], found["ratios"]
    few, many = found["memory"]
    def of(kind, how): return f"{rates[f'{kind}, {how}']['median']:,.0f}"
    ways = "; ".join(f"{how} {of('streamed', how)} against {of('in memory', how)} from memory, {ratios[f'streamed, {how} over fastai DataBlock']['value']:.1f} times fastai's DataBlock" for how in ("center", "shifts and turns"))
    return (f"- What does not fit into memory is streamed from the packed file (chapter 23). Images a second of a core, mock: {ways} ({rates['fastai DataBlock']['median']:,.0f}). A process that streams {few['galaxies']:,} galaxies "
            f"peaks at {few['peak_MB']:,.0f} MB, one with {many['galaxies']:,} ({many['pixels_MB'] / 1000:.1f} GB of pixels) at {many['peak_MB']:,.0f} MB. `benchmarks/streaming.py`.")


def scale(results):
    "What was measured of predictions over HATS catalogs, as Markdown"
    found = read_json(results / "scale.json")["sections"]
    (one, eight), (few, all_) = found["equality"], found["conversion"]
    same, views = one["against_predict"], eight["against_predict"]
    there, back = ([f"{v[way]['peak_MB']:,.0f}" for v in (few, all_)] for way in ("to_hats", "to_survey"))
    return [f"- {one['n']:,} mock galaxies, from a Survey to a HATS catalog of {one['partitions']} partitions and through two worker processes: {same['rows_that_differ']} rows differ from `predict` on the Survey, to the last bit "
            f"of {same['columns']} columns. With eight views {views['rows_that_differ']} of {eight['n']:,}, by {views['most']:.1g}. LSDB matches {one['crossmatch']['of_one_galaxy']:,} with themselves.",
            f"- A Survey of {few['n']:,} and of {all_['n']:,} galaxies to HATS takes at most {' and '.join(there)} MB of memory, back {' and '.join(back)} MB.",
            *overhead_lines(found["overhead"]), worker_line(found["memory"]), partition_line(found["partitions"]), *scale_kills(results), "",
            "![Overhead, memory and client against size](scale.png)"]


def overhead_lines(found):
    "The engine beside a plain loop"
    names = {"stub": "a network that takes no time", "network": "xresnet_tiny, error bars and flag"}
    for kind, v in found.items():
        loop, engine, start = v["plain loop"]["seconds"]["median"], v["predict_hats"]["seconds"]["median"], v["start"]["predict_hats"]["seconds"]["median"]
        more, work, rows = v["ratio"]["seconds"], v["ratio"]["cpu_seconds"], (engine - start) / (loop - v["start"]["plain loop"]["seconds"]["median"])
        yield (f"- {v['rows']:,} rows in {v['partitions']} partitions, {names[kind]}, on two cores: {engine:.0f} s, of which {start:.0f} s start and end the processes; a plain loop over the same files in two processes of one thread {loop:.0f} s: "
               f"{more['value']:.2f} times as long ({more['lo']:.2f}, {more['hi']:.2f}; {v['plain loop']['seconds']['repeats']} repeats), {rows:.2f} times without start and end, and {work['value']:.2f} times the processor's seconds ({work['lo']:.2f}, {work['hi']:.2f}).")
    yield "- Asked for was 1.10. What the plain loop has no part in: client and workers import torch one after the other, and each picture, each position and the batch as a whole are checked."


def worker_line(found):
    "Memory of a worker against rows"
    peaks = ", ".join(f"{r['worker_peak_MB']:,.0f} MB with {r['rows']:,} rows" for r in found["rows"])
    few, many = found["partition"][0], found["partition"][-2]
    return (f"- Peak memory of a worker, without a network: {peaks}; with a single partition of {few['n']:,} rows {few['peak_MB']:,.0f} MB, of {many['n']:,} rows {many['peak_MB']:,.0f} MB.")


def partition_line(many):
    "What partitions cost the client"
    few, most = many[0], many[-1]
    each = 1000 * (most["cpu_seconds"] - few["cpu_seconds"]) / (most["partitions"] - few["partitions"])
    memory = 1000 * (most["peak_MB"] - few["peak_MB"]) / (most["partitions"] - few["partitions"])
    return (f"- A partition costs client and scheduler {each:.1f} ms and {memory:.0f} kB: {most['cpu_seconds']:.0f} s and {most['peak_MB']:,.0f} MB for {most['partitions']:,}. That is how many partitions of 10,000 make up 10^8 galaxies.")


def scale_kills(results):
    "Kills and resumes"
    hats, folder = (read_json(results / f"kill_{name}.json") for name in ("scale", "predict"))
    seen, one = hats["predictions"]["total"], folder["total"]
    ways = [hats[way]["total"] for way in ("to_hats", "to_survey")]
    both = {key: sum(way[key] for way in ways) for key in ways[0]}
    return [f"- {seen['kills']} kills at random instants ({seen['killed: worker']} of a worker, {seen['killed: client']} of the client, {seen['killed: group']} of all processes) in {seen['rounds']} runs over a HATS catalog, and resumes: "
            f"{seen['complete']} runs complete, {seen['wrong']} partitions wrong, {seen['computed_again']} computed again; {seen['foreign_files']} files of another Run were put in their place, and none of them stayed.",
            f"- {both['kills']} kills of all processes on the way from a Survey to a HATS catalog and back, in {both['rounds']} runs: {both['complete']} complete, {both['wrong']} files wrong, {both['computed_again']} written again.",
            f"- {folder['kills']} kills of `predict` on a packed Survey in parts: {one['identical']} tables identical to that of an undisturbed run, {one['computed_again']} parts computed again."]


def headlines(results):
    "Numbers with n and interval"
    real, paper, fresh = (read_json(results / f"{n}.json") for n in ("real_sample", "paper_predictions", "held_out_2026-11"))
    over, net = real["over_seeds"]["rmse"], paper["by_size_px"]["128"]["rmse"]
    n = real["runs"][0]["n"]
    held = percent(mean_coverage(real, "0.9"))
    few = next(r for r in paper["samples"] if r["n"] == n)
    return ["| real galaxies | what | n | |", "|---|---|---|---|",
            f"| 400 labels, cross-validated | RMSE of `galaxy-cnn train` with no option | {n} | **{with_interval(over['cnn'])} dex** |",
            f"| the same | share inside the 90 % intervals | {n} | **{held}** |",
            f"| others, never used for any choice | RMSE of the same (commit 30ae772), trained on the 400 | {fresh['n']} | **{with_interval(fresh['rmse'])} dex** |",
            f"| predictions of Wu & Boada (2019), a later run of theirs | RMSE of a resnet34 fitted to {N_LABELS:,} labels | {paper['n']:,} | **{with_interval(net)} dex** |", "",
            "The recipe, the features and the simulated sky were chosen with the labels of the 400 in sight: the folds are clean of training, not of design. Expect a few thousandths of a dex more on others.", "",
            f"{n} galaxies are too few to rank the networks: samples as small from the paper's predictions have {few['low']:.3f} to {few['high']:.3f} dex. Intervals draw galaxies; another training moves "
            f"the error as well: {NESTED_RMSE['networks']} networks of the authors have {NESTED_RMSE['mean']} dex with a scatter of {NESTED_RMSE['std']}."]


def results_page(results):
    "results/README.md"
    parts = {"Results": section, "Beside the paper": reproduction, "A second survey": second_survey, "Speed": speed, "Scale": scale, "Export": exported, "Downloads": downloads}
    lines = ["# Results", "", "Most files here are written by the script in `benchmarks/` whose name they carry; where the names differ, the section below names it. `demo.*` comes from `make demo`, this page from `benchmarks/readme.py`; "
             "`held_out_2026-11.json` and `gpu_h100_2026-11.json` were copied by hand.",
             "What is measured on the simulated sky says mock. `make results` writes this page and draws again all figures that come from stored numbers and predictions.", ""]
    for title, make in parts.items(): lines += [f"## {title}", "", *make(results), ""]
    return "\n".join(lines).rstrip() + "\n"


def with_results(readme, results):
    "Text of README.md with its headline numbers written again"
    before, rest = readme.split("<!-- results -->")
    after = rest.split("<!-- /results -->")[1]
    return before + "\n".join(["<!-- results -->", *headlines(results), "<!-- /results -->"]) + after


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path)
    args = parser.parse_args()
    if args.demo: take_demo(args.demo, ROOT / "results")
    file = ROOT / "README.md"
    file.write_text(with_results(file.read_text(), ROOT / "results"))
    (ROOT / "results/README.md").write_text(results_page(ROOT / "results"))
