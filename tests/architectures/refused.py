"""Networks that cannot be pruned: each is refused with the reason."""

import torch
from torch import nn
from torch.nn import functional as F


def logistic_regression():
    """No channels but inputs and outputs."""
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 10))


class SpelledAttention(nn.Module):
    """Number and size of the heads stand in the code, and there is no other layer to prune."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(12, 36), nn.Linear(12, 12)

    def forward(self, x):
        q, k, v = self.qkv(x).view(x.shape[0], 12, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(-1, 12, 12))


class FixedFilters(nn.Module):
    """A bank of filters, one for each channel, that no parameter holds."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.last(F.conv2d(self.first(x), torch.ones(8, 1, 3, 3) / 9, groups=8))


class DependsOnData(nn.Module):
    """A branch that hangs on values."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(48, 16), nn.Linear(16, 4)

    def forward(self, x):
        x = self.first(x.flatten(1))
        return self.last(x if x.sum() > 0 else -x)


class Sorted(nn.Module):
    """The largest channels, whichever they are."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(48, 16), nn.Linear(8, 4)

    def forward(self, x):
        return self.last(self.first(x.flatten(1)).topk(8).values)


class Cell(nn.Module):
    """A recurrent cell in a loop, its first state spelled."""

    def __init__(self):
        super().__init__()
        self.cell, self.out = nn.LSTMCell(6, 16), nn.Linear(16, 4)

    def forward(self, x):
        state = (x.new_zeros(x.shape[0], 16), x.new_zeros(x.shape[0], 16))
        for step in range(x.shape[1]):
            state = self.cell(x[:, step], state)
        return self.out(state[0])


SMALL = (3, 4, 4)
NETWORKS = {
    "logistic regression": (logistic_regression, SMALL),
    "spelled attention": (SpelledAttention, (12, 12)),
    "fixed filters": (FixedFilters, (3, 8, 8)),
    "a branch on values": (DependsOnData, SMALL),
    "sorted channels": (Sorted, SMALL),
    "LSTM cell": (Cell, (5, 6)),
}
