"""What the pages tell to do: all of docs/extending.md, and the commands of docs/scoring.md."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

from diffusion_density.data.images import load
from pages import FENCE, commands
from repository import ROOT, Repository, copy
from untrained import save_untrained


def bash(command: str, repository: Repository) -> str:
    """Run a line of a page, with the programs of this environment, and give what it printed."""
    sources = (repository.environment["PYTHONPATH"], os.environ.get("PYTHONPATH", ""))
    programs = (str(Path(sys.executable).parent), os.environ["PATH"])
    path = {"PATH": os.pathsep.join(programs), "PYTHONPATH": os.pathsep.join(filter(None, sources))}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=repository.path,
        env=repository.environment | path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}"
    return done.stdout


@pytest.mark.slow
def test_the_examples_of_extending(tmp_path: Path) -> None:
    repository = copy(tmp_path / "repository")
    printed = {}
    kinds = set()
    for kind, title, block in FENCE.findall((ROOT / "docs" / "extending.md").read_text()):
        kinds.add(kind)
        if kind == "diff":
            subprocess.run(["git", "apply", "-"], input=block, text=True, cwd=repository.path, check=True)
        elif kind == "python":
            file = repository.path / title
            assert not file.exists()
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block)
        else:
            assert kind == "console"
            printed |= {command: bash(command, repository) for command in commands(block)}
    assert kinds == {"diff", "python", "console"}
    scores = pd.read_csv(repository.path / "scores.csv")
    flow, euler = (scores[scores.estimator == name].log_prob_nats.to_numpy() for name in ("flow", "euler"))
    assert np.abs(flow - euler).max() < 0.2
    assert "flow, Euler steps" in (repository.path / "scores.svg").read_text()
    plan = next(text for command, text in printed.items() if command.startswith("snakemake -n"))
    assert "main-stripes" in plan
    table = pd.read_csv(repository.path / "results/smoke/tails/tables/distances.csv")
    assert list(table.distance) == [0, 3, 9]
    assert np.allclose(table.flow_nats, table.truth_nats, atol=1e-3)
    assert (repository.path / "results/smoke/tails/figures/distances.svg").stat().st_size > 0
    verdict = pd.read_csv(repository.path / "verdicts.csv").iloc[0]
    assert verdict.measured == (table.flow_nats - table.truth_nats).abs().max()
    assert verdict.verdict == "replicated"


@pytest.mark.slow
def test_the_commands_that_score(tmp_path: Path) -> None:
    """With the files that they name: untrained networks stand for a desk run's and for a downloaded one."""
    repository = Repository(tmp_path)
    (tmp_path / "src").symlink_to(ROOT / "src")
    page = (ROOT / "docs" / "scoring.md").read_text()
    (tmp_path / "points.csv").write_text("a,b\n0,0\n1,0.5\n")
    (tmp_path / "mixture.json").write_text('{"weights": [1], "means": [[0, 0]], "covariances": [[[1, 0], [0, 1]]]}')
    photos = load("photos32", Path())
    np.savez(tmp_path / "mine.npz", test=photos.test[:16].permute(0, 2, 3, 1).numpy())
    models = tmp_path / "results/desk/max_likelihood/models"
    models.mkdir(parents=True)
    save_untrained(photos, models / "main-photos32.safetensors")
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    unet = UNet2DModel(32, 3, 3, layers_per_block=1, block_out_channels=(8, 8), norm_num_groups=4, **blocks)
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "ddpm-cifar10-32", safe_serialization=True)
    lines = [line for kind, _, block in FENCE.findall(page) if kind == "console" for line in commands(block)]
    scoring = [line for line in lines if line.startswith("diffusion-density score")]
    assert len(scoring) >= 4
    for line in scoring:
        bash(line, repository)
        table = pd.read_csv(tmp_path / re.findall(r"--out (\S+)", line)[0])
        assert (table.status == "ok").all()
