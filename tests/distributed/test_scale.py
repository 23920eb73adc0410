"""benchmarks/scale.py: what it reads from compiled programs, against what must be in them."""

import dataclasses
import functools
import math
import re
import runpy
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
import support
from jax.sharding import PartitionSpec, SingleDeviceSharding

from dinado_jax.bench.sizes import SIZES
from dinado_jax.config import schema
from dinado_jax.models.architectures import new_model, parse_model
from dinado_jax.models.params import abstract_params
from dinado_jax.stages.settings import changed, load_config

sys.path.insert(0, str(support.ROOT / "benchmarks"))
scale = SimpleNamespace(**runpy.run_path(str(support.ROOT / "benchmarks" / "scale.py")))
traffic = runpy.run_path(str(support.ROOT / "benchmarks" / "memory_traffic.py"))["traffic"]
sys.path.pop(0)

pytestmark = pytest.mark.usefixtures("compiled_quickly")

LENGTH = 16
SETTINGS = load_config(
    None,
    [
        "base.n_embd=64",
        "base.vocab_size=256",
        "train.objective=published",
        "train.batch=16",
        "decode.batch=16",
        r"delta.full=['.*/ln_\d/\w+', 'ln_f/\w+']",
    ],
)


GPT2 = SIZES["gpt2"] | {"hidden_size": 128, "num_attention_heads": 4, "vocab_size": 512}
LLAMA = SIZES["llama-8b"] | {
    "hidden_size": 128,
    "intermediate_size": 320,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
}


def deep(layers):
    return new_model(dataclasses.replace(SETTINGS.base, n_layer=layers))


def tiny(sizes, layers, **changes):
    return parse_model(sizes | {"num_hidden_layers": layers}, "sizes").replace(**changes)


@functools.cache
def step(fsdp, data, layers=1):
    plan = scale.make_plan(schema.Parallel(fsdp=fsdp), "cpu", data)
    return scale.training_step(SETTINGS, deep(layers), plan, LENGTH)


def nbytes(tree):
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def test_data_parallel_steps_send_the_gradients_and_a_few_scalars():
    program, (state, _, _) = step(1, 8)
    sent = scale.volume(scale.collectives(program.as_text()))
    assert set(sent) == {"all-reduce"}
    assert 0 < sent["all-reduce"] - nbytes(state.trainable) <= 64


def test_fsdp_gathers_parameters_alone_those_of_blocks_once_more_for_the_gradient():
    program, (state, base, _) = step(8, 1)
    found = scale.collectives(program.as_text())
    shared = [
        x for x in jax.tree.leaves((state.trainable, base)) if not x.sharding.is_fully_replicated
    ]
    kernels = [x for x in jax.tree.leaves(base["h_0"]) if x.ndim == 2]
    sent = scale.volume(found)
    assert set(sent) == {"all-gather", "all-reduce"}
    assert sent["all-gather"] == nbytes(shared) + nbytes(kernels)
    assert 0 < sent["all-reduce"] - nbytes(state.trainable) <= 64


@pytest.mark.parametrize(("fsdp", "data"), [(1, 8), (8, 1)])
def test_arguments_are_what_shapes_and_shardings_say(fsdp, data):
    program, (state, base, batch) = step(fsdp, data)
    used = batch.replace(suffix=None, row=None)  # what published labels of merge leave out
    found = scale.memory(program)
    assert found["argument_bytes"] == scale.device_bytes((state, base, used))
    assert found["aliased_bytes"] == scale.device_bytes(state)


def test_a_third_depth_lies_on_the_line_through_two():
    one, two, three = (scale.figures(*step(1, 8, layers)) for layers in (1, 2, 3))
    expected = scale.carried_on(one, two, [1, 2], 3)
    assert expected["given_bytes"] == three["given_bytes"]
    assert expected["argument_bytes"] == three["argument_bytes"]
    assert expected["temp_bytes"] == pytest.approx(three["temp_bytes"], rel=0.05)


def test_decoding_sends_nothing_and_moves_all_that_it_must():
    plan = scale.make_plan(schema.Parallel(), "cpu", 8)
    program, given = scale.decoding_call(SETTINGS, deep(1), plan, 8)
    figures = scale.figures(program, given)
    assert figures["collectives"] == 0 and figures["aliased_bytes"] > 0
    needs = scale.step_needs(deep(1), given, 2)
    heads = SETTINGS.base.n_embd * 4 * 2  # bytes of a token's keys and values
    assert needs["cache"] == 2 * (8 + 7) * heads + 2 * 4 + 4  # of two rows; lengths and a count
    assert needs["weights"] == nbytes(given[0])
    assert sum(needs.values()) < sum(scale.step_moves(program.as_text()).values())


def test_what_loops_send_counts_as_often_as_they_run():
    mesh = scale.make_plan(schema.Parallel(fsdp=8), "cpu", 1).mesh

    def body(x):
        return jax.lax.scan(lambda c, _: (jax.lax.psum(c, "fsdp") / 8, None), x, length=5)[0]

    everywhere = PartitionSpec()
    mapped = jax.shard_map(
        body, mesh=mesh, in_specs=everywhere, out_specs=everywhere, check_vma=False
    )
    found = scale.collectives(jax.jit(mapped).lower(jnp.ones(3)).compile().as_text())
    assert [(one.kind, one.bytes, one.times) for one in found] == [("all-reduce", 12, 5)]


def test_a_tpu_s_reduce_scatters_share_a_channel_with_others():
    scatter = """%all-reduce-scatter.{0} (x: f32[8,4]) -> f32[1,4] {{
  %all-reduce.{0} = f32[8,4] all-reduce(%x), channel_id=1, to_apply=%add
}}
"""
    entry = """ENTRY %main (x: f32[8,4]) -> f32[1,4] {
  %all-gather.1 = bf16[8,2] all-gather(%y), channel_id=1
  %fusion.1 = f32[1,4] fusion(%x), kind=kCustom, calls=%all-reduce-scatter.1
  %fusion.2 = f32[1,4] fusion(%x), kind=kCustom, calls=%all-reduce-scatter.2
}
"""
    add = "%add (a: f32[], b: f32[]) -> f32[] {\n}\n"
    text = add + scatter.format(1) + scatter.format(2) + entry
    sent = scale.volume(scale.collectives(text))
    assert sent == {"all-gather": 32, "reduce-scatter": 2 * 128}


@pytest.mark.parametrize("sizes", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_flops_counted_by_hand_are_those_of_all_matrix_products(sizes):
    settings = changed(SETTINGS, ["delta.full=['default']", "train.batch=4"])
    model, plan = tiny(sizes, 2), scale.make_plan(schema.Parallel(), "cpu", 1)
    program, given = scale.training_step(settings, model, plan, LENGTH)
    counted = scale.work(settings, model, 4, LENGTH)
    assert counted["flops"] == product_flops(program.as_text())
    xla = scale.figures(program, given)["xla_flops"]  # elementwise operations too
    assert counted["flops"] == pytest.approx(xla, rel=0.05)


def product_flops(text):
    """2 x the result's size x the size of the axes summed over, of every matrix product."""
    result = re.compile(r"\s+(?:ROOT )?%([\w.-]+) = \w+\[([\d,]*)\]")
    product = re.compile(r" dot\(%([\w.-]+), .*lhs_contracting_dims=\{([\d,]*)\}")
    flops, shapes = 0, {}
    for line in text.splitlines():
        if found := result.match(line):
            shapes[found[1]] = [int(size) for size in found[2].split(",") if size]
            if dot := product.search(line):
                summed = (shapes[dot[1]][int(axis)] for axis in dot[2].split(","))
                flops += 2 * math.prod(shapes[found[1]]) * math.prod(summed)
    return flops


def test_of_an_untied_embedding_a_step_reads_a_row_per_token():
    here = SingleDeviceSharding(jax.devices()[0])

    def weights(tied):
        model = tiny(LLAMA | {"tie_word_embeddings": tied}, 1)
        variables = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here),
            {"params": abstract_params(model)},
        )
        return scale.step_needs(model, (variables, SimpleNamespace(carry=())), 4)["weights"]

    assert weights(False) - weights(True) == 4 * 128 * 4


PREFETCH = """%fused.1 (param_0: bf16[64,64], param_1: s32[]) -> bf16[1,64] {
  %param_0 = bf16[64,64]{1,0:T(8,128)(2,1)} parameter(0)
  %param_1 = s32[] parameter(1)
  ROOT %row = bf16[1,64]{1,0} dynamic-slice(%param_0, %param_1, %param_1)
}
%fused.2 (param_0.1: bf16[64,64], param_1.1: bf16[1,64]) -> bf16[64,64] {
  %param_0.1 = bf16[64,64]{1,0} parameter(0)
  %param_1.1 = bf16[1,64]{1,0:T(8,128)(2,1)} parameter(1)
  %zero = s32[] constant(0)
  ROOT %put = bf16[64,64]{1,0} dynamic-update-slice(%param_0.1, %param_1.1, %zero, %zero)
}
%body.1 (p: (bf16[64,64])) -> (bf16[64,64]) {
  %p = (bf16[64,64]{1,0:T(8,128)(2,1)}) parameter(0)
  %x = bf16[64,64]{1,0:T(8,128)(2,1)} get-tuple-element(%p), index=0
  %to = (bf16[64,64]{1,0:T(8,128)(2,1)S(1)}, bf16[64,64]{1,0:T(8,128)(2,1)}, u32[]) copy-start(%x)
  %near = bf16[64,64]{1,0:T(8,128)(2,1)S(1)} copy-done(%to)
  %y = bf16[64,64]{1,0:T(8,128)(2,1)S(1)} add(%near, %near), metadata={op_name="twice"}
  %out = bf16[64,64]{1,0:T(8,128)(2,1)} fusion(%x, %y), calls=%fused.2, metadata={op_name="put"}
  ROOT %tuple = (bf16[64,64]{1,0:T(8,128)(2,1)}) tuple(%out)
}
ENTRY %main (a: bf16[64,64], i: s32[]) -> bf16[64,64] {
  %a = bf16[64,64]{1,0:T(8,128)(2,1)} parameter(0)
  %i = s32[] parameter(1)
  %b = bf16[1,64]{1,0:T(8,128)(2,1)} fusion(%a, %i), calls=%fused.1, metadata={op_name="row"}
  %state = (bf16[64,64]{1,0:T(8,128)(2,1)}) tuple(%a)
  ROOT %w = (bf16[64,64]{1,0:T(8,128)(2,1)}) while(%state), condition=%cond, body=%body.1
}
"""


def test_traffic_counts_what_passes_through_main_memory_with_its_padding():
    row, prefetched, update = traffic(PREFETCH)
    whole, tile = 64 * 128 * 2, 8 * 128 * 2
    assert row[:2] == (64 * 2 + 4, tile) and not row.in_loop
    assert prefetched == (whole, 0, True, "twice")
    assert update == (0, tile, True, "put")


def test_a_ring_takes_all_but_a_device_s_own_part_around():
    chip = scale.Chip(1.0, 1.0, 1.0, {4: 10.0})
    needs = {"flops": 0.0, "moved_bytes": 0.0}
    sent = {"all-reduce": 100, "all-gather": 80}
    found = scale.seconds(chip, 4, needs, sent)
    rate = 10.0 * scale.ATTAINED["link_rate"]
    assert math.isclose(found["send"], (2 * 100 + 80) * 3 / 4 / rate)
    assert found["least"] == found["most"] == found["send"]


def test_remat_keeps_the_blocks_inputs():
    for sizes in (GPT2, LLAMA):
        model = tiny(sizes, 3, dtype="bfloat16", remat=True)
        assert scale.kept_bytes(model, LENGTH) == 3 * 128 * 2


def test_without_remat_blocks_keep_what_their_gradients_read():
    attention, norms = 6 * 4 * LENGTH, 2 * (4 + 2) * 128
    gpt2 = norms + 2 * 4 * 128 + attention + 2 * 2 * 4 * 128
    assert scale.kept_bytes(tiny(GPT2, 3, dtype="bfloat16"), LENGTH) == 3 * gpt2
    llama = norms + 2 * (128 + 64 + 64 + 128) + attention + 2 * 3 * 320
    assert scale.kept_bytes(tiny(LLAMA, 3, dtype="bfloat16"), LENGTH) == 3 * llama
