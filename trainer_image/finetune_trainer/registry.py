"""Plugins: the implementation of each member of an enum, imported on first use.

The module has the name of the member: ``TaskType.TEXT_CLASSIFICATION`` is
``finetune_trainer.tasks.text_classification``.
"""

from __future__ import annotations

from enum import StrEnum
from importlib import import_module
from typing import Generic, TypeVar

Plugin = TypeVar("Plugin")


class Registry(Generic[Plugin]):
    """The plugins in a package; each is checked against the protocol when it is loaded."""

    def __init__(self, protocol: type, package: str, attribute: str) -> None:
        self._protocol = protocol
        self._package = package
        self._attribute = attribute
        self._loaded: dict[StrEnum, Plugin] = {}

    def address(self, member: StrEnum) -> str:
        """``module:attribute`` of the plugin of ``member``."""
        return f"{self._package}.{member.name.lower()}:{self._attribute}"

    def __call__(self, member: StrEnum) -> Plugin:
        """The plugin of ``member``.

        Raises:
            ImportError: The module or attribute does not exist.
            TypeError: The plugin lacks a member of the protocol.
        """
        if member not in self._loaded:
            self._loaded[member] = self._load(member)
        return self._loaded[member]

    def _load(self, member: StrEnum) -> Plugin:
        address = self.address(member)
        module, _, attribute = address.partition(":")
        try:
            plugin: Plugin = getattr(import_module(module), attribute)
        except (ModuleNotFoundError, AttributeError) as error:
            if isinstance(error, ModuleNotFoundError) and error.name != module:
                raise
            raise ImportError(f"{type(member).__name__} {member} has no plugin: {address} does not exist") from error
        if missing := sorted(name for name in members(self._protocol) if not hasattr(plugin, name)):
            protocol = f"{self._protocol.__module__}.{self._protocol.__name__}"
            raise TypeError(f"{address} lacks {', '.join(missing)}, which {protocol} requires")
        return plugin


def members(protocol: type) -> set[str]:
    """Names of the attributes and methods that a protocol declares."""
    declared = {*vars(protocol), *protocol.__annotations__}
    return {name for name in declared if not name.startswith("_")}
