"""The census's 120 architectures of timm: one or two of each family, more of those that most people use.

Chosen by their use, before any was tried: small variants, none of 150 million parameters or more, and images as small
as the family allows. timm and torchvision are no part of Haversack: `networks_census.py` says how to get them.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

# By what they take: images of any size; images of a size that they are built for (`img_size`); their own size alone.
ANY: Mapping[int, tuple[str, ...]] = {
    96: (
        *("caformer_s18", "convnext_atto", "convnext_tiny", "convnextv2_atto", "cpubone_nano", "cs3darknet_s"),
        *("densenet121", "dla34", "dpn68", "eca_nfnet_l0", "ecaresnet26t", "efficientnet_b0", "efficientnet_lite0"),
        *("ese_vovnet19b_dw", "fasternet_t0", "focalnet_tiny_srf", "ghostnet_100", "hardcorenas_a", "hgnetv2_b0"),
        *("hrnet_w18_small", "inception_next_atto", "lcnet_050", "legacy_seresnet18", "legacy_xception"),
        *("mambaout_femto", "mixnet_s", "mnasnet_100", "mobilenetv1_100", "mobilenetv2_100", "mobilenetv3_large_100"),
        *("mobilenetv3_small_100", "mobilenetv4_conv_small", "mobileone_s0", "nextvit_small", "poolformer_s12"),
        *("pvt_v2_b0", "rdnet_tiny", "regnetx_002", "regnety_002", "repghostnet_050", "repvgg_a0", "repvit_m0_9"),
        *("res2net50_26w_4s", "resnest14d", "resnet18", "resnet50", "resnetrs50", "resnetv2_50x1_bit"),
        *("resnext50_32x4d", "rexnet_100", "selecsls42b", "shvit_s1", "skresnet18", "starnet_s1", "swiftformer_xs"),
        *("tf_efficientnetv2_b0", "tresnet_m", "vgg11_bn", "xception41"),
    ),
    84: ("convmixer_768_32",),
    112: ("davit_tiny",),
    128: (
        *("edgenext_xx_small", "efficientvit_b0", "fastvit_sa12", "inception_resnet_v2", "inception_v3"),
        *("inception_v4", "mobilenetv4_hybrid_medium", "mobilevit_xxs", "mobilevitv2_050", "nasnetalarge"),
        *("pnasnet5large",),
    ),
    256: ("csatv2",),
}
SIZED: Mapping[int, tuple[str, ...]] = {
    96: (
        *("beit_base_patch16_224", "cait_xxs24_224", "convit_tiny", "deit3_small_patch16_224", "gmlp_ti16_224"),
        *(
            "deit_tiny_distilled_patch16_224",
            "mixer_s32_224",
            "naflexvit_base_patch16_gap",
            "vit_base_patch32_clip_224",
        ),
        *("vit_base_patch32_siglip_256", "vit_little_patch16_reg4_gap_256", "vit_relpos_small_patch16_224"),
        *("vit_small_patch16_dinov3", "vit_small_patch32_224", "vit_tiny_patch16_224", "vit_tiny_r_s16_p8_224"),
    ),
    112: ("eva02_tiny_patch14_224", "vit_small_patch14_dinov2", "volo_d1_224"),
    128: ("samvit_base_patch16_224",),
}
OWN = (
    *("botnet26t_256", "coat_lite_tiny", "coatnet_pico_rw_224", "crossvit_tiny_240", "efficientformer_l1"),
    *("efficientformerv2_s0", "efficientvit_m0", "gcvit_xxtiny", "halonet26t", "hiera_tiny_224", "hieradet_small"),
    *("lambda_resnet26t", "levit_128s", "maxvit_pico_rw_256", "mvitv2_tiny", "nest_tiny", "pit_ti_224"),
    *("sequencer2d_s", "swin_tiny_patch4_window7_224", "swinv2_cr_tiny_ns_224", "swinv2_tiny_window8_256"),
    *("tiny_vit_5m_224", "tnt_s_patch16_224", "twins_svt_small", "visformer_tiny"),
    *("vitamin_small_224", "xcit_nano_12_p16_224"),
)
NAMES = tuple(sorted((*(name for each in (ANY, SIZED) for names in each.values() for name in names), *OWN)))


def built(name: str) -> tuple[nn.Module, tuple[int, ...], int]:
    """The architecture with random weights and ten classes, and the shape of its images."""
    import timm

    sized = next((size for size, names in SIZED.items() if name in names), None)
    network = timm.create_model(name, num_classes=10, **({} if sized is None else {"img_size": sized}))
    size = sized or next((size for size, names in ANY.items() if name in names), None)
    channels, *own = network.default_cfg["input_size"]
    return network, (channels, *([size] * 2 if size else own)), 0
