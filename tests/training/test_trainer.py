"""The Trainer: what learns, what is logged, and what must not change a run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Image as ImageFeature
from safetensors.torch import load_file
from transformers import CLIPModel

from robust_clip import PGD, AdversarialTrainingArguments, RobustCLIPModel, TeCoA
from robust_clip.adaptation import FullFineTuning
from robust_clip.data import Augmentation, ImageDataset, Mixture, PixelCollator
from robust_clip.models import ZeroShotClassifier
from robust_clip.objectives import Clean, Contrastive
from robust_clip.objectives.functional import class_logits
from robust_clip.training.resume import claim_output_dir, last_complete_checkpoint
from tests.conftest import coloured_rows
from tests.training.conftest import ATTACK


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def largest_difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    return max((first[name] - second[name]).abs().max().item() for name in first)


def test_tecoa_trains_every_vision_parameter_and_nothing_else(make: Any) -> None:
    trainer = make()
    before = weights(trainer)
    trainer.train()
    changed = {name for name, value in weights(trainer).items() if not torch.equal(value, before[name])}
    vision = {name for name in before if name.startswith(("vision_model.", "visual_projection."))}
    # Softmax does not see a shift of all keys, so a key bias has no gradient but rounding.
    assert {name for name in vision - changed if not name.endswith("k_proj.bias")} == set()
    assert changed - vision == set()


def test_contrastive_trains_both_towers_and_the_temperature(make: Any) -> None:
    data = Mixture([ImageDataset(coloured_rows(24), name="coloured")], [1])
    trainer = make(Contrastive(), train_dataset=data)
    before = weights(trainer)
    trainer.train()
    changed = {name for name, value in weights(trainer).items() if not torch.equal(value, before[name])}
    assert {"logit_scale", "text_projection.weight", "visual_projection.weight"} <= changed


def test_training_lowers_the_loss_and_logs_its_terms(make: Any) -> None:
    trainer = make(max_steps=30, learning_rate=0.5)
    trainer.train()
    history = [entry for entry in trainer.state.log_history if "loss/tecoa" in entry]
    assert len(history) == 30
    assert history[0]["loss/tecoa"] == pytest.approx(history[0]["loss"], rel=1e-4)
    assert history[-1]["loss/tecoa"] < 0.8 * history[0]["loss/tecoa"]


@pytest.mark.parametrize("there", [True, False])
def test_memory_is_pinned_for_an_accelerator_or_where_asked(there: bool, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: there)
    assert AdversarialTrainingArguments(str(tmp_path)).dataloader_pin_memory is there
    assert AdversarialTrainingArguments(str(tmp_path), dataloader_pin_memory=True).dataloader_pin_memory is True


@pytest.mark.skipif(torch.accelerator.is_available(), reason="torch has something to pin memory for")
@pytest.mark.filterwarnings("error:.*pin_memory")
def test_training_on_a_cpu_does_not_warn_of_pinned_memory(make: Any) -> None:
    make(max_steps=1).train()


def test_no_gradient_of_the_attack_reaches_the_weights(make: Any) -> None:
    trainer = make()
    model = trainer.accelerator.prepare_model(trainer.model)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(8)])
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    model.train()
    prepared = trainer.batches.make(trainer.model, None, batch, 0)
    adversarial = trainer._attacked(model, prepared, batch["index"])
    assert 0 < (adversarial - batch["pixels"]).abs().max() <= 4 / 255 + 1e-6
    assert all(p.grad is None for p in model.parameters())
    assert flags == {name: p.requires_grad for name, p in model.named_parameters()}
    assert all(module.training for module in model.modules())


def test_accumulation_equals_one_large_batch(make: Any) -> None:
    whole = make(learning_rate=0.01)
    halves = make(learning_rate=0.01, per_device_train_batch_size=4, gradient_accumulation_steps=2)
    start = weights(whole)
    whole.train()
    halves.train()
    assert largest_difference(weights(whole), start) > 1e-3
    assert largest_difference(weights(whole), weights(halves)) < 1e-6


def test_resumed_run_ends_with_the_same_weights(make: Any, tmp_path: Path) -> None:
    # Two epochs of six steps, random crops, and a cut in the middle of the second.
    crops = PixelCollator(16, "model", augmentation=Augmentation(flip=True))
    longer = {"optim": "adamw_torch", "learning_rate": 1e-3, "max_steps": 12, "data_collator": crops}
    uninterrupted = make(folder=tmp_path / "whole", **longer)
    uninterrupted.train()
    make(folder=tmp_path / "cut", save_strategy="steps", save_steps=8, **longer).train()
    second = make(folder=tmp_path / "cut", **longer)
    second.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-8"))
    assert largest_difference(weights(uninterrupted), weights(second)) == 0


def test_half_written_checkpoint_is_passed_over(tmp_path: Path) -> None:
    for step, complete in ((3, True), (6, True), (9, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if complete:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-6")
    assert claim_output_dir(tmp_path, resume=True) == str(tmp_path / "checkpoint-6")
    with pytest.raises(ValueError, match="pass --resume"):
        claim_output_dir(tmp_path, resume=False)


def test_finished_run_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "trainer_state.json").write_text("{}")
    with pytest.raises(ValueError, match="already holds a finished run"):
        claim_output_dir(tmp_path, resume=True)


def test_output_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write"):
        claim_output_dir(tmp_path / "file" / "out", resume=False)


def test_evaluate_gives_clean_and_robust_accuracy_and_feeds_the_card(make: Any, tmp_path: Path) -> None:
    trainer = make(max_steps=30, learning_rate=0.5, eval_samples=12)
    trainer.train()
    metrics = trainer.evaluate()
    assert set(metrics) >= {"eval_clean_accuracy", "eval_robust_accuracy"}
    assert metrics["eval_robust_accuracy"] <= metrics["eval_clean_accuracy"]
    trainer.save_model()
    card = (tmp_path / "README.md").read_text()
    assert f"{100 * metrics['eval_robust_accuracy']:.1f} [" in card
    assert "linf 4/255" in card


def test_evaluate_several_data_sets_prefixes_each(make: Any) -> None:
    trainer = make(Clean(), eval_dataset={"a": coloured_rows(6), "b": coloured_rows(9, seed=2)})
    assert set(trainer.evaluate()) >= {"eval_a_clean_accuracy", "eval_b_clean_accuracy"}


def test_best_model_by_robust_accuracy_is_kept(make: Any) -> None:
    trainer = make(
        max_steps=4,
        eval_samples=6,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="robust_accuracy",
    )
    trainer.train()
    best = load_file(Path(trainer.state.best_model_checkpoint) / "model.safetensors")
    assert trainer.state.best_metric == max(
        entry["eval_robust_accuracy"] for entry in trainer.state.log_history if "eval_robust_accuracy" in entry
    )
    assert largest_difference(best, weights(trainer)) == 0


def test_saved_model_is_stock_clip_with_a_robustness_record(make: Any, tmp_path: Path) -> None:
    trainer = make()
    trainer.train()
    trainer.save_model()
    pixel_values = torch.rand(2, 3, 16, 16)
    stock = CLIPModel.from_pretrained(tmp_path)
    ours = trainer.model.eval()
    expected = ours.get_image_features(pixel_values=pixel_values).pooler_output
    torch.testing.assert_close(stock.get_image_features(pixel_values=pixel_values).pooler_output, expected)
    assert RobustCLIPModel.from_pretrained(tmp_path).config.robustness["threat model"] == "linf 4/255"


def test_gradient_checkpointing_changes_nothing(make: Any) -> None:
    plain, checkpointed = make(), make(gradient_checkpointing=True)
    plain.train()
    checkpointed.train()
    assert largest_difference(weights(plain), weights(checkpointed)) < 1e-6


def test_bf16_trains(make: Any) -> None:
    trainer = make(bf16=True, use_cpu=True)
    trainer.train()
    assert all(value.isfinite().all() for value in weights(trainer).values())


@pytest.mark.parametrize(
    ("objective", "message"),
    [(Clean(), "'clean' is nan.*at step 0;.*none yet"), (TeCoA(), "inner attack failed.*at step 0;.*none yet")],
)
def test_nan_loss_stops_with_the_term_and_the_checkpoint(make: Any, objective: Any, message: str) -> None:
    trainer = make(objective)
    with torch.no_grad():
        trainer.model.visual_projection.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=message):
        trainer.train()


def damaged_rows(row: int) -> Any:
    rows = coloured_rows(16).cast_column("image", ImageFeature(decode=False))
    images = list(rows["image"])
    images[row] = {"bytes": b"\x89PNG broken", "path": None}
    return rows.remove_columns("image").add_column("image", images, feature=ImageFeature())


def test_damaged_image_stops_training_and_is_named(make: Any) -> None:
    with pytest.raises(ValueError, match="row 5"):
        make(train_dataset=damaged_rows(5), max_steps=2).train()


def test_damaged_image_is_left_out_on_request(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    trainer = make(train_dataset=damaged_rows(5), max_steps=2, data_collator=PixelCollator(16, on_bad_image="skip"))
    trainer.train()
    assert trainer.state.global_step == 2
    assert "row 5: unreadable image skipped" in caplog.text


def test_micro_batch_of_nothing_but_damaged_images_is_passed_over(make: Any) -> None:
    skip = PixelCollator(16, on_bad_image="skip")
    trainer = make(train_dataset=damaged_rows(5), per_device_train_batch_size=1, max_steps=16, data_collator=skip)
    trainer.train()
    assert trainer.state.global_step == 16
    assert trainer.state.log_history[-2]["skipped_images"] == 1


def test_logits_of_autocast_features_are_multiplied_in_full_precision(tiny_model: RobustCLIPModel) -> None:
    class_embeds = torch.nn.functional.normalize(torch.randn(3, 8), dim=-1)
    features = torch.randn(4, 8)
    expected = class_logits(features, class_embeds, 100.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(class_logits(features, class_embeds, 100.0), expected)
        assert ZeroShotClassifier(tiny_model, class_embeds)(torch.rand(2, 3, 16, 16)).dtype == torch.float32


def test_card_leaves_out_rows_of_other_weights(make: Any, tmp_path: Path) -> None:
    trainer = make(learning_rate=0.5, max_steps=5, eval_samples=6)
    trainer.evaluate()
    trainer.save_model()
    assert "| 6 | pgd20" in (tmp_path / "README.md").read_text()
    trainer.train()
    trainer.save_model()
    assert "Not measured yet." in (tmp_path / "README.md").read_text()


def test_rows_of_a_plain_data_set_carry_its_split(make: Any) -> None:
    trainer = make(eval_dataset=coloured_rows(6))
    trainer.evaluate()
    assert trainer.rows[0].dataset["split"] == "unknown"


@pytest.mark.parametrize(
    ("objective", "changes", "message"),
    [
        (TeCoA(), {"attack": None, "threat_model": None}, "give an attack"),
        (TeCoA(), {"threat_model": None}, "only one was given"),
        (Clean(), ATTACK, "no use for an attack"),
        (Contrastive(), {"adaptation": FullFineTuning(("vision",))}, "trains the text tower"),
        (TeCoA(), {"adaptation": FullFineTuning(("vision", "text"))}, "keeps the text tower frozen"),
        (TeCoA(), {"attack": PGD(step_size=2)}, "did you mean 2/255"),
        (TeCoA(), {"train_dataset": [1, 2]}, "got list"),
        (TeCoA(), {"dataloader_persistent_workers": True, "dataloader_num_workers": 1}, "first epoch"),
        (TeCoA(), {"eval_protocol": "nope"}, "unknown protocol 'nope'"),
    ],
)
def test_parts_that_do_not_go_together(make: Any, objective: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(objective, **changes)
