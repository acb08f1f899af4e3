"""Text attacks by name; apart from `text.py`, which all of them import."""

from robust_clip.attacks.bert_attack import BERTAttack
from robust_clip.attacks.character import LEAF, Charmer
from robust_clip.attacks.text import TextAttack
from robust_clip.attacks.word_list import WordList

TEXT_ATTACKS: dict[str, type[TextAttack]] = {
    "bert_attack": BERTAttack,
    "charmer": Charmer,
    "leaf": LEAF,
    "word_list": WordList,
}
