"""From Python: the digits network with 4-bit weights as ONNX and .tflite, each run in its own runtime."""

import digits

from haversack.graph.inference import lower
from haversack.model import Model
from haversack.runtimes.host import load
from haversack.runtimes.onnx import ONNX
from haversack.runtimes.tflite import LITERT
from haversack.techniques.quantize_static import QuantizeStatic

network, task = digits.network(), digits.task()
model = Model(network, tuple(value[:1] for value in task.calibration()[0]))
quantized = QuantizeStatic(weight_bits=4, activations="int8", rounding="gptq").apply(model, task)

graph = lower(quantized)
files = {"model.onnx": ONNX.write(graph), "model.tflite": LITERT.write(graph)}
print(f"float      {len(ONNX.write(lower(model))):7,} bytes, score {task.validated(network):.4f}")
for name, content in files.items():
    print(f"{name:<12}{len(content):6,} bytes, score {task.validated(load(content)):.4f}")
