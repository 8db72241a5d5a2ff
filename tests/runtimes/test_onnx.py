import onnx
import pytest
import torch
from onnx_files import IMAGE, ROW, SEQUENCE, SIGNAL, Does, folded, operation_types, run, session_of
from torch import nn
from torch.nn import functional as F

from haversack.errors import ExportError
from haversack.progress import shown_by
from haversack.runtimes.onnx.write import unknown, write, write_any


class PaddedShortcut(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(4, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        y = F.relu(y + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)))
        return self.head(F.avg_pool2d(y, y.size()[2:]).view(y.size(0), -1))


class InvertedResidual(nn.Module):
    def __init__(self):
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(4, 12, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU6(inplace=True))
        self.depthwise = nn.Sequential(
            nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False), nn.BatchNorm2d(12), nn.ReLU6(inplace=True)
        )
        self.project = nn.Sequential(nn.Conv2d(12, 4, 1, bias=False), nn.BatchNorm2d(4))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(4, 3))

    def forward(self, x):
        return self.head(x + self.project(self.depthwise(self.expand(x))))


class SqueezeExcite(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(4, 8, 3, padding="same"), nn.BatchNorm2d(8), nn.Hardswish())
        self.gate = nn.Sequential(nn.Conv2d(8, 2, 1), nn.ReLU(), nn.Conv2d(2, 8, 1), nn.Hardsigmoid())

    def forward(self, x):
        x = self.conv(x)
        return (x * self.gate(x.mean((2, 3), keepdim=True))).mean((2, 3))


class Dense(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(4 + 3 * i), nn.ReLU(), nn.Conv2d(4 + 3 * i, 3, 3, padding=1)) for i in range(3)
        )

    def forward(self, x):
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return F.avg_pool2d(x, 2)


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(4, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.LeakyReLU(0.1))
        self.up = nn.ConvTranspose2d(8, 4, 2, 2)
        self.norm = nn.BatchNorm2d(4)
        self.last = nn.Conv2d(12, 2, 1)

    def forward(self, x):
        low = self.down(x)
        wide = F.interpolate(low, scale_factor=2, mode="bilinear", align_corners=False)
        return torch.sigmoid(self.last(torch.cat([F.relu(self.norm(self.up(low))), wide], 1)))


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.place = nn.Parameter(torch.randn(1, 6, 8))
        self.embed = nn.Linear(6, 8)
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, x):
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), self.embed(x)], 1) + self.place
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return (x + self.mlp(self.norm2(x)))[:, 0]


class Shuffle(nn.Module):
    def __init__(self):
        super().__init__()
        self.right = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 2, 3, 1, 1, groups=2))

    def forward(self, x):
        left, right = x.chunk(2, dim=1)
        x = torch.cat((left, self.right(right)), dim=1)
        n, c, h, w = x.size()
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(11, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.head(self.table(x).mean(1))


ARCHITECTURES = {
    "padded shortcut": (PaddedShortcut(), IMAGE),
    "inverted residual": (InvertedResidual(), IMAGE),
    "squeeze and excite": (SqueezeExcite(), IMAGE),
    "1-D": (nn.Sequential(nn.Conv1d(4, 8, 3), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten()), SIGNAL),
    "dense": (Dense(), IMAGE),
    "u-net": (UNet(), IMAGE),
    "transformer": (Transformer(), SEQUENCE),
    "torch's transformer layer": (nn.TransformerEncoderLayer(6, 2, 12, batch_first=True, norm_first=True), SEQUENCE),
    "shuffle": (Shuffle(), IMAGE),
    "vgg": (
        nn.Sequential(
            *(nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2, 2)),
            *(nn.Flatten(), nn.Linear(160, 12), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(12, 3)),
        ),
        IMAGE,
    ),
    "autoencoder": (nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 6), nn.Tanh()), ROW),
    "group norm": (nn.Sequential(nn.Conv2d(4, 8, 3, bias=False), nn.GroupNorm(4, 8), nn.SiLU()), IMAGE),
}


@pytest.mark.parametrize("float16", [False, True])
@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_a_network_and_its_file_agree(name, float16):
    network, shape = ARCHITECTURES[name]
    generator = torch.Generator().manual_seed(0)
    for layer in network.eval().modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.running_mean.normal_(generator=generator)
    content = write(folded(network, torch.randn(1, *shape, generator=generator)), float16=float16)
    tolerance = 3e-2 if float16 else 1e-4
    for batch in (1, 3):
        x = torch.randn(batch, *shape, generator=generator)
        (result,) = run(content, x)
        assert result.dtype == torch.float32
        torch.testing.assert_close(result, network(x), rtol=tolerance, atol=tolerance)


@torch.no_grad()
def test_whole_numbers_go_in():
    network, x = Words().eval(), torch.randint(11, (2, 5))
    (result,) = run(write(folded(network, x)), x)
    torch.testing.assert_close(result, network(x), rtol=1e-5, atol=1e-6)


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(6, 2), nn.Linear(6, 3)

    def forward(self, x, y):
        both = x + y
        return self.left(both), self.right(x), both, x


@torch.no_grad()
def test_several_inputs_and_outputs_keep_their_order():
    network, x, y = TwoHeads().eval(), torch.randn(2, 6), torch.randn(2, 6)
    content = write(folded(network, x, y))
    for result, expected in zip(run(content, x, y), network(x, y), strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)


def test_the_batch_is_free_and_named():
    session = session_of(write(folded(PaddedShortcut().eval(), torch.randn(1, *IMAGE))))
    assert session.get_inputs()[0].shape == ["batch", *IMAGE]
    assert session.get_outputs()[0].shape == ["batch", 3]


def test_a_batch_that_the_network_fixes_is_fixed_in_the_file():
    network = Does(lambda x: x.view(2, 320))
    session = session_of(write(folded(network, torch.randn(2, *IMAGE))))
    assert session.get_inputs()[0].shape == [2, *IMAGE]


def test_the_file_is_little_larger_than_its_weights():
    network = nn.Sequential(*(layer for _ in range(20) for layer in (nn.Conv2d(4, 4, 3, padding=1), nn.ReLU6())))
    weights = sum(4 * parameter.numel() for parameter in network.parameters())
    assert len(write(folded(network, torch.randn(1, *IMAGE)))) - weights < 20 * 140


def test_half_precision_halves_the_weights():
    network = nn.Linear(200, 200)
    full, half = (len(write(folded(network, torch.randn(1, 200)), float16=half)) for half in (False, True))
    assert half < 0.51 * full


def test_equal_constants_are_stored_once():
    layer = nn.Linear(6, 6)
    content = write(folded(nn.Sequential(layer, nn.ReLU6(), layer, nn.ReLU6()), torch.randn(1, 6)))
    assert len(onnx.load_from_string(content).graph.initializer) == 4


def test_a_convolution_reads_one_slice_and_a_pool_over_the_map_is_global():
    content = write(folded(PaddedShortcut().eval(), torch.randn(1, *IMAGE)))
    types = operation_types(content)
    assert types.count("Slice") == 1
    assert types[-3:] == ["GlobalAveragePool", "Flatten", "Gemm"]


class Listener:
    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)

    def track(self, items, label, total):
        return iter(items)


class Unknown(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(6, 4), Does(lambda x: torch.logaddexp(x, -x)))

    def forward(self, x):
        return self.block(x)


def test_an_operation_that_the_writer_does_not_know_is_named_with_its_layer():
    with pytest.raises(ExportError, match=r"layer block\.1: .*logaddexp.*\n.*haversack\[fallback\]"):
        write(folded(Unknown().eval(), torch.randn(1, 6)))


def test_everything_that_the_writer_does_not_know_is_named_at_once():
    network = Does(lambda x: torch.logaddexp(torch.hypot(x, x + 1), x).relu() + torch.hypot(x, x))
    found = [refusal.what for refusal in unknown(folded(network, torch.randn(2, 6)))]
    assert [name for each in found for name in ("hypot", "logaddexp", "relu") if name in each] == [
        *("hypot", "logaddexp", "hypot")
    ]
    assert not unknown(folded(nn.Linear(6, 3), torch.randn(1, 6)))


@torch.no_grad()
def test_torch_writes_what_our_writer_does_not_know_and_it_is_said():
    pytest.importorskip("onnxscript")
    network, listener = Unknown().eval(), Listener()
    with shown_by(listener):
        content = write_any(folded(network, torch.randn(1, 6)))
    x = torch.randn(3, 6)
    torch.testing.assert_close(run(content, x)[0], network(x), rtol=1e-5, atol=1e-6)
    assert "logaddexp" in listener.lines[0]


def test_what_our_writer_knows_never_reaches_torch():
    graph, listener = folded(nn.Linear(6, 3), torch.randn(1, 6)), Listener()
    with shown_by(listener):
        assert write_any(graph) == write(graph)
    assert not listener.lines


def test_half_precision_never_goes_through_torch():
    with pytest.raises(ExportError, match="keep this network in float32"):
        write_any(folded(Unknown().eval(), torch.randn(1, 6)), float16=True)


def test_a_slope_that_the_network_computes_is_refused_by_name():
    network = Does(lambda x: F.prelu(x, x.mean().reshape(1)))
    with pytest.raises(ExportError, match=r"prelu.* computed by the network"):
        write(folded(network, torch.randn(1, 6)))


def test_inputs_may_be_called_like_our_own_values_and_outputs():
    class Clashing(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, output, a3, w1, _a4):
            return self.layer(output) + a3 * w1, self.layer(_a4)

    network, inputs = Clashing().eval(), [torch.randn(2, 6) for _ in range(4)]
    content = write(folded(network, *inputs))
    names = [value.name for value in onnx.load_from_string(content).graph.output]
    assert names == ["output1", "output2"]
    for found, expected in zip(run(content, *inputs), network(*inputs), strict=True):
        torch.testing.assert_close(found, expected.detach())
