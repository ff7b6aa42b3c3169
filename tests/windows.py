"""What Windows and macOS do otherwise, put between our modules and this system's `os`."""

import errno
import os
import stat


class WindowsOs:
    """`os` as Windows has it: no folder can be opened, nothing open renamed, no read-only fsync."""

    name = "nt"
    _MISSING = ("getuid", "O_NOFOLLOW", "O_NONBLOCK", "fork", "register_at_fork")

    def __getattr__(self, name):
        if name in self._MISSING:
            raise AttributeError(name)
        return getattr(os, name)

    def open(self, path, flags, *more, **named):
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return os.open(path, flags, *more, **named)

    def fsync(self, handle):
        import fcntl

        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        os.fsync(handle)

    def replace(self, source, target):
        for handle in os.listdir("/proc/self/fd"):
            try:
                held = os.stat(f"/proc/self/fd/{handle}")
            except OSError:
                continue
            for path in (source, target):
                if os.path.exists(path) and os.path.samestat(held, os.stat(path)):
                    if stat.S_ISDIR(held.st_mode):
                        continue
                    raise PermissionError(errno.EACCES, "being used by another process", str(path))
        os.replace(source, target)


def make_windows(put=setattr):
    """Let the modules that touch files see Windows; `put` sets an attribute."""
    import flows.environment
    import flows.local_server
    from usam_core.files import atomic, paths

    seen = WindowsOs()
    put(atomic, "fcntl", None)
    for module in (atomic, paths, flows.environment, flows.local_server):
        put(module, "os", seen)
