"Numbers with their units, as benchmarks/gpu.py writes them"
from harness import ratio, spread


def quantity(value, unit): return {"value": value, "unit": unit}


def memory(n): return quantity(n / 2**30, "GiB")


def repeated_quantity(values, unit):
    "Median, least and most"
    found = spread(values)
    return {"value": found["median"], "lo": found["min"], "hi": found["max"], "n": found["repeats"], "unit": unit}


def rates(amount, seconds, unit="images/s"): return repeated_quantity([amount / s for s in seconds], unit)


def times_as_fast(one, other): return {**ratio(one, other), "unit": "times"}
