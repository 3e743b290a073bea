"""Tests of the quickstart's trainer environment that need neither a network nor torch: python3 -m unittest, in this folder."""

import ctypes
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

import cuda_placeholders

HERE = pathlib.Path(__file__).resolve().parent
TORCHES = ("cpu", "cuda12", "cuda13")


def an_elf_file():
    """Some shared object of this machine: one that this process has loaded."""
    for line in pathlib.Path("/proc/self/maps").read_text().splitlines():
        path = line.split()[-1]
        if re.search(r"/libc[.-].*so", path):
            return path
    raise unittest.SkipTest("no libc in this process")


class Placeholders(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.like = cuda_placeholders.Library(an_elf_file())

    def make(self, soname, functions):
        path = self.folder / soname
        path.write_bytes(cuda_placeholders.placeholder(self.like, soname, functions))
        return ctypes.CDLL(str(path), mode=os.RTLD_NOW)

    def test_every_function_fails_and_texts_say_why(self):
        lib = self.make("libcublas.so.13", {"cublasCreate": "libcublas.so.13", "cublasFree": "", "cublasGetStatusString": "V2"})
        self.assertEqual(lib.cublasCreate(), 1)
        self.assertEqual(lib.cublasFree(), 1)
        lib.cublasGetStatusString.restype = ctypes.c_char_p
        self.assertIn(b"without an NVIDIA GPU", lib.cublasGetStatusString())

    def test_versions_are_kept(self):
        lib = self.make("libcudnn.so.9", {"cudnnCreate": "libcudnn.so.9"})
        dlvsym = ctypes.CDLL(None).dlvsym
        dlvsym.restype, dlvsym.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p]
        self.assertIsNotNone(dlvsym(lib._handle, b"cudnnCreate", b"libcudnn.so.9"))
        self.assertIsNone(dlvsym(lib._handle, b"cudnnCreate", b"libcudnn.so.8"))

    def test_other_names_are_unknown(self):
        lib = self.make("libnccl.so.2", {f"ncclSend{i}": "" for i in range(500)})
        self.assertEqual(lib.ncclSend499(), 1)
        with self.assertRaises(AttributeError):
            lib.ncclNothing

    def test_without_functions(self):
        self.make("libcurand.so.10", {})

    def test_torch_missing(self):
        with self.assertRaisesRegex(SystemExit, "install torch first"):
            cuda_placeholders.main(str(self.folder))


class Lists(unittest.TestCase):
    def test_exact_versions_once(self):
        base = self.pins("requirements.txt")
        for torch in TORCHES:
            pins = self.pins(f"torch-{torch}.txt")
            self.assertIn("torch", pins)
            self.assertFalse(pins.keys() & base.keys(), torch)

    def test_cpu_is_part_of_cuda13(self):
        self.assertLess(self.pins("torch-cpu.txt").items(), self.pins("torch-cuda13.txt").items())

    def pins(self, name):
        found = {}
        for line in (HERE / name).read_text().splitlines():
            if line.startswith("#"):
                continue
            match = re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9][0-9a-z.]*)", line)
            self.assertTrue(match, f"{name}: {line!r} is not an exact pin")
            self.assertNotIn(match[1].lower(), found)
            found[match[1].lower()] = match[2]
        return found


class Example(unittest.TestCase):
    def test_records(self):
        records = json.loads((HERE / "data" / "fettle_facts.json").read_text())
        self.assertGreaterEqual(len(records), 100)
        for record in records:
            self.assertEqual(list(record), ["instruction", "input", "output"])
            self.assertTrue(record["instruction"] and record["output"], record)
        self.assertEqual(len({r["instruction"] + r["input"] for r in records}), len(records))

    def test_configs_name_what_is_there(self):
        datasets = json.loads((HERE / "data" / "dataset_info.json").read_text())
        for entry in datasets.values():
            self.assertTrue((HERE / "data" / entry["file_name"]).is_file())
        outputs = []
        for path in sorted(HERE.glob("train_*.yaml")):
            keys = dict(re.findall(r"^(\w+): *(.+)$", path.read_text(), re.M))
            self.assertEqual(keys["model_name_or_path"], "tiny-model", path.name)
            if "dataset" in keys:
                self.assertIn(keys["dataset"], datasets, path.name)
            else:
                self.assertTrue((HERE / keys["data_path"]).is_file(), path.name)
            outputs.append(keys["output_dir"])
        self.assertEqual(len(set(outputs)), len(outputs), "two runs share an output folder")
        self.assertGreaterEqual(len(outputs), 4)


class TrainerEnv(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.dir = self.folder / "venv"

    def run_it(self, *args, **env):
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("FETTLE_", "PIP_"))}
        clean["PATH"] = os.pathsep.join(
            p for p in clean["PATH"].split(os.pathsep) if not os.path.exists(os.path.join(p, "llamafactory-cli"))
        )
        extra = env.pop("first_on_path", None)
        if extra:
            clean["PATH"] = f"{extra}{os.pathsep}{clean['PATH']}"
        return subprocess.run(
            [HERE / "trainer-env.sh", *args], env={**clean, **env}, capture_output=True, text=True, timeout=120
        )

    def program(self, name, text):
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path

    def one_line(self, result, *parts):
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertEqual(result.stdout, "")
        last = result.stderr.strip().splitlines()[-1]
        self.assertTrue(last.startswith("trainer-env: "), result.stderr)
        for part in parts:
            self.assertIn(part, last)

    def fingerprint(self, torch):
        names = ("requirements.txt", f"torch-{torch}.txt", "cuda_placeholders.py")
        return hashlib.sha256(f"{torch}\n".encode() + b"".join((HERE / n).read_bytes() for n in names)).hexdigest()

    def test_usage(self):
        for args in ((), ("",), ("a", "b")):
            result = self.run_it(*args)
            self.assertEqual((result.returncode, result.stderr), (2, "usage: trainer-env.sh DIR\n"))

    def test_one_on_path_is_used(self):
        python = self.program("python3.99", "#!/bin/sh\n")
        for text in (f"#!{python}\nimport sys\n", f"#!/bin/sh\n'''exec' \"{python}\" \"$0\" \"$@\"\n' '''\n"):
            cli = self.program("llamafactory-cli", text)
            result = self.run_it(str(self.dir), first_on_path=str(cli.parent))
            self.assertEqual((result.returncode, result.stdout), (0, f"{cli}\n{python}\n"), result.stderr)
            self.assertFalse(self.dir.exists())

    def whole(self):
        for name in ("python", "llamafactory-cli"):
            path = self.dir / "bin" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            path.write_text("#!/bin/sh\n")
            path.chmod(0o755)
        (self.dir / "pyvenv.cfg").touch()
        (self.dir / ".fettle-complete").write_text(self.fingerprint("cpu") + "\n")

    def test_whole_one_is_left_alone(self):
        self.whole()
        result = self.run_it(str(self.dir), FETTLE_TORCH="cpu", PIP_NO_INDEX="1")
        self.assertEqual(result.stdout, f"{self.dir}/bin/llamafactory-cli\n{self.dir}/bin/python\n", result.stderr)
        self.assertFalse((self.folder / "venv.log").exists(), "nothing should have been installed")

    def test_half_made_or_outdated_one_is_made_again(self):
        for spoil in (
            lambda: (self.dir / ".fettle-complete").unlink(),
            lambda: (self.dir / ".fettle-complete").write_text("other\n"),
            lambda: (self.dir / "bin" / "llamafactory-cli").unlink(),
        ):
            self.whole()
            spoil()
            self.one_line(self.no_room(FETTLE_TORCH="cpu"), "check disk")
        (self.dir / "leftover").touch()
        result = self.run_it(str(self.dir), FETTLE_TORCH="cpu", FETTLE_PYTHON=self.python(), PIP_NO_INDEX="1")
        self.one_line(result, "torch: ", "see that pip reaches a package index", "venv.log")
        self.assertFalse((self.dir / "leftover").exists())
        self.assertFalse((self.dir / ".fettle-complete").exists())

    def python(self):
        if not (3, 11) <= sys.version_info[:2] <= (3, 13):
            self.skipTest("needs a Python that the lists are for")
        return sys.executable

    def test_refusals(self):
        self.one_line(self.run_it(str(self.dir), FETTLE_TORCH="tpu"), "FETTLE_TORCH=tpu", "auto, cpu, cuda12 or cuda13")
        old = self.program("python3.8", "#!/bin/sh\nexit 1\n")
        self.one_line(self.run_it(str(self.dir), FETTLE_TORCH="cpu", FETTLE_PYTHON=str(old)), "find Python", "3.11 to 3.13")
        self.dir.mkdir()
        (self.dir / "thesis.tex").touch()
        result = self.run_it(str(self.dir), FETTLE_TORCH="cpu", FETTLE_PYTHON=self.python())
        self.one_line(result, "is not a virtual environment", "give another folder")
        self.assertTrue((self.dir / "thesis.tex").exists())

    def no_room(self, **env):
        df = self.program("df", "#!/bin/sh\necho head\necho fs 100 50 1048577 1% /\n")
        return self.run_it(str(self.dir), FETTLE_PYTHON=self.python(), first_on_path=str(df.parent), **env)

    def test_no_room(self):
        self.one_line(self.no_room(FETTLE_TORCH="cuda13"), "1 GB free and 9 GB are needed", "make room")


if __name__ == "__main__":
    unittest.main()
