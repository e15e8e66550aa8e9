"""tools/bootstrap and run_experiment on a faked bare machine: what they say, what they start, what survives a kill."""
import selectors
import shutil
import unittest

from sandbox import PIP, Sandbox


class BootstrapTest(unittest.TestCase):
    def setUp(self):
        self.box = Sandbox()
        self.addCleanup(self.box.close)

    def ready(self):
        """A machine on which everything is there already."""
        self.box.install_all_packages()
        self.assertEqual(self.box.run("tools/bootstrap", "run")[0], 0)
        (self.box.path / "calls").unlink()

    def test_a_bare_machine_is_made_ready_and_every_step_announced(self):
        code, out, err = self.box.run("tools/bootstrap", "tests")
        self.assertEqual((code, out), (0, ""))
        lines = err.splitlines()
        self.assertRegex(lines[0], r"^bootstrap 1/5: installing with apt-get: g\+\+ cmake .*libbenchmark-dev$")
        self.assertEqual(lines[1], "bootstrap 2/5: LibTorch into .venv (torch==2.13.0+cpu, 200 MB)")
        self.assertEqual(lines[2], "bootstrap 3/5: Python tools into .venv (tools/requirements.txt)")
        self.assertEqual(lines[3:], ["bootstrap 4/5: configuring"])
        apt = self.box.calls("apt-get")
        self.assertTrue(apt[0].endswith("update"))
        self.assertIn("install -y --no-install-recommends g++ cmake", apt[1])

    def test_only_missing_packages_are_installed(self):
        self.box.install_all_packages()
        installed = self.box.path / "installed"
        installed.write_text(installed.read_text().replace("libxxhash-dev\n", ""))
        _, _, err = self.box.run("tools/bootstrap", "run")
        self.assertIn("bootstrap 1/4: installing with apt-get: libxxhash-dev\n", err)

    def test_a_second_start_prints_nothing_and_only_asks_ninja(self):
        self.ready()
        self.assertEqual(self.box.run("tools/bootstrap", "run"), (0, "", ""))
        self.assertEqual(len(self.box.calls("ninja")), 1)
        for program in ["apt-get", "dpkg-query", "python3", "python", "cmake"]:
            self.assertEqual(self.box.calls(program), [])

    def test_without_root_and_sudo_the_one_command_is_printed(self):
        self.box.install_all_packages()
        installed = self.box.path / "installed"
        installed.write_text(installed.read_text().replace("cmake\n", ""))
        self.box.fake("id", "echo 1000")
        code, out, err = self.box.run("tools/bootstrap", "run")
        self.assertEqual((code, out), (2, ""))
        self.assertEqual(err, "bootstrap: system packages are missing, and this account is not root and cannot use "
                              "sudo. Have this run, then start again:\n"
                              "apt-get update && apt-get install -y --no-install-recommends cmake\n")
        self.assertEqual(self.box.calls("apt-get"), [])

    def test_sudo_is_used_where_it_asks_nothing(self):
        self.box.fake("id", "echo 1000")
        self.box.fake("sudo", 'if [ "$1" = -n ]; then exit 0; else "$@"; fi')
        self.assertEqual(self.box.run("tools/bootstrap", "run")[0], 0)
        self.assertEqual(len([call for call in self.box.calls("sudo") if "apt-get" in call]), 2)

    def test_another_system_gets_one_line_that_names_what_is_missing(self):
        self.box.write("os-release", 'ID=fedora\nVERSION_ID=41\nPRETTY_NAME="Fedora Linux 41"\n')
        code, _, err = self.box.run("tools/bootstrap", "run")
        self.assertEqual(code, 2)
        self.assertEqual(err, "bootstrap: Fedora Linux 41 is not supported (Debian 12+, Ubuntu 24.04+, macOS 14+ on "
                              "Apple silicon are). Missing: g++ yaml-cpp nlohmann_json CLI11 fmt spdlog sentencepiece "
                              "libpcre2-8 libutf8proc libxxhash libhwy gtest gmock\n")

    def test_another_system_that_has_everything_goes_on(self):
        self.box.write("os-release", 'ID=fedora\nVERSION_ID=41\nPRETTY_NAME="Fedora Linux 41"\n')
        self.box.fake("pkg-config", "exit 0")
        self.box.fake("g++", "exit 0")
        self.assertEqual(self.box.run("tools/bootstrap", "run")[0], 0)

    def test_an_old_release_is_another_system(self):
        self.box.write("os-release", 'ID=ubuntu\nID_LIKE=debian\nVERSION_ID="22.04"\nPRETTY_NAME="Ubuntu 22.04.5"\n')
        code, _, err = self.box.run("tools/bootstrap", "run")
        self.assertEqual(code, 2)
        self.assertIn("bootstrap: Ubuntu 22.04.5 is not supported", err)

    def test_macos_without_homebrew_is_told_where_it_is(self):
        self.box.fake("uname", 'case "$1" in -m) echo arm64 ;; *) echo Darwin ;; esac')
        self.box.fake("sw_vers", "echo 14.5")
        self.box.fake("xcode-select", "exit 0")
        code, _, err = self.box.run("tools/bootstrap", "run")
        self.assertEqual(code, 2)
        self.assertEqual(err, "bootstrap: Homebrew is missing. Install it as https://brew.sh says, then start again.\n")

    def test_macos_installs_what_homebrew_lacks(self):
        self.box.fake("uname", 'case "$1" in -m) echo arm64 ;; *) echo Darwin ;; esac')
        self.box.fake("sw_vers", "echo 15.1")
        self.box.fake("xcode-select", "exit 0")
        self.box.fake("brew", 'if [ "$1" = list ]; then printf "cmake\\nfmt\\nninja\\npkgconf\\nccache\\n"; fi')
        _, _, err = self.box.run("tools/bootstrap", "run")
        self.assertIn("bootstrap 1/4: installing with Homebrew: python@3.13 libomp yaml-cpp nlohmann-json cli11 spdlog "
                      "sentencepiece pcre2 utf8proc xxhash highway googletest google-benchmark\n", err)

    def test_a_wheel_that_the_indexes_lack_comes_from_pytorchs_index(self):
        self.box.write("pip", f'case "$*" in *--extra-index-url*) {PIP} ;;'
                              ' *) echo "ERROR: No matching distribution found for torch==2.13.0+cpu"; exit 1 ;; esac')
        self.assertEqual(self.box.run("tools/bootstrap", "run")[0], 0)
        installs = [call for call in self.box.calls("python3") if " install " in call]
        self.assertEqual(len(installs), 2)
        self.assertNotIn("--extra-index-url", installs[0])

    def test_another_failure_of_pip_does_not_ask_a_second_index(self):
        self.box.write("pip", 'echo "ERROR: no space left on device"; exit 1')
        code, _, err = self.box.run("tools/bootstrap", "run")
        self.assertEqual(code, 1)
        self.assertIn("ERROR: no space left on device\nbootstrap: installing LibTorch failed. The whole output", err)
        self.assertEqual(len([call for call in self.box.calls("python3") if " install " in call]), 1)

    def test_an_installation_that_was_killed_starts_from_an_empty_environment(self):
        self.box.write("pip", f'echo "Installing collected packages: torch"; {PIP}; kill -9 $PPID')
        self.assertNotEqual(self.box.run("tools/bootstrap", "run")[0], 0)
        leftover = self.box.root / ".venv/leftover"
        leftover.touch()
        self.box.write("pip", PIP)
        self.assertEqual(self.box.run("tools/bootstrap", "run")[0], 0)
        self.assertFalse(leftover.exists())

    def test_a_failed_download_keeps_the_environment(self):
        self.ready()
        (self.box.root / ".venv/kept").touch()
        self.box.write("pip", 'echo "ERROR: connection broken"; exit 1')
        self.assertEqual(self.box.run("tools/bootstrap", "tests")[0], 1)
        self.box.write("pip", "true")
        self.assertEqual(self.box.run("tools/bootstrap", "tests")[0], 0)
        self.assertTrue((self.box.root / ".venv/kept").exists())

    def test_a_new_pin_and_a_removed_environment_are_installed_again(self):
        self.ready()
        requirements = self.box.root / "tools/requirements-torch.txt"
        requirements.write_text(requirements.read_text().replace("2.13.0", "2.13.1"))
        self.assertIn("LibTorch into .venv (torch==2.13.1+cpu", self.box.run("tools/bootstrap", "run")[2])
        self.assertEqual(self.box.run("tools/bootstrap", "run")[2], "")
        shutil.rmtree(self.box.root / ".venv")
        self.assertIn("bootstrap 2/4: LibTorch into .venv", self.box.run("tools/bootstrap", "run")[2])

    def test_a_given_libtorch_is_used_if_it_is_new_enough(self):
        self.box.install_all_packages()
        for version, environment_made in [("2.13.0", False), ("3.0.0", False), ("2.9.1", True)]:
            given = self.box.path / version / "share/cmake/Torch"
            given.mkdir(parents=True)
            (given / "TorchConfigVersion.cmake").write_text(f'set(PACKAGE_VERSION "{version}")\n')
            for variable in [{"CMAKE_PREFIX_PATH": f"/nowhere:{self.box.path / version}"}, {"Torch_DIR": str(given)}]:
                self.assertEqual(self.box.run("tools/bootstrap", "run", **variable)[0], 0)
                self.assertEqual((self.box.root / ".venv").exists(), environment_made)
                if not environment_made:
                    self.assertIn(f"-DTorch_DIR={given}", self.box.calls("cmake")[-1])
                (self.box.root / "build/.stamps/configure").unlink()

    def test_a_failed_build_shows_the_end_of_the_log(self):
        self.box.install_all_packages()
        self.box.fake("ninja", "echo 'a.cpp:1: error: no such thing'; exit 1")
        code, _, err = self.box.run("tools/bootstrap", "run")
        self.assertEqual(code, 1)
        self.assertIn("a.cpp:1: error: no such thing\nbootstrap: the build failed. The whole output is in ", err)

    def two_at_once(self):
        self.ready()
        self.box.fake("ninja", 'mkdir "$SANDBOX/busy" || exit 1; until [ -e "$SANDBOX/go" ]; do sleep 0.02; done; '
                               'rmdir "$SANDBOX/busy"')
        both = [self.box.start("tools/bootstrap", "run") for _ in range(2)]
        lines = selectors.DefaultSelector()
        for process in both:
            lines.register(process.stderr, selectors.EVENT_READ)
        self.assertTrue(lines.select(timeout=60), "none of them says that it waits")
        (self.box.path / "go").touch()
        errors = sorted(process.communicate(timeout=60)[1] for process in both)
        self.assertEqual([process.returncode for process in both], [0, 0])
        self.assertEqual(errors, ["", "bootstrap: waiting for another one in this checkout\n"])

    def test_two_at_once_take_turns(self):
        self.two_at_once()

    def test_two_at_once_take_turns_where_there_is_no_flock_command(self):
        (self.box.bin / "flock").unlink(missing_ok=True)
        self.two_at_once()

    def test_an_old_cmake_on_the_path_is_passed_over(self):
        self.box.fake("cmake", "echo 'cmake version 3.18.0'")
        system = self.box.root / "tools/bootstrap_system.sh"
        system.write_text(system.read_text().replace("/usr/bin/cmake", f"'{self.box.bin}/cmake-new'"))
        self.box.fake("cmake-new", 'touch build/CMakeCache.txt; echo "cmake version 3.28.3"')
        self.box.run("tools/bootstrap", "run")
        self.assertEqual(len(self.box.calls("cmake-new")), 2)


class LauncherTest(unittest.TestCase):
    def setUp(self):
        self.box = Sandbox()
        self.addCleanup(self.box.close)
        self.box.install_all_packages()

    def test_the_program_gets_the_arguments_the_environment_and_the_working_directory(self):
        code, out, _ = self.box.run("run_experiment", "a b.yaml", "--no-build-not", "", cwd=self.box.path)
        self.assertEqual(code, 3)
        self.assertEqual(out, f"<a b.yaml><--no-build-not><>\nAUTO,STRICT {self.box.root} {self.box.path}\n")

    def test_no_build_starts_what_is_there(self):
        code, _, err = self.box.run("run_experiment", "--no-build", "a.yaml")
        self.assertEqual(code, 2)
        self.assertEqual(err, f"run_experiment: --no-build, but {self.box.root}/build/bin/run_experiment is not there. "
                              "Run once without --no-build.\n")
        self.box.run("run_experiment")
        self.box.calls("ninja")
        self.assertEqual(self.box.run("run_experiment", "a.yaml", "--no-build")[1].splitlines()[0], "<a.yaml>")
        self.assertEqual(self.box.calls("ninja"), [])


if __name__ == "__main__":
    unittest.main()
