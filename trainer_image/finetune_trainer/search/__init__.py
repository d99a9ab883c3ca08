"""PromptSearch: finds the instruction and the examples with which a model answers best, without training it.

``prompt``, ``near``, ``shots``, ``space``, ``record``, ``strategy`` and ``searching`` are pure. ``rendering`` and
``local`` ask a model on this machine, ``served`` one behind an endpoint. ``run`` is the train stage, and ``form`` what
evaluation, publication and predictions need.
"""
