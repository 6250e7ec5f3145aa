"""Bytes that a program's kernels move, counted by hand."""

from benchmarks.hlo_bytes import kernels

# As XLA writes programs. A loop of 4 turns: a fusion that takes a row of a stack, one that puts a
# row back in place, and a product; after it a plain fusion and a copy.
PROGRAM = """
HloModule jit_f, is_scheduled=true

%row_computation (parameter_0: f32[4,100], parameter_1: s32[]) -> bf16[100] {
  %parameter_0 = f32[4,100]{1,0} parameter(0)
  %parameter_1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  %slice = f32[1,100]{1,0} dynamic-slice(%parameter_0, %parameter_1, %zero), dynamic_slice_sizes={1,100}
  %flat = f32[100]{0} bitcast(%slice)
  ROOT %cast = bf16[100]{0} convert(%flat)
}

%put_computation (parameter_0.1: f32[4,100], parameter_1.1: f32[1,100], parameter_2: s32[]) -> f32[4,100] {
  %parameter_0.1 = f32[4,100]{1,0} parameter(0)
  %parameter_1.1 = f32[1,100]{1,0} parameter(1)
  %parameter_2 = s32[] parameter(2)
  %zero.1 = s32[] constant(0)
  ROOT %put = f32[4,100]{1,0} dynamic-update-slice(%parameter_0.1, %parameter_1.1, %parameter_2, %zero.1)
}

%body (arg: (s32[], f32[4,100])) -> (s32[], f32[4,100]) {
  %arg = (s32[], f32[4,100]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%arg), index=0
  %stack = f32[4,100]{1,0} get-tuple-element(%arg), index=1
  %row = bf16[100]{0} fusion(%stack, %i), kind=kLoop, calls=%row_computation, metadata={op_name="jit(f)/while/body/row"}
  %gemm = (f32[1,100]{1,0}, s8[4194304]{0}) custom-call(%row, %row), custom_call_target="__cublas$lt$matmul", metadata={op_name="jit(f)/dot"}
  %made = f32[1,100]{1,0} get-tuple-element(%gemm), index=0
  %next = f32[4,100]{1,0} fusion(%stack, %made, %i), kind=kLoop, calls=%put_computation, metadata={op_name="jit(f)/put"}
  ROOT %out = (s32[], f32[4,100]{1,0}) tuple(%i, %next)
}

%sum_computation (parameter_0.2: f32[4,100]) -> (f32[4,100], pred[400]) {
  %parameter_0.2 = f32[4,100]{1,0} parameter(0)
  %twice = f32[4,100]{1,0} add(%parameter_0.2, %parameter_0.2)
  %flags = pred[400]{0} constant({...})
  ROOT %both = (f32[4,100]{1,0}, pred[400]{0}) tuple(%twice, %flags)
}

ENTRY %main (x: f32[4,100]) -> f32[4,100] {
  %x = f32[4,100]{1,0} parameter(0)
  %start = s32[] constant(0)
  %init = (s32[], f32[4,100]{1,0}) tuple(%start, %x)
  %loop = (s32[], f32[4,100]{1,0}) while(%init), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"4"}}
  %last = f32[4,100]{1,0} get-tuple-element(%loop), index=1
  %sum = (f32[4,100]{1,0}, pred[400]{0}) fusion(%last), kind=kLoop, calls=%sum_computation, metadata={op_name="jit(f)/add"}
  %copied = f32[4,100]{1,0} get-tuple-element(%sum), index=0
  ROOT %copy = f32[4,100]{1,0} copy(%copied)
}
"""  # noqa: E501


def test_bytes_are_those_that_kernels_move():
    found = {x.source or x.kind: (x.kind, x.times, x.bytes) for x in kernels(PROGRAM)}
    assert found == {
        # A row of float32 and the index are read, a row of bfloat16 is written; four times.
        "jit(f)/while/body/row": ("fusion", 4, 4 * (400 + 4 + 200)),
        # Two rows in, one out; its room to work is not moved.
        "jit(f)/dot": ("product", 4, 4 * (200 + 200 + 400)),
        # A row is read and written, the index read; the rest of the stack stays where it is.
        "jit(f)/put": ("fusion", 4, 4 * (400 + 4 + 400)),
        "jit(f)/add": ("fusion", 1, 1600 + 1600 + 400),
        "copy": ("copy", 1, 2 * 1600),
    }
