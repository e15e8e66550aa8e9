"""tools/check_layers.py finds each violation that it is there for, and nothing in a tree without any."""
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import check_layers  # noqa: E402

SOUND = {
    "core/error.h": "#include <string>\n",
    "core/model.h": "#include <ATen/core/Tensor.h>\n",
    "core/io/files.h": '#include "core/error.h"\n',
    "quant/registry.cpp": "#define METHODS(X) \\\n  X(rtn)\nMETHODS(DECLARE)\n",
    "quant/methods/rtn.cpp": '#include "core/model.h"\n',
    "experiments/run/runner.h": '#include "quant/missing_is_reported.h"\n',
    "quant/missing_is_reported.h": "",
}


@unittest.skipUnless(shutil.which("git"), "git lists the files, and is not installed")
class CheckLayersTest(unittest.TestCase):
    def violations(self, **changed: str) -> list[str]:
        """What the check says of the sound tree with some files changed or added."""
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            subprocess.run(["git", "init", "-q"], cwd=root, check=True)
            for name, text in (SOUND | changed).items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_text(text)
            return check_layers.check(root)

    def test_a_sound_tree_passes(self):
        self.assertEqual(self.violations(), [])

    @unittest.skipUnless((ROOT / ".git").exists(), "not a git checkout")
    def test_the_checkout_passes(self):
        self.assertEqual(check_layers.check(ROOT), [])

    def test_an_include_against_the_arrows_is_found(self):
        self.assertEqual(self.violations(**{"core/io/files.h": '\n#include "quant/missing_is_reported.h"\n'}),
                         ["core/io/files.h:2: core may not include quant/missing_is_reported.h. It may include: core."])
        for folder in ["core", "quant", "replication", "models", "export"]:
            found = self.violations(**{f"{folder}/a.h": '#include "experiments/run/runner.h"\n'})
            self.assertEqual(len(found), 1, found)
        self.assertEqual(len(self.violations(**{"models/a.h": '#include "quant/missing_is_reported.h"\n'})), 1)
        self.assertEqual(self.violations(**{"tests/a_test.cpp": '#include "experiments/run/runner.h"\n'}), [])

    def test_the_rooms_of_experiments_have_an_order(self):
        self.assertEqual(self.violations(**{"experiments/measure/a.h": '#include "experiments/run/runner.h"\n'}),
                         ["experiments/measure/a.h:1: experiments/measure may not include experiments/run/runner.h. "
                          "The order is: measure, config, inputs, results, analysis, run, programs."])
        self.assertEqual(self.violations(**{"experiments/programs/a.cpp": '#include "experiments/run/runner.h"\n'}), [])

    def test_units_that_include_each_other_are_found(self):
        found = self.violations(**{"quant/a.h": "", "quant/a.cpp": '#include "quant/a.h"\n#include "quant/b.h"\n',
                                   "quant/b.h": '#include "quant/c.h"\n', "quant/c.h": "",
                                   "quant/c.cpp": '#include "quant/a.h"\n'})
        self.assertEqual(found, ["quant/a -> quant/b -> quant/c -> quant/a: these units include each other. "
                                 "Move what one needs of the other."])

    def test_aten_is_found_through_other_headers(self):
        self.assertEqual(self.violations(**{"core/io/files.h": '#include "core/model.h"\n'}),
                         ["core/io/files.h: includes ATen (core/model.h -> ATen/core/Tensor.h). "
                          "core/io does without it."])

    def test_float64_outside_linalg_is_found(self):
        advice = "makes a float64 tensor. Compute it in core/linalg, on the CPU."
        self.assertEqual(self.violations(**{"quant/a.cpp": "int x;\nat::zeros({2}, at::kDouble);\n"}),
                         [f"quant/a.cpp:2: kDouble {advice}"])
        for text in ["torch::kFloat64", "c10::ScalarType::Double", "x.data_ptr<double>()", "at::dtype<double>()",
                     "x.const_data_ptr<double>()"]:
            self.assertEqual(len(self.violations(**{"models/a.cpp": f"f({text});\n"})), 1, text)
        for text in ["double x = 0;", "x.item<double>()", "std::vector<double> v;", "// at::kDouble",
                     "auto wide = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;"]:
            self.assertEqual(self.violations(**{"models/a.cpp": f"{text}\n"}), [], text)
        for name in ["core/linalg.cpp", "tests/a_test.cpp", "bench/a.cpp"]:
            self.assertEqual(self.violations(**{name: "at::zeros({2}, at::kDouble);\n"}), [], name)

    def test_an_include_not_written_from_the_root_is_found(self):
        self.assertEqual(self.violations(**{"core/io/a.h": '#include "files.h"\n'}),
                         ['core/io/a.h:1: "files.h" is not in this checkout. Write it from the root, others in <>.'])

    def test_a_method_without_a_line_and_a_line_without_a_method_are_found(self):
        self.assertEqual(self.violations(**{"quant/methods/gptq.cpp": ""}),
                         ["quant/methods/gptq.cpp: not listed in quant/registry.cpp. Add X(gptq) to METHODS."])
        self.assertEqual(self.violations(**{"quant/registry.cpp": "#define METHODS(X) X(rtn) X(awq)\nint X(other);\n"}),
                         ["quant/registry.cpp: lists X(awq), but quant/methods/awq.cpp is not there. "
                          "Add the file or remove the line."])

    def test_paths_of_a_machine_and_package_indexes_are_found(self):
        path, index = "/ro" + "ot/x", "https://py" + "pi.org/simple"
        self.assertEqual(self.violations(**{"a.md": f"see {path}\n"}),
                         [f"a.md:1: {path} names a path of one machine. Remove it."])
        self.assertEqual(self.violations(**{"a.md": f"from {index}\n"}),
                         [f"a.md:1: {index} names a package index. Remove it."])
        allowed = check_layers.INDEX_ADDRESS
        self.assertEqual(self.violations(**{"tools/bootstrap": f"pip {allowed}\n"}), [])
        self.assertEqual(len(self.violations(**{"README.md": f"pip {allowed}\n"})), 1)


if __name__ == "__main__":
    unittest.main()
