"""Traffic between devices is read from a compiled program, loops and all."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from alignax.core.errors import BadInput
from alignax.train.collectives import Collective, collectives

# As compilers print it, cut to what is read: a loop of three, a gather that TPUs start in one part
# and end in another, a reduction whose result is cut at once, and one of a single device.
PROGRAM = """HloModule jit_update
%start.1 (p.0: bf16[64,32]) -> bf16[512,32] {
  %g.1 = bf16[512,32]{1,0:T(8,128)} all-gather(%p.0), channel_id=7, replica_groups=mesh['a'=4,'b'=2] {'a'}, dimensions={0}
}
%done.1 (p.1: bf16[64,32]) -> bf16[512,32] {
  %g.2 = bf16[512,32]{1,0:T(8,128)S(1)} all-gather(%p.1), channel_id=7, replica_groups=mesh['a'=4,'b'=2] {'a'}, dimensions={0}
}
%all-reduce-scatter.3 (p.2: f32[100]) -> f32[25] {
  %r.1 = f32[100]{0} all-reduce(%p.2), channel_id=1, replica_groups=[2,4]<=[8], to_apply=%add
}
%condition.1 (p.3: (s32[], f32[4])) -> pred[] {
  %limit = s32[]{:T(128)} constant(3)
}
%body.1 (p.4: (s32[], f32[4])) -> (s32[], f32[4]) {
  %a = bf16[512,32] fusion(%x), kind=kCustom, calls=%start.1
  %b = bf16[512,32] fusion(%x), kind=kCustom, calls=%done.1
  %c = f32[25] fusion(%x), kind=kCustom, calls=%all-reduce-scatter.3
  %d = f32[10]{0} all-reduce(%x), replica_groups={{0},{1}}, to_apply=%add
}
ENTRY %main (p.5: f32[4]) -> f32[4] {
  %w = (s32[], f32[4]) while(%t), condition=%condition.1, body=%body.1, metadata={}
  %s = (f32[6]{0}, f32[2]{0}) all-reduce(%x, %y), replica_groups={{0,1},{2,3}}, metadata={op_name="norm"}
}
"""  # noqa: E501


def test_a_loop_counts_as_often_as_it_runs_and_a_gather_in_parts_once():
    assert collectives(PROGRAM) == [
        Collective("all-gather", 4, 512 * 32 * 2, 3, ""),
        Collective("reduce-scatter", 4, 400, 3, ""),
        Collective("all-reduce", 2, 8 * 4, 1, "norm"),
    ]


def test_axes_that_do_not_follow_one_another_are_counted():
    """As libtpu 0.0.42 writes a gather over one of two axes on a torus of 4 x 4 x 4."""
    groups = "mesh['x'=8,'y'=1,'z'=8], device_ids=([8,8]T(1,0)) {'x'}"
    line = f"  %g = bf16[1,4096]{{1,0}} all-gather(%f), channel_id=80, replica_groups={groups}"
    program = f"ENTRY %main (p: f32[4]) -> f32[4] {{\n{line}, dimensions={{1}}\n}}"
    assert collectives(program) == [Collective("all-gather", 8, 2 * 4096, 1, "")]


def test_groups_that_cannot_be_read_are_refused_and_not_passed_over():
    line = "  %g = f32[8]{0} all-gather(%f), replica_groups=V3{0,1}, dimensions={0}"
    with pytest.raises(BadInput, match="V3"):
        collectives(f"ENTRY %main (p: f32[4]) -> f32[4] {{\n{line}\n}}")


def loop(condition: str, told: str = "") -> str:
    return f"""HloModule jit_update
%inner (p.0: s32[]) -> pred[] {{
  %limit = s32[]{{:T(128)}} constant(5)
}}
%condition (p.1: (s32[], f32[4])) -> pred[] {{
  {condition}
}}
%body (p.2: (s32[], f32[4])) -> (s32[], f32[4]) {{
  %a = f32[4] collective-permute(%x), channel_id=2, source_target_pairs={{{{0,1}},{{1,0}}}}
}}
ENTRY %main (p.3: f32[4]) -> f32[4] {{
  %w = (s32[], f32[4]) while(%t), condition=%condition, body=%body{told}
}}
"""


@pytest.mark.parametrize(
    ("program", "times"),
    [
        (loop("%r = pred[] fusion(%i), kind=kLoop, calls=%inner"), 5),
        # What the compiler says it knows goes before what a condition looks like.
        (loop("%c = s32[] constant(64)", ', backend_config={"known_trip_count":{"n":"7"}}'), 7),
        (loop("%r = pred[] compare(%i, %n), direction=LT"), 1),
    ],
)
def test_how_often_a_loop_runs_is_told_or_found_in_its_condition(program, times):
    assert [x.times for x in collectives(program)] == [times]


# A product whose operand is passed round eight chips, both ways, as libtpu 0.0.42 compiles it for a
# v5p:2x2x2, cut to what is read: four passes in each of two turns, the last of them for nothing.
WINDOWED = """HloModule jit_update
%wide.cond.1 (wide.param.171: (bf16[8,4], /*index=1*/u32[])) -> pred[] {
  %constant.2587 = u32[]{:T(128)} constant(4), metadata={stack_frame_id=212}
  %get-tuple-element.4456 = u32[]{:T(128)} get-tuple-element(%wide.param.171), index=1
  ROOT %compare.66 = pred[]{:T(512)} compare(%get-tuple-element.4456, %constant.2587), direction=LT
}
%wide.body.1 (wide.param.7: (bf16[8,4], /*index=1*/u32[])) -> (bf16[8,4], /*index=1*/u32[]) {
  %constant.2847..sunk.8 = u32[]{:T(128)} constant(7), metadata={stack_frame_id=197}
  %constant.2850..sunk.8 = u32[]{:T(128)} constant(2)
  %get-tuple-element.5895 = u32[]{:T(128)} get-tuple-element(%wide.param.7), index=1
  %s.1 = (bf16[8,4], bf16[8,4], u32[]{:S(2)}) collective-permute-start(%x.1), channel_id=4
  %s.2 = (bf16[8,4], bf16[8,4], u32[]{:S(2)}) collective-permute-start(%x.2), channel_id=5
  %s.3 = (bf16[8,4], bf16[8,4], u32[]{:S(2)}) collective-permute-start(%x.3), channel_id=6
  %s.4 = (bf16[8,4], bf16[8,4], u32[]{:S(2)}) collective-permute-start(%x.4), channel_id=7
  %add.1572 = u32[]{:T(128)} add(%get-tuple-element.5895, %constant.2850..sunk.8), metadata={}
  ROOT %tuple.853 = (bf16[8,4], /*index=1*/u32[]{:T(128)}) tuple(%f.1, %add.1572)
}
ENTRY %main (p.3: f32[4]) -> f32[4] {
  %w = (bf16[8,4], /*index=1*/u32[]) while(%t), condition=%wide.cond.1, body=%wide.body.1
}
"""


def test_a_loop_that_is_unrolled_runs_as_often_as_its_counter_steps():
    assert [(x.size, x.times) for x in collectives(WINDOWED)] == [(8 * 4 * 2, 2)] * 4


# Two of each kind that are started in one place and awaited in another, which are not the same
# size: an all-reduce returns its results alone, the others their operands before them.
STARTED = """HloModule jit_update
ENTRY %main (p.0: f32[4]) -> f32[4] {
  %r = (f32[6]{0}, f32[2]{0}) all-reduce-start(%x, %y), replica_groups={{0,1},{2,3}}
  %g = ((f32[3]{0}, f32[1]{0}), (f32[6]{0}, f32[2]{0})) all-gather-start(%x, %y), replica_groups={{0,1},{2,3}}
  %p = (f32[6]{0}, f32[6]{0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%x), source_target_pairs={{0,1},{1,0}}
}
"""  # noqa: E501


def test_of_several_arrays_that_are_sent_together_all_are_counted():
    assert [(x.kind, x.size) for x in collectives(STARTED)] == [
        ("all-reduce", 8 * 4),
        ("all-gather", 8 * 4),
        ("collective-permute", 6 * 4),
    ]


def test_what_a_ring_sends():
    # Of 4 devices each passes on 3 quarters; twice, where all are to have what is reduced.
    sent = [Collective(kind, 4, 400, 3, "").sent for kind in ("all-gather", "all-reduce")]
    assert sent == [900.0, 1800.0]
    assert Collective("collective-permute", 2, 400, 1, "").sent == 400.0


@pytest.mark.parametrize(
    ("given", "wanted", "expected"),
    [  # sums of 4 numbers over rows: of the rows of each device, or of all rows of its columns
        (PartitionSpec("x"), PartitionSpec(), [("all-reduce", 4, 16)]),
        (PartitionSpec(None, "x"), PartitionSpec("x"), []),
    ],
)
def test_a_program_of_our_own_says_what_it_sends(given, wanted, expected):
    mesh = jax.make_mesh((4,), ("x",), (AxisType.Auto,), devices=jax.devices()[:4])
    total = jax.jit(
        lambda x: jnp.sum(x, axis=0),
        in_shardings=NamedSharding(mesh, given),
        out_shardings=NamedSharding(mesh, wanted),
    )
    found = collectives(total.lower(jnp.ones((8, 4))).compile().as_text())
    assert [(x.kind, x.devices, x.size) for x in found] == expected
