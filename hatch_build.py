"""Compiles the native kernels while the package is built or installed, where a compiler is."""

import importlib.util
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

BUILD = Path("model", "kernels", "native", "build.py")


class NativeKernelsHook(BuildHookInterface[Any]):
    """Puts the compiled library into the wheel; without one it is pure Python, and slower."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Compile, and mark the wheel as one for this platform."""
        if self.target_name != "wheel":
            return
        # By its path: importing it as a part of the package would import torch.
        spec = importlib.util.spec_from_file_location("native_build", Path(self.root, BUILD))
        assert spec is not None
        assert spec.loader is not None
        native = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(native)
        try:
            library = native.build()
        except native.BuildError as error:
            self.app.display_warning(f"without native kernels, CPUs compute more slowly: {error}")
            return
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["artifacts"].append(str(library.relative_to(self.root)))
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"
