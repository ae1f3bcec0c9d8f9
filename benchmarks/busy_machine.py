"""Steps of training beside a neighbour that keeps half of the cores busy, and without; threads that sleep or spin

    python benchmarks/busy_machine.py [--repeats 3] [--batches 12] [--out results/busy_machine.json]

Threads that wait sleep where OMP_WAIT_POLICY is PASSIVE, which the package sets by itself, and spin where it is unset,
as torch comes. Fresh processes, interleaved; xresnet_tiny in float32, as many threads as cores. Nothing else should
run: then the quiet rows say what sleeping costs, and the busy ones what a neighbour costs, whose share is half.
"""
import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial

from harness import CORES, fresh_python, interleaved, machine, option_parser, ratio, write_results

WAYS = {"sleep": "os.environ['OMP_WAIT_POLICY'] = 'PASSIVE'", "spin": "os.environ.pop('OMP_WAIT_POLICY', None)"}


def step_pace(batches=40, warm=4):
    "Print images a second, of the clock and of all cores, of xresnet_tiny's step on as many threads as there are cores"
    import torch  # here: the process that starts others needs it not

    from galaxy_cnn.learner import RECIPES
    from galaxy_cnn.models import FaithfulLoss, create_model
    torch.set_num_threads(CORES)
    bs = RECIPES["xresnet_tiny"].bs
    model = create_model("xresnet_tiny", sigma=True).to(memory_format=torch.channels_last)
    opt, loss_func = torch.optim.AdamW(model.parameters(), foreach=True), FaithfulLoss()
    x, y = torch.randn(bs, 3, 112, 112), torch.randn(bs)
    for i in range(warm + batches):
        if i == warm: start, of_cores = time.perf_counter(), time.process_time()
        loss_func(model(x), y).backward()
        opt.step()
        opt.zero_grad()
    seconds, of_cores = time.perf_counter() - start, time.process_time() - of_cores
    print(json.dumps({"images_per_second": batches * bs / seconds, "images_per_core_second": batches * bs / of_cores}))


@contextmanager
def neighbours(n):
    "Processes that each keep a core busy"
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    try: yield
    finally:
        for process in busy: process.kill()
        for process in busy: process.wait()


def pace(how, n, batches):
    "Images a second of training steps beside n neighbours"
    code = f"import os; {how}; import torch; from busy_machine import step_pace; step_pace({batches})"
    with neighbours(n): said = fresh_python("-c", code)
    return json.loads(said.splitlines()[-1])["images_per_second"]


def main(args):
    load = os.getloadavg()[0]
    works = {f"{word}, {beside}": partial(pace, how, n, args.batches)
             for beside, n in (("quiet", 0), ("busy", CORES // 2)) for word, how in WAYS.items()}
    found = interleaved(works, args.repeats)
    def against(one, other): return ratio(*(found[name]["images_per_second"] for name in (one, other)))
    names = {word: f"kept beside a neighbour, threads that {word}" for word in WAYS}
    kept = {name: against(f"{word}, busy", f"{word}, quiet") for word, name in names.items()}
    ratios = kept | {"sleep over spin, quiet": against("sleep, quiet", "spin, quiet"),
                     "sleep over spin, busy": against("sleep, busy", "spin, busy")}
    loads = {"before": load, "after": os.getloadavg()[0]}
    results = {"machine": machine(), "cores": CORES, "neighbours": CORES // 2, "load": loads, "steps": found,
               "ratios": ratios}
    write_results(args.out, results, "images a second of training steps of xresnet_tiny in float32", "random pixels")
    print(json.dumps({name: results[name] for name in ("load", "steps", "ratios")}, indent=1))


if __name__ == "__main__":
    parser = option_parser(__doc__, out="busy_machine.json")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batches", type=int, default=12)
    main(parser.parse_args())
