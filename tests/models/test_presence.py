"""What is not there is refused before anything is read, and without asking the Hub for it file by file."""

import pytest
from huggingface_hub import constants

from robust_clip.models import PromptedCLIPModel, RobustCLIPModel, load_checkpoint, presence, require_checkpoint


@pytest.fixture
def no_hub(tmp_path, monkeypatch):
    """A folder with nothing but `out/` in it, where asking the Hub is an error."""
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(presence, "_ask", lambda *_: pytest.fail("the Hub was asked"))


PATHS = ["./x", "../x/y", "/no/such/x", "~/x", "out/x/y", "a/b/c", "a/b/model.onnx", "out/fare_eps_2.pt"]


@pytest.mark.parametrize("load", [require_checkpoint, load_checkpoint, RobustCLIPModel.from_pretrained])
@pytest.mark.parametrize("name", [*PATHS, "gpt2"])
def test_a_path_or_a_bare_name_is_refused_at_once(load, name, no_hub):
    told = "no such folder.*Packaged checkpoints: nano_clip; a Hub id is owner/name"
    with pytest.raises(ValueError, match=told) as error:
        load(name)
    assert f"No checkpoint {name!r}" in str(error.value)
    assert "Did you mean" not in str(error.value)
    assert isinstance(error.value, OSError)


def test_a_misspelt_packaged_checkpoint_is_named(no_hub):
    with pytest.raises(ValueError, match=r"No checkpoint 'nano_clipp': no such folder. Did you mean nano_clip\?"):
        load_checkpoint("nano_clipp")


def test_prompts_of_nowhere_are_refused_too(no_hub):
    with pytest.raises(ValueError, match="No checkpoint './prompts': no such folder"):
        PromptedCLIPModel.from_pretrained("./prompts")


def test_what_is_there_or_known_is_let_pass(no_hub, tiny_checkpoint, monkeypatch):
    for name in ("nano_clip", "out", tiny_checkpoint, str(tiny_checkpoint / "model.safetensors"), "fare_eps_2.pt"):
        require_checkpoint(name)
    with pytest.raises(ValueError, match="fare_eps_2.pt is no file here. It is known"):
        load_checkpoint("fare_eps_2.pt")


@pytest.mark.parametrize("name", ["owner/name", "hf-hub:out/name", "owner/name/weights.pt", "chs20/fare4-clip"])
def test_what_the_hub_may_have_is_asked_for_unless_it_is_in_the_cache(name, no_hub, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(presence, "_ask", lambda *what: asked.append(what[:2]))
    require_checkpoint(name, revision="dev")
    repository = "/".join(name.removeprefix("hf-hub:").split("/")[:2])
    assert asked == [(repository, "dev")]
    with pytest.raises(ValueError, match="not in the cache of the Hub, and the Hub may not be asked"):
        require_checkpoint(name, cache_dir=tmp_path, local_files_only=True)
    (tmp_path / f"models--{repository.replace('/', '--')}" / "snapshots").mkdir(parents=True)
    require_checkpoint(name, cache_dir=tmp_path, local_files_only=True)
    assert len(asked) == 1


def test_a_hub_id_may_begin_as_a_folder_does(no_hub, tmp_path, monkeypatch):
    """As transformers has it: what is no folder is asked of the Hub."""
    asked = []
    monkeypatch.setattr(presence, "_ask", lambda *what: asked.append(what[0]))
    require_checkpoint("out/other", cache_dir=tmp_path)
    assert asked == ["out/other"]
    (tmp_path / "models--out--name" / "snapshots").mkdir(parents=True)
    require_checkpoint("out/name", cache_dir=tmp_path)
    assert asked == ["out/other"]
