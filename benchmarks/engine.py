"""Whole-model training steps a second: ours against Hugging Face's BertForPreTraining.

    python benchmarks/engine.py --shape base|small|tiny [--device cuda] [--no_compile]

Same weights, batches, masks, AdamW and clipping. Theirs is the best of fp32 and bf16 autocast with
either of their attentions; compiled by torch.compile, it has rows of its own. All variants take
turns, block by block; the figures are medians over the blocks. First, without dropout, losses and
gradients must be equal, or there is no ratio; what is timed has the dropout of BERT. MFU relates
the FLOPs that our step needs (`mslt.analysis.cost`, nothing counted that is left out) to the rate
of a large matrix product, timed in turns with the rest. The last line is one JSON object.
"""

import sys

from common import (
    ADAMW,
    HOPELESS,
    LR,
    Setting,
    Variant,
    batches,
    bf16_slowness,
    finish,
    matrix_product,
    options,
    setting,
    take_turns,
)
from reference import HuggingFace, parity, refuse_without

from mslt.analysis.cost import step_cost
from mslt.analysis.tables import aligned
from mslt.data.instances import Batch
from mslt.model import Encoder
from mslt.plan import Stage
from mslt.trainer import Trainer

EAGER, COMPILED = "eager", "compiled"


def ours(setting: Setting, model: Encoder, data: list[Batch]) -> Variant:
    """Our trainer, all layers learning."""
    trainer = Trainer(model, setting.settings(), {})
    return Variant(
        f"mslt, {setting.precision}",
        lambda i: trainer.step(i, data[i % len(data)], LR),
    )


def theirs(setting: Setting, model: Encoder, data: list[Batch], compiled: bool) -> list[Variant]:
    """Every way of theirs to run eagerly, or compiled in the precision that suits the machine."""

    def variant(precision: str, attention: str) -> Variant:
        how = COMPILED if compiled else EAGER
        name = f"transformers {how}, {precision}, {attention} attention"
        if slowness > HOPELESS and precision == "bf16" != setting.precision:
            note = f"left out: a layer takes {slowness:.0f}x as long as in fp32 on this machine"
            return Variant(name, _nothing, note=note)
        loop = HuggingFace(
            model,
            ADAMW,
            setting.device,
            attention=attention,
            bf16=precision == "bf16",
            compiled=compiled,
        )
        return Variant(name, lambda i: loop.step(data[i % len(data)]), rivals=how)

    slowness = bf16_slowness(setting.device)
    precisions = [setting.precision] if compiled else ["fp32", "bf16"]
    return [variant(p, attention) for p in precisions for attention in ("sdpa", "eager")]


def _nothing(_: int) -> None:
    """The step of a variant that is left out."""


def best(variants: list[Variant], rivals: str) -> float | None:
    """Seconds per step of the fastest of a group, if it has any."""
    return min((v.median for v in variants if v.rivals == rivals and v.finished), default=None)


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
    data = batches(setting, 8)
    whole = Stage(setting.shape.model.num_hidden_layers, seq_len=setting.shape.length)
    equal = parity(setting, whole, data[0])
    refuse_without("the whole model", equal)
    model = Encoder(setting.shape.model).to(setting.device)
    mine = ours(setting, Encoder(setting.shape.model).to(setting.device), data)
    rows = [mine, *theirs(setting, model, data, compiled=False)]
    if compiles:
        rows += theirs(setting, model, data, compiled=True)
    product, product_flops = matrix_product(setting.device, setting.precision)
    gemm = Variant("matrix product", product)
    take_turns([*rows, gemm], setting.blocks, setting.steps, setting.device)
    flops = step_cost(setting.shape.model, whole, setting.shape.batch, setting.slots).total()
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
            "ratio_eager": round(eager / mine.median, 3),
            "ratio_compiled": round(compiled / mine.median, 3) if compiled else None,
            "tokens_per_second": round(setting.tokens / mine.median, 1),
            "mfu": round(mfu, 4),
            "peak_gflops": round(peak / 1e9, 1),
            "parity": {"loss": equal.loss, "gradient": equal.gradient},
            "variants": {v.name: v.facts() for v in rows},
            **setting.facts(),
        }
    )


def main(arguments: list[str] | None = None) -> None:
    """Read the options and measure."""
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--no_compile", action="store_true", help="leave torch.compile out")
    given = parser.parse_args(arguments)
    try:
        measure(setting(given), not given.no_compile)
    except ValueError as error:
        sys.exit(f"engine.py: {error}")


if __name__ == "__main__":
    main()
