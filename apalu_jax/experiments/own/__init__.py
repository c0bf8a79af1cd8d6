"""Experiments on a user's own model and data.

A :class:`~.declaration.Declaration` is a spec and the objects behind its names.
Records, analysis and report are those of every experiment.
"""
