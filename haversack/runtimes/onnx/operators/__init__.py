"""The table: which function writes which ATen operation. Keys with an overload come before keys without."""

from __future__ import annotations

from haversack.runtimes.onnx.call import Table
from haversack.runtimes.onnx.operators import (
    activations,
    arithmetic,
    layers,
    normalization,
    pooling,
    quantization,
    recurrent,
    reductions,
    shapes,
)

TABLE: Table = {
    **activations.TABLE,
    **arithmetic.TABLE,
    **layers.TABLE,
    **normalization.TABLE,
    **pooling.TABLE,
    **quantization.TABLE,
    **recurrent.TABLE,
    **reductions.TABLE,
    **shapes.TABLE,
}
