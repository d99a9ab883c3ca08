"""Settings of the Python processes that tests start, which have this folder on their path."""

import os
import warnings

# A warning from our own packages is an error in these processes too. PYTHONWARNINGS only accepts full module names.
warnings.filterwarnings("error", module=r"finetune_(api|core|kube|operator|cli|trainer)\b")

if os.environ.get("COVERAGE_FILE"):
    import measuring

    measuring.start(os.environ["COVERAGE_FILE"])
