"""matplotlib as every picture here wants it: into files, the same twice, names as they are."""

import matplotlib

matplotlib.use("Agg")  # a picture file is all we make: no window, no display needed
matplotlib.rcParams["svg.hashsalt"] = "mslt"  # the same picture twice is the same file
matplotlib.rcParams["text.parse_math"] = False  # a name with two $ is no formula

from matplotlib.figure import Figure  # noqa: E402

__all__ = ["Figure"]
