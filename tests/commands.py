"""Commands as users type them, each in a process of its own that is forked from one that has imported qsr already.

Exit status, streams, files and signals are those of `python -m qsr` (tests/test_packaging.py, and tests that kill, start that
one), without the two seconds that each start takes to import torch.
"""

import atexit
import gc
import json
import os
import runpy
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[1]


def run_qsr(
    *words: str, cwd: Path | None = None, module: str = "qsr", env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """What `python -m MODULE words`, or `python SCRIPT words` for a module that ends in .py, does in a folder.

    Args:
        words: of the command line.
        cwd: its folder; None for that of the tests.
        module: what Python runs.
        env: variables of the environment to set beside those there are; too late for what torch reads when it is imported.
    """
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    with tempfile.TemporaryDirectory() as streams:
        out, err = Path(streams, "out"), Path(streams, "err")
        request = [list(words), str(cwd or Path.cwd()), module, {**os.environ, **(env or {})}, str(out), str(err)]
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        status = int(server.stdout.readline())
        return subprocess.CompletedProcess([module, *words], status, out.read_text(), err.read_text())


def run_line(line: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """What a line of a page does: `qsr ...` or `python script.py ...`."""
    program, *words = shlex.split(line, comments=True)
    assert program in ("qsr", "python"), line
    return run_qsr(*words, cwd=cwd) if program == "qsr" else run_qsr(*words[1:], cwd=cwd, module=words[0])


@cache
def _server() -> subprocess.Popen[str]:
    command = [sys.executable, str(Path(__file__))]
    server = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdin is not None and server.stdout is not None
    atexit.register(server.wait)
    atexit.register(server.stdin.close)  # the end of its requests; last in, first out
    assert server.stdout.readline() == "ready\n"
    return server


def _serve(answers: IO[str]) -> None:
    """Fork for each request; the exit status of each is a line of the answers, negative after a signal."""
    import matplotlib.backends.backend_agg
    import matplotlib.pyplot  # noqa: F401
    import torch._dynamo  # noqa: F401  # which the first optimizer imports

    import qsr.cli.main  # noqa: F401

    gc.freeze()  # the children's collectors leave the pages of all these modules alone
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        words, cwd, module, env, out, err = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(cwd, env, out, err)
            return _run(module, words)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(status, file=answers, flush=True)


def _become(cwd: str, env: dict[str, str], out: str, err: str) -> None:
    write = os.O_CREAT | os.O_WRONLY
    for descriptor, (file, mode) in enumerate(((os.devnull, os.O_RDONLY), (out, write), (err, write))):
        opened = os.open(file, mode, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)


def _run(module: str, words: list[str]) -> None:
    sys.argv = [module, *words]
    if module.endswith(".py"):
        sys.path[0] = str(Path(module).resolve().parent)
        runpy.run_path(module, run_name="__main__")
    else:
        sys.path[0] = os.getcwd()
        runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    # Whatever a command prints goes to its own files; the answers keep the pipe.
    with os.fdopen(os.dup(1), "w") as answers:
        _serve(answers)
