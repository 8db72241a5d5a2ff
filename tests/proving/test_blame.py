import json
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from haversack.errors import MeasureError, NothingChangedError
from haversack.model import Model
from haversack.packing.check import checked_model
from haversack.preparing import Prepare
from haversack.proving.blame import blame
from haversack.report.proved import blamed
from haversack.surgery.save import save
from haversack.task import Task
from haversack.techniques.quantize_static import QuantizeStatic


class Network(nn.Module):
    """Three convolutions; the second has a giant weight a channel, for an input that is always zero."""

    def __init__(self):
        super().__init__()
        self.first, self.guilty, self.last = (nn.Conv2d(i, o, 3, padding=1) for i, o in ((3, 8), (8, 8), (8, 8)))
        self.head = nn.Linear(8, 4)
        with torch.no_grad():
            self.guilty.weight[:, 0, 0, 0] = 3.0
            self.first.weight[0], self.first.bias[0] = 0, 0

    def forward(self, x):
        x = F.relu(self.last(F.relu(self.guilty(F.relu(self.first(x))))))
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Network().eval()


@pytest.fixture(scope="module")
def task(network):
    x = torch.randn(96, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = network(x)
    return Task(
        train=list,
        calibrate=lambda: [x[:64]],
        score=lambda f: -float((f(x) - y).square().mean()),
        kind="regression",
    )


def packed(network, task, folder, **settings):
    model = QuantizeStatic(**settings).apply(Model(network, (torch.zeros(1, 3, 8, 8),)), task)
    save(model, folder / "network")
    return folder


def test_the_layer_that_few_bits_ruin_is_named_and_mended_by_eight(network, task, tmp_path):
    found = blame(packed(network, task, tmp_path, weight_bits=3), network, task, suspects=1)
    worst = found.suspects[0]
    assert worst.path == "guilty"
    assert worst.alone_db < min(each.alone_db for each in found.suspects[1:]) - 3
    assert worst.score >= found.score
    assert [each.score for each in found.suspects[1:]] == [None] * 3
    assert (found.remedy.setting, found.remedy.layers) == ("layer_bits", ("guilty=8",))
    assert found.remedy.extra_bytes == 8 * 8 * 9 // 2
    assert found.remedy.score >= found.score
    assert found.float_score == pytest.approx(0.0, abs=1e-9)
    assert "guilty" in str(blamed(found))
    assert 'layer_bits = ["guilty=8"]' in str(blamed(found))


def test_the_remedy_is_a_setting_that_works(network, task, tmp_path):
    found = blame(packed(network, task, tmp_path, weight_bits=8), network, task, suspects=2)
    assert found.remedy.setting == "leave_float"
    mended = QuantizeStatic(leave_float=found.remedy.layers).apply(Model(network, (torch.zeros(1, 3, 8, 8),)), task)
    assert not {f"{path}.weight" for path in found.remedy.layers} & set(mended.grids)
    assert sum(each.macs_share for each in found.suspects) == pytest.approx(1, abs=0.01)


def with_limits(folder, **limits):
    """A result that was packed for these limits, its file having 2,000 bytes."""
    figures = {"flash_bytes": {"value": 2000, "origin": "host"}, "ram_bytes": {"value": 1, "origin": "host"}}
    conditions = {"device": "host", "runtime": "onnx", "threads": 1, "machine": "here"}
    measured = {**figures, "latency_ms": None, "conditions": conditions}
    (folder / "measurement.json").write_text(json.dumps({"packed": measured, "limits": limits}))
    return folder


@pytest.mark.parametrize(("room", "layers"), [(0, 0), (95, 0), (96, 1), (1823, 1), (1824, 2), (None, 2)])
def test_a_remedy_takes_no_more_flash_than_the_limit_leaves(network, task, tmp_path, room, layers):
    """The head's 32 weights are the worst, then the 576 of `guilty`: 3 bytes more for each."""
    limits = {} if room is None else {"flash_bytes": 2000 + room}
    found = blame(with_limits(packed(network, task, tmp_path, weight_bits=8), **limits), network, task, suspects=2)
    taken = 0 if found.remedy is None else len(found.remedy.layers)
    assert taken == layers
    assert (found.remedy is None) == ("more flash, and the limit leaves" in found.why_none)
    assert found.remedy is None or room is None or found.remedy.extra_bytes <= room


def test_a_remedy_tells_which_limits_it_may_break_unseen(network, task, tmp_path):
    folder = with_limits(packed(network, task, tmp_path, weight_bits=8), latency_ratio=0.5, update_bytes=9)
    found = blame(folder, network, task, suspects=1)
    assert found.remedy.unjudged == ("update", "latency")
    assert "update and latency: unknown until it is applied" in str(blamed(found))
    few = blame(with_limits(packed(network, task, tmp_path, weight_bits=3), latency_ratio=0.5), network, task)
    assert few.remedy.unjudged == ()


def test_nothing_is_proposed_where_no_score_was_lost_beyond_chance(network, task, tmp_path):
    x = task.calibration()[0][0]
    with torch.no_grad():
        y = network(x).argmax(1)
    classes = replace(task, kind="classification", score=lambda f: float((f(x).argmax(1) == y).float().mean()))
    found = blame(packed(network, task, tmp_path, weight_bits=8), network, classes)
    assert found.remedy is None
    assert "No remedy is proposed: rounding costs no score beyond what chance" in str(blamed(found))


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_a_remedy_wins_score_back_though_biases_were_corrected_for_the_rounded_weights(network, task, tmp_path, bits):
    found = blame(packed(network, task, tmp_path, weight_bits=bits), network, task, suspects=1)
    assert found.remedy.score > found.score


def test_noise_grows_along_the_network(network, task, tmp_path):
    found = blame(packed(network, task, tmp_path, weight_bits=4), network, task)
    by_path = {each.path: each.snr_db for each in found.suspects}
    assert by_path["first"] > by_path["guilty"]


def test_a_float_result_is_not_blamed(network, task, tmp_path):
    save(Model(network, (torch.zeros(1, 3, 8, 8),)), tmp_path / "network")
    with pytest.raises(NothingChangedError, match="not quantized"):
        blame(tmp_path, network, task)


def test_a_folder_without_a_result_is_refused(network, task, tmp_path):
    with pytest.raises(MeasureError, match="no result of `pack`"):
        blame(tmp_path, network, task)


def test_a_network_that_takes_bytes_is_blamed_by_what_it_makes_of_them(network, tmp_path):
    raw = torch.randint(0, 256, (64, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    of_bytes = Task(list, lambda: [raw], lambda f: -float(f(raw).square().mean()), "regression")
    of_bytes = replace(of_bytes, prepare=Prepare(mean=(0.5, 0.4, 0.3), std=0.2, layout="NHWC"))
    save(QuantizeStatic(3).apply(checked_model(network, of_bytes), of_bytes), tmp_path / "network")
    found = blame(tmp_path, network, of_bytes, suspects=1)
    assert found.suspects[0].path == "guilty"
