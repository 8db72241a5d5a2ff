import pytest
import torch
from onnx_files import IMAGE, ROW, SEQUENCE, SIGNAL, VOLUME, Does, folded, run
from torch import nn
from torch.nn import functional as F

from haversack.runtimes.onnx.write import write


def positive(x):
    return x.abs() + 0.1


def wholes(x):
    return (x * 4).long()


def written_into_a_slice(x):
    y = x * 2
    y[:, 1:3, :4] = x[:, :2, :4] + 1
    y[:, :, -2:] += 1
    return y


def written_into_a_place(x):
    y = x * 2
    y[:, -1] = x[:, 0]
    return y


def written_to_places(x):
    y = torch.zeros(5, 6)
    y[torch.tensor([0, 3]), torch.tensor([1, -1])] = 2.0
    return x + y.index_put((x.sum((1, 2)).long() * 0 + 1,), torch.ones(6), accumulate=False)


def written_by_a_mask(x):
    y = x * 2
    y[x > 0.5] = -1.0
    return y


def windows_and_back(x):
    batch, channels, height, width = x.shape
    windows = x.view(batch, channels, height // 4, 4, width // 5, 5).permute(0, 2, 4, 3, 5, 1).reshape(-1, 20, channels)
    windows = (windows @ windows.transpose(1, 2)).softmax(-1) @ windows
    parts = windows.view(windows.shape[0] // 4, 2, 2, 4, 5, channels)
    return parts.permute(0, 5, 1, 3, 2, 4).reshape(batch, channels, height, width)


TABLE = torch.linspace(-1, 1, 15).view(5, 3)
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
    "gated linear unit": (lambda x: F.glu(x, 1), IMAGE),
    "mish": (F.mish, IMAGE),
    "gelu": (F.gelu, IMAGE),
    "gelu by tanh": (lambda x: F.gelu(x, approximate="tanh"), IMAGE),
    "elu": (lambda x: F.elu(x, 0.7), IMAGE),
    "selu": (F.selu, IMAGE),
    "softplus": (F.softplus, IMAGE),
    "clamp": (lambda x: x.clamp(-0.3, 0.4), IMAGE),
    "clamp from below": (lambda x: x.clamp(min=-0.3), IMAGE),
    "clamp from above": (lambda x: x.clamp_max(0.3), IMAGE),
    "clamp between tensors": (lambda x: x.clamp(x.mean(1, keepdim=True) - 0.3, x.amax(1, keepdim=True)), IMAGE),
    "softplus of a steeper curve": (lambda x: F.softplus(x, beta=2.0), IMAGE),
    "shrinks": (lambda x: F.softshrink(x, 0.3) + F.hardshrink(x, 0.4), IMAGE),
    "thresholds": (lambda x: F.threshold(x, 0.2, -1.0) + F.celu(x, 0.6) + F.softsign(x), IMAGE),
    # arithmetic
    "numbers": (lambda x: (2 - (x + 1) * 3 - 0.5) / 4, IMAGE),
    "powers": (lambda x: x**2 + positive(x) ** 1.5, IMAGE),
    "functions": (lambda x: positive(x).sqrt() + positive(x).rsqrt() + positive(x).log() + torch.exp(-x), IMAGE),
    "waves": (lambda x: torch.sin(x) + torch.cos(x) + torch.erf(x) + torch.reciprocal(positive(x)), IMAGE),
    "more waves": (lambda x: x.tan() + x.atan() + x.sinh() + x.cosh() + (x / 9).asin() + (x / 9).acos(), IMAGE),
    "logarithms": (lambda x: positive(x).log2() + positive(x).log10() + positive(x).log1p(), IMAGE),
    "exponentials": (lambda x: torch.exp2(x) + torch.expm1(x) + 2**x, IMAGE),
    "rounding": (lambda x: torch.trunc(3 * x) + torch.ceil(3 * x) + torch.floor(3 * x), IMAGE),
    "quotients rounded": (lambda x: torch.div(3 * x, 2, rounding_mode="floor") + (3 * x) // positive(x), IMAGE),
    "quotients rounded towards zero": (lambda x: torch.div(3 * x, 2, rounding_mode="trunc"), IMAGE),
    "quotients of integers": (lambda x: wholes(x) // 3 + torch.div(wholes(x), 3, rounding_mode="trunc") + x, IMAGE),
    "remainders": (lambda x: torch.remainder(x, 0.3) + torch.fmod(x, 0.3) + wholes(x) % 3, IMAGE),
    "products added": (lambda x: torch.addcmul(x, x, x + 1, value=0.5) + torch.addcdiv(x, x, positive(x)), IMAGE),
    "between two": (lambda x: torch.lerp(x, 2 * x + 1, 0.3), IMAGE),
    "outer product": (lambda x: x + torch.outer(x.sum(1), torch.arange(6)), ROW),
    "truth values": (lambda x: ((x > 0) & ~(x > 1) | (x < -1) ^ (x != 0)) * 2.0 + (x > 0) * (x < 1), IMAGE),
    "truth of numbers": (lambda x: torch.logical_xor(F.relu(x), x) + torch.logical_or(x > 1, x < 0) * 2.0, IMAGE),
    "bits": (lambda x: (wholes(x) & 3) + (wholes(x) | 4) + (wholes(x) ^ 5) + ~wholes(x) + x, IMAGE),
    "integers against fractions": (lambda x: (wholes(x) > 0.5) + x, IMAGE),
    "where between truth values": (lambda x: torch.where(x > 1, x > 2, x < 0) + x, IMAGE),
    "not a number": (lambda x: torch.where((x / 0).isinf() & ~x.isnan(), x, 0.0), IMAGE),
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
    "attention with shared keys": (
        lambda x: F.scaled_dot_product_attention(
            *(x.view(-1, 4, 4, 20)[:, :heads] for heads in (4, 2, 2)), enable_gqa=True
        ),
        IMAGE,
    ),
    "products with factors": (
        lambda x: (
            torch.baddbmm(x, x @ x.transpose(1, 2), x, beta=0.5, alpha=2.0) + torch.baddbmm(x, x[:, :, :5], x, beta=0)
        ),
        SEQUENCE,
    ),
    "causal attention": (lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True), SEQUENCE),
    "masked attention": (
        lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=torch.eye(5, dtype=torch.bool)),
        SEQUENCE,
    ),
    # pooling
    "max pool": (lambda x: F.max_pool2d(x, 3, stride=2, padding=1), IMAGE),
    "max pool that sticks out": (lambda x: F.max_pool2d(x, 3, stride=2, ceil_mode=True), IMAGE),
    "max pool, padded, that sticks out": (lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True), IMAGE),
    "max pool whose last window torch drops": (lambda x: F.max_pool2d(x[:, :, 1:], 2, 2, 1, ceil_mode=True), IMAGE),
    "dilated max pool that sticks out": (lambda x: F.max_pool2d(x, 2, 4, dilation=2, ceil_mode=True), IMAGE),
    "average pool whose last window torch drops": (lambda x: F.avg_pool2d(x, 1, 3, ceil_mode=True), IMAGE),
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
    "variance and mean": (lambda x: sum((*torch.var_mean(x, 1), *torch.std_mean(x, (1,), correction=0))), ROW),
    "any and all": (lambda x: (x > 1).any(1) + (x > -1).all(1) + x.bool().any(1, keepdim=True).squeeze(1) * 2.0, ROW),
    "how many": (lambda x: (x > 0).sum(1, keepdim=True) + x, ROW),
    "logarithm of a sum": (lambda x: x.logsumexp(1), IMAGE),
    "running sum": (lambda x: x.cumsum(1) + (x > 0).cumsum(-1), IMAGE),
    "largest few": (lambda x: x.topk(3, dim=1).values + x.topk(3, dim=1, largest=False).indices, IMAGE),
    "sorted": (lambda x: x.sort(2, descending=True).values + x.argsort(-1), IMAGE),
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
    "places along a dimension": (lambda x: x[:, :, [3, -1, 0]] + 1, IMAGE),
    "places as a table": (lambda x: x[:, torch.tensor([[0, 1], [2, 3]])] + 1, IMAGE),
    "places in two dimensions": (lambda x: x[:, torch.tensor([[1], [-2]]), torch.tensor([0, 3, 7])] + 1, IMAGE),
    "places in two dimensions that are apart": (lambda x: x[:, [1, 2, 0], :, [3, -4, 5]] + 1, IMAGE),
    "places that the network computes": (lambda x: TABLE[x.argmax(1)] + 1, (5,)),
    "differences": (lambda x: x.diff(dim=1, prepend=x[:, :1] * 0) + x.long().diff(dim=-1).sum(-1, keepdim=True), IMAGE),
    "gathered": (lambda x: x.gather(1, x.argsort(1)), IMAGE),
    "scattered": (lambda x: torch.zeros_like(x).scatter(1, x.argsort(1), x), IMAGE),
    "a number scattered": (lambda x: x.scatter(1, x.argmax(1, keepdim=True), 0.5), IMAGE),
    "added at places": (lambda x: x.scatter_add(1, x.argsort(1)[:, :3], x[:, :3]), IMAGE),
    "rolled": (lambda x: x.roll((1, -3), (2, 3)), IMAGE),
    "turned around": (lambda x: x.flip(1, -1), IMAGE),
    "above the diagonal": (lambda x: x.triu(1) + x.tril(-1) + (x > 0).triu(), IMAGE),
    "diagonal": (lambda x: torch.diagonal(x, 1, 1, 3) + 1, IMAGE),
    "a one among zeros": (lambda x: F.one_hot(x.argmax(1), 6) + x, ROW),
    "written into a slice": (written_into_a_slice, IMAGE),
    "written into one place": (written_into_a_place, IMAGE),
    "written to places": (written_to_places, SEQUENCE),
    "written where a mask holds": (written_by_a_mask, IMAGE),
    "windows of one dimension": (lambda x: x.unfold(2, 3, 2).unfold(3, 4, 3) + 1, IMAGE),
    "windows as columns": (lambda x: F.unfold(x, (3, 2), dilation=2, padding=(1, 2), stride=(2, 1)), IMAGE),
    "columns as a map": (lambda x: F.fold(F.unfold(x, 3, padding=1, stride=2), (8, 10), 3, padding=1, stride=2), IMAGE),
    "a map read at points": (lambda x: F.grid_sample(x, x.view(-1, 8, 20, 2), align_corners=False), IMAGE),
    "each several times": (
        lambda x: x.repeat_interleave(2, 1) + x.repeat_interleave(8, 3)[..., :10].repeat(1, 2, 1, 1),
        IMAGE,
    ),
    "tiled": (lambda x: x.tile(2, 1), IMAGE),
    "counted up": (lambda x: x + torch.arange(x.size(0)).view(-1, 1), ROW),
    "numbers like the first": (lambda x: x.new_full((2, 6), 3.0)[1] + torch.full_like(x, 0.5) + x.new_ones(6), ROW),
    "windows and back": (windows_and_back, IMAGE),
    "copies for each sample": (lambda x: torch.ones(1, 6).repeat(x.size(0), 1) * x, ROW),
    "as many samples as there are pixels": (
        lambda x: x.permute(0, 2, 3, 1).reshape(-1, 2, 2).sum(-1).view(x.size(0), -1),
        IMAGE,
    ),
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


class Recurrent(nn.Module):
    def __init__(self, layer, **settings):
        super().__init__()
        self.layer = layer(6, 4, batch_first=True, **settings)

    def forward(self, x):
        outputs, last = self.layer(x)
        return torch.cat([outputs, outputs * 2], 1), last


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("settings", [{}, {"num_layers": 2, "bidirectional": True, "bias": False}])
@torch.no_grad()
def test_a_recurrent_layer_and_its_file_agree(layer, settings):
    network, x = Recurrent(layer, **settings).eval(), torch.randn(3, *SEQUENCE)
    outputs, *last = run(write(folded(network, x)), x)
    expected, state = network(x)
    torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=1e-6)
    for one, other in zip(last, state if isinstance(state, tuple) else (state,), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
