"""The verb `score`: points or images, a model of any kind that can be read, estimators, a table with intervals."""
