"""``featstore view``: a local page to listen to a corpus and to see what its teachers predict.

Read only: :mod:`featstore.inspection.view.guard` says who may read it,
:mod:`featstore.inspection.view.payloads` what it shows.
"""
