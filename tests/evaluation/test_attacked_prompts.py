"""Protocols that attack class prompts, alone or with images."""

from functools import partial

import pytest
import torch

from robust_clip.attacks import PGD, AttackRun, Charmer, CrossEntropy, JointDivergence, Victim, sample_generators
from robust_clip.data import PixelCollator
from robust_clip.evaluation import Protocol, evaluate_robustness
from robust_clip.models import ZeroShotClassifier, embed_texts, fill_templates, pool_templates
from robust_clip.threat_model import ThreatModel


def judges(model, tokenizer, images, text_attack):
    """Classifiers by clean and by attacked prompts, and rows, pixels and labels of what the first takes rightly."""
    encode = partial(embed_texts, model.eval(), tokenizer)
    prompts = fill_templates(images.class_names, images.templates)
    clean, attacked = (
        ZeroShotClassifier(model, pool_templates(encode(texts), 3), batch_multiple=8)
        for texts in (prompts, text_attack(encode, prompts))
    )
    batch = PixelCollator(model.image_size)([images[index] for index in range(len(images))])
    right = (clean(batch["pixels"]).argmax(dim=1) == batch["labels"]).nonzero().flatten()
    pixels, labels = batch["pixels"][right], batch["labels"][right]
    return clean, attacked, right, pixels, labels


def test_attacked_prompts_judge_clean_images(model, tokenizer, images, tmp_path, folder_of):
    protocol = Protocol("texts", 1, (), None, text_attack=Charmer(positions=2))
    row = evaluate_robustness(model, tokenizer, images, protocol, records_dir=tmp_path)
    stored, samples = folder_of(tmp_path)
    assert (stored, row.attacks, row.threat_model) == (row, ["1-charmer"], None)
    prompts = fill_templates(images.class_names, images.templates)
    attacked = Charmer(positions=2)(partial(embed_texts, model, tokenizer), prompts)
    classifier = ZeroShotClassifier(model, pool_templates(embed_texts(model, tokenizer, attacked), 3))
    batch = PixelCollator(model.image_size)([images[index] for index in range(len(images))])
    expected = classifier(batch["pixels"]).argmax(dim=1).tolist()
    seen = {sample.index: sample.adversarial_prediction for sample in samples if sample.clean}
    assert seen == {index: expected[index] for index in seen}
    assert {sample.broken_by for sample in samples} == {None, "1-charmer"}


def test_attacked_images_are_judged_by_attacked_prompts(model, tokenizer, images, two_attacks, tmp_path, folder_of):
    """The image attack sees the clean prompts; the attacked ones judge what it found."""
    run, threat_model = two_attacks.attacks[0], two_attacks.threat_model
    protocol = Protocol("both", 1, (run,), threat_model, text_attack=Charmer(positions=2))
    evaluate_robustness(model, tokenizer, images, protocol, records_dir=tmp_path)
    row, samples = folder_of(tmp_path)
    assert row.attacks == ["1-pgd-cross_entropy+charmer"]
    clean, attacked, right, pixels, labels = judges(model, tokenizer, images, protocol.text_attack)
    adversarial = run.attack(clean, pixels, CrossEntropy(labels), threat_model, sample_generators(0, right))
    expected = dict(zip(right.tolist(), attacked(adversarial).argmax(dim=1).tolist(), strict=True))
    assert {sample.index: sample.adversarial_prediction for sample in samples if sample.clean} == expected
    assert attacked(adversarial).argmax(dim=1).tolist() != clean(adversarial).argmax(dim=1).tolist()


def test_the_joint_attack_pushes_images_away_from_the_attacked_prompts(
    model, tokenizer, images, tmp_path, folder_of
):
    """MMCoA's second multimodal attack, made again from its parts."""
    threat_model, run = ThreatModel("linf", 8 / 255), AttackRun(PGD(steps=3), "joint_divergence")
    protocol = Protocol("joint", 1, (run,), threat_model, text_attack=Charmer(positions=2))
    evaluate_robustness(model, tokenizer, images, protocol, records_dir=tmp_path)
    row, samples = folder_of(tmp_path)
    assert row.attacks == ["1-pgd-joint_divergence+charmer"]
    clean, attacked, right, pixels, labels = judges(model, tokenizer, images, protocol.text_attack)
    loss = JointDivergence(clean.embed(pixels).detach(), attacked.class_embeds[labels], weight=3.0)
    adversarial = run.attack(clean.embed, pixels, loss, threat_model, sample_generators(0, right))
    expected = dict(zip(right.tolist(), attacked(adversarial).argmax(dim=1).tolist(), strict=True))
    assert {sample.index: sample.adversarial_prediction for sample in samples if sample.clean} == expected
    assert (loss(clean.embed(adversarial)) > loss(clean.embed(pixels))).all()


def test_the_joint_attack_needs_attacked_prompts(model, tokenizer, images):
    run = AttackRun(PGD(), "joint_divergence")
    with pytest.raises(ValueError, match="pgd-joint_divergence of protocol 'p' needs attacked prompts; give a text_a"):
        Protocol("p", 1, (run,), ThreatModel("linf", 1 / 255))
    pixels = torch.rand(1, 3, 8, 8)
    with pytest.raises(ValueError, match="'joint_divergence' needs attacked class prompts"):
        run.aim(Victim(torch.nn.Flatten(), torch.nn.Flatten()), pixels, torch.zeros(1, dtype=torch.long))
