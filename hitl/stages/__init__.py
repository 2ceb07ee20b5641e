"""The machine's stages of a round, run by the worker process: they read files and write into their round alone."""
