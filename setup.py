"""All metadata of the distribution; pyproject.toml holds only the tools' settings."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

plugins = find_packages("plugins", include=["karbor_*"])

extras = {
    "cli": ["click>=8.1", "rich>=13.7"],
    "objectstore": ["obstore>=0.6"],
    "testing": ["pytest>=8.2"],
    "test": ["hypothesis>=6.100", "pytest>=8.2", "pytest-timeout>=2.3"],
}
# The peers that the benchmarks are held against, and what draws the curves: not for development.
peers = ["dask>=2024.8", "matplotlib>=3.9", "taskflow>=5.9"]
extras["dev"] = sorted({need for needs in extras.values() for need in needs} | {"tox>=4.20"})
extras["bench"] = peers

setup(
    name="karbor-actors",
    version="0.1.0",
    description="An embeddable engine for application-aware data protection, built on actors",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: System :: Archiving :: Backup",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    packages=[*find_packages("src"), *plugins],
    package_dir={
        "": "src",
        **{name: f"plugins/{name}" for name in plugins if "." not in name},
    },
    package_data={"": ["py.typed"]},
    install_requires=[
        "cerberus>=1.3.5",
        "lmdb>=3.0",
        "msgpack>=1.0.8",
        "pykka>=4.4",
        "zstandard>=0.22",
    ],
    extras_require=extras,
    entry_points={
        "console_scripts": ["karbor-actors = karbor_actors_command:main"],
        "pytest11": ["karbor_actors = karbor_actors_pytest"],
        "karbor_actors.protections": [
            "filesystem = karbor_filesystem:DirectoryProtection",
            "sqlite = karbor_sqlite:DatabaseProtection",
        ],
        "karbor_actors.protectables": [
            "filesystem = karbor_filesystem:DirectoryProtectable",
            "sqlite = karbor_sqlite:DatabaseProtectable",
        ],
    },
)
