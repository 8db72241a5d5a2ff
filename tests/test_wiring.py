"""A network that takes and gives by name computes the same, by position; and it stays the same network."""

import copy
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from haversack.errors import TaskError
from haversack.wiring import picked, rewired

LOGITS, HIDDEN = torch.ones(2, 3), torch.zeros(2, 5)


@dataclass
class Found:
    """As libraries return them: the output, and what is there beside it."""

    logits: Tensor
    hidden: Tensor | None = None
    loss: float = 0.0


class Named(nn.Module):
    """A network that would compute something else, were its inputs swapped."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 4), nn.Linear(4, 3)

    def forward(self, tokens, mask, *, scale=1.0):
        pooled = (self.embed(tokens) * mask[..., None]).sum(1) * scale
        return Found(self.head(pooled), pooled)


TOKENS, MASK = torch.tensor([[1, 2], [3, 4]]), torch.tensor([[1.0, 0.0], [1.0, 1.0]])


def test_a_wired_network_computes_the_same_by_position():
    network = Named().eval()
    twin = rewired(network, ["mask", "tokens"])
    assert torch.equal(twin(MASK, TOKENS), network(TOKENS, MASK).logits)
    hidden = rewired(network, ["mask", "tokens"], "hidden")
    assert torch.equal(hidden(MASK, TOKENS), network(TOKENS, MASK).hidden)


def test_a_wired_network_is_the_network_with_the_same_names_and_tensors():
    network = Named()
    twin = rewired(network, ["mask", "tokens"])
    assert twin.head is network.head
    assert list(twin.state_dict()) == list(network.state_dict())
    assert isinstance(twin, Named)
    assert isinstance(network(TOKENS, MASK), Found)
    assert type(rewired(network, ["mask", "tokens"])) is type(twin)


def test_a_wired_network_is_wired_anew():
    network = Named().eval()
    once = rewired(network, ["mask", "tokens"])
    assert torch.equal(rewired(once, ["mask", "tokens"])(MASK, TOKENS), once(MASK, TOKENS))
    assert torch.equal(rewired(once, ["mask", "tokens"], "hidden")(MASK, TOKENS), network(TOKENS, MASK).hidden)


def test_a_wired_network_takes_its_inputs_by_name_too():
    network = Named().eval()
    wanted = network(TOKENS, MASK).logits
    assert torch.equal(rewired(network, ["mask", "tokens"])(tokens=TOKENS, mask=MASK), wanted)
    assert torch.equal(rewired(network, [], "logits")(TOKENS, MASK), wanted)


def test_a_copy_of_a_wired_network_is_wired_and_its_own():
    network = Named()
    twin = copy.deepcopy(rewired(network, ["mask", "tokens"]))
    with torch.no_grad():
        twin.head.weight.zero_()
        twin.head.bias.fill_(2.0)
    assert torch.equal(twin(MASK, TOKENS), torch.full((2, 3), 2.0))
    assert not torch.equal(network(TOKENS, MASK).logits, twin(MASK, TOKENS))


class Pair(NamedTuple):
    """As older code returns them."""

    logits: Tensor
    hidden: Tensor


@pytest.mark.parametrize(
    ("found", "output", "wanted"),
    [
        (LOGITS, "", LOGITS),
        (Found(LOGITS, HIDDEN), "", LOGITS),
        (Found(LOGITS, HIDDEN), "hidden", HIDDEN),
        (Found(None, HIDDEN), "", HIDDEN),
        ({"pooler_output": HIDDEN, "last_hidden_state": LOGITS}, "", LOGITS),
        ({"mine": LOGITS}, "", LOGITS),
        (Pair(LOGITS, HIDDEN), "", LOGITS),
        ((HIDDEN, LOGITS), "1", LOGITS),
        ((LOGITS, None), "", LOGITS),
        ([LOGITS], "", LOGITS),
    ],
)
def test_the_output_that_is_named_or_stands_out_is_taken(found, output, wanted):
    assert picked(found, output) is wanted


@pytest.mark.parametrize(
    ("found", "output", "said"),
    [
        ((LOGITS, HIDDEN), "", "returns tuple with '0', '1'"),
        (Found(LOGITS), "scores", "returns Found with 'logits', and no 'scores'"),
        ({}, "", "returns dict with no tensor"),
        (None, "", "returns NoneType with no tensor"),
        (LOGITS, "logits", "returns Tensor with '0', and no 'logits'"),
    ],
)
def test_outputs_among_which_none_is_chosen_are_refused_by_name(found, output, said):
    with pytest.raises(TaskError) as caught:
        picked(found, output)
    assert said in str(caught.value)
    assert "Task(outputs=" in caught.value.mend
