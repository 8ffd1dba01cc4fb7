"""Builds a wheel with the shared library inside.

The library is compiled by `cargo build --release` in the repository this folder belongs to, or copied from the file
that the environment variable LIBINFER_LIBRARY names.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
NAMES = {"darwin": "libinfer.dylib", "win32": "infer.dll"}
NAME = NAMES.get(sys.platform, "libinfer.so")


def compiled() -> Path:
    """The library, compiled now."""
    root = HERE.parent.parent
    if not (root / "Cargo.toml").is_file() or not (root / "include" / "infer.h").is_file():
        raise SystemExit(
            f"libinfer: {root} is not the repository; set LIBINFER_LIBRARY to a compiled {NAME} to build the wheel"
        )
    command = ["cargo", "build", "--release", "--lib", "--package", "libinfer"]
    command += ["--message-format", "json-render-diagnostics"]
    try:
        result = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, check=True)
    except FileNotFoundError:
        raise SystemExit("libinfer: cargo was not found; install Rust, or set LIBINFER_LIBRARY to a compiled library")
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"libinfer: `{' '.join(command)}` in {root} failed with status {error.returncode}")
    for line in result.stdout.splitlines():
        message = json.loads(line)
        if message.get("reason") == "compiler-artifact" and message["target"]["name"] == "infer":
            for name in message["filenames"]:
                if Path(name).name == NAME:
                    return Path(name)
    raise SystemExit(f"libinfer: cargo built no {NAME}")


class BuildWithLibrary(build_py):
    """Puts the library beside the modules."""

    def run(self) -> None:
        # Modules of an earlier build that exist no more would come along.
        shutil.rmtree(Path(self.build_lib) / "libinfer", ignore_errors=True)
        super().run()
        folder = HERE / "src" / "libinfer" if self.editable_mode else Path(self.build_lib) / "libinfer"
        target = folder / NAME
        prebuilt = os.environ.get("LIBINFER_LIBRARY")
        source = Path(prebuilt) if prebuilt else compiled()
        if not source.is_file():
            raise SystemExit(f"libinfer: LIBINFER_LIBRARY names {source}, which is not a file")
        self.mkpath(str(folder))
        shutil.copyfile(source, target)
        # Line tables make the library five times as large; the symbols stay.
        if sys.platform == "linux" and shutil.which("strip"):
            subprocess.run(["strip", "--strip-debug", str(target)], check=False)


class PlatformWheel(bdist_wheel):
    """Any Python 3, this platform: the library is reached through ctypes."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.root_is_pure = False

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


class PlatformDistribution(Distribution):
    """Installs below platlib, because of the library."""

    def has_ext_modules(self) -> bool:
        return True


setup(
    cmdclass={"build_py": BuildWithLibrary, "bdist_wheel": PlatformWheel},
    distclass=PlatformDistribution,
)
