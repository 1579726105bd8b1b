"""Packages and console commands; dependencies are those of requirements.txt."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = next(
    line.split('"')[1] for line in (ROOT / "hetcache/__init__.py").read_text().splitlines() if "__version__ =" in line
)
REQUIREMENTS = [
    line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and not line.startswith("#")
]

setup(
    name="hetcache",
    version=VERSION,
    description="Fast diffusion video editing without retraining: heterogeneous caching for Wan2.1-VACE",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["hetcache*", "diffsynth_patches*", "baselines*"]),
    py_modules=["inference", "evaluation"],
    package_data={"hetcache": ["calibrate/calibrations/*", "report/*.css", "report/*.js"]},
    data_files=[
        ("share/hetcache/data", ["data/real.mp4", "data/masks.mp4"]),
        ("share/hetcache/data/tiny", [str(p.relative_to(ROOT)) for p in sorted((ROOT / "data/tiny").glob("*"))]),
    ],
    install_requires=REQUIREMENTS,
    entry_points={
        "console_scripts": ["hetcache = inference:main", "hetcache-eval = evaluation:main"],
    },
)
