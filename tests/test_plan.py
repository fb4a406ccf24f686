"""The three methods as tables of stages."""

import math

import pytest

from mslt.plan import METHODS, Plan, Stage, build_plan


def rows(plan: Plan) -> list[tuple[int, ...]]:
    """(depth, learns_from, steps, seq_len) of every stage."""
    return [(s.depth, s.learns_from, s.steps, s.seq_len) for s in plan.stages]


def brief(plan: Plan) -> list[tuple[int, int, int]]:
    """(depth, learns_from, steps) of every stage."""
    return [(s.depth, s.learns_from, s.steps) for s in plan.stages]


# --- the paper's plans --------------------------------------------------------------------------


def test_whole_is_one_stage_in_which_every_layer_learns():
    assert rows(build_plan("whole", 12, 1_000_000)) == [(12, 0, 1_000_000, 128)]


@pytest.mark.parametrize(("depth", "each"), [(12, 3), (24, 6)])
def test_mslt_adds_a_quarter_of_the_layers_per_stage_and_retrains_for_a_fifth(depth, each):
    """Sections 4.1 and 4.2: k = 4, 200,000 steps per stage and for retraining."""
    assert rows(build_plan("mslt", depth, 1_000_000)) == [
        (each, 0, 200_000, 128),
        (2 * each, each, 200_000, 128),
        (3 * each, 2 * each, 200_000, 128),
        (depth, 3 * each, 200_000, 128),
        (depth, 0, 200_000, 128),
    ]


def test_for_squad_the_last_tenth_of_the_steps_is_512_tokens_long():
    """Section 4.2."""
    plan = build_plan("mslt", 12, 1_000_000, long_share=0.1)
    assert rows(plan)[:4] == rows(build_plan("mslt", 12, 1_000_000))[:4]
    assert rows(plan)[4:] == [(12, 0, 100_000, 128), (12, 0, 100_000, 512)]


def test_without_retraining_the_last_row_is_missing():
    """Table 4."""
    plan = build_plan("mslt", 12, 800_000, retrain=0.0)
    assert rows(plan) == rows(build_plan("mslt", 12, 1_000_000))[:4]


def test_stacking_doubles_the_depth_and_trains_everything():
    """Gong et al. (2019): 50k, 70k and 280k steps of BERT-Base."""
    assert brief(build_plan("stacking", 12, 400_000)) == [
        (3, 0, 50_000),
        (6, 0, 70_000),
        (12, 0, 280_000),
    ]
    assert [s.depth for s in build_plan("stacking", 24, 1000).stages] == [6, 12, 24]


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_stacking_gives_the_whole_model_most_of_the_steps_whatever_k(k):
    """Section 1: about 70 % of the steps train the whole model."""
    plan = build_plan("stacking", 16, 1000, k=k)
    assert [s.depth for s in plan.stages] == [16 >> i for i in reversed(range(k))]
    assert plan.stages[-1].steps == (1000 if k == 1 else 700)
    assert plan.steps == 1000


# --- any other plan -----------------------------------------------------------------------------

DIVIDING = [(n, k) for n in (1, 2, 3, 7, 12, 24, 48) for k in range(1, n + 1) if n % k == 0]


@pytest.mark.parametrize(("depth", "k"), DIVIDING)
def test_mslt_builds_any_depth_from_any_number_of_stages_that_divides_it(depth, k):
    plan = build_plan("mslt", depth, 997, k=k)
    *grown, retrain = plan.stages
    assert [s.depth for s in grown] == [depth // k * i for i in range(1, k + 1)]
    assert [s.learns_from for s in grown] == [depth // k * i for i in range(k)]
    assert (retrain.depth, retrain.learns_from) == (depth, 0)
    assert plan.steps == 997


@pytest.mark.parametrize("steps", [5, 6, 7, 11, 99, 101, 12_345, 999_983, 1_000_000])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("long_share", [0.0, 0.1, 0.2])
def test_steps_add_up_exactly(method, steps, long_share):
    plan = build_plan(method, 12, steps, long_share=long_share)
    assert plan.steps == steps
    assert plan.ends[-1] == steps
    long = sum(s.steps for s in plan.stages if s.seq_len == 512)
    assert abs(long - steps * long_share) <= 0.5


@pytest.mark.parametrize(
    "shares",
    [
        [50, 5, 5, 5, 35],
        [0.5, 0.05, 0.05, 0.05, 0.35],
        [1, 1, 1, 1, 1],
        [1 / 3, 1 / 7, 1 / 11, 1 / 13, 1 / 17],
    ],
)
def test_shares_split_the_steps_in_proportion_to_within_one_step(shares):
    plan = build_plan("mslt", 12, 1999, shares=shares)
    assert plan.steps == 1999
    for stage, share in zip(plan.stages, shares):
        assert abs(stage.steps - 1999 * share / sum(shares)) <= 1


def test_shares_are_relative():
    half = build_plan("mslt", 12, 1000, shares=[50, 5, 5, 5, 35])
    assert brief(half) == brief(build_plan("mslt", 12, 1000, shares=[0.5, 0.05, 0.05, 0.05, 0.35]))
    assert [s.steps for s in half.stages] == [500, 50, 50, 50, 350]


def test_a_share_of_zero_drops_the_retrain_stage():
    shares = build_plan("mslt", 12, 1000, shares=[1, 1, 1, 1, 0])
    assert rows(shares) == rows(build_plan("mslt", 12, 1000, retrain=0.0))


def test_a_retrain_share_of_a_tenth_leaves_the_rest_to_the_stages():
    """Section 4.5: 10 to 20 % of the steps."""
    plan = build_plan("mslt", 12, 1000, k=6, retrain=0.1)
    assert [s.steps for s in plan.stages] == [150] * 6 + [100]


def test_the_long_part_may_cut_any_stage():
    plan = build_plan("mslt", 4, 100, k=2, retrain=0.2, long_share=0.5, seq_len=16, long_seq_len=32)
    assert rows(plan) == [
        (2, 0, 40, 16),
        (4, 2, 10, 16),
        (4, 2, 30, 32),
        (4, 0, 20, 32),
    ]


# --- where a step belongs -----------------------------------------------------------------------

SQUAD = build_plan("mslt", 12, 101, long_share=0.1)


def test_remaining_gives_every_step_once_in_its_stage():
    seen = [(i, step) for i, _, steps in SQUAD.remaining(0) for step in steps]
    assert [step for _, step in seen] == list(range(101))
    assert seen == [(SQUAD.index(step), step) for step in range(101)]


@pytest.mark.parametrize("start", range(103))
def test_remaining_from_any_step_is_the_rest(start):
    whole = [(i, stage, step) for i, stage, steps in SQUAD.remaining(0) for step in steps]
    rest = [(i, stage, step) for i, stage, steps in SQUAD.remaining(start) for step in steps]
    assert rest == whole[start:]


def test_ends_are_where_the_next_stage_begins():
    starts = [steps.start for _, _, steps in SQUAD.remaining(0)]
    assert starts == [0, *SQUAD.ends[:-1]]


@pytest.mark.parametrize("step", [-1, 101, 1000])
def test_a_step_outside_the_plan_belongs_to_no_stage(step):
    with pytest.raises(ValueError, match=f"step {step} is outside the plan's 101 steps"):
        SQUAD.index(step)


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("layerwise", {}, r"plan\.method must be one of whole, mslt, stacking, not 'layerwise'"),
        ("mslt", {"k": 5}, r"plan\.k must divide the 12 layers: 5 does not"),
        ("mslt", {"k": 24}, r"plan\.k must divide the 12 layers: 24 does not"),
        ("mslt", {"k": 0}, r"plan\.k must be 1 or more, not 0"),
        ("mslt", {"k": -3}, r"plan\.k must be 1 or more, not -3"),
        ("stacking", {"k": 4}, r"12 layers cannot be reached by doubling 3 times: plan\.k"),
        ("mslt", {"retrain": 1.0}, r"plan\.retrain must be in \[0, 1\), not 1\.0"),
        ("mslt", {"retrain": -0.1}, r"plan\.retrain must be in \[0, 1\), not -0\.1"),
        ("mslt", {"retrain": math.nan}, r"plan\.retrain must be in \[0, 1\), not nan"),
        ("mslt", {"long_share": 1.0}, r"plan\.long_share must be in \[0, 1\), not 1\.0"),
        ("mslt", {"long_share": -0.1}, r"plan\.long_share must be in \[0, 1\), not -0\.1"),
        ("mslt", {"shares": [1, 2]}, r"plan\.shares needs 5 entries, not 2"),
        ("mslt", {"shares": []}, r"plan\.shares needs 5 entries, not 0"),
        ("mslt", {"shares": [1, 1, 1, 1, -1]}, r"plan\.shares must be above 0"),
        ("mslt", {"shares": [1, 1, 1, 1, math.inf]}, r"plan\.shares must be above 0"),
        ("mslt", {"shares": [1, 1, 1, math.nan, 1]}, r"plan\.shares must be above 0"),
        ("mslt", {"shares": [0, 1, 1, 1, 1]}, r"plan\.shares must be above 0"),
        ("mslt", {"shares": [1, 1, 0, 1, 1]}, r"plan\.shares must be above 0"),
        ("mslt", {"shares": [1e308] * 5}, r"all below 1e\+12"),
        ("stacking", {"k": 10**9}, r"12 layers cannot be reached by doubling 999999999 times"),
        ("mslt", {"shares": [0] * 5}, r"plan\.shares must be above 0"),
        ("stacking", {"shares": [0, 1, 1]}, r"plan\.shares must be above 0"),
        ("stacking", {"shares": [1, 1, 0]}, r"plan\.shares leaves no stage of full depth"),
        ("mslt", {"steps": 4}, r"4 steps are too few for 5 stages"),
        ("whole", {"steps": 0}, r"0 steps are too few for 1 stages"),
        ("mslt", {"seq_len": 7}, r"seq_len must be 8 or more, not 7"),
        ("mslt", {"depth": 0}, r"a stage needs at least one layer, not depth 0"),
    ],
)
def test_numbers_that_make_no_plan_are_refused_by_their_key(method, options, message):
    with pytest.raises(ValueError, match=message):
        build_plan(method, **{"depth": 12, "steps": 1000} | options)


@pytest.mark.parametrize(
    ("method", "options", "key"),
    [
        ("whole", {"k": 4}, "k"),
        ("whole", {"shares": [1.0]}, "shares"),
        ("whole", {"retrain": 0.2}, "retrain"),
        ("stacking", {"retrain": 0.2}, "retrain"),
        ("mslt", {"retrain": 0.2, "shares": [1] * 5}, "retrain"),
        ("mslt", {"long_seq_len": 512}, "long_seq_len"),
        ("mslt", {"long_seq_len": 128, "long_share": 0.1}, "long_seq_len"),
    ],
)
def test_an_option_without_effect_is_refused(method, options, key):
    with pytest.raises(ValueError, match=rf"^plan\.{key} has no effect"):
        build_plan(method, 12, 1000, **options)


@pytest.mark.parametrize(
    "options", [{"retrain": 0.0, "long_share": 0.1}, {"steps": 5, "long_share": 0.05}]
)
def test_long_sequences_whose_positions_never_learn_are_refused(options):
    """Section 4.2: the 512-token steps are there to learn the positional embeddings."""
    with pytest.raises(ValueError, match=r"plan\.long_share leaves no step of length 512"):
        build_plan("mslt", 12, **{"steps": 1000} | options)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((), "at least one stage"),
        ((Stage(2), Stage(1)), "2 -> 1"),
        ((Stage(2), Stage(5)), "2 -> 5"),
        ((Stage(4, 2), Stage(4)), "a stage of 4 layers fixes 2, of which only 0 have learned"),
        ((Stage(3), Stage(6, 4)), "a stage of 6 layers fixes 4, of which only 3 have learned"),
    ],
)
def test_stages_that_cannot_follow_each_other_are_refused(stages, message):
    with pytest.raises(ValueError, match=message):
        Plan(stages)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"depth": 0}, "not depth 0"),
        ({"depth": 3, "learns_from": 3}, "learns_from must leave a layer to learn: 3 of 3"),
        ({"depth": 3, "learns_from": -1}, "learns_from must leave a layer to learn: -1 of 3"),
        ({"depth": 3, "steps": 0}, "at least one step, not 0"),
        ({"depth": 3, "seq_len": 7}, "seq_len must be 8 or more, not 7"),
    ],
)
def test_a_stage_that_cannot_be_trained_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Stage(**values)


# --- from a trained model -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "k", "expected"),
    [
        (6, 4, [(6, 0), (9, 6), (12, 9), (12, 0)]),
        (6, 2, [(6, 0), (12, 6), (12, 0)]),
        (4, 4, [(4, 0), (6, 4), (9, 6), (12, 9), (12, 0)]),
        (3, 4, [(3, 0), (6, 3), (9, 6), (12, 9), (12, 0)]),
    ],
)
def test_a_plan_may_begin_deeper_than_its_first_stage_would(start, k, expected):
    plan = build_plan("mslt", 12, 1000, k=k, start_depth=start)
    assert [(s.depth, s.learns_from) for s in plan.stages] == expected
    growing = len(expected) - 1
    assert [s.steps for s in plan.stages[:-1]] == pytest.approx([800 / growing] * growing, abs=1)
    assert plan.stages[-1].steps == 200


def test_a_trained_model_may_grow_at_once():
    plan = build_plan("mslt", 12, 100, k=4, start_depth=6, shares=[0, 40, 40, 20])
    assert [(s.depth, s.learns_from, s.steps) for s in plan.stages] == [
        *((9, 6, 40), (12, 9, 40), (12, 0, 20))
    ]
    with pytest.raises(ValueError, match=r"plan\.shares must be above 0"):
        build_plan("mslt", 12, 100, k=4, shares=[0, 20, 20, 40, 20])
    with pytest.raises(ValueError, match="of which only 0 have learned"):
        Plan(plan.stages)


def test_the_other_methods_begin_with_a_trained_model_too():
    stacking = build_plan("stacking", 12, 100, start_depth=6)
    assert [(s.depth, s.steps) for s in stacking.stages] == [(6, 30), (12, 70)]
    whole = build_plan("whole", 12, 100, start_depth=12)
    assert [(s.depth, s.learns_from) for s in whole.stages] == [(12, 0)]


@pytest.mark.parametrize(
    ("method", "start", "complaint"),
    [
        ("whole", 6, "cannot begin at plan.start_depth 6"),
        ("mslt", 12, "nothing to grow to 12 layers: choose plan.method whole"),
        ("mslt", 13, "plan.start_depth is 13"),
        ("mslt", 0, "plan.start_depth must be 1 or more"),
        ("mslt", 1, "a stage keeps or at most doubles the depth: 1 -> 3"),
    ],
)
def test_a_start_that_cannot_be_is_refused(method, start, complaint):
    with pytest.raises(ValueError, match=complaint):
        build_plan(method, 12, 100, start_depth=start)
