"""Greedy word substitution against trying everything, with candidates from a list."""

import pytest
import torch

from robust_clip.attacks.text import DISTANCES
from robust_clip.attacks.word_list import WordList
from robust_clip.attacks.words import COMMON_WORDS, STOP_WORDS, read_words
from toy_encoders import BagEncoder, words

CANDIDATES = ("cat", "dog", "lamp", "green", "river", "night", "spoon", "ear")
TEXTS = ["This is a photo of a dog", "two small cats on a red sofa", "an old bridge over the river"]


def by_hand(text, candidates, changes, stop=STOP_WORDS):
    """The same greedy search, one word of one text after the other, in its plainest form."""

    def distance(other):
        with torch.no_grad():
            features = BagEncoder(words)([text, other]).double()
        return DISTANCES["kl"](features[:1], features[1:]).item()

    parts = text.split(" ")
    places = [place for place, word in enumerate(parts) if word not in stop]
    places.sort(key=lambda place: -distance(" ".join([*parts[:place], "[UNK]", *parts[place + 1 :]])))
    for place in places[:changes]:
        choices = [" ".join([*parts[:place], word, *parts[place + 1 :]]) for word in candidates]
        parts = max(choices, key=distance).split(" ")
    return " ".join(parts)


@pytest.mark.parametrize("changes", [1, 2, 3])
def test_search_is_the_greedy_one(changes):
    attack = WordList(candidates=CANDIDATES, words=changes)
    found = attack(BagEncoder(words), TEXTS)
    assert found == [by_hand(text, CANDIDATES, changes) for text in TEXTS]
    changed = [sum(map(str.__ne__, new.split(), old.split())) for new, old in zip(found, TEXTS, strict=True)]
    assert changed == [changes] * 3


def test_function_words_stay_but_only_in_lower_case():
    found = WordList(words=9)(BagEncoder(words), ["This is a photo of a dog , this one", "of the and"])
    assert found[1] == "of the and"
    old = ["This", "is", "a", "photo", "of", "a", "dog", ",", "this", "one"]
    changed = [new != word for word, new in zip(old, found[0].split(), strict=True)]
    assert changed == [True, False, False, True, False, False, True, False, False, False]


def test_a_word_that_nothing_beats_is_passed_over():
    """The most important word stays when its candidates only lower the score, and the next one is changed."""

    def score(features, owner):
        return features[:, 0]

    table = {"good thing": 5.0, "[UNK] thing": 9.0, "good [UNK]": 1.0, "bad thing": 4.0, "good bad": 6.0}
    calls = []

    def encode(texts):
        calls.append(list(texts))
        return torch.tensor([[table[text], 0.0] for text in texts])

    assert WordList(candidates=("bad",))(encode, ["good thing"], score=score) == ["good bad"]
    assert calls[-2:] == [["good thing", "bad thing"], ["good thing", "good bad"]]
    table["good bad"] = 4.5
    assert WordList(candidates=("bad",), words=2)(encode, ["good thing"], score=score) == ["good thing"]


def test_double_spaces_survive():
    assert WordList()(BagEncoder(words), ["a  dog "])[0].count(" ") == 3


def test_k_candidates_are_drawn_anew_for_each_word():
    encode = BagEncoder(words)
    WordList(candidates=CANDIDATES, k=3, words=2)(encode, ["old bridge"])
    rounds = encode.calls[-2:]
    places = [0 if call[1].endswith(call[0].split()[1]) else 1 for call in rounds]
    drawn = [{text.split()[place] for text in call[1:]} for call, place in zip(rounds, places, strict=True)]
    assert [len(words) for words in drawn] == [3, 3]
    assert drawn[0] != drawn[1]
    assert drawn[0] | drawn[1] <= set(CANDIDATES)
    whole = BagEncoder(words)
    WordList(candidates=CANDIDATES, k=99)(whole, ["old bridge"])
    assert len(whole.calls[-1]) == 1 + len(CANDIDATES)


def test_a_candidate_equal_to_the_word_is_none():
    encode = BagEncoder(words)
    assert WordList(candidates=("dog",))(encode, ["dog"]) == ["dog"]
    assert len(encode.calls) == 2


def test_words_come_from_a_file_or_a_list(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("lamp\n\n  river \nlamp\n", encoding="utf-8")
    assert read_words(str(path)) == ("lamp", "river")
    from_file, from_list = WordList(candidates=str(path)), WordList(candidates=["lamp", "river"])
    assert from_list.candidates == ("lamp", "river")
    assert from_file.candidates == str(path)
    assert from_file(BagEncoder(words), TEXTS) == from_list(BagEncoder(words), TEXTS)


def test_the_words_that_come_with_the_package():
    assert len(COMMON_WORDS) == len(set(COMMON_WORDS)) > 300
    assert not STOP_WORDS & set(COMMON_WORDS)
    assert all(word.isalpha() and word.islower() for word in COMMON_WORDS)
    assert {"the", "of", "is", "a", ".", ","} <= STOP_WORDS
    assert "This" not in STOP_WORDS
    assert "photo" not in STOP_WORDS


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"candidates": ()}, "must hold at least one word"),
        ({"candidates": ("  ",)}, "must hold at least one word"),
        ({"candidates": ("dog", 3)}, "words must be strings, got 3"),
        ({"candidates": "/no/such/file.txt"}, "cannot read the word list '/no/such/file.txt'"),
        ({"k": 0}, "WordList k must be an integer >= 1, got 0"),
        ({"words": True}, "WordList words must be an integer >= 1, got True"),
    ],
)
def test_bad_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        WordList(**fields)
