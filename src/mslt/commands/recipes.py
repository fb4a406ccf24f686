"""mslt recipes: what mslt pretrain knows by name."""

from mslt.options import Options
from mslt.recipes import RECIPES


def command(argv: list[str]) -> int:
    """List the recipes."""
    options = Options("mslt recipes", "List the recipes that mslt pretrain knows.")
    options.parse(argv)
    for name, function in RECIPES.items():
        plan = function().stages()
        stages = ", ".join(
            f"({s.depth}, {s.learns_from}, {s.steps:,}, {s.seq_len})" for s in plan.stages
        )
        print(f"{name}\n    {(function.__doc__ or '').partition(chr(10))[0]}\n    {stages}")
    print("\nStages are (depth, learns from, steps, sequence length).")
    return 0
