"""The system calls that a program may use, with their numbers.

Sources: ``arch/x86/entry/syscalls/syscall_64.tbl`` and ``include/uapi/asm-generic/unistd.h`` of Linux.
"""

from __future__ import annotations

Numbers = dict[str, tuple[int | None, int | None]]
"""By name, the number on x86_64 and on aarch64; None where an architecture lacks the call."""

# fmt: off
HARMLESS: Numbers = {
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67), "pwrite64": (18,
    68), "preadv": (295, 69), "pwritev": (296, 70), "preadv2": (327, 286), "pwritev2": (328, 287), "close": (3, 57),
    "close_range": (436, 436), "lseek": (8, 62), "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24), "pipe":
    (22, None), "pipe2": (293, 59), "sendfile": (40, 71), "copy_file_range": (326, 285), "splice": (275, 76), "tee":
    (276, 77), "fsync": (74, 82), "fdatasync": (75, 83), "sync_file_range": (277, 84), "flock": (73, 32),
    "fadvise64": (221, 223), "fallocate": (285, 47), "ftruncate": (77, 46), "stat": (4, None), "fstat": (5, 80),
    "lstat": (6, None), "newfstatat": (262, 79), "statx": (332, 291), "statfs": (137, 43), "fstatfs": (138, 44),
    "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439), "readlink": (89, None), "readlinkat":
    (267, 78), "getdents": (78, None), "getdents64": (217, 61), "getcwd": (79, 17), "chdir": (80, 49), "fchdir":
    (81, 50), "umask": (95, 166), "poll": (7, None), "ppoll": (271, 73), "select": (23, None), "pselect6": (270,
    72), "epoll_create": (213, None), "epoll_create1": (291, 20), "epoll_ctl": (233, 21), "epoll_wait": (232, None),
    "epoll_pwait": (281, 22), "epoll_pwait2": (441, 441), "eventfd": (284, None), "eventfd2": (290, 19),
    "timerfd_create": (283, 85), "timerfd_settime": (286, 86), "timerfd_gettime": (287, 87), "signalfd": (282,
    None), "signalfd4": (289, 74), "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "mremap": (25,
    216), "madvise": (28, 233), "msync": (26, 227), "brk": (12, 214), "mincore": (27, 232), "mlock": (149, 228),
    "munlock": (150, 229), "futex": (202, 98), "futex_waitv": (449, 449), "set_robust_list": (273, 99), "rseq":
    (334, 293), "membarrier": (324, 283), "set_tid_address": (218, 96), "gettid": (186, 178), "getpid": (39, 172),
    "getppid": (110, 173), "getpgrp": (111, None), "getpgid": (121, 155), "getsid": (124, 156), "getuid": (102,
    174), "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177), "getresuid": (118, 148), "getresgid":
    (120, 150), "getgroups": (115, 158), "exit": (60, 93), "exit_group": (231, 94), "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123), "sched_getparam": (143, 121), "sched_getscheduler": (145, 120),
    "sched_get_priority_max": (146, 125), "sched_get_priority_min": (147, 126), "sched_rr_get_interval": (148, 127),
    "getcpu": (309, 168), "getpriority": (140, 141), "arch_prctl": (158, None), "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "rt_sigpending": (127, 136), "rt_sigtimedwait": (128,
    137), "rt_sigsuspend": (130, 133), "sigaltstack": (131, 132), "pause": (34, None), "alarm": (37, None),
    "getitimer": (36, 102), "setitimer": (38, 103), "restart_syscall": (219, 128), "clock_gettime": (228, 113),
    "clock_getres": (229, 114), "clock_nanosleep": (230, 115), "nanosleep": (35, 101), "gettimeofday": (96, 169),
    "time": (201, None), "times": (100, 153), "getrusage": (98, 165), "getrlimit": (97, 163), "uname": (63, 160),
    "sysinfo": (99, 179), "getrandom": (318, 278), "wait4": (61, 260), "waitid": (247, 95), "recvfrom": (45, 207),
    "recvmsg": (47, 212), "shutdown": (48, 210), "getsockopt": (55, 209), "setsockopt": (54, 208), "getsockname":
    (51, 204), "getpeername": (52, 205), "sendto": (44, 206)
}
"""Allowed with any arguments: they reach only the process itself and the files that it has opened."""

WRITING: Numbers = {
    "mkdir": (83, None), "mkdirat": (258, 34), "rmdir": (84, None), "unlink": (87, None), "unlinkat": (263, 35),
    "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276), "link": (86, None), "linkat": (265, 37),
    "symlink": (88, None), "symlinkat": (266, 36)
}
"""Allowed only where Landlock confines them to the scratch folder. Calls that Landlock does not know, such as chmod,
are never allowed, because the process may run as the user who owns the files of this machine."""

CHECKED: Numbers = {
    "open": (2, None), "openat": (257, 56), "creat": (85, None), "clone": (56, 220), "fork": (57, None), "vfork":
    (58, None), "kill": (62, 129), "tgkill": (234, 131), "prctl": (157, 167), "prlimit64": (302, 261), "fcntl": (72,
    25), "ioctl": (16, 29), "socketpair": (53, 199)
}
"""Allowed with some arguments."""
# fmt: on

NEWEST = 450
"""Calls with a greater number are younger than these tables; they do not exist for programs."""

UNKNOWN: Numbers = {"clone3": (435, 435), "openat2": (437, 437)}
"""Their arguments are in memory, which a filter cannot read. The C library falls back to the older call."""
