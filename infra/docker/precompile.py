"""Inside a builder stage: compile the modules that the image's programs import, and no others.

The image's root is read-only, so Python could not keep what it compiles at run time; compiling every module of every
package would take tens of megabytes more. Arguments: modules that the image must be able to import.
"""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import sys

import stlm_core

for module in pkgutil.walk_packages(stlm_core.__path__, "stlm_core."):
    with contextlib.suppress(ImportError):  # what another image is for
        importlib.import_module(module.name)
for name in sys.argv[1:]:
    importlib.import_module(name)
