"""Models as files for other runtimes: written, made smaller, and checked against PyTorch."""
