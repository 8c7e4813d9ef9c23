"""Builds a root directory that holds this very Python and server.py, and nothing else.

    python3 rootfs.py DIRECTORY

The interpreter becomes DIRECTORY/usr/bin/python3, its library DIRECTORY/usr/lib/pythonX.Y, which is where an
interpreter of that place looks for it, whatever prefix it was built for. Shared libraries go beside the C
library, where the loader finds them without configuration.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

HERE = Path(__file__).resolve().parent
LEFT_OUT = shutil.ignore_patterns(
    "__pycache__", "site-packages", "dist-packages", "test", "tests", "config-*", "ensurepip",
    "idlelib", "lib2to3", "pydoc_data", "tkinter", "turtledemo", "turtle.py",
    "_tkinter.*", "_test*", "_xxtestfuzz.*", "_ctypes_test.*", "*.a",
)  # fmt: skip
EMPTY = ("dev", "proc", "sys", "tmp")
ETC = {
    "passwd": "root:x:0:0:root:/:/sbin/nologin\n",
    "group": "root:x:0:\n",
    "hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}


def build(root):
    interpreter = Path(os.path.realpath(sys.executable))
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    library = root / "usr" / sys.platlibdir / version

    copy(interpreter, root / "usr/bin/python3")
    shutil.copytree(sysconfig.get_path("stdlib"), library, ignore=LEFT_OUT, ignore_dangling_symlinks=True)
    extensions = sorted((library / "lib-dynload").glob("*.so"))
    loader, libraries = needed([interpreter, *extensions])
    copy(loader, root / loader.relative_to("/"))
    beside_libc = next(path.parent for path in libraries if path.name.startswith("libc.so"))
    for path in libraries:
        copy(path, root / beside_libc.relative_to("/") / path.name)

    copy(HERE / "server.py", root / "app/server.py")
    for name in EMPTY:
        (root / name).mkdir()
    (root / "tmp").chmod(0o1777)
    (root / "etc").mkdir(exist_ok=True)
    for name, text in ETC.items():
        (root / "etc" / name).write_text(text)


def needed(binaries):
    """The loader and the shared libraries that these binaries load, as `ldd` resolves them."""
    listing = subprocess.run(["ldd", *binaries], check=True, capture_output=True, text=True).stdout
    missing = re.findall(r"^\s+(\S+) => not found", listing, re.MULTILINE)
    if missing:
        sys.exit(f"rootfs.py: shared libraries not found: {' '.join(sorted(set(missing)))}")
    libraries = {Path(path) for path in re.findall(r" => (/\S+) \(", listing)}
    loaders = {Path(path) for path in re.findall(r"^\s+(/\S+) \(", listing, re.MULTILINE)}
    return loaders.pop(), sorted(libraries)


def copy(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)


def compile_what_the_server_imports(root):
    """The root is read-only later: without this, each start would compile its imports again.

    It is the first test of the new interpreter, too.
    """
    program = "import sys; sys.path.insert(0, sys.argv[1]); import server; print(sys.prefix)"
    python = root / "usr/bin/python3"
    command = [python, "-E", "-s", "-c", program, root / "app"]
    prefix = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    if Path(prefix) != root / "usr":
        sys.exit(f"rootfs.py: {python} takes its library from {prefix}")
    shutil.rmtree(root / "app/__pycache__")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: rootfs.py DIRECTORY")
    target = Path(sys.argv[1]).resolve()
    target.mkdir(parents=True)
    build(target)
    compile_what_the_server_imports(target)
