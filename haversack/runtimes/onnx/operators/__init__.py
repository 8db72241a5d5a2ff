"""The table: which function writes which ATen operation. Keys with an overload come before keys without."""

from __future__ import annotations

from haversack.runtimes.onnx.call import Table
from haversack.runtimes.onnx.operators import (
    activations,
    arithmetic,
    indexing,
    layers,
    normalization,
    pooling,
    quantization,
    recurrent,
    reductions,
    shapes,
    windows,
)

TABLE: Table = {
    **activations.TABLE,
    **arithmetic.TABLE,
    **indexing.TABLE,
    **layers.TABLE,
    **normalization.TABLE,
    **pooling.TABLE,
    **quantization.TABLE,
    **recurrent.TABLE,
    **reductions.TABLE,
    **shapes.TABLE,
    **windows.TABLE,
}
