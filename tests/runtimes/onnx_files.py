"""Small networks' ONNX files, written and run."""

from collections import Counter
from pathlib import Path

import onnx
import onnxruntime
import torch
from torch import nn

from haversack.device import find_device
from haversack.graph.fold import fold
from haversack.graph.trace import trace

WEIGHT_BITS = find_device("host").weight_bits
"""With so many of them ONNX Runtime's integer kernels are exact on this host, whatever its processor."""

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
    return fold(trace(network, inputs)).module


def operation_types(content: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(content).graph.node]


def as_run(content: bytes, folder: Path, level: str = "ORT_ENABLE_EXTENDED") -> Counter[str]:
    """The operators after ONNX Runtime's own rewriting."""
    options = onnxruntime.SessionOptions()
    # What is the default on Arm: signed activations stay signed.
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.optimized_model_filepath, options.log_severity_level = str(folder / "optimized.onnx"), 3
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
