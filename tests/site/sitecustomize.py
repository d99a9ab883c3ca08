"""Settings of the Python processes that tests start, which have this folder on their path."""

import sys
import warnings
from importlib.machinery import PathFinder, SourceFileLoader

# A warning from our own packages is an error in these processes too. PYTHONWARNINGS only accepts full module names.
warnings.filterwarnings("error", module=r"finetune_(api|operator|cli|trainer)\b")

_LARGE = frozenset({"accelerate", "deepspeed", "numpy", "peft", "scipy", "sklearn", "torch", "transformers"})
"""Their imports run none of our code, and tracing makes them a third slower."""


class _Untraced(SourceFileLoader):
    def exec_module(self, module):
        trace = sys.gettrace()
        sys.settrace(None)
        try:
            super().exec_module(module)
        finally:
            sys.settrace(trace)


class _Finder:
    @staticmethod
    def find_spec(fullname, path=None, target=None):
        if fullname.partition(".")[0] not in _LARGE:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _Untraced(fullname, spec.loader.path)
        return spec


# Coverage is measured.
if sys.gettrace() is not None:
    sys.meta_path.insert(0, _Finder)
