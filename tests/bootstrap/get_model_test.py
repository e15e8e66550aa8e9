"""tools/get_model: what it says where nothing can be fetched, and that a broken package leaves nothing behind. A pip of
our own stands in the place of the real one: nothing is downloaded here."""

import hashlib
import json
import os
import pathlib
import subprocess
import tempfile
import unittest
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent

# Copies the wheel that FAKE_WHEEL names to the folder behind --dest, or fails as pip does.
PIP = """#!/usr/bin/env python3
import os, shutil, sys
if "--version" in sys.argv: sys.exit(0)
wheel = os.environ.get("FAKE_WHEEL")
if not wheel:
    print("ERROR: No matching distribution found for small==1", file=sys.stderr)
    sys.exit(1)
shutil.copy(wheel, sys.argv[sys.argv.index("--dest") + 1])
"""


class GetModel(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.home = pathlib.Path(self.folder.name)
        for name in ("tools", "data", ".venv/bin"):
            (self.home / name).mkdir(parents=True)
        (self.home / "tools/get_model").write_text((ROOT / "tools/get_model").read_text())
        python = self.home / ".venv/bin/python"
        python.write_text(PIP)
        python.chmod(0o755)
        self.models = self.home / "models"
        self.wheel = self.home / "small-1-py3-none-any.whl"
        with zipfile.ZipFile(self.wheel, "w") as archive:
            archive.writestr("small/model.gguf", "GGUF of a model")
        self.describe(hashlib.sha256(b"GGUF of a model").hexdigest())

    def describe(self, digest):
        model = {"about": "a model", "licence": "MIT", "origin": "here", "package": "small==1", "package_sha256": "0",
                 "bytes": 1000000, "member": "small/model.gguf", "sha256": digest}  # fmt: skip
        (self.home / "data/models.json").write_text(json.dumps({"small": model}))

    def run_it(self, *arguments, wheel=True):
        environment = dict(os.environ, REFRAIN_MODELS=str(self.models), FAKE_WHEEL=str(self.wheel) if wheel else "")
        command = ["python3", str(self.home / "tools/get_model"), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    def test_fetches_once_and_says_the_licence(self):
        first = self.run_it("small")
        self.assertEqual(first.returncode, 0, first.stderr)
        self.assertIn("licence MIT, from here", first.stdout)
        self.assertEqual((self.models / "small/model.gguf").read_text(), "GGUF of a model")
        self.assertEqual(list((self.models / "small").iterdir()), [self.models / "small/model.gguf"])
        again = self.run_it("small", wheel=False)
        self.assertEqual(again.returncode, 0, again.stderr)
        self.assertIn("small is here:", again.stdout)

    def test_lists_what_can_be_had(self):
        self.assertEqual(self.run_it("--list").stdout, "small            1 MB, MIT: a model\n")

    def test_without_a_network_it_says_one_line(self):
        failed = self.run_it("small", wheel=False)
        self.assertEqual(failed.returncode, 1)
        self.assertEqual(
            failed.stderr,
            "get_model: small could not be fetched: No matching distribution found for small==1. Check the network and "
            "pip's index.\n",
        )
        self.assertEqual(list((self.models / "small").iterdir()), [])

    def test_another_file_in_the_package_is_not_kept(self):
        self.describe("0" * 64)
        failed = self.run_it("small")
        self.assertEqual(failed.returncode, 1)
        self.assertIn("is not the file that data/models.json names. Nothing is kept.", failed.stderr)
        self.assertEqual(list((self.models / "small").iterdir()), [])

    def test_a_damaged_file_is_fetched_again(self):
        (self.models / "small").mkdir(parents=True)
        (self.models / "small/model.gguf").write_text("half")
        self.assertEqual(self.run_it("small").returncode, 0)
        self.assertEqual((self.models / "small/model.gguf").read_text(), "GGUF of a model")

    def test_an_unknown_name_gets_the_known_ones(self):
        failed = self.run_it("large")
        self.assertEqual((failed.returncode, failed.stderr), (2, "get_model: large is not known. Models that can be had: small.\n"))


if __name__ == "__main__":
    unittest.main()
