"""Where the time of a GPU goes in a training step, kernel by kernel.

    python benchmarks/gpu_time.py [--shape base|large|small|tiny] [--mode exact fast]

Some steps of the whole model and of every stage of MSLT with 4 stages are traced. For each: the
milliseconds of a step, how long the GPU computes nothing in it, and the rest by kinds of kernels:
matrix products, attention, what the compiler has made of everything between them, the optimizer
with what brings gradients to it, copies. Then the kernels that take longest. The last line is one
JSON object.
"""

import gc
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from common import Setting, finish, now, options, setting
from stages import Steps, Way, ways
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from mslt.analysis.formats import aligned
from mslt.config import OptimizerConfig, PlanConfig

# Of each kernel's name the first that is found in it; in the order in which they are tried.
KINDS = {
    "attention": "flash|fmha|attention|sdpa|dot_do_o|convert_dq|cudnn",
    "products": "gemm|nvjet|cutlass|cublas|splitK",
    "optimizer": "adam|lerp|addcmul|normtwo|multi_tensor|foreach",
    "fused": "triton",
    "copies": "memcpy|memset|copy",
    "other": "",
}
LONGEST = 16  # kernels that are named


def traced(steps: Steps, count: int) -> tuple[float, list[tuple[str, float, int]]]:
    """Seconds of a step, and name, seconds and number of each kernel in it.

    The seconds of a step are measured without the tracer, which slows it.
    """
    device = steps.setting.device
    for number in range(8):  # the first ones compile
        steps(number)
    start = now(device)
    for number in range(8, 8 + count):
        steps(number)
    seconds = (now(device) - start) / count
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as tracer:
        for number in range(8 + count, 8 + 2 * count):
            steps(number)
        now(device)
    kernels = [
        (event.key, event.self_device_time_total / 1e6 / count, round(event.count / count))
        for event in tracer.key_averages()
        if event.device_type == DeviceType.CUDA and event.self_device_time_total
    ]
    return seconds, sorted(kernels, key=lambda kernel: -kernel[1])


def kind(name: str) -> str:
    """Of a kernel, by its name."""
    return next(kind for kind, part in KINDS.items() if re.search(part, name, re.IGNORECASE))


def rows(settings: dict[str, Setting], count: int) -> Iterator[tuple[Way, dict[str, Any]]]:
    """What is known of each way to train, one after the other, so that memory holds but one."""
    for way, its in ways(settings).items():
        seconds, kernels = traced(Steps(its, way), count)
        gc.collect()
        torch.cuda.empty_cache()
        by_kind: Counter[str] = Counter(dict.fromkeys(KINDS, 0.0))
        for name, spent, _ in kernels:
            by_kind[kind(name)] += spent  # type: ignore[assignment]  # seconds
        yield (
            way,
            {
                "seconds": seconds,
                "idle": max(0.0, seconds - sum(by_kind.values())),
                "kinds": dict(by_kind),
                "kernels": sum(number for _, _, number in kernels),
                "longest": [list(kernel) for kernel in kernels[:LONGEST]],
            },
        )


def main(arguments: list[str] | None = None) -> None:
    """Trace, and print the tables and the JSON line."""
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--mode", nargs="+", choices=["exact", "fast"], default=["exact"])
    parser.add_argument("--optimizer", choices=["adamw", "lamb"], default="adamw")
    parser.set_defaults(device="cuda", steps=5)
    given = parser.parse_args(arguments)
    if not given.device.startswith("cuda"):
        sys.exit("gpu_time.py: only a GPU has kernels to trace")
    result = {}
    with TemporaryDirectory() as folder:
        plan = PlanConfig("mslt")
        how = {"optimizer": OptimizerConfig(given.optimizer)}
        settings = {m: setting(given, plan, Path(folder), prefix=m, **how) for m in given.mode}
        head = ["ms per step", "all", "idle", *KINDS, "kernels"]
        table = [head]
        for way, row in rows(settings, given.steps):
            result[str(way)] = row
            ms = [row["seconds"], row["idle"], *row["kinds"].values()]
            table.append([str(way), *(f"{1e3 * s:.2f}" for s in ms), f"{row['kernels']}"])
            longest = [[f"{1e3 * s:.3f}", f"{n}", name[:100]] for name, s, n in row["longest"]]
            print(f"\n{way}\n{aligned([['ms', 'times', 'kernel'], *longest])}", flush=True)
        print(f"\n{aligned(table)}")
        finish({"ways": result, **next(iter(settings.values())).facts()})


if __name__ == "__main__":
    main()
