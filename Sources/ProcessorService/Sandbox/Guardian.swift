import CLinux
import Glibc
import Kernel
import Wire

/// A guardian process that has been spawned, and the daemon's ends of its two sockets.
struct Guardian: ~Copyable, Sendable {
    let process: Descriptor
    let control: Descriptor
    let faults: Descriptor

    init(executable: String) throws(KernelError) {
        let control = try SocketPair()
        let faults = try SocketPair()
        let null = open("/dev/null", O_RDWR | O_CLOEXEC)
        if null < 0 { throw KernelError("open /dev/null") }
        let nullDescriptor = Descriptor(taking: null)
        let descriptors = [
            nullDescriptor.raw, nullDescriptor.raw, nullDescriptor.raw, control.theirs.raw, faults.theirs.raw,
        ]
        process = try Self.spawn(executable, [], descriptors)
        self.control = control.takeOurs()
        self.faults = faults.takeOurs()
    }

    /// Starts lego-sandbox; `descriptors[i]` becomes its descriptor i. Answers its pidfd.
    static func spawn(_ executable: String, _ arguments: [String], _ descriptors: [Int32]) throws(KernelError)
        -> Descriptor
    {
        let words = ([executable] + arguments).map { strdup($0) }
        defer { for word in words { free(word) } }
        let pointers = words.map { UnsafePointer<CChar>($0) } + [nil]
        let number = try checked(
            "posix_spawn", lego_spawn(executable, pointers, descriptors, descriptors.count))
        let pidfd = lego_pidfd_open(number)
        if pidfd < 0 {
            // Its sockets close here, upon which it ends; it is young enough to be waited for.
            _ = kill(number, SIGKILL)
            waitpid(number, nil, 0)
            throw KernelError("pidfd_open", -pidfd)
        }
        return Descriptor(taking: pidfd)
    }

    /// Has namespaces and root built. Does not wait for that.
    borrowing func prepare(_ preparation: SandboxPreparation) throws(KernelError) {
        var message = lego_sandbox_prepare()
        message.magic = UInt32(LEGO_SANDBOX_MAGIC)
        message.temporary_bytes = preparation.temporaryBytes
        let root = ByteText.bytes(of: preparation.root)
        let fits = withUnsafeMutableBytes(of: &message.root) { bytes in
            if root.count >= bytes.count { return false }
            bytes.copyBytes(from: root)
            return true
        }
        if !fits { throw KernelError("path of the tree", ENAMETOOLONG) }
        _ = try checked(
            "sendmsg",
            lego_send_descriptors(control.raw, &message, MemoryLayout<lego_sandbox_prepare>.size, nil, 0))
    }

    /// Whether it has nothing to say: a guardian without a program that speaks has failed, and one that is gone does.
    var isSilent: Bool {
        var watched = pollfd(fd: control.raw, events: Int16(POLLIN), revents: 0)
        return poll(&watched, 1, 0) == 0
    }

    /// Sends the start message.
    borrowing func start(_ plan: SandboxPlan, payload: [UInt8], streams: borrowing StandardStreams, limit: Duration)
        throws(KernelError)
    {
        let file = try MemoryFile(name: "lego-start", bytes: payload.count)
        payload.withUnsafeBytes { file.base.copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
        var header = plan.header(payloadBytes: payload.count, setup: limit)
        var descriptors = [streams.input.raw, streams.output.raw, streams.error.raw, file.descriptor]
        // As a mount by itself: the sandbox does not see this process's files any more.
        let memory = plan.memoryInformation.isEmpty ? -1 : lego_mount_detached(plan.memoryInformation)
        defer { if memory >= 0 { close(memory) } }
        if !plan.memoryInformation.isEmpty { descriptors.append(try checked("open_tree /proc/meminfo", memory)) }
        _ = try checked(
            "sendmsg",
            lego_send_descriptors(
                control.raw, &header, MemoryLayout<lego_sandbox_start>.size, descriptors, descriptors.count))
    }

    /// Waits until the program stands before its first instruction.
    borrowing func awaitReady(_ plan: SandboxPlan, until deadline: Deadline) throws(SandboxFailure) -> Ready {
        var waited = pollfd(fd: control.raw, events: Int16(POLLIN), revents: 0)
        while poll(&waited, 1, deadline.pollMilliseconds) < 0, errno == EINTR {}
        if waited.revents == 0 {
            throw SandboxFailure("the program could not be loaded in time; is \(plan.rootName) overloaded or lost?")
        }
        var report = lego_sandbox_report()
        var descriptors: [Int32] = [-1, -1, -1]
        var count = 0
        let size = MemoryLayout<lego_sandbox_report>.size
        let received = lego_receive_descriptors(control.raw, &report, size, &descriptors, 3, &count, nil, 0)
        if received < 0 {
            throw SandboxFailure(KernelError("recvmsg", Int32(-received)), during: "answer of lego-sandbox")
        }
        if received == size, report.kind == LEGO_SANDBOX_READY.rawValue, count >= 2 {
            return Ready(
                listener: Descriptor(taking: descriptors[0]), programPidfd: Descriptor(taking: descriptors[1]),
                terminal: count > 2 ? Descriptor(taking: descriptors[2]) : nil,
                initProcess: report.init_process, program: report.program_process)
        }
        for descriptor in descriptors.prefix(count) { close(descriptor) }
        if received == size { throw SandboxFailure(report, plan: plan) }
        throw SandboxFailure("the program could not be started: its guardian process was killed")
    }
}

/// What a guardian hands over when the program is loaded.
struct Ready: ~Copyable {
    let listener: Descriptor
    let programPidfd: Descriptor
    var terminal: Descriptor?
    let initProcess: Int32
    let program: Int32
}

/// A pair of connected SOCK_SEQPACKET sockets.
struct SocketPair: ~Copyable {
    let ours: Descriptor
    let theirs: Descriptor

    init() throws(KernelError) {
        var ends: [Int32] = [-1, -1]
        let type = Int32(SOCK_SEQPACKET.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
        if socketpair(AF_UNIX, type, 0, &ends) < 0 { throw KernelError("socketpair") }
        ours = Descriptor(taking: ends[0])
        theirs = Descriptor(taking: ends[1])
    }

    consuming func takeOurs() -> Descriptor { ours }
}
