"""Fine-tuning methods, one module each; `method_of` loads them."""

from finetune_trainer.methods.base import Method
from finetune_trainer.registry import Registry

method_of: Registry[Method] = Registry(Method, "finetune_trainer.methods", "method")
