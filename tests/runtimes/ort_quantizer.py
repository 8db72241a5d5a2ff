"""What ONNX Runtime's own quantizer makes of a float file."""

from pathlib import Path

import onnx
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process


class OneBatch(CalibrationDataReader):
    def __init__(self, name: str, x: torch.Tensor) -> None:
        self.batches = iter([{name: x.numpy()}])

    def get_next(self):
        return next(self.batches, None)


def quantized_by_onnx_runtime(content: bytes, x: torch.Tensor, folder: Path) -> bytes:
    """Its QDQ file with one step an output channel, from a float file and a batch of inputs."""
    float_file, prepared, written = (folder / f"{name}.onnx" for name in ("float", "prepared", "integer"))
    float_file.write_bytes(content)
    quant_pre_process(float_file, prepared, skip_symbolic_shape=True)
    reader = OneBatch(onnx.load(prepared).graph.input[0].name, x)
    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(prepared, written, reader, quant_format=QuantFormat.QDQ, per_channel=True, **types)
    return written.read_bytes()


def dynamically_quantized_by_onnx_runtime(content: bytes, folder: Path, *, reduce_range: bool = False) -> bytes:
    """Its file whose activations are rounded as they come, with one step an output channel, from a float file."""
    float_file, written = (folder / f"{name}.onnx" for name in ("float", "dynamic"))
    float_file.write_bytes(content)
    quantize_dynamic(float_file, written, per_channel=True, reduce_range=reduce_range, weight_type=QuantType.QInt8)
    return written.read_bytes()
