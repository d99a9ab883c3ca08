"""A table with one row for each member of an enum."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import TypeVar

Member = TypeVar("Member", bound=StrEnum)
Row = TypeVar("Row")


def table(members: type[Member], rows: Mapping[Member, Row]) -> Mapping[Member, Row]:
    """A read-only table with the rows in the order of ``members``.

    Raises:
        ImportError: A member has no row; raised when the module of the table is imported.
    """
    for member in members:
        if member not in rows:
            raise ImportError(f"{members.__name__}.{member.name} has no row in the table beside {members.__name__}")
    return MappingProxyType({member: rows[member] for member in members})
