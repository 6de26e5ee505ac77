"""The check that importing a plugin does no work: it is imported once more, in a process of its own that is watched."""

import json
import subprocess
import sys
from functools import cache
from typing import Any

from dicm_kit.interfaces import Component
from dicm_kit.testing.check import EVERY, DoesNotApply, Failed, check
from dicm_kit.testing.elsewhere import modules_of

CPU_SECONDS = 2.0
WALL_SECONDS = 20.0  # a busy machine may be slow

_WATCHER = """
import importlib, importlib.util, json, os, random, sys, threading, time

name, file, paths = json.loads(sys.stdin.readline())
sys.path[:] = paths
import numpy, torch
import dicm_kit.hookspecs, dicm_kit.interfaces, dicm_kit.registry, dicm_kit.types

folder = os.path.dirname(os.path.abspath(file)) if os.path.basename(file) == "__init__.py" else os.path.abspath(file)
found, watching, slept = [], False, 0.0
writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC

def is_the_plugins():
    frame = sys._getframe(2)
    while frame is not None:
        code = frame.f_code.co_filename
        if code.startswith("<frozen importlib"):
            return False  # what a library does while it is imported is its own affair
        if os.path.abspath(code).startswith(folder):
            return True
        frame = frame.f_back
    return False

def look(event, arguments):
    if not watching:
        return
    told = None
    if event == "open" and isinstance(arguments[0], (str, bytes)) and arguments[0] not in (os.devnull,):
        if set(str(arguments[1] or "")) & set("wax+") or (arguments[1] is None and arguments[2] & writes):
            told = "writes the file " + str(arguments[0])
    elif event in ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "shutil.rmtree"):
        told = "changes the file system: " + event + " " + str(arguments[0])
    elif event in ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.__new__"):
        told = "opens a socket"
    elif event in ("subprocess.Popen", "os.system", "os.fork", "os.posix_spawn", "os.exec"):
        told = "starts a process"
    if told and is_the_plugins() and told not in found:
        found.append(told)

def sleep(seconds, really=time.sleep):
    global slept
    slept += seconds
    really(min(seconds, 0.1))

def state():
    numbers = numpy.random.get_state()
    return {
        "draws from torch's global generator": torch.get_rng_state().numpy().tobytes(),
        "draws from random's global generator": random.getstate(),
        "draws from numpy's global generator": (numbers[1].tobytes(), numbers[2]),
        "changes torch's default dtype": torch.get_default_dtype(),
        "changes torch's number of threads": torch.get_num_threads(),
        "changes environment variables": dict(os.environ),
        "changes the working directory": os.getcwd(),
        "starts CUDA": torch.cuda.is_initialized(),
    }

sys.addaudithook(look)
time.sleep = sleep
before, threads = state(), set(threading.enumerate())
wall, cpu, watching = time.perf_counter(), time.process_time(), True
try:
    if importlib.util.find_spec(name) is None:
        raise ModuleNotFoundError(name, name=name)
    importlib.import_module(name)
except ModuleNotFoundError as error:
    if error.name != name.split(".")[0] and error.name != name:
        raise
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
watching = False
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
found += [what for what, value in state().items() if value != before[what]]
found += ["starts the thread " + each.name for each in threading.enumerate() if each not in threads]
if slept > 0.1:
    found.append("sleeps %.1f s" % slept)
print("\\n" + json.dumps({"found": found, "wall": wall, "cpu": cpu}), flush=True)
os._exit(0)
"""


@check(*EVERY, once=True, compares=False, calls=False)
def import_does_no_work(setting: Any) -> None:
    """Importing the plugin draws no random numbers, starts no thread or process, opens no socket, writes no file and
    takes no seconds."""
    where = _module_of(setting.subject.component)
    if where is None:
        raise DoesNotApply("no file is known that defines it")
    file, told = where[1], watched(*where)
    if told["found"]:
        raise Failed(
            f"importing {file} {'; '.join(told['found'])}; do it in `build` or later: a plugin may be imported only to"
            " be listed"
        )
    if told["cpu"] > CPU_SECONDS or told["wall"] > WALL_SECONDS:
        raise Failed(
            f"importing {file} took {told['wall']:.1f} s ({told['cpu']:.1f} s of computing); import heavy libraries"
            " inside functions, and load nothing at import"
        )


def begin(component: Component[Any]) -> None:
    """Starts the import in the process of its own, so that it need not be waited for later."""
    where = _module_of(component)
    if where is not None:
        _begun(*where)


def _module_of(component: Component[Any]) -> tuple[str, str] | None:
    """Returns name and file of the module that is imported when the plugin is; of ours, the one with the hooks."""
    modules = modules_of(component)
    if not modules or modules[0][1] is None:
        return None
    if modules[0][0].startswith("dicm_kit."):
        import dicm_kit.builtin

        return "dicm_kit.builtin", str(dicm_kit.builtin.__file__)
    return modules[0][0], modules[0][1]


@cache
def _begun(name: str, file: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-B", "-W", "ignore", "-c", _WATCHER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps([name, file, sys.path]) + "\n")
    process.stdin.flush()
    return process


@cache
def watched(name: str, file: str) -> dict[str, Any]:
    """Returns what importing a module did, found out once: `found` (texts), `wall` and `cpu` seconds.

    Raises:
        Failed: it could not be imported in a process of its own.
    """
    out, err = _begun(name, file).communicate()
    try:
        answer: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    except (IndexError, ValueError):
        raise Failed(f"{file} cannot be imported by itself:\n{err[-2000:]}") from None
    return answer
