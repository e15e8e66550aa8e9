"""A bare machine for the bootstrap: a checkout of nothing but its scripts, and a PATH with everything heavy faked.

Every fake writes its name and arguments to `calls`. The fake pip, cmake and ninja leave what the bootstrap looks for.
"""
import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REAL_TOOLS = ["awk", "bash", "cat", "cp", "dirname", "env", "flock", "grep", "head", "kill", "ls", "mkdir", "mv",
              "nproc", "perl", "rm", "rmdir", "sed", "sha256sum", "shasum", "sleep", "sysctl", "tail", "touch",
              "tr", "wc"]
SCRIPTS = ["run_experiment", "tools/bootstrap", "tools/bootstrap_system.sh", "tools/requirements.txt",
           "tools/requirements-torch.txt"]
OS_RELEASE = 'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n'

FAKES = {
    "uname": 'case "$1" in -m) echo x86_64 ;; *) echo Linux ;; esac',
    "id": "echo 0",
    "sudo": "exit 1",
    "dpkg-query": 'grep -qx "$4" "$SANDBOX/installed" && echo installed',
    "apt-get": 'case " $* " in *" install "*) for last; do echo "$last"; done >>"$SANDBOX/installed" ;; esac',
    "pkg-config": "exit 1",
    "cmake": """case "$1" in
  --version) echo "cmake version 3.25.1" ;;
  *) echo "CMAKE_MAKE_PROGRAM:FILEPATH=ninja" >build/CMakeCache.txt && touch build/build.ninja ;;
esac""",
    "ninja": 'mkdir -p build/bin && cp "$SANDBOX/program" build/bin/run_experiment',
    # `python3 -m venv .venv` copies this very file to .venv/bin/python, where it acts as pip.
    "python3": """case "$2" in
  venv) mkdir -p .venv/bin && cp "$0" .venv/bin/python && echo "version = 3.11" >.venv/pyvenv.cfg ;;
  pip) [ "$3" = --version ] || . "$SANDBOX/pip" ;;
esac""",
}
PIP = "mkdir -p .venv/lib/python3.11/site-packages/torch/share/cmake/Torch"
PROGRAM = """#!/usr/bin/env bash
printf '<%s>' "$@"; echo; echo "$MKL_CBWR $REFRAIN_HOME $PWD"; exit 3
"""


class Sandbox:
    def __init__(self):
        self.path = Path(tempfile.mkdtemp(prefix="refrain bootstrap "))  # a blank in the path, too
        self.root = self.path / "checkout"
        self.bin = self.path / "bin"
        (self.root / "tools").mkdir(parents=True)
        self.bin.mkdir()
        for name in SCRIPTS:
            shutil.copy(ROOT / name, self.root / name)
        system = self.root / "tools/bootstrap_system.sh"
        system.write_text(system.read_text().replace("/etc/os-release", f"'{self.path}/os-release'"))
        self.write("os-release", OS_RELEASE)
        self.write("installed", "")
        self.write("pip", PIP)
        self.write("program", PROGRAM).chmod(0o755)
        for tool in REAL_TOOLS:
            if found := shutil.which(tool):
                (self.bin / tool).symlink_to(found)
        for name, body in FAKES.items():
            self.fake(name, body)

    def write(self, name: str, text: str) -> Path:
        (self.path / name).write_text(text)
        return self.path / name

    def fake(self, name: str, body: str):
        """Puts a program on the PATH that notes its call and then runs `body`."""
        file = self.bin / name
        file.unlink(missing_ok=True)
        file.write_text(f'#!/usr/bin/env bash\necho "{name} $*" >>"$SANDBOX/calls"\n{body}\n')
        file.chmod(file.stat().st_mode | stat.S_IXUSR)

    def install_all_packages(self):
        text = (ROOT / "tools/bootstrap_system.sh").read_text()
        self.write("installed", text.split('apt_packages="')[1].split('"')[0].replace(" ", "\n") + "\n")

    def start(self, *command: str, cwd: Path | None = None, **environment: str) -> subprocess.Popen:
        """Starts a script of the checkout, without a terminal."""
        return subprocess.Popen([str(self.root / command[0]), *command[1:]], cwd=cwd or self.root, text=True,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                env={"PATH": str(self.bin), "SANDBOX": str(self.path), **environment})

    def run(self, *command: str, **options) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of a script of the checkout."""
        process = self.start(*command, **options)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def calls(self, program: str) -> list[str]:
        """The calls of a fake so far, and forgets them."""
        file = self.path / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        file.write_text("".join(line + "\n" for line in lines if line.split()[0] != program))
        return [line for line in lines if line.split()[0] == program]

    def close(self):
        shutil.rmtree(self.path)
