"""BERT-Attack with a tiny masked language model, against its steps written out one after the other."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import BertForMaskedLM, BertTokenizer, PreTrainedTokenizerFast

from robust_clip.attacks.bert_attack import BERTAttack
from robust_clip.attacks.masked_lm import MaskedLM, load_masked_lm
from robust_clip.attacks.text import DISTANCES, TextProblem
from robust_clip.attacks.word_substitution import Place
from robust_clip.attacks.words import STOP_WORDS
from toy_bert import SPECIAL, VOCABULARY, save_tiny_bert
from toy_encoders import BagEncoder, words

TEXTS = ["This is a photo of a dog", "red cat , old boat", "a small tree the big sky", "lamp"]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Folder of a tiny BERT with random weights."""
    return save_tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def lm(path):
    """The model and a tokenizer of its own, for restating what the attack does."""
    return BertForMaskedLM.from_pretrained(path).eval(), BertTokenizer.from_pretrained(path)


def problem_of(texts):
    return TextProblem(texts, BagEncoder(words), lambda features, owner: owner, torch.device("cpu"), 0)


def proposed(attack, text, *places):
    """What the attack would put at places of a text."""
    return attack.source(problem_of([text]))([Place(0, place) for place in places])


@torch.no_grad()
def expected_at(lm, text, place, k=10, threshold=0.3, shift=1):
    """Candidates for a word as the papers' code finds them, one sentence and one word at a time, in their order."""
    model, tokenizer = lm
    logits = model(**tokenizer(text, return_tensors="pt")).logits[0]
    before = len(tokenizer.tokenize(" ".join(text.split(" ")[:place])))
    word = text.split(" ")[place]
    values, ids = logits[before + shift :][: len(tokenizer.tokenize(word))].topk(k)
    if len(ids) == 1:
        found = []
        for value, token in zip(values[0].tolist(), ids[0].tolist(), strict=True):
            if value < threshold:
                break
            found.append([token])
    else:
        found = [list(tokens) for tokens in product(*ids[:, :4].tolist())][:24]

        def loss(tokens):
            given = torch.tensor([tokens])
            return torch.nn.functional.cross_entropy(model(given).logits[0], given[0]).item()

        found.sort(key=loss)
    found = [" ".join(tokenizer.convert_ids_to_tokens(tokens)) for tokens in found if min(tokens) >= len(SPECIAL)]
    spelled = [one.replace(" ##", "").replace(" ,", ",").replace(" .", ".") for one in found]
    return [one for one in dict.fromkeys(spelled) if "##" not in one and one not in STOP_WORDS]


def by_hand(lm, text, changes, **settings):
    """The whole attack, one step after the other."""
    encode = BagEncoder(words)

    def distance(other):
        with torch.no_grad():
            features = encode([text, other]).double()
        return DISTANCES["kl"](features[:1], features[1:]).item()

    parts = text.split(" ")
    places = [place for place, word in enumerate(parts) if word not in STOP_WORDS]
    places.sort(key=lambda place: -distance(" ".join([*parts[:place], "[UNK]", *parts[place + 1 :]])))
    for place in places:
        choices = [parts[place], *expected_at(lm, text, place, **settings)]
        best = max(choices, key=lambda word: distance(" ".join([*parts[:place], word, *parts[place + 1 :]])))
        changes -= best != parts[place]
        parts[place] = best
        if not changes:
            break
    return " ".join(parts)


@pytest.mark.parametrize(("offset", "shift"), [("corrected", 1), ("authors", 0)])
def test_candidates_are_the_likeliest_tokens(path, lm, offset, shift):
    """Corrected: at the word's own token. The authors': at the token before it, `[CLS]` for the first word."""
    attack = BERTAttack(masked_lm=path, k=9, threshold=-1e9, offset=offset)
    text = "red cat old boat"
    found = proposed(attack, text, 0, 1, 2, 3)
    assert found == [expected_at(lm, text, place, 9, -1e9, shift) for place in range(4)]
    assert all(found)


def test_the_offsets_differ(path):
    found = [
        proposed(BERTAttack(masked_lm=path, threshold=None, offset=offset), "red cat old boat", 0, 1, 2, 3)
        for offset in ("corrected", "authors")
    ]
    assert found[0] != found[1]
    # Each word gets by mistake what belongs to the one before it.
    assert found[0][:3] == found[1][1:]


@pytest.mark.parametrize(("offset", "shift"), [("corrected", 1), ("authors", 0)])
@pytest.mark.parametrize("word", ["surfing", "playful", "surfingboard", "jumpers"])
def test_words_of_several_pieces_are_spelled_from_combinations(path, lm, word, offset, shift):
    attack = BERTAttack(masked_lm=path, offset=offset)
    text = f"red {word} boat"
    assert len(lm[1].tokenize(word)) > 1
    (found,) = proposed(attack, text, 1)
    assert found == expected_at(lm, text, 1, shift=shift)
    assert 1 < len(found) <= 24
    assert any(other not in VOCABULARY for other in found)


def test_candidates_end_at_the_first_below_the_threshold(path, lm):
    model, tokenizer = lm
    with torch.no_grad():
        logits = model(**tokenizer("red cat old boat", return_tensors="pt")).logits[0, 3].sort(descending=True).values
    counts = []
    for last in range(12):
        threshold = (logits[last] + logits[last + 1]).item() / 2
        (found,) = proposed(BERTAttack(masked_lm=path, k=12, threshold=threshold), "red cat old boat", 2)
        assert found == expected_at(lm, "red cat old boat", 2, 12, threshold)
        counts.append(len(found))
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]
    assert proposed(BERTAttack(masked_lm=path, threshold=1e9), "red cat", 0, 1) == [[], []]


@pytest.mark.parametrize("changes", [1, 2, 9])
@pytest.mark.parametrize(("offset", "shift"), [("corrected", 1), ("authors", 0)])
def test_result_is_that_of_the_steps_written_out(path, lm, changes, offset, shift):
    attack = BERTAttack(masked_lm=path, words=changes, offset=offset, threshold=-1e9)
    found = attack(BagEncoder(words), TEXTS)
    assert found == [by_hand(lm, text, changes, threshold=-1e9, shift=shift) for text in TEXTS]
    assert all(new != old for new, old in zip(found, TEXTS, strict=True))


def test_function_words_stay(path):
    found = BERTAttack(masked_lm=path, words=99)(BagEncoder(words), ["the cat , of this dog ."])[0].split(" ")
    assert [found[place] for place in (0, 2, 3, 4)] == ["the", ",", "of", "this"]
    assert found[-1] == "."


@pytest.mark.parametrize("offset", ["corrected", "authors"])
def test_words_beyond_the_model_stay(path, offset):
    text = "red cat old boat sky tree"
    short = BERTAttack(masked_lm=path, max_length=5, words=99, threshold=None, offset=offset)
    found = proposed(short, text, *range(6))
    attackable = [bool(words) for words in found]
    # Five tokens are [CLS], three words and [SEP]; the error of the authors' code lets it go one place further.
    assert attackable == [True] * (3 if offset == "corrected" else 4) + [False] * (3 if offset == "corrected" else 2)
    assert short(BagEncoder(words), [text])[0].split(" ")[4:] == ["sky", "tree"]


def test_the_model_reads_all_sentences_in_one_pass_and_the_encoder_all_candidates_in_one_call(path):
    model, sizes = load_masked_lm(path).model, []
    hook = model.register_forward_hook(lambda module, args, output: sizes.append(len(output.logits)))
    encode = BagEncoder(words)
    try:
        BERTAttack(masked_lm=path, threshold=None)(encode, TEXTS * 5)
    finally:
        hook.remove()
    assert sizes == [len(TEXTS)]
    clean, importance, candidates = encode.calls
    assert clean == TEXTS
    assert len(importance) == sum(word not in STOP_WORDS for text in TEXTS for word in text.split(" "))
    assert set(TEXTS) < set(candidates)


def test_result_does_not_depend_on_company(path):
    attack = BERTAttack(masked_lm=path, words=2)
    texts = [*TEXTS, "red surfing boat", "playful dog jumpers"]
    together = attack(BagEncoder(words), texts)
    assert [attack(BagEncoder(words), [text])[0] for text in texts] == together
    assert attack(BagEncoder(words), texts[::-1] * 8) == together[::-1] * 8


def test_a_similarity_limit_is_kept(path, lm):
    model, tokenizer = lm

    def cosine(first, second):
        with torch.no_grad():
            means = [
                model.bert(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, 1:-1].mean(dim=0)
                for text in (first, second)
            ]
        return torch.nn.functional.cosine_similarity(*means, dim=0).item()

    free = BERTAttack(masked_lm=path, words=3, threshold=None)
    unlimited = free(BagEncoder(words), TEXTS)
    assert replace(free, similarity=-1.0)(BagEncoder(words), TEXTS) == unlimited
    assert replace(free, similarity=1.0)(BagEncoder(words), TEXTS) == TEXTS
    loosest = min(cosine(text, end) for text, end in zip(TEXTS, unlimited, strict=True))
    limit = (1 + loosest) / 2
    limited = replace(free, similarity=limit)(BagEncoder(words), TEXTS)
    assert all(cosine(text, end) >= limit - 1e-5 for text, end in zip(TEXTS, limited, strict=True))
    assert limited not in (unlimited, TEXTS)


def test_sentences_and_sequences_of_different_lengths_do_not_mix(path):
    """Those that are padded to the length of others give the same alone."""
    model, sequences, texts = load_masked_lm(path), [[5, 6], [7, 8, 9, 10], [11, 5, 6]], ["lamp", *TEXTS]
    alone = [model.losses([sequence])[0] for sequence in sequences]
    assert model.losses(sequences) == pytest.approx(alone, rel=1e-4)
    torch.testing.assert_close(model.embed(texts), torch.cat([model.embed([text]) for text in texts]))


def test_the_model_is_loaded_once_and_in_eval_mode(path):
    assert load_masked_lm(path) is load_masked_lm(path)
    assert not load_masked_lm(path).model.training


def test_models_that_do_not_fit_are_refused(path, tmp_path):
    nowhere = tmp_path / "nowhere"
    with pytest.raises(ValueError, match=r"cannot load the masked language model '.*nowhere'.*word_list"):
        BERTAttack(masked_lm=str(nowhere))(BagEncoder(words), ["a dog"])
    BertTokenizer(vocab=VOCABULARY, mask_token=None).save_pretrained(tmp_path / "no_mask")
    with pytest.raises(ValueError, match="no mask token; name a model"):
        BERTAttack(masked_lm=str(tmp_path / "no_mask"))(BagEncoder(words), ["a dog"])
    merges = Tokenizer(models.BPE(vocab={"a": 0, "[MASK]": 1}, merges=[]))
    with pytest.raises(ValueError, match=r"builds words of WordPieces \('##ing'\)"):
        MaskedLM(PreTrainedTokenizerFast(tokenizer_object=merges, mask_token="[MASK]"), load_masked_lm(path).model)
    with pytest.raises(ValueError, match="takes at most 40 tokens, got max_length=41"):
        BERTAttack(masked_lm=path, max_length=41)(BagEncoder(words), ["a dog"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"k": 0}, "BERTAttack k must be an integer >= 1, got 0"),
        ({"words": 0}, "BERTAttack words must be an integer >= 1, got 0"),
        ({"max_length": 2}, "must be at least 3, got 2"),
        ({"offset": "fixed"}, "unknown offset 'fixed', known: corrected, authors"),
        ({"similarity": 95}, "similarity is a cosine, from -1 to 1, or None, got 95"),
    ],
)
def test_bad_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        BERTAttack(**fields)


def test_a_model_of_the_hub_is_told_with_its_commit(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    attack = BERTAttack(masked_lm="nobody/bert")
    assert attack.parameters()["masked_lm"] == "nobody/bert"
    commit, repository = 5 * "01234567", tmp_path / "models--nobody--bert"
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "snapshots" / commit / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    assert attack.parameters()["masked_lm"] == "nobody/bert (0123456701234567)"
    assert BERTAttack(masked_lm="/no/such/place").parameters()["masked_lm"] == "/no/such/place"
