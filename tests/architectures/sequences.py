"""Networks over time: convolutions, recurrence and text."""

import torch
from torch import nn
from torch.nn import functional as F


def conv1d(into, out, size=5, stride=1, dilation=1):
    return nn.Sequential(
        nn.Conv1d(into, out, size, stride, size // 2 * dilation, dilation), nn.BatchNorm1d(out), nn.ReLU()
    )


def sensor_cnn():
    layers = (conv1d(6, 24), nn.MaxPool1d(2), conv1d(24, 32), nn.MaxPool1d(2), conv1d(32, 32))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(32, 6))


class Causal(nn.Module):
    """Dilated convolutions that see only the past, on a residual stream (TCN, Bai et al. 2018)."""

    def __init__(self, into, out, dilation):
        super().__init__()
        self.first, self.second = nn.Conv1d(into, out, 3, dilation=dilation), nn.Conv1d(out, out, 3, dilation=dilation)
        self.past, self.match = 2 * dilation, nn.Conv1d(into, out, 1) if into != out else nn.Identity()

    def forward(self, x):
        y = F.relu(self.first(F.pad(x, (self.past, 0))))
        return F.relu(self.match(x) + self.second(F.pad(y, (self.past, 0))))


class TCN(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(Causal(6, 16, 1), Causal(16, 16, 2), Causal(16, 24, 4))
        self.out = nn.Linear(24, 4)

    def forward(self, x):
        return self.out(self.blocks(x)[:, :, -1])


class Wave(nn.Module):
    """Gated activations and sums of skips (WaveNet, van den Oord et al. 2016)."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv1d(4, 16, 1)
        self.gated = nn.ModuleList(nn.Conv1d(16, 32, 3, padding=rate, dilation=rate) for rate in (1, 2, 4))
        self.mix, self.skip = (nn.ModuleList(nn.Conv1d(16, 16, 1) for _ in range(3)) for _ in "ab")
        self.out = nn.Conv1d(16, 5, 1)

    def forward(self, x):
        x, skips = self.first(x), 0.0
        for gated, mix, skip in zip(self.gated, self.mix, self.skip, strict=True):
            value, gate = gated(x).chunk(2, 1)
            y = torch.tanh(value) * torch.sigmoid(gate)
            x, skips = x + mix(y), skips + skip(y)
        return self.out(F.relu(skips))


class Recurrent(nn.Module):
    """A recurrent layer, and a head on its last output or its last state."""

    def __init__(self, kind, last, **settings):
        super().__init__()
        self.first, self.last = nn.Linear(6, 16), last
        self.recurrent = kind(16, 24, batch_first=True, **settings)
        width = 48 if settings.get("bidirectional") else 24
        self.hidden, self.out = nn.Linear(width, 16), nn.Linear(16, 4)

    def forward(self, x):
        outputs, state = self.recurrent(F.relu(self.first(x)))
        return self.out(F.relu(self.hidden(self.last(outputs, state))))


def lstm():
    return Recurrent(nn.LSTM, lambda outputs, _: outputs[:, -1])


def stacked_lstm():
    return Recurrent(nn.LSTM, lambda _, state: state[0][-1], num_layers=2, dropout=0.1)


def gru():
    return Recurrent(nn.GRU, lambda _, state: state[-1], num_layers=2)


def bidirectional_lstm():
    return Recurrent(nn.LSTM, lambda outputs, _: outputs.mean(1), bidirectional=True)


def bidirectional_gru():
    return Recurrent(nn.GRU, lambda _, state: torch.cat([state[-2], state[-1]], 1), bidirectional=True, num_layers=2)


class CRNN(nn.Module):
    """Convolutions, then recurrence over columns (Shi et al. 2017): channels and rows are one feature."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 12, 3, 2, 1), nn.Conv2d(12, 16, 3, (2, 1), 1)
        self.recurrent, self.out = nn.GRU(16 * 4, 24, batch_first=True, bidirectional=True), nn.Linear(48, 8)

    def forward(self, x):
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        x = x.permute(0, 3, 1, 2).flatten(2)
        return self.out(self.recurrent(x)[0])


class AttentionPooling(nn.Module):
    """A weighted mean over time, the weights from a small network (Bahdanau et al. 2015)."""

    def __init__(self):
        super().__init__()
        self.features, self.recurrent = conv1d(6, 24), nn.GRU(24, 24, batch_first=True)
        self.score, self.out = nn.Sequential(nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 1)), nn.Linear(24, 4)

    def forward(self, x):
        y, _ = self.recurrent(self.features(x).transpose(1, 2))
        weights = self.score(y).softmax(1)
        return self.out((weights * y).sum(1))


class Text(nn.Module):
    """Embeddings, convolutions of several sizes, maxima over time (Kim 2014)."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(40, 24)
        self.convs = nn.ModuleList(nn.Conv1d(24, 12, size) for size in (2, 3, 4))
        self.out = nn.Linear(36, 3)

    def forward(self, tokens):
        x = self.embed(tokens).transpose(1, 2)
        return self.out(torch.cat([F.relu(conv(x)).amax(2) for conv in self.convs], 1))


class FastText(nn.Module):
    """The mean of embeddings (Joulin et al. 2017)."""

    def __init__(self):
        super().__init__()
        self.embed, self.hidden, self.out = nn.Embedding(40, 32), nn.Linear(32, 24), nn.Linear(24, 3)

    def forward(self, tokens):
        return self.out(F.relu(self.hidden(self.embed(tokens).mean(1))))


class TiedLanguageModel(nn.Module):
    """The embedding is the output layer's weight as well (Press and Wolf 2017)."""

    def __init__(self):
        super().__init__()
        self.embed, self.recurrent, self.out = (
            nn.Embedding(40, 24),
            nn.LSTM(24, 24, batch_first=True),
            nn.Linear(24, 40),
        )
        self.out.weight = self.embed.weight

    def forward(self, tokens):
        return self.out(self.recurrent(self.embed(tokens))[0])


TIME, STEPS, TOKENS = (6, 48), (6, 6), (8,)
NETWORKS = {
    "1-D CNN": (sensor_cnn, TIME),
    "TCN": (TCN, TIME),
    "WaveNet": (Wave, (4, 48)),
    "LSTM": (lstm, STEPS),
    "stacked LSTM": (stacked_lstm, STEPS),
    "GRU": (gru, STEPS),
    "bidirectional LSTM": (bidirectional_lstm, STEPS),
    "bidirectional GRU": (bidirectional_gru, STEPS),
    "CRNN": (CRNN, (1, 16, 12)),
    "attention pooling": (AttentionPooling, (6, 8)),
    "TextCNN": (Text, TOKENS),
    "fastText": (FastText, TOKENS),
    "tied language model": (TiedLanguageModel, TOKENS),
}
