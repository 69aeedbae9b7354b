"""The ways in which pairs of image and label are stored, one module each.

Every module has the same two functions: `matches(request)`, whether the request is for data of its kind, and
`load(request)`, which reads it. `loading.SOURCES` lists them in the order in which they are asked.
"""
