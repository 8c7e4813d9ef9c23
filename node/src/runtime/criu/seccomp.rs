//! The system calls an actor may make: those of the usual container profiles that need no privilege.
//!
//! Everything else is refused. What would give privileges in a new user namespace is, and so is what CRIU cannot save:
//! an actor that finds no `io_uring` does without.

use crate::runtime::oci::{Argument, Seccomp, Syscalls};

const ALLOW: &str = "SCMP_ACT_ALLOW";
const REFUSE: &str = "SCMP_ACT_ERRNO";
const ENOSYS: u32 = 38;
/// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET.
const NEW_NAMESPACE: u64 = 0x7e02_0000;
/// AF_UNIX, AF_INET, AF_INET6 and AF_NETLINK.
const FAMILIES: [u64; 4] = [1, 2, 10, 16];
/// PER_LINUX, and the question which it is.
const PERSONALITIES: [u64; 2] = [0, 0xffff_ffff];

const ARCHITECTURES: &[&str] = match std::env::consts::ARCH.as_bytes() {
    b"aarch64" => &["SCMP_ARCH_AARCH64"],
    _ => &["SCMP_ARCH_X86_64"],
};

const ALLOWED: &str = "
    accept accept4 access alarm arch_prctl bind brk cachestat capget capset chdir chmod chown clock_getres
    clock_gettime clock_nanosleep close close_range connect copy_file_range creat dup dup2 dup3 epoll_create
    epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 execve execveat exit exit_group
    faccessat faccessat2 fadvise64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync
    fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstatfs fsync ftruncate futex futex_requeue
    futex_wait futex_waitv futex_wake futimesat get_robust_list get_thread_area getcpu getcwd getdents getdents64
    getegid geteuid getgid getgroups getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom
    getresgid getresuid getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid getxattr
    getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch ioctl ioprio_get ioprio_set kill
    landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lgetxattr link linkat listen listxattr
    listxattrat llistxattr lremovexattr lseek lsetxattr lstat madvise membarrier memfd_create mincore mkdir mkdirat
    mknod mknodat mlock mlock2 mlockall mmap mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend
    mq_unlink mremap msgctl msgget msgrcv msgsnd msync munlock munlockall munmap nanosleep newfstatat open openat
    openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll prctl pread64
    preadv preadv2 prlimit64 pselect6 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recvfrom
    recvmmsg recvmsg remap_file_pages removexattr removexattrat rename renameat renameat2 restart_syscall rmdir rseq
    rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
    rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
    sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam sched_setscheduler
    sched_yield seccomp select semctl semget semop semtimedop sendfile sendmmsg sendmsg sendto set_robust_list
    set_thread_area set_tid_address setfsgid setfsuid setgid setgroups setitimer setpgid setpriority setregid
    setresgid setresuid setreuid setrlimit setsid setsockopt setuid setxattr setxattrat shmat shmctl shmdt shmget
    shutdown sigaltstack signalfd signalfd4 socketpair splice stat statfs statx symlink symlinkat sync
    sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime
    timer_settime timerfd_create timerfd_gettime timerfd_settime times tkill truncate umask uname unlink unlinkat
    utime utimensat utimes vfork vmsplice wait4 waitid write writev
";

fn rule(names: Vec<&'static str>, args: Vec<Argument>) -> Syscalls {
    Syscalls { names, action: ALLOW, errno_ret: None, args }
}

/// The first argument must be this one.
fn only(name: &'static str, value: u64) -> Syscalls {
    let argument = Argument { index: 0, value, value_two: 0, op: "SCMP_CMP_EQ" };
    rule(vec![name], vec![argument])
}

/// See the module.
pub(super) fn profile() -> Seccomp {
    let no_namespace =
        Argument { index: 0, value: NEW_NAMESPACE, value_two: 0, op: "SCMP_CMP_MASKED_EQ" };
    let mut syscalls = vec![
        rule(ALLOWED.split_whitespace().collect(), Vec::new()),
        rule(vec!["clone"], vec![no_namespace]),
        // Its flags cannot be seen. Whoever is told that it is not there calls clone.
        Syscalls {
            names: vec!["clone3"],
            action: REFUSE,
            errno_ret: Some(ENOSYS),
            args: Vec::new(),
        },
    ];
    syscalls.extend(FAMILIES.map(|family| only("socket", family)));
    syscalls.extend(PERSONALITIES.map(|persona| only("personality", persona)));
    Seccomp { default_action: REFUSE, architectures: ARCHITECTURES, syscalls }
}
