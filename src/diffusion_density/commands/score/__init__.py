"""The command `score`: points or images, any model that can be read, a table with intervals."""
