"""The command `score`: log p of points, or bits/dim of images, by any model that can be read, with intervals."""
