"""A page in the browser that shows what a model sees: `urbanseg demo`, and what becomes a Space."""
