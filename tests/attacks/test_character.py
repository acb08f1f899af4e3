"""LEAF and Charmer against trying every edit, and within their Levenshtein distance."""

import string

import pytest
import torch

from robust_clip.attacks.character import CHARACTERS, LEAF, Charmer, _count
from robust_clip.attacks.text import DISTANCES
from toy_encoders import BagEncoder, characters

TEXTS = ["a red bear", "zebra", "two  cats!", "x", "the grizzly sat on grass"]
LETTERS = "abez !"


def levenshtein(first, second):
    """Wagner and Fischer's table, row by row."""
    row = list(range(len(second) + 1))
    for index, one in enumerate(first, start=1):
        last, row[0] = row[0], index
        for column, other in enumerate(second, start=1):
            last, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, last + (one != other))
    return row[-1]


def neighbours(text, letters):
    """All texts at Levenshtein distance 1, blank ones apart."""
    splits = [(text[:cut], text[cut:]) for cut in range(len(text) + 1)]
    found = {left + right[1:] for left, right in splits if right}
    found |= {left + letter + right[1:] for left, right in splits if right for letter in letters}
    found |= {left + letter + right for left, right in splits for letter in letters}
    return sorted(other for other in found - {text} if other.strip())


def distance(clean, others, name="l2"):
    with torch.no_grad():
        features = BagEncoder(characters)([clean, *others]).double()
    return DISTANCES[name](features[:1].expand(len(others), -1), features[1:])


@pytest.mark.parametrize("name", ["l2", "kl", "cosine"])
def test_charmer_at_all_positions_is_brute_force(name):
    attack = Charmer(positions=999, characters=LETTERS, distance=name)
    for text, found in zip(TEXTS, attack(BagEncoder(characters), TEXTS), strict=True):
        best = distance(text, neighbours(text, LETTERS), name).max()
        torch.testing.assert_close(distance(text, [found], name)[0], best, rtol=1e-5, atol=0)
        assert levenshtein(text, found) == 1


def test_charmer_of_two_edits_is_greedy_brute_force():
    found = Charmer(positions=999, characters=LETTERS, edits=2)(BagEncoder(characters), TEXTS)
    for text, end in zip(TEXTS, found, strict=True):
        middle = max(neighbours(text, LETTERS), key=lambda other: distance(text, [other]).item())
        best = distance(text, [middle, *neighbours(middle, LETTERS)]).max()
        torch.testing.assert_close(distance(text, [end])[0], best, rtol=1e-5, atol=0)


def test_charmer_tries_every_character_at_the_best_positions_only():
    """Where a space raises the score most, and where there is one already, its deletion."""
    encode, text = BagEncoder(characters), "a red bear"
    Charmer(positions=2, characters=LETTERS)(encode, [text])
    tests = [text[:cut] + " " + text[cut:] for cut in range(len(text) + 1)]
    tests += [text[:at] + ("" if text[at] == " " else " ") + text[at + 1 :] for at in range(len(text))]
    clean, tested, tried = encode.calls
    assert clean == [text]
    assert set(tested) == set(tests)
    gaps = [(distance(text, [text[:cut] + " " + text[cut:]]).item(), 2 * cut) for cut in range(len(text) + 1)]
    places = [(distance(text, [test]).item(), 2 * at + 1) for at, test in enumerate(tests[len(text) + 1 :])]
    best = [position for _, position in sorted(gaps + places, key=lambda pair: (-pair[0], pair[1]))[:2]]
    expected = set()
    for position in best:
        left, right = text[: position // 2], text[position // 2 :]
        if position % 2:
            expected |= {left + right[1:]} | {left + letter + right[1:] for letter in LETTERS}
        else:
            expected |= {left + letter + right for letter in LETTERS}
    assert set(tried) == expected | {text}


@pytest.mark.parametrize("edits", [1, 2, 4])
@pytest.mark.parametrize("kind", [LEAF, Charmer])
def test_result_is_within_the_levenshtein_distance_and_never_worse(kind, edits):
    texts = [*TEXTS, "a", "?", "  b  "]
    for seed in range(3 if kind is LEAF else 1):
        found = kind(edits=edits, positions=4)(BagEncoder(characters), texts, seed=seed)
        for text, end in zip(texts, found, strict=True):
            assert levenshtein(text, end) <= edits
            assert end.strip()
            assert distance(text, [end])[0] >= 0
            assert set(end) <= set(text) | set(CHARACTERS)


@pytest.mark.parametrize("kind", [LEAF, Charmer])
def test_no_text_becomes_blank(kind):
    """Even where nothing scores higher than an empty text."""

    def encode(texts):
        return torch.tensor([[-float(len(text))] for text in texts])

    found = kind(edits=2, positions=99)(encode, ["a", " b", "abc"], score=lambda features, owner: features[:, 0])
    assert [len(text) for text in found] == [1, 1, 1]
    assert all(text.strip() for text in found)


def test_leaf_stays_where_every_edit_lowers_the_score():
    encode = BagEncoder(characters)
    with torch.no_grad():
        clean = torch.cat([encode([text]) for text in TEXTS])
    near = LEAF(edits=3)(
        encode, TEXTS, score=lambda features, owner: -(features - clean[owner]).square().sum(dim=1)
    )
    assert near == TEXTS


def test_leaf_with_everything_drawn_is_charmer_at_one_position():
    leaf = LEAF(positions=999)(BagEncoder(characters), TEXTS)
    charmer = Charmer(positions=1)(BagEncoder(characters), TEXTS)
    assert [distance(text, [end]).item() for text, end in zip(TEXTS, leaf, strict=True)] == pytest.approx(
        [distance(text, [end]).item() for text, end in zip(TEXTS, charmer, strict=True)]
    )


def test_leaf_tries_rho_positions_and_rho_characters_at_one_of_them():
    encode, text = BagEncoder(characters), "abcdefghijklmnopqrstuvwxyz"
    LEAF(positions=7)(encode, [text])
    _, tested, tried = encode.calls
    assert len(tested) == 7
    assert all(levenshtein(text, test) == 1 for test in tested)
    assert 7 <= len(tried) <= 8
    best = max(tested, key=lambda test: distance(text, [test]).item())
    cut = best.index(" ")
    assert all(other[:cut] == text[:cut] for other in tried)
    after = text[cut:] if len(best) > len(text) else text[cut + 1 :]
    assert all(other.endswith(after) for other in tried)


def test_the_default_alphabet():
    assert set(CHARACTERS) == set(string.ascii_letters + string.digits + string.punctuation + " ")
    assert len(CHARACTERS) == 95


@pytest.mark.parametrize("kind", [LEAF, Charmer])
def test_with_a_dictionary_words_only_break(kind):
    """No edit may turn a word into another; a text without words of the dictionary stays as it is."""
    dictionary = ("Bear", "beer", "bar", "red", "read", "grass", "sat", "on", "the", "cats", "at")
    texts = ["a red bear", "the grizzly sat on grass", "zebra", "bear bear", "cats"]
    free = kind(edits=2, characters=LETTERS)(BagEncoder(characters), texts)
    for edits in (1, 2):
        attack = kind(edits=edits, characters=LETTERS, dictionary=dictionary)
        found = attack(BagEncoder(characters), texts)
        known = {word.lower() for word in dictionary}
        for text, end in zip(texts, found, strict=True):
            before, after = (
                {word.strip(string.punctuation) for word in one.lower().split()} & known for one in (text, end)
            )
            assert after < before if end != text else True
            assert levenshtein(text, end) <= edits
        assert found[texts.index("zebra")] == "zebra"
        assert found != texts
        assert found != free


@pytest.mark.parametrize(
    ("sign", "words"), [*((sign, 1) for sign in "-./+_'"), *((sign, 3) for sign in (*" :?,*", "--", "..", "' "))]
)
def test_where_a_sign_parts_a_word(sign, words):
    """As NLTK's tokenizer does, which the authors' code counts words by."""
    assert _count(f"A do{sign}g.", frozenset(("a", "dog", "do", "g"))) == words


def test_a_sign_may_break_a_word():
    attack = Charmer(characters="-", dictionary=("a", "dog", "do", "g"), positions=9)
    assert attack(BagEncoder(characters), ["a dog"]) == ["a do-g"]


def test_a_dictionary_may_be_a_file(tmp_path):
    path = tmp_path / "words"
    path.write_text("red\nbear\n", encoding="utf-8")
    listed = Charmer(positions=3, dictionary=["red", "bear"])
    assert listed.dictionary == ("red", "bear")
    expected = listed(BagEncoder(characters), TEXTS)
    assert Charmer(positions=3, dictionary=str(path))(BagEncoder(characters), TEXTS) == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"edits": 0}, "edits must be an integer >= 1, got 0"),
        ({"positions": 2.0}, "positions must be an integer >= 1, got 2.0"),
        ({"characters": ""}, "characters is empty"),
        ({"dictionary": []}, "must hold at least one word"),
        ({"dictionary": "/no/such/file"}, "cannot read the word list"),
    ],
)
@pytest.mark.parametrize("kind", [LEAF, Charmer])
def test_bad_fields_are_refused(kind, fields, message):
    with pytest.raises(ValueError, match=message):
        kind(**fields)
