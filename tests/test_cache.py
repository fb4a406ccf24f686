"""What the forward-only layers put out is kept and read, and nothing but the time depends on it."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from mslt import records
from mslt.cache import PrefixCache, Visits, cuts, origins
from mslt.config import InstanceConfig, ModelConfig
from mslt.data.instances import Instances
from mslt.data.store import TokenStore
from mslt.data.tokenizer import read_vocabulary
from mslt.model import Encoder
from mslt.objective import Inputs
from mslt.plan import Plan, Stage
from mslt.prefix import Kind, Prefix
from mslt.records import opened

GROWING = Plan(
    (
        Stage(depth=2, steps=10),
        Stage(depth=4, learns_from=2, steps=20),
        Stage(depth=6, learns_from=4, steps=5),
        Stage(depth=6, learns_from=4, steps=5, seq_len=64),
        Stage(depth=6, steps=10, seq_len=64),
    )
)


@pytest.fixture(autouse=True)
def _a_small_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "SPARE", 0)


# --- which batches come again -------------------------------------------------------------------


@pytest.mark.parametrize(("period", "batches"), [(3, 3), (12, 12), (20, 5), (25, 0), (90, 0)])
def test_batches_that_come_again_are_the_first_of_the_steps_with_fixed_layers(
    period: int, batches: int
) -> None:
    visits = Visits.of(GROWING, 128, period)
    assert (visits.start, visits.stop) == (10, 35)
    assert visits.batches == batches
    steps = range(visits.start, visits.stop)
    seen = [visits.place(step) for step in steps]
    assert {place for place in seen if seen.count(place) > 1} == set(range(batches))
    for one, two in pairwise(steps):
        assert (visits.place(one) + 1) % period == visits.place(two)
    assert all(visits.place(step) == visits.place(step % period) for step in steps)


def test_each_length_has_visits_of_its_own() -> None:
    assert Visits.of(GROWING, 64, 2) == Visits(35, 40, 2)
    assert Visits.of(GROWING, 32, 2).batches == 0


def test_the_output_is_rounded_where_stages_of_its_length_begin_to_learn() -> None:
    assert [cuts(GROWING, index) for index in range(4)] == [(), (2,), (2, 4), (4,)]


def test_an_origin_tells_weights_depths_and_facts_apart(tiny: ModelConfig) -> None:
    model = Encoder(tiny, 4)
    usual = origins(model, (1, 3), {"seed": 0})
    assert list(usual) == [1, 3]
    assert origins(model, (1,), {"seed": 0})[1] == usual[1]
    assert origins(model, (3,), {"seed": 0})[3] != usual[3]  # rounded at 1 as well
    assert set(origins(model, (1, 3), {"seed": 1}).values()).isdisjoint(usual.values())
    with torch.no_grad():
        model.blocks[3].mlp.up.bias[0] += 1
        model.head.bias += 1
        assert origins(model, (1, 3), {"seed": 0}) == usual
        model.blocks[2].mlp.up.bias[0] += 1
        assert [origins(model, (1, 3), {"seed": 0})[d] == usual[d] for d in (1, 3)] == [True, False]
        model.embeddings.norm.bias[0] += 1
        assert origins(model, (1, 3), {"seed": 0})[1] != usual[1]


# --- what is kept ---------------------------------------------------------------------------------

PLAN = Plan(
    (
        Stage(depth=2, steps=2, seq_len=32),
        Stage(depth=4, learns_from=2, steps=10, seq_len=32),
        Stage(depth=6, learns_from=4, steps=6, seq_len=32),
        Stage(depth=6, learns_from=4, steps=12, seq_len=16),
        Stage(depth=6, steps=1, seq_len=16),
    )
)


class Passed:
    """Stages of PLAN, one after the other, over a folder."""

    def __init__(
        self,
        store: Path,
        folder: Path,
        gigabytes: float,
        kind: Kind = "fp32",
        rows: tuple[int, int] = (0, 12),
    ) -> None:
        opened = TokenStore.open(store)
        shape = ModelConfig(opened.vocab_size, 16, 6, 2, 24, 32)
        self.model = Encoder(shape, seed=3)
        self.kind = kind
        self.rows = range(*rows)
        self.folder = folder
        self.gigabytes = gigabytes
        self.instances = Instances(
            opened.train,
            InstanceConfig(dupe_factor=2),
            read_vocabulary(store / "tokenizer"),
            seed=0,
            batch_size=12,
        )
        self.said: list[str] = []

    def stage(self, index: int, steps: int | None = None) -> list[torch.Tensor]:
        """Output for each group of 8 and 4 sequences of a stage, or of its first steps."""
        stage = PLAN.stages[index]
        end = PLAN.ends[index]
        prefix = Prefix(self.model, stage.learns_from, self.kind)
        found = []
        with opened(self.folder, self.gigabytes, self.said.append) as kept:
            mine = slice(self.rows.start, self.rows.stop)
            facts, say = {"kind": self.kind}, self.said.append
            cache = PrefixCache(kept, PLAN, self.instances, lambda _: mine, facts, say)
            keep = cache.stage(index, self.model, 8)
            assert keep is not None
            cached = keep(prefix)
            for step in range(end - stage.steps, end)[:steps]:
                batch = self.instances.batch(step, stage.seq_len, mine)
                for row in range(0, len(self.rows), 8):
                    found.append(cached(Inputs.of(batch[row : row + 8], "cpu")))
            cache.report()
        return found

    def counted(self) -> list[tuple[int, ...]]:
        """Groups that were read, carried on and computed, stage by stage."""
        lines = [line for line in self.said if "groups of sequences" in line]
        return [tuple(map(int, re.findall(r"[0-9]+", line))) for line in lines]


def equal(some: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    assert len(some) == len(others)
    return all(torch.equal(one, other) for one, other in zip(some, others))


NO_ROOM, ROOM = 1e-9, 1.0
SIZE = 8 * 32 * 16 * 2  # bytes of a group's output


@pytest.mark.filterwarnings("ignore:torch.quantize")  # int8 tensors, says torch 2.13
@pytest.mark.parametrize("kind", ["fp32", "bf16", "int8"])
def test_what_is_read_or_carried_on_is_what_is_computed_bit_for_bit(
    small: Path, tmp_path: Path, kind: Kind
) -> None:
    if kind == "int8" and "onednn" not in torch.backends.quantized.supported_engines:
        pytest.skip("no int8 products here")
    computed = Passed(small, tmp_path / "none", NO_ROOM, kind)
    kept = Passed(small, tmp_path / "kept", ROOM, kind)
    assert [kept.instances.period(seq_len) for seq_len in (32, 16)] == [4, 8]
    for index in (1, 2, 3):
        assert equal(kept.stage(index), computed.stage(index)), index
    assert computed.counted() == [(0, 0, 20), (0, 0, 12), (0, 0, 24)]
    assert kept.counted() == [(12, 0, 8), (4, 8, 0), (8, 0, 16)]


def test_the_output_is_that_of_the_layers_but_for_its_rounding(small: Path, tmp_path: Path) -> None:
    kept = Passed(small, tmp_path, ROOM)
    prefix = Prefix(kept.model, 2, "fp32")
    batch = kept.instances.batch(2, 32)
    (found, *_), exact = kept.stage(1, 1), prefix(Inputs.of(batch[0:8], "cpu"))
    assert found.dtype == torch.float32
    assert torch.equal(found, exact.bfloat16().float())
    assert not torch.equal(found, exact)


def test_a_record_of_other_weights_is_replaced(small: Path, tmp_path: Path) -> None:
    computed, kept = Passed(small, tmp_path / "none", NO_ROOM), Passed(small, tmp_path, ROOM)
    kept.stage(1)
    for passed in (computed, kept):
        with torch.no_grad():
            passed.model.blocks[0].mlp.up.weight[0] += 0.1
    assert equal(kept.stage(1), computed.stage(1))
    assert kept.counted() == [(12, 0, 8), (12, 0, 8)]
    assert "8 of other weights or settings will be replaced" in kept.said[2]


def test_each_of_several_processes_keeps_its_part(small: Path, tmp_path: Path) -> None:
    alone = Passed(small, tmp_path / "alone", ROOM).stage(1)
    for rank, rows in enumerate(((0, 8), (8, 12))):
        kept = Passed(small, tmp_path / str(rank), ROOM, rows=rows)
        assert equal(kept.stage(1), alone[rank::2])
        assert kept.counted() == [(6, 0, 4)]
        assert sum(path.stat().st_size for path in (tmp_path / str(rank)).glob("*records*")) == (
            4 * (rows[1] - rows[0]) * SIZE // 8
        )


def test_a_stage_that_goes_on_finds_what_it_kept(small: Path, tmp_path: Path) -> None:
    kept = Passed(small, tmp_path, ROOM)
    kept.stage(1, 3)
    kept.stage(1)
    assert kept.counted() == [(0, 0, 6), (18, 0, 2)]
    assert "; 6 of 8 records are there already" in kept.said[2]


def test_damage_costs_the_records_that_it_hits(small: Path, tmp_path: Path) -> None:
    computed, kept = Passed(small, tmp_path / "none", NO_ROOM), Passed(small, tmp_path, ROOM)
    kept.stage(1)
    file = tmp_path / "prefix-records.bin"
    data = bytearray(file.read_bytes())
    for place in (0, 4 * SIZE + 5, len(data) - 1):
        data[place] ^= 64
    file.write_bytes(data)
    assert equal(kept.stage(2), computed.stage(2))
    assert kept.counted() == [(12, 0, 8), (4, 5, 3)]
    assert kept.said.count("prefix cache: a damaged record is computed anew") == 1


@pytest.mark.parametrize("room", [1, 3, 7])
def test_what_does_not_fit_is_computed_each_time(small: Path, tmp_path: Path, room: int) -> None:
    gigabytes = room * (SIZE + 20) / 1e9
    computed, kept = Passed(small, tmp_path / "none", NO_ROOM), Passed(small, tmp_path, gigabytes)
    for index in (1, 2):
        assert equal(kept.stage(index), computed.stage(index))
        assert sum(path.stat().st_size for path in tmp_path.glob("*.bin")) <= gigabytes * 1e9
    read, carried, again = kept.counted()[1]
    assert carried == room
    assert read + carried + again == 12
    assert "the rest is computed each time" in kept.said[0]


def test_a_full_disk_costs_what_is_not_on_it_yet(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed, kept = Passed(small, tmp_path / "none", NO_ROOM), Passed(small, tmp_path, ROOM)
    kept.stage(1, 2)
    monkeypatch.setattr(records, "SPARE", 10**18)
    assert equal(kept.stage(1), computed.stage(1))
    assert kept.counted() == [(0, 0, 4), (12, 0, 8)]
    assert [line for line in kept.said if "nothing more is stored" in line]
