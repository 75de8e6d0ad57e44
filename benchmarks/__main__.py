"""Run all benchmarks, or some by name; write the result of each as JSON with its provenance, and a figure for most."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import flow_peers, growth, stacked_training, unet_training
from diffusion_density.machine import artifacts, provenance
from diffusion_density.machine.runtime import configure
from diffusion_density.studies.shared import style

BENCHMARKS: dict[str, tuple[Any, Any]] = {
    "flow_peers": (flow_peers, flow_peers.Sizes()),
    "growth": (growth, growth.Sizes()),
    "stacked_training": (stacked_training, stacked_training.Sizes()),
    "unet_training": (unet_training, unet_training.Sizes()),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHMARKS)}; default: all")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="threads of torch")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder for the results")
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in BENCHMARKS:
            parser.error(f"{name!r} is not one of {', '.join(BENCHMARKS)}")
    for name in options.names or BENCHMARKS:
        module, sizes = BENCHMARKS[name]
        print(f"\n{module.__doc__.splitlines()[0]}")
        configure(options.threads)
        path = options.out / f"{name}.json"
        with provenance.recording([path], settings={"benchmark": name, "threads": options.threads}):
            result = module.run(sizes)
            artifacts.write_json(path, result)
        print(module.report(result))
        if hasattr(module, "draw"):
            style.save(module.draw(result), path.with_suffix(".svg"))


if __name__ == "__main__":
    main()
