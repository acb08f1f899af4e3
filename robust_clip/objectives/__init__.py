"""Training objectives, one paper per file."""

from .adaptive import adaptive_problem
from .adv import Adv
from .adv_flyp import AdvFLYP
from .agft import AGFT
from .apt import APT
from .base import Batch, Objective
from .caw import CAW
from .clean import Clean
from .comp_tga import CompTGA
from .contrastive import Contrastive
from .fap import FAP
from .fare import FARE
from .img_coadv import ImgCoAdv
from .leaf import LEAF
from .mart import MART
from .mmcoa import MMCoA
from .pmg_aft import PMGAFT
from .sim_clip import SimCLIP
from .tecoa import TeCoA
from .tga_zsr import TGAZSR
from .tima import TIMA
from .trades import TRADES

OBJECTIVES: dict[str, type[Objective]] = {
    "adv": Adv,
    "adv_flyp": AdvFLYP,
    "agft": AGFT,
    "apt": APT,
    "caw": CAW,
    "clean": Clean,
    "comp_tga": CompTGA,
    "contrastive": Contrastive,
    "fap": FAP,
    "fare": FARE,
    "img_coadv": ImgCoAdv,
    "leaf": LEAF,
    "mart": MART,
    "mmcoa": MMCoA,
    "pmg_aft": PMGAFT,
    "sim_clip": SimCLIP,
    "tecoa": TeCoA,
    "tga_zsr": TGAZSR,
    "tima": TIMA,
    "trades": TRADES,
}

__all__ = [
    "AGFT",
    "APT",
    "CAW",
    "FAP",
    "FARE",
    "LEAF",
    "MART",
    "OBJECTIVES",
    "PMGAFT",
    "TGAZSR",
    "TIMA",
    "TRADES",
    "Adv",
    "AdvFLYP",
    "Batch",
    "Clean",
    "CompTGA",
    "Contrastive",
    "ImgCoAdv",
    "MMCoA",
    "Objective",
    "SimCLIP",
    "TeCoA",
    "adaptive_problem",
]
