"""``python -m diffusion_density``: the command line."""

from diffusion_density.commands.cli import main

if __name__ == "__main__":
    main()
