"""Attributes: what torch's own layers note about their sizes follows the shapes of their weights."""

from __future__ import annotations

from torch import nn

from haversack.errors import SurgeryError

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_FEATURES = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)


def follow_shapes(layer: nn.Module, path: str) -> None:
    """Sets what one of torch's own layers notes about itself to what its weights say.

    Raises SurgeryError where they cannot be told from its weights.
    """
    if isinstance(layer, _CONVOLUTIONS):
        _refresh_convolution(layer, path)
    elif isinstance(layer, _TRANSPOSED):
        if layer.groups == layer.in_channels:
            layer.groups = layer.weight.shape[0]
        layer.in_channels = layer.weight.shape[0]
        layer.out_channels = layer.weight.shape[1] * layer.groups
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, _FEATURES):
        layer.num_features = next(t for t in (layer.weight, layer.running_mean) if t is not None).shape[0]
    elif isinstance(layer, nn.GroupNorm):
        layer.num_channels = layer.weight.shape[0]
    elif isinstance(layer, nn.LayerNorm | nn.RMSNorm):
        layer.normalized_shape = tuple(layer.weight.shape)
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = layer.weight.shape[0]
    elif isinstance(layer, nn.Embedding):
        layer.num_embeddings, layer.embedding_dim = layer.weight.shape
    else:
        _refresh_sequential(layer)


def _refresh_sequential(layer: nn.Module) -> None:
    if isinstance(layer, nn.RNNBase):
        layer.input_size = layer.get_parameter("weight_ih_l0").shape[1]
        layer.hidden_size = layer.get_parameter("weight_hh_l0").shape[1]
        layer._init_flat_weights()  # noqa: SLF001 - the list that forward() reads
    elif isinstance(layer, nn.RNNCellBase):
        layer.input_size, layer.hidden_size = layer.weight_ih.shape[1], layer.weight_hh.shape[1]
    elif isinstance(layer, nn.MultiheadAttention) and layer.in_proj_weight is not None:
        # The number of heads stays; all of them shrink.
        layer.embed_dim = layer.kdim = layer.vdim = layer.in_proj_weight.shape[1]
        layer.head_dim = layer.embed_dim // layer.num_heads


def _refresh_convolution(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, path: str) -> None:
    out = layer.weight.shape[0]
    if layer.groups == layer.in_channels and layer.groups > 1:
        times = layer.out_channels // layer.in_channels
        if out % times:
            raise SurgeryError(f"{out} filters do not spread evenly over its inputs.", where=f"layer {path}")
        layer.groups = out // times
    layer.out_channels, layer.in_channels = out, layer.weight.shape[1] * layer.groups
