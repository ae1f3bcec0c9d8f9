"""Chapters 06 and 30 on the predictions that Wu & Boada (2019) published for 20,366 real galaxies.

    GALAXY_CNN_REAL=FOLDER python benchmarks/paper_predictions.py

FOLDER holds facts/wu_boada_2019_test_predictions.csv: objID, oh_p50 and the network's prediction from cutouts of 128, 64, 32 and 16 px, from the
history of the authors' repository. No network is trained or run here: it is a test of the yardstick. Writes results/paper_predictions.json (every metric with n
and its 95 % bootstrap interval) and results/paper_predictions.png (predicted against observed at 128 px).
"""
import os
import sys
from pathlib import Path

import pandas as pd

from galaxy_cnn.figures import density_figure
from galaxy_cnn.files import atomic_path, write_json
from galaxy_cnn.metrics import BOOTSTRAP_LEVEL, N_BOOT, paired_difference, rmse, scores

RESULTS = Path(__file__).parent.parent / "results"
SIZES = (128, 64, 32, 16)  # [px]
RICH = 9.1  # 12 + log(O/H), above which the paper counts the share of galaxies


def measure(table):
    "All numbers, by size of the cutout"
    true = table["oh_p50"].to_numpy()
    pred = {px: table[f"pred_{px}"].to_numpy() for px in SIZES}
    found = {str(px): {**scores(true, p), "share_above_9.1": float((p > RICH).mean())} for px, p in pred.items()}
    for px in SIZES[1:]: found[str(px)]["rmse_minus_128_px"] = paired_difference(rmse, true, pred[px], pred[128])
    return found


def main(folder):
    table = pd.read_csv(Path(folder) / "facts" / "wu_boada_2019_test_predictions.csv", dtype={"objID": "int64"})
    true, found = table["oh_p50"].to_numpy(), measure(table)
    write_json(RESULTS / "paper_predictions.json", {
        "what": "predictions of Wu & Boada 2019 (one network per size, not the ensemble), 12 + log(O/H) [dex]", "sky": "real", "n": len(table),
        "bootstrap": {"resamples": N_BOOT, "level": BOOTSTRAP_LEVEL, "unit": "galaxy"}, "observed_share_above_9.1": float((true > RICH).mean()), "by_size_px": found})
    with atomic_path(RESULTS / "paper_predictions.png") as tmp:
        density_figure(true, table["pred_128"].to_numpy(), sky="SDSS, real", note="predictions of Wu & Boada 2019, 128 px").savefig(tmp, dpi=110)
    for px, v in found.items(): print(f"{px:>4} px  RMSE {v['rmse']['value']:.4f}  NMAD {v['nmad']['value']:.4f}  median {v['median_bias']['value']:+.4f}")


if __name__ == "__main__":
    if "GALAXY_CNN_REAL" not in os.environ: sys.exit("Set GALAXY_CNN_REAL to the folder that holds facts/wu_boada_2019_test_predictions.csv.")
    main(os.environ["GALAXY_CNN_REAL"])
