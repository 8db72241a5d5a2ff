import re
from pathlib import Path

import pytest
import torch
from quantizable_networks import Does, build, convolution, model_of, quantized
from torch.nn import functional as F

import haversack
from haversack.graph.inference import inference, lower
from haversack.graph.ops import OPERATORS, Trait, left_float, points
from haversack.model import Model

PACKAGE = Path(haversack.__file__).parent
NAMING = {
    "graph/ops.py": "the table",
    "integer/read": "reads graphs with pairs",
    "runtimes": "write files",
    "graph/in_place.py": "leaves out what torch.export checks, and reads how it computes a batch norm",
    "graph/bytes.py": "reads how bytes become real numbers",
    "graph/fold.py": "writes what stands for a batch norm, a mean and a view",
    "graph/prepare.py": "writes what is left of a normalization",
    "graph/recurrent.py": "reads recurrent layers",
    "graph/unroll.py": "writes recurrent layers step by step",
    "graph/pairs.py": "writes a grouped weight's shape",
    "training/machine.py": "knows torch's functions that are slow in bfloat16",
}


def test_passes_ask_for_traits_and_only_readers_and_writers_name_operators():
    naming = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if re.search(r"\baten\.\w+\.\w+", "".join(re.split(r'"[^"\n]*"|#.*', path.read_text("utf-8"))))
    }
    assert [name for name in sorted(naming) if not name.startswith(tuple(NAMING))] == []
    assert [name for name in NAMING if not any(path.startswith(name) for path in naming)] == []


def test_what_has_a_fixed_range_computes_on_integers_and_what_clamps_is_pointwise():
    rows = OPERATORS.values()
    assert all(row.traits & Trait.INTEGER for row in rows if row.ends)
    assert all(bool(row.traits & Trait.CLAMP) == (row.low is not None) for row in rows)
    assert all(row.traits & Trait.POINTWISE for row in rows if row.traits & (Trait.CLAMP | Trait.HOMOGENEOUS))


@pytest.mark.parametrize(
    "clamp", [F.relu, F.relu6, lambda x: x.clamp(0, 2), lambda x: x.clamp_min(0), lambda x: F.hardtanh(x, 0, 1)]
)
def test_a_clamp_at_zero_shares_the_grid_with_the_layer_before_it(clamp):
    model, _ = model_of(lambda x, layer: clamp(layer(x)), convolution())
    assert len(points(inference(model).graph)) == 2


def test_a_clamp_that_does_not_begin_at_zero_has_a_grid_of_its_own_reader():
    model, _ = model_of(lambda x, first, second: second(F.hardtanh(first(x))), convolution(), convolution(4))
    assert points(inference(model).graph) == ("x", "conv2d", "hardtanh", "conv2d_1")


def test_a_value_that_two_read_keeps_what_a_clamp_would_cut():
    model, _ = model_of(lambda x, first: F.relu(y := first(x)) + y, convolution())
    assert points(inference(model).graph) == ("x", "conv2d", "relu", "add")


def test_what_a_concatenation_reads_and_writes_lies_on_one_grid_that_spans_it_all():
    model, x = model_of(lambda x, first, second: torch.cat([first(x), 5 * second(x)], 1), convolution(), convolution())
    grids = quantized(model, x).grids
    assert grids["conv2d"] == grids["mul"] == grids["cat"]
    with torch.no_grad():
        result = model.module(x)
    assert grids["cat"].high - grids["cat"].low == pytest.approx(float(result.max() - result.min()), rel=0.02)


@pytest.mark.parametrize(
    ("function", "kept"),
    [
        (lambda x, layer: layer(x) + 1.0, "aten.add.Tensor"),
        (lambda x, layer: torch.add(layer(x), x[:, :1], alpha=2), "aten.add.Tensor"),
        (lambda x, layer: layer(x) * (x[:, :1] > -9), "aten.mul.Tensor"),
        (lambda x, layer: F.conv2d(layer(x), x[:2, :1].expand(2, 4, 8, 8)), "aten.conv2d.default"),
        (
            lambda x, layer: torch.cat([layer(x), layer.bias.view(1, 4, 1, 1).expand(x.shape[0], 4, 8, 8)], 1),
            "aten.cat.default",
        ),
    ],
    ids=["number", "factor", "mask", "computed weight", "constant"],
)
@torch.no_grad()
def test_operations_without_an_integer_form_stay_float_and_are_named(function, kept):
    x = torch.randn(32, 3, 8, 8)
    model = Model(Does(function, convolution()).eval(), (x[:2],))
    assert kept in left_float(inference(model).graph)
    small = quantized(model, x)
    torch.testing.assert_close(lower(small)(x), model.module(x), atol=0.2, rtol=0.1)


def test_attention_stays_float_between_integer_linear_layers():
    model, x = build("transformer")
    graph = inference(model)
    assert any("attention" in name for name in left_float(graph.graph))
    assert not any("linear" in name for name in left_float(graph.graph))
    small = quantized(model, x)
    assert len(list(graph.layers())) == sum(grid.axis == 0 for grid in small.grids.values())


class Carried(torch.nn.Module):
    """What a block gives is added to what it read and normalized; then something without weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.LayerNorm(8), torch.nn.LayerNorm(8)
        self.up, self.down, self.end = (torch.nn.Linear(*size) for size in ((8, 16), (16, 8), (8, 8)))

    def forward(self, x):
        read = self.first(x)
        x = self.second(read + self.down(torch.relu(self.up(read))))
        x = F.gelu(self.end(x + x.flip(-1)))
        return F.gelu(x * x.flip(-1)) - x


@torch.no_grad()
def test_sums_before_a_norm_and_what_stands_between_real_numbers_stay_real():
    torch.manual_seed(0)
    graph = inference(Model(Carried().eval(), (torch.randn(2, 3, 8),))).graph
    left = left_float(graph)
    assert (left.count("aten.add.Tensor"), left.count("aten.mul.Tensor"), left.count("aten.sub.Tensor")) == (2, 1, 1)
    assert {"relu", "linear_1", "add_1", "linear_2"} <= set(points(graph))
    assert not {"add", "mul", "sub"} & set(points(graph))


@torch.no_grad()
def test_a_sum_of_real_numbers_reads_a_norm_s_result_as_it_was_made():
    torch.manual_seed(0)
    x = torch.randn(64, 3, 8)
    small = quantized(Model(Carried().eval(), (x[:2],)), x)
    lowered = lower(small)
    named = {node.name: node for node in lowered.graph.nodes}
    read, made = named["add"].args
    assert read.name == "layer_norm"
    assert str(made.target).startswith("quantized_decomposed.dequantize")
    assert str(named["linear"].args[0].target).startswith("quantized_decomposed.dequantize")
