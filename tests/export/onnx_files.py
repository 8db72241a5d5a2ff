"""Small networks' ONNX files, written and run."""

import onnx
import onnxruntime
import torch
from torch import nn

from haversack.graph.fold import fold
from haversack.graph.trace import trace

ROW, SEQUENCE, SIGNAL, IMAGE, VOLUME = (6,), (5, 6), (4, 9), (4, 8, 10), (2, 4, 6, 5)


class Does(nn.Module):
    def __init__(self, function, *layers):
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, x):
        return self.function(x, *self.layers)


def session_of(content: bytes) -> onnxruntime.InferenceSession:
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run(content: bytes, *inputs):
    session = session_of(content)
    names = [value.name for value in session.get_inputs()]
    return [
        torch.from_numpy(each) for each in session.run(None, dict(zip(names, (x.numpy() for x in inputs), strict=True)))
    ]


def folded(network: nn.Module, *inputs):
    return fold(trace(network, inputs))


def operation_types(content: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(content).graph.node]
