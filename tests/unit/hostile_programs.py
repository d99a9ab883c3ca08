"""Programs that try to pass without being right, or to do harm: name, program, and the endings that are right.

The tests of each are ``assert f(3) == 6``.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from finetune_trainer.sandbox.programs import Ending

TESTS = "assert f(3) == 6\n"

F, X = Ending.FAILED, Ending.EXITED

CLAIM = """
import os
def claim(texts):
    for number in range(3, 64):
        for text in texts:
            try:
                os.write(number, text)
            except OSError:
                pass
    os._exit(0)
"""

WRONG = "def f(n):\n    return 7\n"

PROGRAMS: tuple[tuple[str, str, tuple[Ending, ...]], ...] = (
    ("exits in the function", "import os\ndef f(n):\n    os._exit(0)\n", (X,)),
    ("exits in the module", "import os\nos._exit(0)\n", (X,)),
    ("raises SystemExit", "def f(n):\n    raise SystemExit(0)\n", (X,)),
    ("raises KeyboardInterrupt", "def f(n):\n    raise KeyboardInterrupt\n", (F,)),
    ("raises GeneratorExit", "def f(n):\n    raise GeneratorExit\n", (F,)),
    ("raises StopIteration", "def f(n):\n    raise StopIteration\n", (X, F)),
    ("raises StopIteration in the module", "raise StopIteration\n", (X, F)),
    ("exits at exit", WRONG + "import atexit, os\natexit.register(os._exit, 0)\n", (F,)),
    ("exits in the hook of exceptions", WRONG + "import os, sys\nsys.excepthook = lambda *_: os._exit(0)\n", (F,)),
    (
        "exits in a thread",
        "import os, threading, time\ndef f(n):\n    threading.Timer(0.05, os._exit, [0]).start()\n    time.sleep(5)\n",
        (X,),
    ),
    (
        "exits in a handler",
        "import os, signal, time\ndef f(n):\n    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))\n"
        "    signal.setitimer(signal.ITIMER_REAL, 0.05)\n    time.sleep(5)\n",
        (X,),
    ),
    ("prints success", "import os\ndef f(n):\n    print('PASSED', flush=True)\n    os._exit(0)\n", (X,)),
    (
        "writes to every descriptor",
        CLAIM + "def f(n):\n    claim([b'\\n', b'passed\\n', b'{\"passed\": true}\\n'])\n",
        (X, F),
    ),
    (
        "repeats what its frames hold",
        CLAIM + "import sys\ndef f(n):\n    found, frame = [], sys._getframe()\n    while frame:\n"
        "        for space in (frame.f_locals, frame.f_globals):\n"
        "            found += [v for v in space.values() if isinstance(v, bytes)]\n"
        "        frame = frame.f_back\n    claim(found)\n",
        (X, F, Ending.MEMORY),
    ),
    (
        "repeats what it reads",
        CLAIM + "def f(n):\n    found = []\n    for number in range(3, 64):\n        try:\n"
        "            os.set_blocking(number, False)\n            found.append(os.read(number, 4096))\n"
        "        except OSError:\n            pass\n    claim(found)\n",
        (X, F),
    ),
    ("collects objects", "import gc\ndef f(n):\n    return gc.get_objects()\n", (F,)),
    ("looks at other threads", "import sys\ndef f(n):\n    return sys._current_frames()\n", (F,)),
    ("adds a hook", "import sys\nsys.addaudithook(print)\n" + WRONG, (F,)),
    ("uses ctypes", "import ctypes\ndef f(n):\n    return ctypes.CDLL(None).getpid()\n", (F,)),
    (
        "finds ctypes among subclasses",
        "def f(n):\n    for kind in object.__subclasses__():\n        if kind.__name__ == 'CDLL':\n"
        "            kind(None)._exit(0)\n    return 7\n",
        (F,),
    ),
    (
        "jumps over the assert",
        "import sys\ndef f(n):\n    def trace(frame, *_):\n        frame.f_lineno = 2\n        return trace\n"
        "    sys._getframe(1).f_trace = trace\n    sys.settrace(trace)\n    return 7\n",
        (F,),
    ),
    (
        "jumps with the original settrace",
        "import importlib, sys\nimportlib.reload(sys)\ndef f(n):\n    sys.settrace(lambda *_: None)\n    return 7\n",
        (F,),
    ),
    ("replaces AssertionError", WRONG + "import builtins\nbuiltins.AssertionError = SystemExit\n", (F,)),
    (
        "replaces exec and compile",
        WRONG + "import builtins\nbuiltins.exec = builtins.compile = builtins.len = lambda *_, **__: None\n",
        (F,),
    ),
    (
        "replaces os.read and os.write",
        WRONG + "import os\nos.read = lambda *_: b''\nos.write = lambda *_: 32\n",
        (F, X),
    ),
    ("replaces json", WRONG + "import sys\nsys.modules['json'] = None\nsys.modules['os'] = None\n", (F,)),
    ("clears sys.modules", WRONG + "import sys\nsys.modules.clear()\n", (F, X)),
    ("clears the builtins", WRONG + "import builtins\nvars(builtins).clear()\n", (F, X)),
    ("lowers the limit of recursion", WRONG + "import sys\nsys.setrecursionlimit(8)\n", (F, X)),
    ("closes every descriptor", WRONG + "import os\nos.closerange(0, 256)\n", (X, F)),
    (
        "puts one descriptor over the others",
        WRONG + "import os\nfor number in range(3, 64):\n    os.dup2(1, number)\n",
        (X, F),
    ),
    ("reads the tests", "def f(n):\n    return open('<tests>').read()\n", (F,)),
    ("reads its own file", "def f(n):\n    return open(__file__).read()\n", (F,)),
    (
        "kills the runner",
        "import os, signal\ndef f(n):\n    os.kill(os.getppid(), signal.SIGKILL)\n    return 7\n",
        (F,),
    ),
    ("kills all", "import os, signal\ndef f(n):\n    os.kill(-1, signal.SIGKILL)\n    return 7\n", (F,)),
    ("kills itself", "import os, signal\ndef f(n):\n    os.kill(os.getpid(), signal.SIGTERM)\n", (X,)),
    ("crashes", "import faulthandler, os, signal\ndef f(n):\n    os.kill(os.getpid(), signal.SIGSEGV)\n", (X,)),
    ("starts a program", "import subprocess\ndef f(n):\n    return subprocess.run(['true'])\n", (Ending.PROCESSES,)),
    ("replaces itself", "import os\ndef f(n):\n    os.execv('/bin/true', ['true'])\n", (F,)),
    ("forks", "import os\ndef f(n):\n    while True:\n        os.fork()\n", (Ending.PROCESSES,)),
    (
        "starts threads",
        "import threading, time\nthreading.stack_size(1 << 15)\ndef f(n):\n    while True:\n"
        "        threading.Thread(target=time.sleep, args=(60,)).start()\n",
        (Ending.PROCESSES,),
    ),
    ("connects", "import socket\ndef f(n):\n    return socket.create_connection(('127.0.0.1', 22), 1)\n", (F,)),
    ("reads accounts", "def f(n):\n    return open('/etc/passwd').read()\n", (F,)),
    (
        "reads variables of the runner",
        "import os\ndef f(n):\n    return open(f'/proc/{os.getppid()}/environ').read()\n",
        (F,),
    ),
    ("writes its memory", "def f(n):\n    return open('/proc/self/mem', 'r+b')\n", (F,)),
    ("writes elsewhere", "def f(n):\n    return open('/tmp/finetune-evil', 'w')\n", (F,)),
    ("writes to shared memory", "def f(n):\n    return open('/dev/shm/finetune-evil', 'w')\n", (F,)),
    ("changes modes", "import os\ndef f(n):\n    os.chmod('.', 0o777)\n    return 7\n", (F,)),
    ("prints without an end", "def f(n):\n    while True:\n        print('x' * 100_000)\n", (Ending.OUTPUT,)),
    (
        "takes memory",
        "def f(n):\n    a = []\n    while True:\n        a.append(bytearray(10 ** 7))\n",
        (Ending.MEMORY,),
    ),
    (
        "maps memory",
        "import mmap\ndef f(n):\n    return [mmap.mmap(-1, 1 << 28) for _ in range(100)]\n",
        (Ending.MEMORY,),
    ),
    (
        "writes one large file",
        "import tempfile\ndef f(n):\n    with tempfile.TemporaryFile() as file:\n        while True:\n"
        "            file.write(b'x' * 10 ** 6)\n",
        (Ending.FILES,),
    ),
    (
        "writes many files",
        "import itertools\ndef f(n):\n    for number in itertools.count():\n        open(str(number), 'w').close()\n",
        (Ending.FILES,),
    ),
    (
        "writes many large files",
        "import itertools\ndef f(n):\n    for number in itertools.count():\n"
        "        with open(str(number), 'wb') as file:\n            file.write(bytes(10 ** 7))\n",
        (Ending.FILES,),
    ),
    (
        "makes folders in folders",
        "import os\ndef f(n):\n    for _ in range(3000):\n        os.mkdir('e', 0)\n        os.mkdir('d')\n"
        "        os.chdir('d')\n    return 7\n",
        (Ending.FILES, F),
    ),
    (
        "opens files",
        "import tempfile\ndef f(n):\n    return [tempfile.NamedTemporaryFile(delete=False) for _ in range(10 ** 5)]\n",
        (Ending.FILES,),
    ),
    ("recurses", "def f(n):\n    return f(n + 1)\n", (F,)),
    (
        "has an exception that cannot be printed",
        "class E(Exception):\n    def __str__(self):\n        raise self\ndef f(n):\n    raise E\n",
        (F,),
    ),
    ("has a message without an end", "def f(n):\n    raise ValueError('\\x1b[2J\\n' * 10 ** 7)\n", (F, Ending.MEMORY)),
    ("is not Python", "def f(n):\n    retur\x00n 6\n", (F,)),
    ("is a lone surrogate", "x = '\ud800'\n", (F,)),
)

SLOW: tuple[tuple[str, str], ...] = (
    ("loops", "def f(n):\n    while True:\n        pass\n"),
    ("sleeps in C", "import time\ndef f(n):\n    time.sleep(10 ** 6)\n"),
    (
        "ignores SIGTERM",
        "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ndef f(n):\n    while True:\n        pass\n",
    ),
    ("stops itself", "import os, signal\ndef f(n):\n    os.kill(os.getpid(), signal.SIGSTOP)\n"),
    ("backtracks", "import re\ndef f(n):\n    re.match(r'(a+)+$', 'a' * 64 + 'b')\n"),
    ("computes a large number", "def f(n):\n    return 10 ** 10 ** 10 and 7\n"),
    (
        "has an exception without an end",
        "class E(Exception):\n    def __str__(self):\n        while True:\n            pass\ndef f(n):\n    raise E\n",
    ),
    (
        "catches everything",
        "import os\ndef f(n):\n    while True:\n        try:\n            os.fork()\n"
        "        except BaseException:\n            pass\n",
    ),
)
"""They run until a limit of time."""


def until(holds: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)
