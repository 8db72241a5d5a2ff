"""The kernels of the NumPy reference by kind: what tflite-micro's integer kernels compute, to the bit."""

from __future__ import annotations

from collections.abc import Mapping

from haversack.graph.integer import kernels_curves, kernels_elementwise, kernels_linear, kernels_maps
from haversack.graph.integer.call import Kernel

TABLE: Mapping[str, Kernel] = {
    **kernels_linear.KERNELS,
    **kernels_elementwise.KERNELS,
    **kernels_maps.KERNELS,
    **kernels_curves.KERNELS,
}
