"""Transformers and other networks over tokens, attention spelled in many ways."""

import torch
from torch import nn
from torch.nn import functional as F


def feed_forward(width, inner):
    return nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Dropout(0.1), nn.Linear(inner, width))


class FusedAttention(nn.Module):
    """One layer for query, key and value; the heads' size comes from the tensor (as in timm)."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-2, -1) * self.scale).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(b, n, c))


class SeparateAttention(nn.Module):
    """Three layers; the heads' size is whatever is left, so that it may shrink by itself."""

    def __init__(self, width, heads, inner):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(width, inner) for _ in "qkv")
        self.out = nn.Linear(inner, width)

    def split(self, x):
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def forward(self, x):
        y = F.scaled_dot_product_attention(self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x)))
        return self.out(y.transpose(1, 2).flatten(2))


class WholeHeads(nn.Module):
    """The size of a head stands in the code and their number is whatever is left: whole heads may go."""

    def __init__(self, width, heads, size):
        super().__init__()
        self.size = size
        self.q, self.k, self.v = (nn.Linear(width, heads * size) for _ in "qkv")
        self.out = nn.Linear(heads * size, width)

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = (layer(x).view(b, n, -1, self.size).transpose(1, 2) for layer in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(b, n, -1))


class Encoder(nn.Module):
    """Attention and an MLP on a residual stream, norms first."""

    def __init__(self, width, attention, inner):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), attention
        self.norm2, self.mlp = nn.LayerNorm(width), feed_forward(width, inner)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Patches, a class token and learnt positions (Dosovitskiy et al. 2021)."""

    def __init__(self, attention, width=24):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.token, self.position = (
            nn.Parameter(torch.zeros(1, 1, width)),
            nn.Parameter(0.1 * torch.randn(1, 17, width)),
        )
        self.blocks = nn.Sequential(*(Encoder(width, attention(width), 48) for _ in "ab"))
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        return self.out(self.norm(self.blocks(x))[:, 0])


def vit():
    return ViT(lambda width: FusedAttention(width, 4))


def vit_separate():
    return ViT(lambda width: SeparateAttention(width, 4, 32))


def vit_whole_heads():
    return ViT(lambda width: WholeHeads(width, 4, 8))


class TorchAttention(nn.Module):
    """nn.MultiheadAttention on a residual stream."""

    def __init__(self, width, heads):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


def vit_torch():
    return ViT(lambda width: TorchAttention(width, 4))


class TorchEncoder(nn.Module):
    """nn.TransformerEncoder over text."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(40, 24)
        layer = nn.TransformerEncoderLayer(24, 4, 48, batch_first=True, activation="gelu")
        self.encoder, self.out = nn.TransformerEncoder(layer, 2), nn.Linear(24, 3)

    def forward(self, tokens):
        return self.out(self.encoder(self.embed(tokens)).mean(1))


class Decoder(nn.Module):
    """A causal mask, and queries that are not what keys and values are made of."""

    def __init__(self):
        super().__init__()
        self.embed, self.queries = nn.Embedding(40, 24), nn.Parameter(torch.randn(1, 4, 24))
        self.own, self.norm = SeparateAttention(24, 4, 24), nn.LayerNorm(24)
        self.cross, self.mlp, self.out = (
            nn.MultiheadAttention(24, 4, batch_first=True),
            feed_forward(24, 48),
            nn.Linear(24, 3),
        )

    def forward(self, tokens):
        x = self.embed(tokens)
        x = self.norm(x + self.own(x))
        queries = self.queries.expand(x.shape[0], -1, -1)
        y = queries + self.cross(queries, x, x)[0]
        return self.out((y + self.mlp(y)).mean(1))


class Mixer(nn.Module):
    """MLPs over tokens and over channels in turn (Tolstikhin et al. 2021)."""

    class Block(nn.Module):
        def __init__(self, tokens, width):
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.tokens, self.channels = feed_forward(tokens, 24), feed_forward(width, 48)

        def forward(self, x):
            x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
            return x + self.channels(self.norm2(x))

    def __init__(self):
        super().__init__()
        self.patches, self.blocks = nn.Conv2d(3, 24, 8, 8), nn.Sequential(self.Block(16, 24), self.Block(16, 24))
        self.norm, self.out = nn.LayerNorm(24), nn.Linear(24, 10)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.out(self.norm(self.blocks(x)).mean(1))


class GatedMLP(nn.Module):
    """Half of the channels gates the other, mixed over tokens (gMLP, Liu et al. 2021)."""

    class Block(nn.Module):
        def __init__(self, tokens, width, inner):
            super().__init__()
            self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 2 * inner), nn.Linear(inner, width)
            self.gate_norm, self.mix = nn.LayerNorm(inner), nn.Conv1d(tokens, tokens, 1)

        def forward(self, x):
            value, gate = F.gelu(self.up(self.norm(x))).chunk(2, dim=-1)
            return x + self.down(value * self.mix(self.gate_norm(gate)))

    def __init__(self):
        super().__init__()
        self.patches, self.blocks = nn.Conv2d(3, 24, 8, 8), nn.Sequential(*(self.Block(16, 24, 32) for _ in "ab"))
        self.out = nn.Linear(24, 10)

    def forward(self, x):
        return self.out(self.blocks(self.patches(x).flatten(2).transpose(1, 2)).mean(1))


class Conformer(nn.Module):
    """Attention and a gated depthwise convolution over time (Gulati et al. 2020)."""

    def __init__(self):
        super().__init__()
        self.first, self.pre = nn.Linear(6, 24), feed_forward(24, 48)
        self.norm1, self.attention = nn.LayerNorm(24), SeparateAttention(24, 3, 24)
        self.norm2, self.gated, self.depthwise = (
            nn.LayerNorm(24),
            nn.Conv1d(24, 48, 1),
            nn.Conv1d(24, 24, 5, padding=2, groups=24),
        )
        self.norm3, self.point, self.out = nn.BatchNorm1d(24), nn.Conv1d(24, 24, 1), nn.Linear(24, 4)

    def forward(self, x):
        x = self.first(x)
        x = x + 0.5 * self.pre(x)
        x = x + self.attention(self.norm1(x))
        y = F.glu(self.gated(self.norm2(x).transpose(1, 2)), dim=1)
        y = self.point(F.silu(self.norm3(self.depthwise(y))))
        return self.out((x + y.transpose(1, 2)).mean(1))


class NonLocal(nn.Module):
    """Attention between all pixels inside a CNN (Wang et al. 2018)."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 24, 3, 4, 1), nn.ReLU())
        self.back = nn.Conv2d(12, 24, 1)
        self.q, self.k, self.v = (nn.Conv2d(24, 12, 1) for _ in "qkv")
        self.out = nn.Linear(24, 10)

    def forward(self, x):
        x = self.stem(x)
        b, _, h, w = x.shape
        q, k, v = (layer(x).flatten(2) for layer in (self.q, self.k, self.v))
        weights = torch.bmm(q.transpose(1, 2), k).softmax(-1)
        y = torch.bmm(v, weights.transpose(1, 2)).view(b, -1, h, w)
        return self.out((x + self.back(y)).mean((2, 3)))


IMAGE, TOKENS = (3, 32, 32), (8,)
NETWORKS = {
    "ViT": (vit, IMAGE),
    "ViT, heads of free size": (vit_separate, IMAGE),
    "ViT, whole heads": (vit_whole_heads, IMAGE),
    "ViT, nn.MultiheadAttention": (vit_torch, IMAGE),
    "nn.TransformerEncoder": (TorchEncoder, TOKENS),
    "cross attention": (Decoder, TOKENS),
    "MLP-Mixer": (Mixer, IMAGE),
    "gMLP": (GatedMLP, IMAGE),
    "Conformer": (Conformer, (12, 6)),
    "non-local network": (NonLocal, IMAGE),
}
