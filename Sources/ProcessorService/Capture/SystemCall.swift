/// System call numbers of x86-64.
enum SystemCall {
    static let open: UInt32 = 2
    static let close: UInt32 = 3
    static let mmap: UInt32 = 9
    static let mprotect: UInt32 = 10
    static let pkeyMprotect: UInt32 = 329
    static let munmap: UInt32 = 11
    static let brk: UInt32 = 12
    static let rtSigaction: UInt32 = 13
    static let rtSigreturn: UInt32 = 15
    static let ioctl: UInt32 = 16
    static let pread64: UInt32 = 17
    static let mremap: UInt32 = 25
    static let madvise: UInt32 = 28
    static let shmat: UInt32 = 30
    static let socket: UInt32 = 41
    static let clone: UInt32 = 56
    static let fork: UInt32 = 57
    static let vfork: UInt32 = 58
    static let exit: UInt32 = 60
    static let fcntl: UInt32 = 72
    static let sysinfo: UInt32 = 99
    static let ptrace: UInt32 = 101
    static let mlock: UInt32 = 149
    static let mlockall: UInt32 = 151
    static let munlockall: UInt32 = 152
    static let setrlimit: UInt32 = 160
    static let futex: UInt32 = 202
    static let schedSetAffinity: UInt32 = 203
    static let schedGetAffinity: UInt32 = 204
    static let ioSetup: UInt32 = 206
    static let getdents64: UInt32 = 217
    static let setTidAddress: UInt32 = 218
    static let openat: UInt32 = 257
    static let setRobustList: UInt32 = 273
    static let prlimit64: UInt32 = 302
    static let openByHandle: UInt32 = 304
    static let setns: UInt32 = 308
    static let processVmWritev: UInt32 = 311
    static let ioUringSetup: UInt32 = 425
    static let pidfdOpen: UInt32 = 434
    static let clone3: UInt32 = 435
    static let openat2: UInt32 = 437
    static let pidfdGetfd: UInt32 = 438
    static let processMadvise: UInt32 = 440
    static let processMrelease: UInt32 = 448
}

/// madvise(2) advices that change what memory holds, or what a fork makes of it.
enum Advice {
    static let dontNeed: UInt32 = 4
    static let free: UInt32 = 8
    static let remove: UInt32 = 9
    static let dontFork: UInt32 = 10
    static let doFork: UInt32 = 11
    static let mergeable: UInt32 = 12
    static let unmergeable: UInt32 = 13
    static let wipeOnFork: UInt32 = 18
    static let keepOnFork: UInt32 = 19
    static let dontNeedLocked: UInt32 = 24
    static let collapse: UInt32 = 25
    static let guardInstall: UInt32 = 102
    static let guardRemove: UInt32 = 103

    static let trapped = [
        dontNeed, free, remove, dontFork, doFork, mergeable, wipeOnFork, keepOnFork, dontNeedLocked, collapse,
        guardInstall, guardRemove,
    ]
}

/// futex(2) operations in which the kernel writes to a word where it waits for no fault.
enum FutexOperation {
    static let wakeOperation: UInt32 = 5
    static let lock: UInt32 = 6
    static let unlock: UInt32 = 7
    static let tryLock: UInt32 = 8
    static let waitRequeue: UInt32 = 11
    static let compareRequeue: UInt32 = 12
    static let lock2: UInt32 = 13

    static let trapped = [wakeOperation, lock, unlock, tryLock, waitRequeue, compareRequeue, lock2]
    /// Those that have a second word.
    static let withTwoWords = [wakeOperation, waitRequeue, compareRequeue]
    /// Without FUTEX_PRIVATE_FLAG and FUTEX_CLOCK_REALTIME.
    static let mask: UInt32 = 0x7f
}

/// ptrace(2) requests from which on another process reads this one's memory.
enum TraceRequest {
    static let traceMe: UInt32 = 0
    static let attach: UInt32 = 16
    static let seize: UInt32 = 0x4206

    static let trapped = [traceMe, attach, seize]
}

/// clone(2) flags.
enum CloneFlag {
    static let sharedMemory: UInt64 = 0x100
    static let vfork: UInt64 = 0x4000
    static let clearThreadID: UInt64 = 0x20_0000
}

/// mremap(2) flags.
enum RemapFlag {
    static let mayMove: UInt64 = 1
    static let fixed: UInt64 = 2
    static let keepsOld: UInt64 = 4
}
