"""Whole-model training steps a second: ours against Hugging Face's BertForPreTraining.

    python benchmarks/engine.py --shape base|small|albert_base|... [--device cuda] [--eager_only]

Same weights, batches, masks, AdamW and clipping. Theirs is the best of fp32 and bf16 autocast with
either of their attentions; compiled by torch.compile, it has rows of its own. All variants take
turns, block by block; the figures are medians over the blocks. First, without dropout, losses and
gradients must be equal, or there is no ratio; what is timed has the dropout of BERT. MFU relates
the FLOPs that our step needs (`mslt.cost`, nothing counted that is left out) to the rate
of a large matrix product, timed in turns with the rest. The last line is one JSON object.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from common import Setting, Variant, finish, matrix_product, options, setting, take_turns
from reference import COMPILED, EAGER, best, parity, refuse_without, rivals
from stages import Steps, Way

from mslt.analysis.formats import aligned
from mslt.config import PlanConfig


def table(variants: list[Variant], tokens: int, mine: Variant) -> str:
    """A row per variant, and a line for each that was left out."""
    lines = [("variant", "s/step", "min", "max", "tokens/s", "ours is")]
    for v in (v for v in variants if v.finished):
        low, high = min(v.seconds), max(v.seconds)
        times = "" if v is mine else f"{v.median / mine.median:.2f}x"
        figures = [f"{s:.4f}" for s in (v.median, low, high)]
        lines.append((v.name, *figures, f"{tokens / v.median:,.0f}", times))
    return "\n".join([aligned(lines), *(f"{v.name}: {v.note}" for v in variants if v.note)])


def measure(setting: Setting, compiles: bool) -> None:
    """Check parity, time everything and print the table and the JSON line."""
    way = Way.of(setting.whole, "")
    equal = parity(setting, way)
    refuse_without("the whole model", equal)
    steps = Steps(setting, way)
    mine = Variant(f"mslt, {setting.job.precision}", steps, rest=steps.rest)
    rows = [mine, *rivals(setting, compiled=False)]
    if compiles:
        rows += rivals(setting, compiled=True)
    product, product_flops = matrix_product(setting.device, setting.job.precision)
    gemm = Variant("matrix product", product)
    take_turns([*rows, gemm], setting.blocks, setting.steps, setting.device)
    flops = setting.flops(setting.whole)
    peak = product_flops / gemm.median
    eager, compiled = (best(rows, how) for how in (EAGER, COMPILED))
    mfu = flops / mine.median / peak
    print(table(rows, setting.tokens, mine))
    print(
        f"a step of ours: {flops / 1e9:.1f} GFLOP, {flops / mine.median / 1e9:.1f} GFLOP/s; "
        f"a matrix product: {peak / 1e9:.1f} GFLOP/s; MFU {mfu:.1%}"
    )
    finish(
        {
            "ratio_eager": eager / mine.median,
            "ratio_compiled": compiled / mine.median if compiled else None,
            "tokens_per_second": setting.tokens / mine.median,
            "mfu": mfu,
            "peak_gflops": peak / 1e9,
            "parity": {"loss": equal.loss, "gradient": equal.gradient},
            "variants": {v.name: v.facts() for v in rows},
            **setting.facts(),
        }
    )


def main(arguments: list[str] | None = None) -> None:
    """Read the options and measure."""
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--eager_only", action="store_true", help="leave torch.compile out")
    given = parser.parse_args(arguments)
    try:
        with TemporaryDirectory() as folder:
            measure(setting(given, PlanConfig("whole"), Path(folder)), not given.eager_only)
    except ValueError as error:
        sys.exit(f"engine.py: {error}")


if __name__ == "__main__":
    main()
