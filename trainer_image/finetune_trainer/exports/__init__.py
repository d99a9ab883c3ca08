"""Export formats, one module each; `export_of` loads them."""

from finetune_trainer.exports.base import Export
from finetune_trainer.registry import Registry

export_of: Registry[Export] = Registry(Export, "finetune_trainer.exports", "export")
