"""The census counts a network only where its check could fail: files that compute something else do not pass."""

import json

import networks_census
import pytest
import torch
from networks_census import Outcome
from networks_random import INPUTS, inputs_of, make_general
from torch import nn

from haversack.errors import ParityError
from haversack.graph.inference import lower
from haversack.model import Model
from haversack.runtimes import agreement
from haversack.runtimes.onnx.write import write


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3))
        self.tokens = nn.Parameter(torch.zeros(1, 32, 1, 1))
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        return self.head((self.body(x) + self.tokens).mean((2, 3)))


@pytest.fixture
def case():
    torch.manual_seed(0)
    network = Small().eval()
    case = networks_census._Case(Outcome("small"))
    case.inputs = inputs_of((3, 16, 16), 0)
    make_general(network, case.inputs)
    case.model = Model(network, (case.inputs[:1],))
    case.outputs = list(agreement.outputs(agreement.in_torch(network), [(case.inputs,)]))
    return case


def agreed(case, content):
    return networks_census._agreed(case, case.model, content, case.outputs, None)


def test_each_input_of_a_general_network_has_a_class_of_its_own(case):
    assert case.outputs[0].argmax(1).tolist() == list(range(INPUTS))


def test_no_parameter_of_a_general_network_is_constant(case):
    assert all(each.std() > 1e-3 for each in case.model.module.parameters() if each.numel() > 1)


def test_a_file_that_computes_the_same_agrees_in_float_and_in_integers(case):
    networks_census._write_float(case)
    networks_census._quantize(case)
    networks_census._write_integers(case)
    assert case.outcome.float_parity < 1e-5
    assert case.outcome.parity <= 3
    assert case.outcome.spread > 100
    assert case.outcome.bytes < case.outcome.float_bytes


@pytest.mark.parametrize("name", ["body.0.bias", "body.1.weight", "body.1.bias", "body.3.bias", "tokens", "head.bias"])
def test_a_file_without_one_of_the_parameters_is_refused(case, name):
    with torch.no_grad():
        parameter = case.model.module.get_parameter(name)
        parameter.copy_(torch.ones_like(parameter) if name == "body.1.weight" else torch.zeros_like(parameter))
    with pytest.raises(ParityError):
        agreed(case, write(lower(case.model)))


def test_a_network_that_gives_all_inputs_nearly_the_same_does_not_count(case):
    with torch.no_grad():
        case.model.module.head.weight.mul_(1e-4)
    case.outputs = list(agreement.outputs(agreement.in_torch(case.model.module), [(case.inputs,)]))
    with pytest.raises(ParityError, match="would pass too"):
        agreed(case, write(lower(case.model)))


def test_a_run_that_was_ended_goes_on_after_the_last_whole_line(tmp_path, monkeypatch):
    store = tmp_path / "outcomes.jsonl"
    monkeypatch.setattr(networks_census, "_store", lambda: store)
    whole = json.dumps({"name": "timm/one", "refused": "late"}) + "\n"
    networks_census._keep(whole)
    networks_census._keep(whole.replace("one", "other"))
    networks_census._keep(whole.replace("one", "two")[:-4])
    assert networks_census._kept(["timm/one", "timm/two"]) == {"timm/one": Outcome("timm/one", "late")}
