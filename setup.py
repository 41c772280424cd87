"""Builds the two extension modules of `dgcn_ext` with ninja; everything that touches torch's build is here.

`dgcn_ext._C`       torch ops on the LibTorch stable ABI: one binary for every torch >= 2.10 and every Python >= 3.10,
                    with the CUDA kernels in the same shared object where an nvcc is found.
`dgcn_ext._pifpaf`  the PIF/PAF decoder behind pybind11 and numpy; knows nothing of torch.

Environment: DGCN_TORCH=0 installs what needs no torch: no `_C`, and numpy as the one requirement. The decoder and the
encoder need no more, prediction with an ONNX model the extra `predict`. DGCN_CUDA=0 leaves the CUDA kernels out,
DGCN_CUDA=1 insists on them. DGCN_WERROR=0 lets warnings pass (for a compiler newer than this release). MAX_JOBS limits
the parallel compilers.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import ninja
import numpy
import pybind11
import setuptools
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

if int(setuptools.__version__.split(".")[0]) < 77:  # which cannot read the licence in pyproject.toml
    sys.exit(
        f"building dgcn needs setuptools >= 77, and {setuptools.__version__} is installed: "
        "`pip install --upgrade setuptools`, or build without --no-build-isolation"
    )

ROOT = Path(__file__).resolve().parent
CSRC = ROOT / "csrc"
IS_MACOS = sys.platform == "darwin"
WERROR = os.environ.get("DGCN_WERROR", "1") != "0"
WITH_TORCH = os.environ.get("DGCN_TORCH") != "0"

TORCH = "torch>=2.10"
# The lowest versions are tested: make check-lowest. Of OpenCV's builds the headless one works on a bare server.
REQUIREMENTS = [
    "numpy>=1.25",
    "opencv-python-headless>=4.8.0.76",
    "pillow>=11.3",
    "pycocotools>=2.0.8",
    "pyyaml>=6",
    "safetensors>=0.4",
    "scipy>=1.10",
    "timm>=1.0.3",
    "tqdm>=4.64",
    TORCH,
]

# A source named kernels.cpp is compiled once per instruction set; csrc/common/instruction_set.h chooses at run time.
INSTRUCTION_SETS = {"portable": []}
if platform.machine().lower() in ("x86_64", "amd64"):
    AVX2 = ["-mavx2", "-mfma", "-mf16c"]
    INSTRUCTION_SETS |= {"avx2": AVX2, "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", *AVX2]}
# Ampere and Hopper as machine code (sm_80 also runs on 86 and 89), PTX for everything later.
CUDA_TARGETS = ["arch=compute_80,code=sm_80", "arch=compute_90,code=sm_90", "arch=compute_90,code=compute_90"]
CXX_FLAGS = ["-std=c++17", "-O3", "-g0", "-fPIC", "-fvisibility=hidden", "-fvisibility-inlines-hidden", "-DNDEBUG"]
WARNINGS = ["-Wall", "-Wextra"] + (["-Werror"] if WERROR else [])


def torch_dir() -> Path:
    """The installed torch, found without importing it."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise RuntimeError(
            "building dgcn needs torch >= 2.10 to compile against; `pip install .` fetches one by itself, "
            "`pip install --no-build-isolation .` uses the one that is installed, and none is"
        )
    return Path(spec.origin).parent


def find_cuda() -> Path | None:
    """The CUDA toolkit that holds nvcc, or None; DGCN_CUDA decides whether its absence is an error."""
    requested = os.environ.get("DGCN_CUDA", "")
    if requested == "0" or IS_MACOS:
        return None
    candidates = [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    candidates += [Path(path) / "nvidia" / "cu13" for path in sys.path if path]
    if on_path := shutil.which("nvcc"):
        candidates.append(Path(on_path).resolve().parent.parent)
    candidates.append(Path("/usr/local/cuda"))
    for home in candidates:
        # An nvcc on the PATH may be a script that calls the real one; a toolkit has headers beside it.
        if (home / "bin" / "nvcc").is_file() and (home / "include" / "cuda_runtime.h").is_file():
            return home
    if requested == "1":
        searched = ", ".join(str(home) for home in candidates)
        raise RuntimeError(f"DGCN_CUDA=1, but no toolkit (bin/nvcc, include/cuda_runtime.h) is in any of {searched}")
    return None


class NinjaBuild(build_ext):
    """Compiles and links all extensions in one ninja graph: parallel, incremental, with header dependencies."""

    def build_extensions(self) -> None:
        self.cuda = find_cuda()
        # pip hands out a new temporary folder each time; one that stays makes the next build incremental.
        self.build_dir = ROOT / "build" / f"{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
        self.build_dir.mkdir(parents=True, exist_ok=True)
        graph = self.build_dir / "build.ninja"
        with graph.open("w") as stream:
            writer = ninja.Writer(stream, width=120)
            writer.variable("builddir", str(self.build_dir))  # where ninja keeps its log
            self.write_rules(writer)
            for extension in self.extensions:
                self.write_extension(writer, extension)
        jobs = ["-j", os.environ["MAX_JOBS"]] if os.environ.get("MAX_JOBS") else []
        command = [str(Path(ninja.BIN_DIR) / "ninja"), "-f", str(graph), *jobs]
        if subprocess.call(command, cwd=ROOT) != 0:
            raise RuntimeError("the C++/CUDA compilation failed; the compiler's messages are above")

    def write_rules(self, writer: ninja.Writer) -> None:
        cxx = os.environ.get("CXX", "c++")
        compile_cxx = [cxx, "-MMD", "-MF", "$out.d", *CXX_FLAGS, *WARNINGS, "$flags", "-c", "$in", "-o", "$out"]
        writer.rule("cxx", " ".join(compile_cxx), depfile="$out.d", deps="gcc", description="C++ $in")
        strip = ["-bundle", "-undefined", "dynamic_lookup"] if IS_MACOS else ["-shared", "-s", "-Wl,--exclude-libs,ALL"]
        writer.rule("link", " ".join([cxx, *strip, "$in", "$flags", "-o", "$out"]), description="link $out")
        if self.cuda:
            nvcc = [str(self.cuda / "bin" / "nvcc"), "-ccbin", cxx, "-MMD", "-MF", "$out.d", "-std=c++17", "-O3"]
            nvcc += [f"-gencode={target}" for target in CUDA_TARGETS] + ["--threads", "2", "--expt-relaxed-constexpr"]
            # A spill to local memory is a performance bug, so it stops the build like any other warning.
            nvcc += ["-Xptxas", "-warn-spills"] + (["-Xptxas", "-Werror", "-Werror", "all-warnings"] if WERROR else [])
            nvcc += ["-Xcompiler", "-fPIC,-fvisibility=hidden,-Wall,-Wextra" + (",-Werror" if WERROR else "")]
            command = " ".join([*nvcc, "-DNDEBUG", "$flags", "-c", "$in", "-o", "$out"])
            writer.rule("nvcc", command, depfile="$out.d", deps="gcc", description="CUDA $in")

    def write_extension(self, writer: ninja.Writer, extension: Extension) -> None:
        objects = []
        common = [f"-I{path}" for path in extension.include_dirs]
        common += [f"-isystem {path}" for path in (sysconfig.get_path("include"), *self.system_includes(extension))]
        common += [f"-D{name}={value}" for name, value in extension.define_macros]
        common += extension.extra_compile_args
        if self.cuda and extension.name.endswith("._C"):
            common.append("-DDGCN_WITH_CUDA")

        def write_object(source: str, rule: str, flags: list[str], suffix: str = "") -> None:
            target = str(self.build_dir / extension.name / f"{source}{suffix}.o")
            writer.build(target, rule, source, variables={"flags": " ".join([*common, *flags])})
            objects.append(target)

        for source in sorted(extension.sources):
            if source.endswith("/kernels.cpp"):
                for name, flags in INSTRUCTION_SETS.items():
                    write_object(source, "cxx", [*flags, f"-DDGCN_INSTRUCTION_SET={name}"], f".{name}")
            elif not source.endswith(".cu"):
                write_object(source, "cxx", [])
            elif self.cuda:
                # USE_CUDA makes torch's shim header declare the CUDA stream function.
                write_object(source, "nvcc", ["-DUSE_CUDA"])
        output = Path(self.get_ext_fullpath(extension.name)).resolve()
        output.parent.mkdir(parents=True, exist_ok=True)
        writer.build(str(output), "link", objects, variables={"flags": " ".join(self.link_flags(extension))})

    def system_includes(self, extension: Extension) -> list[str]:
        if extension.name.endswith("._pifpaf"):
            return [pybind11.get_include(), numpy.get_include()]
        include = torch_dir() / "include"
        cuda = [str(self.cuda / "include")] if self.cuda else []
        return [str(include), str(include / "torch" / "csrc" / "api" / "include"), *cuda]

    def link_flags(self, extension: Extension) -> list[str]:
        if extension.name.endswith("._pifpaf"):
            return ["-pthread"]
        # libtorch is already loaded when `_C` is, so no run path: the same binary serves every installed torch.
        flags = ["-pthread", f"-L{torch_dir() / 'lib'}"]
        flags += ["-ltorch"] if IS_MACOS else ["-Wl,--no-as-needed", "-ltorch", "-Wl,--as-needed"]
        if self.cuda:
            folders = [path for path in (self.cuda / "lib64", self.cuda / "lib") if path.is_dir()]
            flags += [*(f"-L{path}" for path in folders), "-lcudart_static", "-ldl", "-lrt"]
        return flags


TORCH_OPS = [CSRC / "registration.cpp"]
for folder in ("graph_conv", "nonlocal"):
    TORCH_OPS += [path for path in (CSRC / folder).rglob("*") if path.suffix in (".cpp", ".cu")]

EXTENSIONS = [
    Extension(
        "dgcn_ext._pifpaf",
        [
            "csrc/pifpaf_bindings.cpp",
            "csrc/pifpaf_encoder_bindings.cpp",
            *(str(path.relative_to(ROOT)) for path in (CSRC / "pifpaf").rglob("*.cpp")),
        ],
        include_dirs=["csrc"],
        extra_compile_args=["-ffp-contract=off"],  # a fused multiply-add would round unlike numpy's two operations
    )
]
if WITH_TORCH:
    EXTENSIONS.append(
        Extension(
            "dgcn_ext._C",
            [str(path.relative_to(ROOT)) for path in TORCH_OPS],
            include_dirs=["csrc"],
            # 0x020a...: nothing newer than torch 2.10's stable ABI is used. 0x030a0000: Python 3.10's limited API.
            define_macros=[("TORCH_TARGET_VERSION", "0x020a000000000000"), ("Py_LIMITED_API", "0x030a0000")],
            py_limited_api=True,
        )
    )

DGCN = [
    "dgcn",
    *(f"dgcn.{room}" for room in ("ablation", "cli", "data", "evaluation", "model", "model.backbones", "predict")),
    "dgcn.training",
]

setup(
    packages=["dgcn_ext", "dgcn_ext.reference", *DGCN],
    package_dir={"dgcn": "python/dgcn"},
    include_package_data=False,  # of what MANIFEST.in names, only this:
    package_data={"dgcn_ext": ["py.typed", "*.pyi"], "dgcn": ["py.typed", "assets/*"]},
    install_requires=REQUIREMENTS if WITH_TORCH else ["numpy>=1.25"],
    setup_requires=[TORCH] if WITH_TORCH else [],  # pip fetches it into an isolated build
    entry_points={"console_scripts": ["dgcn = dgcn.cli:main"]},
    ext_modules=EXTENSIONS,
    cmdclass={"build_ext": NinjaBuild},
)
