"""Training losses, each exact under accumulation and several processes."""
