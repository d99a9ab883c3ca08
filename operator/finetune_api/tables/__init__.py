"""Tables of everything that can be added to the product: tasks, metrics, methods, exports, reasons and kinds.

A table has one row for each member of an enum. The CRD and its rules, the validators, the references in ``docs/`` and
the stages are driven by the rows, so that a new member needs only a row in this package.
"""
