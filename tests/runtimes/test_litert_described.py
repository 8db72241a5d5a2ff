"""What tools read of a .tflite file beside its operations: signature, names, the runtime that it needs."""

import numpy as np
import pytest
import tflite
import torch
from ai_edge_litert.interpreter import Interpreter
from integer_graphs import every_layer
from litert_files import images, network, quantized
from torch import nn

from haversack.graph.inference import lower
from haversack.model import Model
from haversack.runtimes.tflite import LITERT
from haversack.runtimes.tflite.schema import BUILTINS, oldest_release
from haversack.runtimes.tflite.write import write


class TwoPaths(nn.Module):
    """Inputs and outputs whose names and order a caller must be able to tell, called like our inner values."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 5)

    def forward(self, image, a1):
        features = torch.relu(self.backbone(image + a1))
        return self.head(features.mean((2, 3))), features


def two_paths() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    torch.manual_seed(0)
    return TwoPaths().eval(), (torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8))


def file_of(module, example) -> bytes:
    return LITERT.write(lower(Model(module, example)))


@torch.no_grad()
def test_a_signature_takes_inputs_by_the_names_of_forward_and_gives_outputs_by_theirs():
    module, example = two_paths()
    interpreter = Interpreter(model_content=file_of(module, example))
    assert interpreter.get_signature_list() == {
        "serving_default": {"inputs": ["a1", "image"], "outputs": ["output", "output1"]}
    }
    image, a1 = (x.permute(0, 2, 3, 1).numpy() for x in example)
    found = interpreter.get_signature_runner("serving_default")(image=image, a1=a1)
    scores, features = module(*example)
    assert np.allclose(found["output"], scores, atol=1e-5)
    assert np.allclose(found["output1"], features.permute(0, 2, 3, 1), atol=1e-5)


def test_an_integer_file_s_signature_keeps_the_name_that_torch_would_not_have():
    content = LITERT.write(lower(quantized(network(), images(8))))
    assert Interpreter(model_content=content).get_signature_list() == {
        "serving_default": {"inputs": ["input"], "outputs": ["output"]}
    }


def test_each_tensor_has_a_name_of_its_own_that_says_its_layer():
    details = Interpreter(model_content=file_of(*two_paths())).get_tensor_details()
    names = [each["name"] for each in details if each["name"]]
    assert len(set(names)) == len(names)
    assert {"image", "a1", "backbone.weight", "backbone.bias", "head.weight", "head.bias"} <= set(names)
    model = tflite.Model.GetRootAs(file_of(*two_paths()))
    graph = model.Subgraphs(0)
    assert all(graph.Tensors(index).Name() for index in range(graph.TensorsLength()))


def test_a_file_says_who_wrote_it_and_the_oldest_runtime_that_loads_it():
    model = tflite.Model.GetRootAs(LITERT.write(lower(quantized(network(), images(8)))))
    assert model.Description() == b"Written by Haversack."
    metadata = model.Metadata(0)
    assert (model.MetadataLength(), metadata.Name()) == (1, b"min_runtime_version")
    assert model.Buffers(metadata.Buffer()).DataAsNumpy().tobytes() == b"1.14.0".ljust(16, b"\0")


@pytest.mark.parametrize(("kind", "builtin"), BUILTINS.items())
def test_a_release_is_known_of_each_version_that_an_operator_may_ask_for(kind, builtin):
    releases = [oldest_release([(kind, version)]) for version in builtin.versions if version]
    assert releases == sorted(releases, key=lambda release: tuple(map(int, release.split("."))))


@pytest.mark.parametrize(
    ("versions", "release"),
    [([("CONV_2D", 1)], "1.5.0"), ([("CONV_2D", 7), ("ADD", 2)], "2.11.0"), ([("ADD", 3), ("PAD", 1)], "2.4.0")],
)
def test_the_oldest_runtime_is_that_of_the_youngest_operator(versions, release):
    assert oldest_release(versions) == release


def test_a_microcontroller_s_file_holds_none_of_it():
    _, graph = every_layer()
    model = tflite.Model.GetRootAs(write(graph, micro=True))
    assert (model.MetadataLength(), model.SignatureDefsLength(), model.Description()) == (0, 0, None)
