"""The census's 25 architectures of transformers: small configurations with random weights, chosen by their use.

Each returns its main tensor: class scores where the architecture has them, else the last states. transformers is no
part of Haversack: `networks_census.py` says how to get it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

_TOKENS, _WORDS, _LABELS = 16, 200, 10
_TEXT = {
    "vocab_size": _WORDS,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 64,
    "num_labels": _LABELS,
}
_IMAGE = {
    "image_size": 64,
    "patch_size": 16,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "num_labels": _LABELS,
}
_DECODER = {**_TEXT, "num_key_value_heads": 2, "use_cache": False, "pad_token_id": 0}


@dataclass(frozen=True)
class Definition:
    """The class of the network, that of its configuration, the configuration's settings, and what it takes."""

    network: str
    config: str
    settings: Mapping[str, object]
    takes: str = "input_ids"
    shape: tuple[int, ...] = (_TOKENS,)


def _image(network: str, config: str, settings: Mapping[str, object] | None = None, size: int = 64) -> Definition:
    whole = _IMAGE if settings is None else {**settings, "num_labels": _LABELS}
    return Definition(network, config, whole, "pixel_values", (3, size, size))


_BART = {
    "vocab_size": _WORDS,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
    "use_cache": False,
}
_DETR = {
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "num_queries": 10,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "num_labels": _LABELS,
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
    "backbone": None,
}
_WAVE = {
    "vocab_size": 32,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "conv_dim": (32,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
_WHISPER = {
    "vocab_size": _WORDS,
    "d_model": 64,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 128,
    "num_mel_bins": 40,
    "max_source_positions": 50,
    "max_target_positions": 64,
    "pad_token_id": 0,
}
DEFINITIONS: Mapping[str, Definition] = {
    "albert": Definition("AlbertForSequenceClassification", "AlbertConfig", {**_TEXT, "embedding_size": 32}),
    "bart": Definition("BartModel", "BartConfig", _BART),
    "bert": Definition("BertForSequenceClassification", "BertConfig", _TEXT),
    "clip": _image("CLIPVisionModelWithProjection", "CLIPVisionConfig"),
    "convnext": _image(
        "ConvNextForImageClassification", "ConvNextConfig", {"hidden_sizes": [16, 32, 64, 96], "depths": [1, 1, 2, 1]}
    ),
    "deberta-v2": Definition(
        "DebertaV2ForSequenceClassification",
        "DebertaV2Config",
        # As microsoft/deberta-v3-base has it.
        {
            **_TEXT,
            "relative_attention": True,
            "position_buckets": 16,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
            "max_relative_positions": -1,
            "type_vocab_size": 0,
        },
    ),
    "deit": _image("DeiTForImageClassification", "DeiTConfig"),
    "detr": Definition("DetrForObjectDetection", "DetrConfig", _DETR, "pixel_values", (3, 96, 96)),
    "dinov2": _image("Dinov2ForImageClassification", "Dinov2Config"),
    "distilbert": Definition(
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        {"vocab_size": _WORDS, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128, "num_labels": _LABELS},
    ),
    "electra": Definition("ElectraForSequenceClassification", "ElectraConfig", {**_TEXT, "embedding_size": 32}),
    "gpt2": Definition(
        "GPT2LMHeadModel",
        "GPT2Config",
        {"vocab_size": _WORDS, "n_positions": 64, "n_embd": 64, "n_layer": 2, "n_head": 4, "use_cache": False},
    ),
    "llama": Definition("LlamaForCausalLM", "LlamaConfig", _DECODER),
    "mobilebert": Definition(
        "MobileBertForSequenceClassification",
        "MobileBertConfig",
        {**_TEXT, "embedding_size": 32, "intra_bottleneck_size": 32, "true_hidden_size": 32},
    ),
    "modernbert": Definition(
        "ModernBertForSequenceClassification",
        "ModernBertConfig",
        {**_TEXT, "num_hidden_layers": 4, "pad_token_id": 0, "local_attention": 8, "reference_compile": False},
    ),
    "mpnet": Definition("MPNetModel", "MPNetConfig", _TEXT),
    "opt": Definition(
        "OPTForCausalLM",
        "OPTConfig",
        {**_TEXT, "ffn_dim": 128, "word_embed_proj_dim": 64, "use_cache": False},
    ),
    "qwen2": Definition("Qwen2ForCausalLM", "Qwen2Config", _DECODER),
    "roberta": Definition("RobertaForSequenceClassification", "RobertaConfig", _TEXT),
    "segformer": _image(
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        {
            "hidden_sizes": [16, 32, 48, 64],
            "depths": [1, 1, 1, 1],
            "decoder_hidden_size": 64,
            "num_attention_heads": [1, 2, 3, 4],
        },
    ),
    "swin": _image(
        "SwinForImageClassification",
        "SwinConfig",
        {
            "image_size": 64,
            "patch_size": 4,
            "embed_dim": 32,
            "depths": [2, 2],
            "num_heads": [2, 4],
            "window_size": 4,
        },
    ),
    "t5": Definition(
        "T5EncoderModel",
        "T5Config",
        {"vocab_size": _WORDS, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4},
    ),
    "vit": _image("ViTForImageClassification", "ViTConfig"),
    "wav2vec2": Definition("Wav2Vec2ForCTC", "Wav2Vec2Config", _WAVE, "input_values", (4000,)),
    "whisper": Definition("WhisperEncoder", "WhisperConfig", _WHISPER, "input_features", (40, 100)),
}


NAMES = tuple(DEFINITIONS)


class MainTensor(nn.Module):
    """A network that returns its main tensor alone."""

    def __init__(self, network: nn.Module, takes: str) -> None:
        super().__init__()
        self.network, self.takes = network, takes

    def forward(self, x: Tensor) -> Tensor:
        """The first of the network's outputs."""
        found = self.network(**{self.takes: x}, return_dict=False)
        return found if isinstance(found, Tensor) else found[0]


def built(name: str) -> tuple[nn.Module, tuple[int, ...], int]:
    """The network with random weights, the shape of an input, and of how many words it is made; 0 for numbers."""
    import transformers

    definition = DEFINITIONS[name]
    settings = dict(definition.settings)
    if name == "detr":
        settings["backbone_config"] = transformers.ResNetConfig(
            embedding_size=16, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1], out_features=["stage4"]
        )
    config = getattr(transformers, definition.config)(**settings)
    home = transformers.models.whisper.modeling_whisper if name == "whisper" else transformers
    network = MainTensor(getattr(home, definition.network)(config), definition.takes)
    return network, definition.shape, _WORDS if definition.takes == "input_ids" else 0
