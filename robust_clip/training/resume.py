"""Where an interrupted run goes on, and what must not be overwritten."""

from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from robust_clip.evaluation import require_writable

# Written last, so its presence says that all before it is there.
_COMPLETE = "trainer_state.json"


def last_complete_checkpoint(output_dir: str | Path) -> str | None:
    """The newest checkpoint that was written to its end; a process killed while saving leaves one that was not."""
    found = [path for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if (path / _COMPLETE).is_file()]
    return str(max(found, key=lambda path: int(path.name.rsplit("-", 1)[1]))) if found else None


def is_finished(output_dir: str | Path) -> bool:
    """Whether `output_dir` holds a run that came to its end."""
    return (Path(output_dir) / _COMPLETE).is_file()


def claim_output_dir(output_dir: str | Path, resume: bool) -> str | None:
    """Makes sure that a run may write to `output_dir`, before anything long begins.

    Args:
        output_dir: Created if it is not there.
        resume: Go on from the last complete checkpoint.

    Returns:
        The checkpoint to go on from, or `None` to begin.

    Raises:
        ValueError: If the directory holds a finished run, with which nothing goes on, or checkpoints and `resume` is
            false, or cannot be written.
    """
    folder = Path(output_dir)
    if is_finished(folder):
        raise ValueError(f"{folder} already holds a finished run; choose another training.output_dir or remove it.")
    last = last_complete_checkpoint(folder)
    if last and not resume:
        raise ValueError(f"{folder} holds the checkpoints of an unfinished run; pass --resume, or another directory.")
    if (folder / "records").exists() and not resume:
        raise ValueError(f"{folder} holds records of an earlier run; pass --resume, or another directory.")
    require_writable(folder)
    return last if resume else None
