"""The exports, one file for each; `export_of` finds them."""

from finetune_trainer.exports.base import Export
from finetune_trainer.registry import Registry

export_of: Registry[Export] = Registry(Export, "finetune_trainer.exports", "export")
