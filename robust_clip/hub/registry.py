"""Robust CLIP checkpoints that others have published: where they are, how they are stored, and whether they load."""

import dataclasses

HUB = "Hub"
RAW = "raw file in a Hub repository"
NEXTCLOUD = "the authors' Nextcloud, dead by 2026-05; RobustVLM#28 links a copy"
OPENAI_L14, OPENAI_B32 = "openai/clip-vit-large-patch14", "openai/clip-vit-base-patch32"
LAION_B32, LAION_B16 = "laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "laion/CLIP-ViT-B-16-laion2B-s34B-b88K"
_CONVNEXT = "a ConvNeXt tower (timm) cannot be expressed as a CLIPModel"
_DELTA = "no ln_pre and BERT-tokenised text (WordPiece) cannot be expressed as a CLIPModel"
_RESNET = "a ResNet tower cannot be expressed as a CLIPModel"
_SECOND_HAND = "listed second-hand"


@dataclasses.dataclass(frozen=True, kw_only=True)
class HubCheckpoint:
    """What is known of a published checkpoint before a byte of it is read.

    Args:
        format: `huggingface`, `open_clip` (whole model), `visual` (bare state dict of the image tower), `tecoa` (a
            dict with `vision_encoder_state_dict`); as `detect_format` calls them.
        architecture: Of the image tower, and its resolution where it is not 224.
        method: Objective that made it robust.
        epsilon: Radius of the attack in training, linf unless it names a norm; `-` of a clean model.
        place: Where the file is.
        base: The clean `CLIPModel` that it was trained from: it gives the text tower of a file that has none, and the
            processor; `None` where that is not known.
        hidden_act: Activation of both towers, `quick_gelu` or `gelu`; `None` where only the checkpoint's config says.
        paper: Identifier on arXiv, empty where not known.
        licence: Of the weights.
        refused: Why it cannot be loaded; empty if its format is one that the converter takes.
        unverified: What of this row nobody saw at its source.
    """

    format: str
    architecture: str
    method: str
    epsilon: str
    place: str = HUB
    base: str | None = None
    hidden_act: str | None = None
    paper: str = ""
    licence: str = "unknown"
    refused: str = ""
    unverified: str = ""

    @property
    def threat_model(self) -> str:
        """Of the training, as a record says it; empty of a clean model.

        >>> CHECKPOINTS["chs20/fare4-clip"].threat_model, CHECKPOINTS["CLIPAG_ViTB32"].threat_model
        ('linf 4/255', 'L2 of unknown radius')
        >>> CHECKPOINTS["LEAF-CLIP/OpenCLIP-ViT-g"].threat_model
        ''
        """
        if self.epsilon == "-":
            return ""
        return f"linf {self.epsilon}" if self.epsilon[0].isdigit() else self.epsilon

    @property
    def status(self) -> str:
        """`loads`, how to get at it, or why it is refused."""
        if self.refused:
            return f"refused: {self.refused}"
        known = {HUB: "loads", RAW: "loads, as OWNER/NAME/FILE", NEXTCLOUD: f"dead link ({NEXTCLOUD}); a file loads"}
        return known.get(self.place, f"a file from {self.place} loads")


def _open_clip(method: str, paper: str, epsilon: str, base: str, **facts: str) -> HubCheckpoint:
    """A whole open_clip model of chs20; its base says what it is."""
    architecture = {OPENAI_L14: "ViT-L/14", LAION_B32: "ViT-B/32 (LAION)", LAION_B16: "ViT-B/16 (LAION)"}[base]
    act = "quick_gelu" if base == OPENAI_L14 else "gelu"
    known = {"architecture": architecture, "method": method, "paper": paper, "epsilon": epsilon, "base": base}
    return HubCheckpoint(format="open_clip", hidden_act=act, **(known | facts))


def _convnext(method: str, paper: str) -> HubCheckpoint:
    architecture = "ConvNeXt-B (LAION)"
    return HubCheckpoint(
        format="open_clip", architecture=architecture, method=method, paper=paper, epsilon="4/255", refused=_CONVNEXT
    )


def _visual(method: str, paper: str, epsilon: str, base: str, place: str, unverified: str = "") -> HubCheckpoint:
    """The bare image tower of an OpenAI model."""
    architecture = "ViT-L/14" if base == OPENAI_L14 else "ViT-B/32"
    facts = {"architecture": architecture, "method": method, "paper": paper, "epsilon": epsilon, "place": place}
    return HubCheckpoint(format="visual", base=base, hidden_act="quick_gelu", unverified=unverified, **facts)


def _leaf(architecture: str, method: str, unverified: str = "", base: str | None = None) -> HubCheckpoint:
    """A Hugging Face `CLIPModel` of LEAF, whose config gives the activation."""
    return HubCheckpoint(
        format="huggingface",
        architecture=architecture,
        method=method,
        epsilon="-" if method == "none (clean)" else "2/255",
        base=base,
        paper="2506.03355",
        licence="mit" if method == "FARE" else "unknown",
        unverified=unverified,
    )


def _tecoa(method: str, paper: str, epsilon: str, place: str, **facts: str) -> HubCheckpoint:
    """A training checkpoint of TeCoA's script or of one of those that descend from it, ViT-B/32."""
    known = {"architecture": "ViT-B/32", "method": method, "paper": paper, "epsilon": epsilon, "place": place}
    return HubCheckpoint(format="tecoa", base=OPENAI_B32, hidden_act="quick_gelu", **(known | facts))


def _resnet(epsilon: str) -> HubCheckpoint:
    facts = {"method": "TeCoA", "paper": "2212.07016", "epsilon": epsilon, "place": "APT's SharePoint"}
    return HubCheckpoint(format="tecoa", architecture="RN50", refused=_RESNET, **facts)


def _delta(architecture: str, epsilon: str) -> HubCheckpoint:
    return HubCheckpoint(
        format="open_clip",
        architecture=architecture,
        method="DeltaCLIP",
        epsilon=epsilon,
        licence="cc-by-4.0",
        refused=_DELTA,
        unverified="no ln_pre and WordPiece: from third parties and a sibling's config",
    )


# The key is what one types: a Hub id, OWNER/NAME/FILE for a raw file in a repository, or the name of a file.
CHECKPOINTS: dict[str, HubCheckpoint] = {
    "chs20/tecoa2-clip": _open_clip("TeCoA", "2212.07016", "2/255", OPENAI_L14),
    "chs20/tecoa4-clip": _open_clip("TeCoA", "2212.07016", "4/255", OPENAI_L14),
    "chs20/fare2-clip": _open_clip("FARE", "2402.12336", "2/255", OPENAI_L14),
    "chs20/fare4-clip": _open_clip("FARE", "2402.12336", "4/255", OPENAI_L14),
    "chs20/TeCoA4-ViT-B-32-laion2B-s34B-b79K": _open_clip("TeCoA", "2212.07016", "4/255", LAION_B32),
    "chs20/FARE4-ViT-B-32-laion2B-s34B-b79K": _open_clip("FARE", "2402.12336", "4/255", LAION_B32),
    "chs20/TeCoA4-ViT-B-16-laion2B-s34B-b88K": _open_clip("TeCoA", "2212.07016", "4/255", LAION_B16),
    "chs20/FARE4-ViT-B-16-laion2B-s34B-b88K": _open_clip("FARE", "2402.12336", "4/255", LAION_B16, licence="mit"),
    "chs20/TeCoA4-convnext_base_w-laion2B-s13B-b82K-augreg": _convnext("TeCoA", "2212.07016"),
    "chs20/FARE4-convnext_base_w-laion2B-s13B-b82K-augreg": _convnext("FARE", "2402.12336"),
    "tecoa_eps_2.pt": _visual("TeCoA", "2212.07016", "2/255", OPENAI_L14, NEXTCLOUD),
    "tecoa_eps_4.pt": _visual("TeCoA", "2212.07016", "4/255", OPENAI_L14, NEXTCLOUD),
    "fare_eps_2.pt": _visual("FARE", "2402.12336", "2/255", OPENAI_L14, NEXTCLOUD),
    "fare_eps_4.pt": _visual("FARE", "2402.12336", "4/255", OPENAI_L14, NEXTCLOUD),
    "vitb32_tecoa_eps_1.pt": _visual("TeCoA", "2212.07016", "1/255", OPENAI_B32, NEXTCLOUD),
    "vitb32_tecoa_eps_4.pt": _visual("TeCoA", "2212.07016", "4/255", OPENAI_B32, NEXTCLOUD),
    "vitb32_fare_eps_1.pt": _visual("FARE", "2402.12336", "1/255", OPENAI_B32, NEXTCLOUD),
    "vitb32_fare_eps_4.pt": _visual("FARE", "2402.12336", "4/255", OPENAI_B32, NEXTCLOUD),
    "hossainzarif19/SimCLIP/simclip2.pt": _visual(
        "Sim-CLIP", "2407.14971", "2/255", OPENAI_L14, RAW, "loading was checked by a third party"
    ),
    "hossainzarif19/SimCLIP/simclip4.pt": _visual(
        "Sim-CLIP", "2407.14971", "4/255", OPENAI_L14, RAW, "loading was checked by a third party"
    ),
    "LEAF-CLIP/CLIP-ViT-L-rho50-k1-constrained-FARE2": _leaf("ViT-L/14", "LEAF + FARE", base=OPENAI_L14),
    "LEAF-CLIP/CLIP-ViT-H-rho50-k1-constrained-FARE2": _leaf("ViT-H/14", "LEAF + FARE"),
    "LEAF-CLIP/CLIP-ViT-g-rho50-k1-constrained-FARE2": _leaf("ViT-g/14", "LEAF + FARE"),
    "LEAF-CLIP/CLIP-ViT-bigG-rho50-k1-constrained-FARE2": _leaf("ViT-bigG/14", "LEAF + FARE"),
    "LEAF-CLIP/OpenCLIP-ViT-H-rho50-k1-constrained-FARE2": _leaf("ViT-H/14", "LEAF + FARE", "format from scripts"),
    "LEAF-CLIP/OpenCLIP-ViT-g-rho50-k1-constrained-FARE2": _leaf("ViT-g/14", "LEAF + FARE", "format from scripts"),
    "LEAF-CLIP/CLIP-ViT-L-FARE2": _leaf("ViT-L/14", "FARE", base=OPENAI_L14),
    "LEAF-CLIP/OpenCLIP-ViT-H-FARE2": _leaf("ViT-H/14", "FARE"),
    "LEAF-CLIP/OpenCLIP-ViT-g-FARE2": _leaf("ViT-g/14", "FARE"),
    "LEAF-CLIP/OpenCLIP-ViT-g": _leaf("ViT-g/14", "none (clean)"),
    "zw123/delta_clip_l14_224": _delta("ViT-L/14", "4/255 or 8/255"),
    "zw123/delta_clip_h14_336": _delta("ViT-H/14, 336", "4/255 or 8/255"),
    "TeCoAmodel_best.pth.tar": _tecoa("TeCoA", "2212.07016", "1/255", "cv.cs.columbia.edu/mcz/TeCoA"),
    "vitb32_eps1.pth.tar": _tecoa("TeCoA", "2212.07016", "1/255", "APT's SharePoint"),
    "vitb32_eps2.pth.tar": _tecoa("TeCoA", "2212.07016", "2/255", "APT's SharePoint"),
    "vitb32_eps4.pth.tar": _tecoa("TeCoA", "2212.07016", "4/255", "APT's SharePoint"),
    "rn50_eps1.pth.tar": _resnet("1/255"),
    "rn50_eps2.pth.tar": _resnet("2/255"),
    "rn50_eps4.pth.tar": _resnet("4/255"),
    "TeCoA.pth.tar": _tecoa("TeCoA", "2212.07016", "1/255", "TTC's Google Drive"),
    "PMG_AFT.pth.tar": _tecoa(
        "PMG-AFT",
        "2401.04350",
        "1/255",
        "TTC's Google Drive",
        unverified="trained again by TTC; whether with ImageNet's mean, as PMG-AFT's own script does, is not known",
    ),
    "FARE.pth.tar": _tecoa("FARE", "2402.12336", "1/255", "TTC's Google Drive"),
    "AdvFLYP_NonReg_checkpoint.pth.tar": _tecoa(
        "AdvFLYP", "2604.11576", "1/255", "the authors' Google Drive", unverified="format inferred from the lineage"
    ),
    "AdvFLYP_full_checkpoint.pth.tar": _tecoa(
        "AdvFLYP", "2604.11576", "1/255", "the authors' Google Drive", unverified="format inferred from the lineage"
    ),
    "CLIPAG_ViTB32": HubCheckpoint(
        format="open_clip",
        architecture="ViT-B/32",
        method="CLIPAG",
        epsilon="L2 of unknown radius",
        place="zenodo 10446026",
        unverified="the whole row: it was listed second-hand",
    ),
}


def find_checkpoint(source: str) -> HubCheckpoint | None:
    """The row of a published checkpoint, by its Hub id or, failing that, the name of its file.

    A file's name is weak evidence; the converter takes nothing from the row that the weights contradict.

    >>> find_checkpoint("chs20/fare4-clip").hidden_act
    'quick_gelu'
    >>> find_checkpoint("downloads/fare_eps_2.pt").epsilon
    '2/255'
    """
    source = source.removeprefix("hf-hub:").rstrip("/")
    file = source.replace("\\", "/").split("/")[-1]
    raw = {name.split("/")[-1]: row for name, row in CHECKPOINTS.items() if row.place == RAW}
    return CHECKPOINTS.get(source) or CHECKPOINTS.get(file) or raw.get(file)


def is_published(source: str) -> bool:
    """Whether a source is a known place on the Hub, and not just a file that is called like a known one.

    >>> is_published("hf-hub:chs20/fare4-clip"), is_published("downloads/FARE.pth.tar"), is_published("FARE.pth.tar")
    (True, False, False)
    """
    source = source.removeprefix("hf-hub:").rstrip("/")
    return "/" in source and source in CHECKPOINTS
