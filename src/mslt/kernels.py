"""Functions in C, in three files: compiled on first use for this processor, and kept.

Shapes: N rows, D width, G parts of a row, H heads, K width of a head, L rows that are asked.

Without a C compiler there are none of them, and layers do the same by torch's operations.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from ctypes import (
    POINTER,
    Structure,
    c_float,
    c_int,
    c_int32,
    c_long,
    c_uint32,
    c_uint64,
    c_void_p,
)
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from mslt.dropout import kept_share
from mslt.machine import generator

# Without errno, roots are taken of many numbers at once.
FLAGS = (*("-O3", "-march=native", "-fno-math-errno"), "-fopenmp", "-shared", "-fPIC", "-Wno-psabi")
FOLDER = Path(__file__).parent
HEADERS = [FOLDER / "numbers.h", FOLDER / "products.h"]
# Of several, the first that compile.
SOURCES: dict[torch.dtype, list[tuple[str, ...]]] = {
    torch.float32: [("kernels.c", "update.c")],
    torch.bfloat16: [("kernels.c", "update.c", "layers.c"), ("kernels.c", "update.c")],
}


class Dropping(Structure):
    """One drawing of a dropout mask, which is a function of this alone."""

    _fields_ = (("seed", c_uint32 * 2), ("keep", c_int32), ("scale", c_float))


_DROPPING, _AT = POINTER(Dropping), c_void_p
_TAKES: dict[str, list[Any]] = {
    "gelu_forward": [_AT] * 4 + [c_long, c_long, c_int],
    "gelu_backward": [_AT] * 4 + [c_long, c_long],
    "norm_forward": [_AT] * 9 + [c_long, c_long, c_float, _DROPPING],
    "norm_backward": [_AT] * 8 + [c_long, c_long, _DROPPING],
    "split_heads": [_AT, c_long, _AT, c_long, _AT, *[c_long] * 5],
    "join_heads": [_AT, _AT, c_long, _AT, c_long, *[c_long] * 5],
    "softmax_forward": [_AT] * 3 + [c_long] * 4 + [c_float, c_uint64, _DROPPING],
    "softmax_backward": [_AT] * 3 + [c_long, c_long, c_float, c_uint64, _DROPPING],
    "loss_and_slopes": [_AT, c_long] + [_AT] * 4 + [c_long, c_long],
    "quantize": [_AT, _AT, c_long, c_int],
    "adamw": [_AT] * 6 + [c_long] * 2 + [_AT] * 2,
    "direct": [_AT] * 6 + [c_long] * 2 + [_AT] * 2,
    "move": [_AT] * 4 + [c_long] * 2 + [_AT],
}
_TAKES_OF_LAYERS: dict[str, list[Any]] = {
    "has_tiles": [],
    "pack_weight": [_AT, _AT, c_long, c_long],
    "pass_layers": [_AT, c_long, _AT, _AT, _AT, c_long, c_long, _AT],
}


def dropping(p: float) -> Dropping:
    """A mask that drops with probability p, drawn from this thread's random numbers."""
    drawn = Dropping(keep=1 << 16, scale=1.0)
    if p:
        words = torch.empty(2, dtype=torch.int64).random_(0, 1 << 32, generator=generator())
        drawn.seed[:] = words.tolist()
        drawn.keep, drawn.scale = round(kept_share(p) * (1 << 16)), 1 / kept_share(p)
    return drawn


class Kernels:
    """The functions, for numbers of one type. Tensors are contiguous, and on the CPU.

    Args:
        library: in which they are.
        dtype: of the numbers.
        version: what decides what they compute.

    `tiles` says whether the processor multiplies tiles of them (AMX), so that layers can be passed
    whole.
    """

    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype, version: str) -> None:
        self.dtype = dtype
        self.library = library
        whole = hasattr(library, "pass_layers")
        for name, takes in (_TAKES | (_TAKES_OF_LAYERS if whole else {})).items():
            getattr(library, name).argtypes = takes
        library.quantize.restype = c_float
        self.tiles = whole and bool(library.has_tiles())
        self.version = version + (" with tiles" if self.tiles else "")

    def __reduce__(self) -> tuple[Any, ...]:
        return find, (self.dtype,)  # which copies of a module share

    def _at(self, x: Tensor | None) -> int | None:
        """Where these numbers begin."""
        if x is None:
            return None
        assert x.dtype == self.dtype
        assert x.is_contiguous()
        return x.data_ptr()

    @staticmethod
    def _at32(x: Tensor | None) -> int | None:
        """Where those begin that are in fp32 whatever the type of the others."""
        if x is None:
            return None
        assert x.dtype == torch.float32
        assert x.is_contiguous()
        return x.data_ptr()

    def gelu(
        self, x_ND: Tensor, bias_D: Tensor, approximate: str, *, slopes: bool
    ) -> tuple[Tensor, Tensor | None]:
        """GELU(x + bias), and its slopes there where they are asked for."""
        y_ND = torch.empty_like(x_ND)
        slopes_ND = torch.empty_like(x_ND) if slopes else None
        given = (self._at(each) for each in (x_ND, bias_D, y_ND, slopes_ND))
        self.library.gelu_forward(*given, *_sizes(x_ND), approximate == "tanh")
        return y_ND, slopes_ND

    def gelu_backward(self, dy_ND: Tensor, slopes_ND: Tensor) -> tuple[Tensor, Tensor]:
        """Slopes along x, and along the bias in fp32."""
        dx_ND, dbias_D = torch.empty_like(dy_ND), torch.empty(dy_ND.shape[-1])
        given = (self._at(each) for each in (dy_ND, slopes_ND, dx_ND))
        check(self.library.gelu_backward(*given, self._at32(dbias_D), *_sizes(dy_ND)))
        return dx_ND, dbias_D

    def normed_sum(
        self,
        residual_ND: Tensor,
        x_ND: Tensor,
        bias_D: Tensor,
        weight_D: Tensor,
        shift_D: Tensor,
        eps: float,
        dropped: Dropping,
        *,
        backward: bool,
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """LayerNorm(residual + dropout(x + bias)), and what `normed_sum_backward` wants of it.

        Without a backward pass that is good for nothing, and its sums' place is the result's.
        """
        y_ND = torch.empty_like(x_ND)
        sums_ND = torch.empty_like(x_ND) if backward else y_ND
        mean_N, inverse_N = torch.empty(2, x_ND.numel() // x_ND.shape[-1])
        self.library.norm_forward(
            *(self._at(each) for each in (residual_ND, x_ND, bias_D)),
            *(self._at32(each) for each in (weight_D, shift_D)),
            *(self._at(each) for each in (sums_ND, y_ND)),
            *(self._at32(each) for each in (mean_N, inverse_N)),
            *_sizes(x_ND),
            eps,
            dropped,
        )
        return y_ND, (sums_ND, mean_N, inverse_N)

    def normed_sum_backward(
        self,
        dy_ND: Tensor,
        found: tuple[Tensor, Tensor, Tensor],
        weight_D: Tensor,
        dropped: Dropping,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Slopes along residual, x, and, [3, D] in fp32, along weight, shift and bias."""
        sums_ND, mean_N, inverse_N = found
        dsum_ND, dx_ND = torch.empty_like(dy_ND), torch.empty_like(dy_ND)
        fixed_3D = torch.empty(3, dy_ND.shape[-1])
        failed = self.library.norm_backward(
            *(self._at(each) for each in (dy_ND, sums_ND)),
            *(self._at32(each) for each in (weight_D, mean_N, inverse_N)),
            *(self._at(each) for each in (dsum_ND, dx_ND)),
            self._at32(fixed_3D),
            *_sizes(dy_ND),
            dropped,
        )
        check(failed)
        return dsum_ND, dx_ND, fixed_3D

    def split_heads(
        self, rows_NS: Tensor, starts: Tensor, column: int, shape: tuple[int, int, int, int, int]
    ) -> Tensor:
        """Heads [G, B, H, L, K] that are side by side in rows, in each of G even parts of these.

        Args:
            rows_NS: of all sequences, one after the other.
            starts: where each sequence begins, and the last one ends [B + 1], int64. It has L rows
                at most; behind them heads are zero.
            column: of a part, where the first of the heads begins.
            shape: of the result.
        """
        x_GBHLK = rows_NS.new_empty(shape)
        place = self._place(rows_NS, starts, column, shape)
        self.library.split_heads(*place, self._at(x_GBHLK), *shape)
        return x_GBHLK

    def join_heads(self, x_GBHLK: Tensor, rows_NS: Tensor, starts: Tensor, column: int) -> None:
        """Write heads to where `split_heads` reads them."""
        shape = x_GBHLK.shape
        place = self._place(rows_NS, starts, column, shape)
        self.library.join_heads(self._at(x_GBHLK), *place, *shape)

    def _place(
        self, rows_NS: Tensor, starts: Tensor, column: int, shape: Sequence[int]
    ) -> tuple[int, int, int, int]:
        """Where the columns begin, how far rows are from each other, where their starts are, and
        how far parts are from each other.
        """
        G, B, H, _, K = shape
        assert rows_NS.dim() == 2
        between = rows_NS.shape[1] // G
        assert column + H * K <= between
        assert starts.dtype == torch.int64
        assert starts.is_contiguous()
        assert len(starts) == B + 1
        at = cast(int, self._at(rows_NS)) + column * rows_NS.element_size()
        return at, rows_NS.shape[1], starts.data_ptr(), between

    def softmax(
        self, scores_BHRL: Tensor, bias_BL: Tensor | None, scale: float, row: int, drop: Dropping
    ) -> Tensor:
        """Make scores weights, softmax(scale scores + bias), in place; and what dropout leaves.

        Args:
            scores_BHRL: what is replaced.
            bias_BL: in fp32.
            scale: of the scores.
            row: how many rows of scores come before these, in other calls with the same mask.
            drop: what is dropped out.
        """
        none = drop.keep >= 1 << 16
        left_BHRL = scores_BHRL if none else torch.empty_like(scores_BHRL)
        given = self._at(scores_BHRL), self._at32(bias_BL), self._at(left_BHRL)
        self.library.softmax_forward(*given, *scores_BHRL.shape, scale, row, drop)
        return left_BHRL

    def softmax_backward(
        self, slopes_BHRL: Tensor, weights_BHRL: Tensor, scale: float, row: int, drop: Dropping
    ) -> Tensor:
        """Make slopes along what dropout leaves those along the scores, in place; and what it left.

        Args:
            slopes_BHRL: what is replaced.
            weights_BHRL: as `softmax` has made them.
            scale: as there.
            row: as there.
            drop: as there.
        """
        left_BHRL = torch.empty_like(weights_BHRL)
        given = (self._at(each) for each in (slopes_BHRL, weights_BHRL, left_BHRL))
        self.library.softmax_backward(*given, *_sizes(weights_BHRL), scale, row, drop)
        return left_BHRL

    def loss(
        self, logits_NV: Tensor, ids_N1: Tensor, weights_N1: Tensor, total_V: Tensor | None
    ) -> Tensor:
        """Loss in nats; slopes along logits replace them, and are added to `total_V` too.

        Args:
            logits_NV: rows of which may be apart.
            ids_N1: the pieces to be predicted, int64.
            weights_N1: of the predictions, in fp32.
            total_V: in fp32.
        """
        N, V = logits_NV.shape
        assert logits_NV.dtype == self.dtype
        assert logits_NV.stride(1) == 1
        assert ids_N1.dtype == torch.int64
        ids_N1, weights_N1 = ids_N1.contiguous(), weights_N1.contiguous()
        loss_N1 = torch.empty(N, 1)
        failed = self.library.loss_and_slopes(
            logits_NV.data_ptr(),
            logits_NV.stride(0),
            ids_N1.data_ptr(),
            *(self._at32(each) for each in (weights_N1, loss_N1, total_V)),
            N,
            V,
        )
        check(failed)
        return (loss_N1 * weights_N1).sum()

    def quantize(self, x: Tensor, most: int) -> tuple[Tensor, float]:
        """x as bytes, of which `most` + 1 stands for zero, and what a step of one is worth.

        That is NaN where a number of x is not finite.
        """
        y = torch.empty(x.shape, dtype=torch.uint8)
        worth: float = self.library.quantize(self._at(x), y.data_ptr(), x.numel(), most)
        return y, worth


def _sizes(x_ND: Tensor) -> tuple[int, int]:
    width = x_ND.shape[-1]
    return x_ND.numel() // width, width


def check(failed: int) -> None:
    """Raise MemoryError where a function says that it found none."""
    if failed:
        raise MemoryError("layers found no memory")


@cache
def find(dtype: torch.dtype) -> Kernels | None:
    """Those for numbers of a type, compiled if they were not yet; None where that cannot be."""
    if dtype not in SOURCES or platform.system() != "Linux":
        return None
    for names in SOURCES[dtype]:
        try:
            return _made(dtype, [FOLDER / name for name in names])
        except (OSError, subprocess.SubprocessError, AttributeError, RuntimeError, ValueError):
            continue  # no compiler or a broken one, no home, no room, no /proc
    return None


def _made(dtype: torch.dtype, sources: list[Path]) -> Kernels:
    compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
    defined = ["-DFP32"] if dtype == torch.float32 else []
    command = [*compiler, *FLAGS, *defined, *map(str, sources), *_openmp()]
    key = hashlib.sha256("\0".join((*command, _processor(), torch.__version__)).encode())
    version = hashlib.sha256(" ".join(FLAGS).encode())
    for source in (*HEADERS, *sources):
        key.update(source.read_bytes())
        version.update(source.read_bytes())
    place = _folder() / f"kernels-{key.hexdigest()[:16]}.so"
    return Kernels(_kept(command, place), dtype, version.hexdigest()[:16])


def _processor() -> str:
    """What the compiler asks for the instructions that it may use."""
    found = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    return "".join(line for line in found if line.startswith(("model", "flags", "Features")))


def _folder() -> Path:
    """Where compiled ones are kept, as other programs keep what they can make again."""
    cache_home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(cache_home) / "mslt"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _openmp() -> list[str]:
    """torch's own threads: others beside them would wait for their turn at the cores."""
    found = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    return [*map(str, found[:1]), "-lm"]


def _kept(command: list[str], place: Path) -> ctypes.CDLL:
    """The library at its place, made first where there is none that loads."""
    with suppress(OSError):
        return ctypes.CDLL(str(place))
    _compile(command, place)
    return ctypes.CDLL(str(place))


def _compile(command: list[str], place: Path) -> None:
    """Written beside its place first: others may look for it at the same time."""
    with tempfile.TemporaryDirectory(dir=place.parent) as folder:
        made = Path(folder) / place.name
        subprocess.run([*command, "-o", str(made)], check=True, capture_output=True, timeout=120)
        made.replace(place)
