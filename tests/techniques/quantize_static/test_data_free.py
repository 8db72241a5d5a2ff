import pytest
import torch
from torch import nn
from torch.nn import functional as F

from haversack.calibration.ranges import observe
from haversack.errors import TaskError
from haversack.graph.inference import inference
from haversack.graph.ops import points
from haversack.graph.write_back import written_back
from haversack.model import Model
from haversack.techniques.quantize_static.data_free import ranges_from_norms
from haversack.techniques.quantize_static.equalize import equalize


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.inner, self.inner_norm = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.outer, self.outer_norm = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.gate, self.head = nn.Conv2d(8, 8, 1), nn.Linear(16, 4)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(self.outer_norm(self.outer(F.relu6(self.inner_norm(self.inner(x))))) + x)
        x = x * torch.sigmoid(self.gate(F.adaptive_avg_pool2d(x, 1)))
        x = torch.cat([F.max_pool2d(x, 2), F.avg_pool2d(F.hardswish(x), 2)], 1)
        return self.head(x.mean((2, 3)).view(x.shape[0], -1))


def trained(module: nn.Module, x: torch.Tensor) -> Model:
    """A network whose batch norms know the inputs, with scales and shifts as training leaves them."""
    torch.manual_seed(0)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.uniform_(layer.weight, 0.5, 2)
            nn.init.normal_(layer.bias)
            layer.momentum = None
    with torch.no_grad():
        module.train()(x)
    return Model(module.eval(), (x[:1],))


@pytest.fixture(scope="module")
def residual() -> tuple[Model, torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randn(256, 3, 8, 8).clamp(-3, 3)
    return trained(Residual(), x), x


def test_ranges_hold_nearly_all_that_is_seen_and_are_not_much_wider(residual):
    model, x = residual
    network = inference(model)
    guessed = ranges_from_norms(network, points(network.graph), model.example, {})
    seen = observe(network, points(network.graph), [(x,)], counted=False)
    assert guessed.keys() == seen.keys()
    for name, each in seen.items():
        width = each.high - each.low
        assert guessed[name].low - 0.05 * width <= each.low, name
        assert guessed[name].high + 0.3 * width >= each.high, name
        assert guessed[name].high - guessed[name].low < 6 * width, name
    assert guessed["relu"].low == 0
    assert guessed["hardtanh" if "hardtanh" in guessed else "relu6"].high == 6


@torch.no_grad()
def test_equalized_channels_have_their_ranges_divided():
    torch.manual_seed(0)
    x = torch.randn(256, 3, 8, 8).clamp(-3, 3)
    layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
    model = trained(nn.Sequential(*layers), x)
    network = inference(model)
    found = equalize(network)
    changed = network.with_tensors(found.tensors)
    assert (found.divisors["conv2d"] - 1).abs().max() > 0.1
    guessed = ranges_from_norms(changed, ["relu", "relu_1"], model.example, found.divisors)
    for name, each in observe(changed, ["relu", "relu_1"], [(x,)], counted=False).items():
        assert each.high * 0.8 < guessed[name].high < each.high * 3


@pytest.mark.parametrize(
    ("example", "ends"),
    [
        (torch.rand(1, 3, 8, 8), (0, 1)),
        (torch.randint(0, 250, (1, 3, 8, 8)).float(), (0, 255)),
        (torch.randn(1, 3, 8, 8).clamp(-2, 2), (-3, 3)),
        (torch.zeros(1, 3, 8, 8), (-3, 3)),
    ],
    ids=["unit", "bytes", "normalized", "zeros"],
)
def test_inputs_are_taken_for_what_the_example_looks_like(residual, example, ends):
    network = inference(residual[0])
    found = ranges_from_norms(network, ["x"], (example,), {})["x"]
    assert (found.low, found.high) == ends


def refused(model: Model) -> str:
    network = inference(model)
    with pytest.raises(TaskError) as caught:
        ranges_from_norms(network, points(network.graph), model.example, {})
    assert "calibrate()" in caught.value.mend
    return str(caught.value)


def test_a_layer_that_no_batch_norm_precedes_is_refused_by_name():
    model = Model(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)).eval(), (torch.randn(1, 3, 8, 8),))
    assert "layer 0: " in refused(model)


def test_a_batch_norm_without_statistics_is_refused(residual):
    fresh = Model(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval(), residual[0].example)
    assert "no statistics of training" in refused(fresh)


def test_settled_batch_norms_still_say_how_values_are_distributed(residual):
    model = residual[0]
    settled = written_back(model, inference(model), {"stem.weight": inference(model).tensor("stem.weight")})
    before, after = (
        ranges_from_norms(inference(each), ["relu"], model.example, {})["relu"] for each in (model, settled)
    )
    assert after.high == pytest.approx(before.high, rel=1e-5)


def test_an_operation_that_batch_norm_says_nothing_of_is_refused_by_name(residual):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm, self.odd, self.last = (
                nn.Conv2d(3, 4, 3),
                nn.BatchNorm2d(4),
                Exp(),
                nn.Conv2d(4, 4, 1),
            )

        def forward(self, x):
            return self.last(self.odd(self.norm(self.first(x))))

    assert "layer odd: " in refused(trained(Odd(), residual[1]))


class Exp(nn.Module):
    def forward(self, x):
        return x.exp()
