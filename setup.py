"""Packages, their data and the console commands; dependencies are those of requirements.txt, and those
of an extra in a file of its own."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = next(
    line.split('"')[1]
    for line in (ROOT / "hetcache/__init__.py").read_text(encoding="utf-8").splitlines()
    if "__version__ =" in line
)


def requirements(name: str) -> list[str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


setup(
    name="hetcache",
    version=VERSION,
    description="Fast diffusion video editing without retraining: heterogeneous caching for Wan2.1-VACE",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    # `baselines` and the `*_patches` are global names because the repository's layout is the import layout: a mode
    # is `baselines.NAME` and an adapter `diffsynth_patches.NAME` in a checkout and in an installation alike.
    packages=[
        *find_packages(include=["hetcache*", "diffsynth_patches*", "diffusers_patches*", "baselines*"]),
        "hetcache.data",
    ],
    # The example and the embedded model stay in the repository's `data`; a wheel has them where `hetcache.files` looks.
    package_dir={"hetcache.data": "data"},
    package_data={
        "hetcache": ["calibrate/calibrations/*", "report/*.css", "report/*.js", "app/static/*", "py.typed"],
        "hetcache.data": ["README.md", "*.mp4", "tiny/*"],
    },
    install_requires=requirements("requirements.txt"),
    extras_require={
        "app": requirements("requirements-app.txt"),
        "diffusers": requirements("requirements-diffusers.txt"),
        "ray": requirements("requirements-ray.txt"),
    },
    entry_points={
        "console_scripts": [
            "hetcache = hetcache.run.command:installed",
            "hetcache-eval = hetcache.evaluation.command:main",
            "hetcache-mask = hetcache.masking.command:main",
            "hetcache-queue = hetcache.queue.command:main",
            "hetcache-app = hetcache.app.command:main",
        ],
    },
)
