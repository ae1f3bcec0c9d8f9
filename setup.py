"""Packaging, read from settings.ini (the one place where versions and requirements are kept)."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

config = ConfigParser(delimiters=["="], interpolation=None)
config.read("settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]

setup(
    name=cfg["lib_name"], version=cfg["version"], description=cfg["description"], license="Apache-2.0",
    author=cfg["author"], url=cfg["git_url"], keywords=cfg["keywords"].split(),
    long_description=Path("README.md").read_text(encoding="utf-8"), long_description_content_type="text/markdown",
    packages=find_packages(include=[cfg["lib_path"], cfg["lib_path"] + ".*"]),
    package_data={cfg["lib_path"]: [
        "pretrained/*", "pretrained/models/*",  # the network that few-label training starts from
        "report_assets/*",  # templates, style sheet and scripts of the page of a Run
    ]},
    python_requires=">=" + cfg["min_python"],
    install_requires=cfg["requirements"].split(),
    extras_require={extra: cfg[f"{extra}_requirements"].split() for extra in ("dev", "explain", "docs", "export", "scale")},
    entry_points={"console_scripts": cfg["console_scripts"].split()},
)
