"""What holds for every text attack."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from robust_clip.attacks import text as text_module
from robust_clip.attacks.bert_attack import BERTAttack
from robust_clip.attacks.character import LEAF, Charmer
from robust_clip.attacks.text import DISTANCES, TextAttack, TextProblem
from robust_clip.attacks.text_registry import TEXT_ATTACKS
from robust_clip.attacks.word_list import WordList
from robust_clip.paper import Paper
from toy_encoders import BagEncoder, characters, vector_of, words

TEXTS = [
    "This is a photo of a dog",
    "two small cats on a red sofa",
    "This is a photo of a dog",
    "an old bridge over the river",
    "x",
]
ATTACKS = [
    LEAF(),
    LEAF(positions=5, edits=2, distance="cosine"),
    Charmer(positions=3, edits=2),
    Charmer(distance="kl", characters="abc"),
    WordList(),
    WordList(words=2, k=20, distance="l2"),
]

every_attack = pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: f"{attack.short_name}-{attack.distance}")


def encoder_for(attack):
    return BagEncoder(words if isinstance(attack, WordList) else characters)


def distances(attack, encode, clean, found):
    with torch.no_grad():
        return DISTANCES[attack.distance](encode(clean).double(), encode(found).double())


def test_registry_has_every_attack_by_its_short_name():
    assert {name: attack.short_name for name, attack in TEXT_ATTACKS.items()} == {name: name for name in TEXT_ATTACKS}
    assert set(TEXT_ATTACKS) == {"bert_attack", "charmer", "leaf", "word_list"}
    assert all(isinstance(attack.paper, Paper) for attack in TEXT_ATTACKS.values())


@every_attack
def test_the_distance_from_the_clean_text_rises(attack):
    encode = encoder_for(attack)
    found = attack(encode, TEXTS)
    assert len(found) == len(TEXTS)
    gain = distances(attack, encode, TEXTS, found)
    assert (gain > 1e-4).all()


@every_attack
def test_equal_texts_are_attacked_once_and_alike(attack):
    unique, repeated, texts = encoder_for(attack), encoder_for(attack), list(dict.fromkeys(TEXTS))
    expected = dict(zip(texts, attack(unique, texts), strict=True))
    assert attack(repeated, [TEXTS[0]] * 7 + TEXTS) == [expected[text] for text in [TEXTS[0]] * 7 + TEXTS]
    assert repeated.rows == unique.rows


@every_attack
def test_result_depends_on_seed_and_text_alone(attack):
    encode = encoder_for(attack)
    together = attack(encode, TEXTS, seed=3)
    assert attack(encode, TEXTS, seed=3) == together
    assert attack(encode, TEXTS[::-1], seed=3) == together[::-1]
    assert [attack(encode, [text], seed=3)[0] for text in TEXTS] == together
    draws = isinstance(attack, LEAF) or (isinstance(attack, WordList) and attack.k is not None)
    assert (attack(encode, TEXTS, seed=4) != together) == draws


@every_attack
def test_one_call_per_round_and_no_row_twice_in_it(attack):
    few, many = encoder_for(attack), encoder_for(attack)
    attack(few, TEXTS[:1])
    attack(many, TEXTS[:4])
    rounds = {Charmer: 5, LEAF: 5}.get(type(attack), 2 + len(TEXTS[1].split()))
    assert len(few.calls) <= rounds
    assert len(many.calls) <= rounds
    assert all(len(call) == len(set(call)) for call in few.calls + many.calls)


@pytest.mark.parametrize("distance", ["kl", "l2", "cosine"])
def test_default_score_is_the_distance_in_plain_numpy(distance):
    encode, seen = BagEncoder(words), {}

    @dataclass(frozen=True, kw_only=True)
    class Probe(TextAttack):
        def search(self, problem):
            seen["scores"] = problem.scores([["a dog", "a cat"], ["two cars"]])
            return problem.texts

    Probe(distance=distance)(encode, ["a dog", "one car", "a dog"])
    with torch.no_grad():
        features = encode(["a dog", "one car", "a cat", "two cars"]).double().numpy()
    dog, car, cat, cars = features

    def expected(clean, other):
        if distance == "l2":
            return ((clean - other) ** 2).sum()
        clean, other = clean / np.linalg.norm(clean), other / np.linalg.norm(other)
        if distance == "cosine":
            return 1 - clean @ other
        p, q = np.exp(clean) / np.exp(clean).sum(), np.exp(other) / np.exp(other).sum()
        return (p * np.log(p / q)).sum()

    np.testing.assert_allclose(seen["scores"][0].numpy(), [0, expected(dog, cat)], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(seen["scores"][1].numpy(), [expected(car, cars)], rtol=1e-9)


@every_attack
def test_a_score_of_the_caller_is_climbed_for_each_position(attack):
    """Equal texts with different aims end differently, each nearer to its own."""
    encode = encoder_for(attack)
    texts = [TEXTS[1]] * 3
    aims = torch.stack([vector_of(name) for name in ("north", "south", "south")])
    seen = set()

    def score(features, owner):
        seen.update(owner.tolist())
        return (features * aims[owner]).sum(dim=1)

    found = attack(encode, texts, score=score)
    assert found[0] != found[1] == found[2]
    assert seen == {0, 1, 2}
    with torch.no_grad():
        gain = score(encode(found), torch.arange(3)) - score(encode(texts), torch.arange(3))
    assert (gain > 1e-4).all()


def test_the_module_is_in_eval_mode_meanwhile_and_gradients_are_off():
    class Tower(nn.Module):
        def __init__(self):
            super().__init__()
            self.dropout = nn.Dropout(0.5)
            self.bag = BagEncoder(characters)
            self.flags = []

        def encode(self, texts):
            self.flags.append(self.dropout.training)
            return self.dropout(self.bag(texts))

    tower = Tower().train()
    found = LEAF()(tower.encode, TEXTS)
    assert found == LEAF()(BagEncoder(characters), TEXTS)
    assert not any(tower.flags)
    assert tower.training
    assert tower.dropout.training


def test_works_under_inference_mode():
    expected = Charmer(positions=2)(BagEncoder(characters), TEXTS)
    with torch.inference_mode():
        assert Charmer(positions=2)(BagEncoder(characters), TEXTS) == expected


def test_a_large_round_is_encoded_in_parts(monkeypatch):
    whole, parts = BagEncoder(characters), BagEncoder(characters)
    expected = LEAF()(whole, TEXTS)
    monkeypatch.setattr(text_module, "_MOST_ROWS", 13)
    assert LEAF()(parts, TEXTS) == expected
    assert max(map(len, parts.calls[1:])) <= 13 < max(map(len, whole.calls))


@pytest.mark.parametrize(
    ("values", "choice"),
    [([0, 1, 2], 2), ([2, 1, 2], 0), ([1, 3, 3 + 1e-7], 1), ([-2, -1, -1], 1), ([0, 0, 0], 0), ([1e-12, 0, 2e-12], 2)],
)
def test_the_first_of_the_best_wins(values, choice):
    """Scores that differ only by rounding are a tie, and what stands wins a tie."""
    value = dict(zip(["now", "first", "second"], values, strict=True))
    texts = list(value)
    problem = TextProblem(
        texts=["now", "idle"],
        encode=lambda batch: torch.tensor([[float(texts.index(text))] for text in batch]),
        score=lambda features, owner: torch.tensor(
            [value[texts[int(row)]] for row in features[:, 0]], dtype=torch.float64
        ),
        device=torch.device("cpu"),
        seed=0,
    )
    assert problem.choose(["now", "idle"], [["first", "second"], []]) == [choice, 0]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("a dog", "must be a list of strings, got the string 'a dog'"),
        ([], "texts is empty"),
        (["a dog", 3], "must be strings, got int at position 1"),
        (["a dog", ""], "text at position 1 is blank"),
        ([" \n", "a dog"], "text at position 0 is blank"),
    ],
)
def test_bad_texts_are_refused(texts, message):
    with pytest.raises(ValueError, match=message):
        LEAF()(BagEncoder(characters), texts)


def test_bad_encoders_and_scores_are_refused():
    encode = BagEncoder(characters)
    with pytest.raises(ValueError, match=r"one row per text, \(1, D\), got \(1, 2, 3\)"):
        LEAF()(lambda texts: torch.zeros(len(texts), 2, 3), ["a dog"])
    with pytest.raises(ValueError, match=r"one row per text, \(2, D\), got \(1, 4\)"):
        LEAF()(lambda texts: torch.zeros(1, 4), ["a dog", "a cat"])
    with pytest.raises(ValueError, match="one value per candidate"):
        LEAF()(encode, ["a dog"], score=lambda features, owner: features)
    with pytest.raises(FloatingPointError, match="score of '.*' is not finite"):
        LEAF()(lambda texts: encode(texts) / 0, ["a dog"])


@pytest.mark.parametrize(
    ("attack", "field"),
    [(BERTAttack, "masked_lm"), (WordList, "candidates"), (LEAF, "dictionary"), (Charmer, "dictionary")],
)
def test_records_name_a_file_by_its_content_and_not_by_where_it_stood(attack, field, tmp_path):
    told = []
    for folder, content in [("a", "cat\ndog"), ("b", "cat\ndog"), ("c", "cat\nfox")]:
        (tmp_path / folder / "words").mkdir(parents=True)
        path = tmp_path / folder / "words"
        if field == "masked_lm":
            (path / "model.safetensors").write_text(content)
        else:
            path = path / "words"
            path.write_text(content)
        told.append(attack(**{field: str(path)}).parameters()[field])
    assert told[0] == told[1] != told[2]
    assert all(name.startswith("words (sha256:") for name in told)


def test_records_have_other_parameters_as_they_are():
    assert BERTAttack(masked_lm="my/bert").parameters()["masked_lm"] == "my/bert"
    assert WordList(candidates=("cat", "dog"), k=1).parameters() == {
        "distance": "kl",
        "words": 1,
        "candidates": ["cat", "dog"],
        "k": 1,
    }


def test_unknown_distance_is_refused():
    with pytest.raises(ValueError, match="unknown distance 'l1', known: kl, l2, cosine"):
        Charmer(distance="l1")
