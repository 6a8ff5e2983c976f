"""``featstore view``: a local page to hear a corpus and to see what its teachers know of it.

Read only and on this machine: see :mod:`featstore.inspection.view.guard` for who may ask,
:mod:`featstore.inspection.view.payloads` for what is told.
"""
