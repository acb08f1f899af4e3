"""`robust-clip models`."""

import json

from robust_clip.cli import main
from robust_clip.hub import CHECKPOINTS


def test_the_table_has_every_checkpoint_and_says_what_was_not_seen(capsys):
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(CHECKPOINTS) + 2
    for name, line in zip(CHECKPOINTS, lines[1:], strict=False):
        assert line.split()[0] == name
        assert CHECKPOINTS[name].status in line
        assert line.endswith(CHECKPOINTS[name].unverified or "-")
    assert "not on these files" in lines[-1]


def test_json(capsys):
    assert main(["models", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows["chs20/fare4-clip"]["hidden_act"] == "quick_gelu"
    assert rows["zw123/delta_clip_l14_224"]["status"].startswith("refused: no ln_pre")
