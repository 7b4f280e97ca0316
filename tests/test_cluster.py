"""`--resume auto`, as a job scheduler starts a script again. (tests/test_slurm.py has the jobs themselves.)"""

from __future__ import annotations

import sys

import pytest
from started_script import run_started

TINY = "--num_hidden 8 --n_points 640 --batch_size 64 --n_timesteps 10 --device cpu --network plain --train_steps 1 --log_dir log"


@pytest.mark.skipif(sys.platform == "win32", reason="has no fork")
def test_resume_auto_begins_again_after_a_damaged_checkpoint(tmp_path):
    def train(more: str) -> tuple[int, str]:
        return run_started("train_toy.py", f"{TINY} {more}".split(), tmp_path)

    assert train("")[0] == 0
    (tmp_path / "log" / "checkpoint.pt").write_bytes(b"damaged")
    status, printed = train("--resume")
    assert status == 1 and "checkpoint.pt is damaged" in printed
    status, printed = train("--resume auto")
    assert status == 0 and "checkpoint.pt is damaged" in printed
    assert (tmp_path / "log_old1" / "checkpoint.pt").read_bytes() == b"damaged"
    assert (tmp_path / "log" / "model_step1.pt").exists()
