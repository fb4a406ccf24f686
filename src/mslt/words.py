"""Numbers and stages as people write them. Imports no torch."""

from mslt.plan import Stage

_UNITS = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")  # SI's, by powers of a thousand


def describe(stage: Stage) -> str:
    """A stage in a few words."""
    learns = stage.depth - stage.learns_from
    which = "all learn" if learns == stage.depth else f"the top {learns} learn"
    return f"{stage.depth} layers, {which}, length {stage.seq_len}"


def duration(seconds: float) -> str:
    """A time span as people write it: 45 s, 12 min, 3 h 20 min, 2 d 4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def metric(value: float, unit: str = "") -> str:
    """Three digits and a unit with SI's prefix: 0, 950, 45.1M, 2.35TF, 180MB."""
    power = 0
    while abs(value) >= 999.5 and power < len(_UNITS) - 1:
        value, power = value / 1000, power + 1
    text = f"{value:.0f}" if abs(value) >= 99.95 or value == int(value) else f"{value:.3g}"
    return f"{text}{_UNITS[power]}{unit}"
