"""A test double of the Hub: the part of its API that huggingface_hub calls to make, fill and read model repositories.

It offers no Xet, which huggingface_hub takes for granted where hf_xet is installed: clients set HF_HUB_DISABLE_XET=1,
as `HubDouble.environment` does. Files lie in a folder by their digest, commits in memory.
"""

import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from peft import LoraConfig
from transformers.utils import hub as transformers_hub

from robust_clip.models import PromptedCLIPModel, PromptSizes
from tests.hub.hub_answers import TOKEN, Handler, RefusedError, Repository


class HubDouble:
    """The server's state.

    Args:
        folder: For the files.

    Attributes:
        received: Digests of large files in the order in which they came.
        fail_after: Large files after which the next one is refused; `None` for none.
        hold_after: Large files after which the next one is never answered; `held` is set when one is held.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.repositories: dict[str, Repository] = {}
        self.received: list[str] = []
        self.fail_after: int | None = None
        self.hold_after: int | None = None
        self.held, self._let_go, self._lock = threading.Event(), threading.Event(), threading.Lock()
        self.url = ""

    @contextmanager
    def serving(self) -> Iterator["HubDouble"]:
        """Serves until the block ends."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": self}))
        server.daemon_threads = True
        self.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield self
        finally:
            self._let_go.set()
            server.shutdown()
            server.server_close()

    def environment(self, home: Path, token: str | None = TOKEN) -> dict[str, str]:
        """Of a new process that takes this for the Hub, with an empty cache in `home`."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        ours = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
        return kept | ours | {"HF_HUB_DISABLE_TELEMETRY": "1"} | ({"HF_TOKEN": token} if token else {})

    def stand_in(self, monkeypatch: Any, home: Path) -> None:
        """Is the Hub of this process from now on, with a token for it and an empty cache in `home`."""
        resolve = self.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", self.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", resolve)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        monkeypatch.setattr(transformers_hub, "_hf_api", None)
        monkeypatch.setenv("HF_TOKEN", TOKEN)

    def files(self, repo: str, branch: str = "main") -> dict[str, bytes]:
        """What a branch holds, by path."""
        found = self.repositories[repo]
        return {path: self.read(oid) for path, oid in found.commits[found.branches[branch]].items()}

    def read(self, oid: str) -> bytes:
        return (self.folder / oid).read_bytes()

    def keep(self, content: bytes) -> str:
        oid = hashlib.sha256(content).hexdigest()
        (self.folder / oid).write_bytes(content)
        return oid

    def receive(self, oid: str, content: bytes) -> None:
        """Takes in a large file, or does as told to interrupt."""
        with self._lock:
            number = len(self.received)
            if self.fail_after is not None and number >= self.fail_after:
                raise RefusedError(400, "the double was told to fail here")
            hold = self.hold_after is not None and number >= self.hold_after
            if not hold:
                if self.keep(content) != oid:
                    raise RefusedError(400, "the content is not what its digest says")
                self.received.append(oid)
        if hold:
            self.held.set()
            self._let_go.wait(60)
            raise RefusedError(400, "held until the end")

    def repository(self, repo: str, token: str | None) -> Repository:
        found = self.repositories.get(repo)
        if found is None or (found.private and token != TOKEN):
            raise RefusedError(404 if token == TOKEN else 401, "Repository not found", X_Error_Code="RepoNotFound")
        return found


def trained_folder(path: Path, model: Any, processor: Any) -> Path:
    """A trained checkpoint in several shards, with what a Trainer leaves beside it."""
    model.config.robustness = {"objective": "TeCoA", "threat model": "linf 2/255", "data": "cifar10/train"}
    model.save_pretrained(path, max_shard_size="40KB")
    processor.save_pretrained(path)
    (path / "recipe.yaml").write_text("objective: tecoa   # Eq. 3\n")
    (path / "training_args.bin").write_bytes(b"a pickle")
    (path / "checkpoint-5").mkdir()
    (path / "checkpoint-5" / "optimizer.pt").write_bytes(b"another")
    return path


def learned_folder(kind: str, path: Path, model: Any) -> Path:
    """An adapter or prompts alone, said to belong to a base that others have."""
    model.name_or_path = "openai/clip-vit-base-patch32"
    if kind == "adapter":
        model.add_adapter(LoraConfig(r=2, target_modules=["q_proj"]))
        model.save_pretrained(path)
    else:
        PromptedCLIPModel.around(model, PromptSizes(tokens=2)).save_prompts(path)
    return path
