"""Small .tflite files for tests, float and int8."""

import torch
from torch import nn

from haversack.graph.inference import inference, lower
from haversack.graph.ops import points
from haversack.grid import affine, symmetric
from haversack.model import Model
from haversack.runtimes.tflite import LITERT


def network(channels: int = 3, width: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, 2, 1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(width * 16, 5)),
    ).eval()


def images(count: int, channels: int = 3) -> torch.Tensor:
    return torch.rand(count, channels, 8, 8, generator=torch.Generator().manual_seed(count)) * 2 - 1


def quantized(module: nn.Module, example: torch.Tensor) -> Model:
    """The network with int8 grids that span what one batch makes of it."""
    model = Model(module, (example[:1],))
    graph = inference(model)
    with torch.no_grad():
        seen = graph.run((example,), points(graph.graph))
    grids = {name: affine(float(value.min()), float(value.max()), signed=True) for name, value in seen.items()}
    for name in (layer.weight for layer in graph.layers()):
        weight = graph.tensor(name)
        grids[name] = symmetric(weight.abs().flatten(1).amax(1), axis=0)
    return Model(model.module, model.example, grids=grids)


def file_of(model: Model) -> bytes:
    return LITERT.write(lower(model))


def damaged() -> bytes:
    """A .tflite file in which a layer reads a tensor that is not there: tflite-micro believes it."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    content = file_of(quantized(network(), images(64)))
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    inputs = model.subgraphs[0].operators[1].inputs
    model.subgraphs[0].operators[1].inputs = [inputs[0], 10_000, *inputs[2:]]
    builder = flatbuffers.Builder(4096)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
