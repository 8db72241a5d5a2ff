import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from haversack.errors import ExportError
from haversack.export.onnx import write, write_any
from haversack.graph.fold import fold
from haversack.graph.trace import trace
from haversack.progress import shown_by


class Does(nn.Module):
    def __init__(self, function, *layers):
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, x):
        return self.function(x, *self.layers)


def session_of(content: bytes) -> onnxruntime.InferenceSession:
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run(content: bytes, *inputs):
    session = session_of(content)
    names = [value.name for value in session.get_inputs()]
    return [
        torch.from_numpy(each) for each in session.run(None, dict(zip(names, (x.numpy() for x in inputs), strict=True)))
    ]


def folded(network: nn.Module, *inputs):
    return fold(trace(network, inputs))


def operation_types(content: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(content).graph.node]


ROW, SEQUENCE, SIGNAL, IMAGE, VOLUME = (6,), (5, 6), (4, 9), (4, 8, 10), (2, 4, 6, 5)


def positive(x):
    return x.abs() + 0.1


ONE_INPUT = {
    # activations
    "relu": (F.relu, IMAGE),
    "relu6": (F.relu6, IMAGE),
    "hardtanh": (F.hardtanh, IMAGE),
    "leaky relu": (lambda x: F.leaky_relu(x, 0.2), IMAGE),
    "prelu": (Does(lambda x, layer: layer(x), nn.PReLU(4)), IMAGE),
    "prelu with one slope": (Does(lambda x, layer: layer(x), nn.PReLU()), IMAGE),
    "sigmoid": (torch.sigmoid, IMAGE),
    "log sigmoid": (F.logsigmoid, IMAGE),
    "tanh": (torch.tanh, IMAGE),
    "hard swish": (F.hardswish, IMAGE),
    "hard sigmoid": (F.hardsigmoid, IMAGE),
    "silu": (F.silu, IMAGE),
    "mish": (F.mish, IMAGE),
    "gelu": (F.gelu, IMAGE),
    "gelu by tanh": (lambda x: F.gelu(x, approximate="tanh"), IMAGE),
    "elu": (lambda x: F.elu(x, 0.7), IMAGE),
    "selu": (F.selu, IMAGE),
    "softplus": (F.softplus, IMAGE),
    "clamp": (lambda x: x.clamp(-0.3, 0.4), IMAGE),
    "clamp from below": (lambda x: x.clamp(min=-0.3), IMAGE),
    "clamp from above": (lambda x: x.clamp_max(0.3), IMAGE),
    # arithmetic
    "numbers": (lambda x: (2 - (x + 1) * 3 - 0.5) / 4, IMAGE),
    "powers": (lambda x: x**2 + positive(x) ** 1.5, IMAGE),
    "functions": (lambda x: positive(x).sqrt() + positive(x).rsqrt() + positive(x).log() + torch.exp(-x), IMAGE),
    "waves": (lambda x: torch.sin(x) + torch.cos(x) + torch.erf(x) + torch.reciprocal(positive(x)), IMAGE),
    "scaled sum": (lambda x: torch.add(x, x * x, alpha=0.5), IMAGE),
    "extremes of two": (lambda x: torch.maximum(x, -x) + torch.minimum(x, x * 2), IMAGE),
    "where": (lambda x: torch.where(x > 0, x, x * 0.1), IMAGE),
    "masked fill": (lambda x: x.masked_fill(x < 0, -1.0), IMAGE),
    "cast": (lambda x: (x > 0).float() + x, IMAGE),
    # layers
    "convolution": (nn.Conv2d(4, 6, 3, stride=2, padding=(1, 2), dilation=2), IMAGE),
    "depthwise convolution": (nn.Conv2d(4, 8, 3, groups=4, bias=False), IMAGE),
    "same padding": (nn.Conv2d(4, 6, (4, 3), padding="same"), IMAGE),
    "valid padding": (nn.Conv2d(4, 6, 3, padding="valid"), IMAGE),
    "reflected padding": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), IMAGE),
    "convolution 1-D": (nn.Conv1d(4, 6, 3, padding=1), SIGNAL),
    "same padding 1-D": (nn.Conv1d(4, 6, 4, padding="same", dilation=2), SIGNAL),
    "convolution 3-D": (nn.Conv3d(2, 3, 2), VOLUME),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), IMAGE),
    "transposed 1-D": (nn.ConvTranspose1d(4, 6, 4, stride=2), SIGNAL),
    "linear": (nn.Linear(6, 3), ROW),
    "linear without bias": (nn.Linear(6, 3, bias=False), ROW),
    "linear over a sequence": (nn.Linear(6, 3), SEQUENCE),
    "products": (lambda x: torch.bmm(x, x.transpose(1, 2)) @ x, SEQUENCE),
    "einsum": (lambda x: torch.einsum("nld,nmd->nlm", x, x), SEQUENCE),
    "attention": (lambda x: F.scaled_dot_product_attention(x, x * 2, x + 1), SEQUENCE),
    "causal attention": (lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True), SEQUENCE),
    "masked attention": (
        lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=torch.eye(5, dtype=torch.bool)),
        SEQUENCE,
    ),
    # pooling
    "max pool": (lambda x: F.max_pool2d(x, 3, stride=2, padding=1), IMAGE),
    "max pool that sticks out": (lambda x: F.max_pool2d(x, 3, stride=2, ceil_mode=True), IMAGE),
    "max pool, padded, that sticks out": (lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True), IMAGE),
    "dilated max pool": (lambda x: F.max_pool2d(x, 2, dilation=2), IMAGE),
    "max pool 1-D": (lambda x: F.max_pool1d(x, 2), SIGNAL),
    "max pool 3-D": (lambda x: F.max_pool3d(x, 2), VOLUME),
    "average pool": (lambda x: F.avg_pool2d(x, 2), IMAGE),
    "average pool, padding counted": (lambda x: F.avg_pool2d(x, 3, padding=1), IMAGE),
    "average pool, padding not counted": (lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), IMAGE),
    "average pool that sticks out": (lambda x: F.avg_pool2d(x, 3, 2, ceil_mode=True), IMAGE),
    "average pool 1-D": (lambda x: F.avg_pool1d(x, 3, 2, 1), SIGNAL),
    "average of the map": (lambda x: F.avg_pool2d(x, (8, 10)), IMAGE),
    "adaptive average to 1": (lambda x: F.adaptive_avg_pool2d(x, 1), IMAGE),
    "adaptive average that divides": (lambda x: F.adaptive_avg_pool2d(x, (4, None)), IMAGE),
    "adaptive average that does not divide": (lambda x: F.adaptive_avg_pool2d(x, (3, 7)), IMAGE),
    "adaptive average 1-D": (lambda x: F.adaptive_avg_pool1d(x, 4), SIGNAL),
    "adaptive maximum": (lambda x: F.adaptive_max_pool2d(x, 1), IMAGE),
    "nearest, doubled": (lambda x: F.interpolate(x, scale_factor=2), IMAGE),
    "nearest to a size": (lambda x: F.interpolate(x, size=(11, 13)), IMAGE),
    "nearest, exact": (lambda x: F.interpolate(x, size=(11, 13), mode="nearest-exact"), IMAGE),
    "bilinear": (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), IMAGE),
    "bilinear to a size": (lambda x: F.interpolate(x, size=(5, 7), mode="bilinear"), IMAGE),
    "bilinear, corners aligned": (lambda x: F.interpolate(x, size=(5, 7), mode="bilinear", align_corners=True), IMAGE),
    "bicubic": (lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"), IMAGE),
    "nearest 1-D": (lambda x: F.interpolate(x, scale_factor=3), SIGNAL),
    # normalization
    "layer norm": (nn.LayerNorm(6), SEQUENCE),
    "layer norm without weights": (lambda x: F.layer_norm(x, (5, 6)), SEQUENCE),
    "rms norm": (nn.RMSNorm(6), SEQUENCE),
    "group norm": (nn.GroupNorm(2, 4), IMAGE),
    "group norm without weights": (nn.GroupNorm(4, 4, affine=False), SIGNAL),
    "instance norm": (nn.InstanceNorm2d(4, affine=True), IMAGE),
    "softmax": (lambda x: x.softmax(1), IMAGE),
    "log softmax": (lambda x: x.log_softmax(-1), IMAGE),
    # reductions
    "mean of the map": (lambda x: x.mean((2, 3)), IMAGE),
    "mean of the map, kept": (lambda x: x.mean((-1, -2), keepdim=True), IMAGE),
    "mean of a signal": (lambda x: x.mean(-1), SIGNAL),
    "mean of channels": (lambda x: x.mean(1, keepdim=True), IMAGE),
    "sum": (lambda x: x.sum((1, 3)), IMAGE),
    "largest": (lambda x: x.amax((2, 3)) + x.amin((2, 3)), IMAGE),
    "maximum of channels": (lambda x: x.max(1, keepdim=True).values, IMAGE),
    "place of the maximum": (lambda x: x.argmax(1), ROW),
    "norm": (lambda x: x / torch.linalg.vector_norm(x, dim=1, keepdim=True), ROW),
    "normalize": (F.normalize, ROW),
    "variance": (lambda x: x.var(1) + x.std(1, keepdim=True).squeeze(1), ROW),
    # shapes
    "concatenation": (lambda x: torch.cat([x, x * 2, x], 1), IMAGE),
    "stack": (lambda x: torch.stack([x, -x], 1), IMAGE),
    "flatten": (lambda x: x.flatten(1) * 2, IMAGE),
    "flatten in the middle": (lambda x: x.flatten(2) * 2, IMAGE),
    "view": (lambda x: x.view(x.size(0), -1, 5) + 1, IMAGE),
    "view over the batch": (lambda x: (x.reshape(-1, 10) + 1).view(-1, 4, 8, 10), IMAGE),
    "unflatten": (lambda x: x.unflatten(1, (2, 2)) + 1, IMAGE),
    "transpose": (lambda x: x.transpose(1, -1) + 1, IMAGE),
    "permute": (lambda x: x.permute(0, 2, 3, 1) + 1, IMAGE),
    "move a dimension": (lambda x: x.movedim(1, -1) + 1, IMAGE),
    "squeeze": (lambda x: x.unsqueeze(1).squeeze(1).unsqueeze(-1) + 1, IMAGE),
    "slice": (lambda x: x[:, 1:3, ::2, -3:] + 1, IMAGE),
    "slice of a slice": (lambda x: x[:, :, 1:][:, :, ::2] + 1, IMAGE),
    "select": (lambda x: x[:, -1] + x[:, 1], IMAGE),
    "narrow": (lambda x: x.narrow(2, 1, 4) + 1, IMAGE),
    "split": (lambda x: x.split([1, 3], 1)[1] * 2, IMAGE),
    "split evenly": (lambda x: sum(x.split(2, 1)), IMAGE),
    "chunk": (lambda x: sum(x.chunk(2, 1)), IMAGE),
    "unbind": (lambda x: sum(x.unbind(1)), IMAGE),
    "expand": (lambda x: x.mean(1, keepdim=True).expand(-1, 4, -1, -1) + 1, IMAGE),
    "expand as": (lambda x: x.mean((2, 3), keepdim=True).expand_as(x) + 1, IMAGE),
    "expand over the batch": (lambda x: torch.cat([torch.ones(1, 1, 6).expand(x.size(0), -1, -1), x], 1), SEQUENCE),
    "repeat": (lambda x: x.repeat(1, 2, 1, 3), IMAGE),
    "zeros": (lambda x: torch.cat([x, torch.zeros(x.size(0), 2)], 1), ROW),
    "pad": (lambda x: F.pad(x, (1, 2, 0, 1, 2, 2)), IMAGE),
    "pad by a number": (lambda x: F.pad(x, (1, 2), value=0.5), IMAGE),
    "crop": (lambda x: F.pad(x, (-1, -2)), IMAGE),
    "reflect": (lambda x: F.pad(x, (1, 2, 2, 1), mode="reflect"), IMAGE),
    "replicate": (lambda x: F.pad(x, (1, 2, 2, 1), mode="replicate"), IMAGE),
    "pixel shuffle": (lambda x: F.pixel_shuffle(x, 2), IMAGE),
    "pixel unshuffle": (lambda x: F.pixel_unshuffle(x, 2), IMAGE),
    "channel shuffle": (lambda x: F.channel_shuffle(x, 2), IMAGE),
    "nothing": (lambda x: x, IMAGE),
}


def network_of(what) -> nn.Module:
    return (what if isinstance(what, nn.Module) else Does(what)).eval()


@pytest.mark.parametrize("name", ONE_INPUT)
@torch.no_grad()
def test_onnx_runtime_computes_what_torch_computes(name):
    what, shape = ONE_INPUT[name]
    network, generator = network_of(what), torch.Generator().manual_seed(0)
    content = write(folded(network, torch.randn(1, *shape, generator=generator)))
    for batch in (1, 3):
        x = torch.randn(batch, *shape, generator=generator)
        (result,) = run(content, x)
        torch.testing.assert_close(result, network(x), rtol=1e-4, atol=1e-5)


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
    network = Does(lambda x: x + torch.arange(2.0).view(2, 1, 1, 1))
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
        self.block = nn.Sequential(nn.Linear(6, 4), Does(lambda x: torch.cumsum(x, 1)))

    def forward(self, x):
        return self.block(x)


def test_an_operation_that_the_writer_does_not_know_is_named_with_its_layer():
    with pytest.raises(ExportError, match=r"layer block\.1: .*cumsum.*\n.*haversack\[fallback\]"):
        write(folded(Unknown().eval(), torch.randn(1, 6)))


@torch.no_grad()
def test_torch_writes_what_our_writer_does_not_know_and_it_is_said():
    pytest.importorskip("onnxscript")
    network, listener = Unknown().eval(), Listener()
    traced = trace(network, (torch.randn(1, 6),))
    with shown_by(listener):
        content = write_any(fold(traced), lambda: traced.program)
    x = torch.randn(3, 6)
    torch.testing.assert_close(run(content, x)[0], network(x), rtol=1e-5, atol=1e-6)
    assert "cumsum" in listener.lines[0]


def test_what_our_writer_knows_never_reaches_torch():
    def never():
        raise AssertionError

    graph = folded(nn.Linear(6, 3), torch.randn(1, 6))
    assert write_any(graph, never) == write(graph)
