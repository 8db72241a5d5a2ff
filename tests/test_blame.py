import pytest
import torch
from torch import nn
from torch.nn import functional as F

from haversack.blame import blame
from haversack.errors import MeasureError, NothingChangedError
from haversack.graph.surgery import save
from haversack.model import Model
from haversack.report.blame import blamed
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
        y = network(x).argmax(1)
    return Task(train=list, calibrate=lambda: [x[:64]], score=lambda f: float((f(x).argmax(1) == y).float().mean()))


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
    assert found.float_score == 1.0
    assert "guilty" in blamed(found)
    assert 'layer_bits = ["guilty=8"]' in blamed(found)


def test_the_remedy_is_a_setting_that_works(network, task, tmp_path):
    found = blame(packed(network, task, tmp_path, weight_bits=8), network, task, suspects=2)
    assert found.remedy.setting == "leave_float"
    mended = QuantizeStatic(leave_float=found.remedy.layers).apply(Model(network, (torch.zeros(1, 3, 8, 8),)), task)
    assert not {f"{path}.weight" for path in found.remedy.layers} & set(mended.grids)
    assert sum(each.macs_share for each in found.suspects) == pytest.approx(1, abs=0.01)


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
