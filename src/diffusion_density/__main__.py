"""``python -m diffusion_density``, and ``diffusion-density``: the command line, if its packages are installed."""

import sys


def main() -> None:
    """Run the command line. A missing package is one line that says how to install it."""
    try:
        from diffusion_density.commands.cli import main as run

        run()
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("diffusion_density"):
            raise
        print(f"error: this command needs {error.name}: pip install 'diffusion-density[workflow]'", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
