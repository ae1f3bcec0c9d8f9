import os

# Read when torch is loaded: threads that wait for work sleep instead of spinning, and leave the cores to other work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
__version__ = "0.1.0"
