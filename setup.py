"""Which packages a wheel has: the guide's pages lie beside the package and go into it.

Everything else is in pyproject.toml, which cannot say that.
"""

from setuptools import find_namespace_packages, setup

setup(
    packages=[*find_namespace_packages(include=["tinyagentos*"]), "tinyagentos.docs"],
    package_dir={"tinyagentos.docs": "docs"},
)
