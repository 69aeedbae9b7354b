"""The ways in which pairs of image and label are stored, one module each.

Every module has the same two functions: `matches(request)`, whether the request is for data of its kind, and
`load(request)`, which reads it; those of `data_dir` also say what they look like, for the error when none matches.
`loading.py` lists them in the order in which they are asked.
"""
