"""From Python: the digits network with 4-bit weights as ONNX and .tflite, each run in its own runtime."""

import digits

from haversack.graph.pairs import lower
from haversack.integer.read import read
from haversack.model import Model
from haversack.runtimes import onnx, tflite
from haversack.runtimes.host import load
from haversack.techniques.quantize_static import QuantizeStatic

network, task = digits.network(), digits.task()
model = Model(network, tuple(value[:1] for value in task.calibration()[0]))
quantized = QuantizeStatic(weight_bits=4, activations="int8", rounding="gptq").apply(model, task)

graph = lower(quantized)
files = {"model.onnx": onnx.write(graph), "model.tflite": tflite.write(read(graph))}
print(f"float      {len(onnx.write(lower(model))):7,} bytes, score {task.validated(network):.4f}")
for name, content in files.items():
    print(f"{name:<12}{len(content):6,} bytes, score {task.validated(load(content)):.4f}")
