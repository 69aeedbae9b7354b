"""Exports of labelling tools: shapes with class names in JSON, XML or text beside pictures, drawn into files of ids.

One module a format, each of the same two functions: `find(folder)`, its files among those of an `ExportFolder`, told by
a look at their beginnings; `read(folder, files)`, an `Export`.
"""
