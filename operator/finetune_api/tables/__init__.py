"""One table for each thing that the product grows by: tasks, metrics, methods, exports, reasons and kinds.

A table pairs an enum with one row for each of its members. The CRD and its rules, the validators, the references in
``docs/`` and the stages read the rows, so a new member needs a row and nothing else in this package.
"""
