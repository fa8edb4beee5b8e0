# A pytest plugin that tcpbye test loads: it notes, in the file that TCPBYE_CALLS names,
# which test runs and from which line a socket is closed or shut down. Times are
# CLOCK_MONOTONIC. It changes nothing in what the tests do.
import json
import os
import socket
import sys
import time
import weakref

_fd = None
_test = [""]
_peers = weakref.WeakKeyDictionary()  # a socket that was reset has no peer any more


def _note(**what):
    global _fd
    try:
        if _fd is None or _fd[0] != os.getpid():
            _fd = (os.getpid(), os.open(os.environ["TCPBYE_CALLS"], os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC))
        what.update(pid=os.getpid(), t_ns=time.monotonic_ns(), test=_test[0])
        os.write(_fd[1], (json.dumps(what) + "\n").encode())
    except Exception:
        pass  # a test must not fail because of it


def _frames():
    frame, found = sys._getframe(2), []
    while frame is not None and len(found) < 64:
        found.append([frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name])
        frame = frame.f_back
    return found


def _ends(sock):
    try:
        local = sock.getsockname()[:2]
    except Exception:
        return None, None
    try:
        return local, sock.getpeername()[:2]
    except Exception:
        return local, _peers.get(sock)


def _watch(name):
    plain = getattr(socket.socket, name)

    def watched(self, *args, **kwargs):
        if self.family in (socket.AF_INET, socket.AF_INET6) and self.type == socket.SOCK_STREAM:
            local, remote = _ends(self)
            if remote:
                _note(op="close", local=local, remote=remote, frames=_frames())
        return plain(self, *args, **kwargs)

    watched.__name__, watched.__doc__ = name, plain.__doc__
    setattr(socket.socket, name, watched)


def _remember(name, peer):
    plain = getattr(socket.socket, name)

    def watched(self, *args, **kwargs):
        result = plain(self, *args, **kwargs)
        try:
            peer(self, args, result)
        except Exception:
            pass
        return result

    watched.__name__, watched.__doc__ = name, plain.__doc__
    setattr(socket.socket, name, watched)


def _connected(sock, args, _):
    _peers[sock] = sock.getpeername()[:2]
    _opened(sock)


def _accepted(_, args, result):
    _peers[result[0]] = result[1][:2]
    _opened(result[0])


def _opened(sock):
    _note(op="open", local=sock.getsockname()[:2], remote=_peers[sock], frames=_frames())


def pytest_configure(config):
    if "TCPBYE_CALLS" not in os.environ:
        return
    _watch("_real_close")
    _watch("shutdown")
    _remember("connect", _connected)
    _remember("accept", _accepted)


def pytest_runtest_logstart(nodeid, location):
    _test[0] = nodeid
    _note(op="test", frames=[[os.path.abspath(location[0]), (location[1] or 0) + 1, location[2]]])


def pytest_unconfigure(config):
    _note(op="end")
