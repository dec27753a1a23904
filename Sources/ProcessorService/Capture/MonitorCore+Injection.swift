import CAgent
import CLinux
import Glibc
import Kernel

/// Puts an agent into an address space. A thread that waits for the answer to a trapped call is made to map the agent's
/// memory file and to clone the agent, and then makes its call again, as if nothing had been
/// (docs/ARCHITECTURE.md, "How a program is captured").
extension MonitorCore {
    static let patience: Duration = .seconds(10)
    /// Where so many agents in a row are killed, none is wanted.
    private static let agentsKilled_max = 100

    /// Injects into the address space of a thread that made a trapped call.
    func inject(_ notification: lego_notification) {
        if !mayHaveAgent(notification.thread) { return proceedNatively(notification) }
        do throws(Tracee.Failure) {
            var tracee = try Tracee(seizing: notification.thread)
            do throws(Tracee.Failure) {
                try injectAlive(notification, &tracee, isForced: false)
            } catch .unavailable {
                proceedNatively(notification)
                // It stops on its way out of the call, and is let go; else the loop's sweep does that.
                try? tracee.waitForStop(LEGO_STOP_INTERRUPT, until: .after(.milliseconds(100))) { _ = poll(nil, 0, 1) }
            }
        } catch .unavailable {
            proceedNatively(notification)
        } catch {
            injectionFailed(error)
        }
    }

    func injectionFailed(_ error: Tracee.Failure) {
        switch error {
        case .gone, .unavailable, .agentKilled: break
        case .failed(let text): fail(.internalError("cannot attach to a process of the program: \(text)"))
        }
    }

    /// Whatever fails because the thread was killed meanwhile is no failure of the program.
    func injectAlive(
        _ notification: lego_notification, _ tracee: inout Tracee, isForced: Bool
    ) throws(Tracee.Failure) {
        do throws(Tracee.Failure) {
            try inject(notification, &tracee, isForced: isForced)
        } catch .gone {
            throw .gone
        } catch .unavailable {
            throw .unavailable
        } catch .agentKilled {
            // The thread that waits for it is the program's own, and whoever killed it too.
            agentsKilled += 1
            let deadline = Deadline.after(Self.patience)
            try tracee.interrupt()
            try tracee.waitForStop(LEGO_STOP_INTERRUPT, until: deadline) { _ = poll(nil, 0, 1) }
            if agentsKilled > Self.agentsKilled_max { makeNative(notification.thread) }
            try tracee.letGo()
        } catch {
            throw tracee.hasDied() ? .gone : error
        }
    }

    /// Serves the faults of an address space whose thread is being waited for: the kernel itself may touch the thread's
    /// memory on its way out of a call.
    func serveWhileInjecting(_ space: AddressSpace?) {
        guard let space, !space.isDead else {
            _ = poll(nil, 0, 1)
            return
        }
        waitForEvents(space)
        serveDeferred(space)
    }

    /// The identity in a process's private page; 0 where there is none.
    func readIdentity(_ process: Int32) -> UInt64 {
        guard let memory = try? ProcessFiles.open(process, "mem") else { return 0 }
        var words: (UInt64, UInt64) = (0, 0)
        let count = pread(memory.raw, &words, 16, off_t(agentIdentityAddress))
        return count == 16 && words.1 == nonce ? words.0 : 0
    }

    // MARK: The sequence

    private func inject(
        _ notification: lego_notification, _ tracee: inout Tracee, isForced: Bool
    ) throws(Tracee.Failure) {
        ProgramCounters.add(counters.injections)
        let known = space(identity: readIdentity(notification.thread))
        // A new image has one thread, and its start is calls and faults.
        if known == nil { colocateNewImage(notification.thread) }
        let wasInjecting = known?.isInjecting ?? false
        known?.isInjecting = true
        defer { known?.isInjecting = wasInjecting }
        let deadline = Deadline.after(Self.patience)
        let idle = { self.serveWhileInjecting(known) }

        let raised = raiseLimits(notification.thread)
        defer { putBack(raised, notification.thread) }
        var lent: [Int32] = []
        let prepared = try prepareHandover(notification, known, &lent)
        let result = lego_seccomp_answer(notification.listener, notification.id, 0)
        if result == -ENOENT { throw .gone }
        try tracee.waitForStop(LEGO_STOP_INTERRUPT, until: deadline, idle: idle)
        let stopped = try tracee.registers()
        if !isForced {
            tracee.saved = stopped
            tracee.saved.rip -= 2
            tracee.saved.rax = UInt64(notification.number)
            tracee.saved.orig_rax = .max
        }
        try tracee.holdSignals()
        guard !raised.areTight, var handover = prepared,
            try mapAgent(handover, &tracee, known, stopped, until: deadline, idle: idle)
        else {
            // The program shall neither see nor miss them.
            for number in lent {
                _ = try tracee.call(
                    SystemCall.close, at: stopped.rip - 2, UInt64(number), 0, 0, 0, 0, 0, until: deadline, idle: idle)
            }
            makeNative(notification.thread)
            return try tracee.letGo()
        }
        var boot = stopped
        boot.rip = UInt64(LEGO_AGENT_BASE) + lego_agent_boot_offset()
        boot.rsp = UInt64(LEGO_AGENT_BASE) + UInt64(LEGO_AGENT_BOOT_STACK_END)
        boot.rax = 0
        try tracee.run(boot)
        guard let greeting = try receive(&handover, &tracee, known, until: deadline, idle: idle) else {
            try tracee.interrupt()
            try tracee.waitForStop(LEGO_STOP_INTERRUPT, until: deadline, idle: idle)
            makeNative(notification.thread)
            return try tracee.letGo()
        }
        let agent = greeting.agent
        do throws(Tracee.Failure) {
            try waitForBoot(handover, &tracee, until: deadline, idle: idle)
            try tracee.interrupt()
            try tracee.waitForStop(LEGO_STOP_INTERRUPT, until: deadline, idle: idle)
            let space = try enter(greeting, known, handover)
            if !space.isTakenOver { try takeOver(space, notification.thread) }
            attach(space, thread: notification.thread)
            agentsKilled = 0
            try tracee.letGo()
        } catch {
            let isKilled = !agent.isAlive
            // It would keep the memory of a process that has died.
            agent.kill()
            if isKilled, case .failed = error { throw .agentKilled }
            throw error
        }
    }

    /// Has the thread map the agent's memory file, unless it is mapped still. False where there is no room for it: at a
    /// limit that could not be raised, of addresses, of mappings or of locked memory, or where something else lies there.
    private func mapAgent(
        _ handover: borrowing Handover, _ tracee: inout Tracee, _ known: AddressSpace?, _ stopped: lego_registers,
        until deadline: Deadline, idle: () -> Void
    ) throws(Tracee.Failure) -> Bool {
        if let known, known.agentMemory === handover.memory { return true }
        // What is replaced: all of an agent that was killed before it was known, or the code that a fork has left. The
        // filter lets only such code make the call, whose instruction is the same afterwards.
        let isThere = known != nil || readAgentPage(tracee.thread)?.nonce == nonce
        let place = UInt64(MAP_SHARED | (isThere ? MAP_FIXED : MAP_FIXED_NOREPLACE))
        let instruction = isThere ? Self.agentCallInstruction : stopped.rip - 2
        // Code and data apart: a process may have denied itself memory that is both (PR_SET_MDWE).
        let code = UInt64(LEGO_AGENT_CODE_BYTES)
        for (offset, bytes, protection) in [
            (0, code, PROT_READ | PROT_EXEC),
            (code, UInt64(handover.memory.count) - code, PROT_READ | PROT_WRITE),
        ] {
            let mapped = try tracee.call(
                SystemCall.mmap, at: instruction, UInt64(LEGO_AGENT_BASE) + offset, bytes, UInt64(protection),
                place, UInt64(handover.memoryNumber), offset, until: deadline, idle: idle)
            if mapped == Int64(LEGO_AGENT_BASE + offset) { continue }
            if [ENOMEM, EAGAIN, EEXIST].contains(where: { mapped == -Int64($0) }) { return false }
            throw .failed("the agent's memory cannot be mapped: \(KernelError.text(Int32(clamping: -mapped)))")
        }
        return true
    }

    /// The `syscall` of the restorer, behind the instruction that loads the call's number.
    private static let agentCallInstruction = UInt64(LEGO_AGENT_BASE) + lego_agent_restorer_offset() + 7

    /// What a thread needs to start an agent.
    private struct Handover: ~Copyable {
        let memory: MemoryFile
        /// The memory file's number in the thread's descriptor table.
        let memoryNumber: Int32
        let socket: Descriptor
        /// The ends to read from of the pipes that the agent's threads write to.
        var pipe: Descriptor?
        var evictorPipe: Descriptor?
    }

    private struct PipeEnds: ~Copyable {
        let reader: Descriptor
        let writer: Descriptor
        consuming func takeReader() -> Descriptor { reader }
    }

    /// An agent's greeting as it arrives: an error number or 0, a userfaultfd or none, and who sent it.
    private struct Letter {
        var problem: Int32 = 0
        var sender = lego_peer_credentials()
        private var descriptor: Int32 = -1
        private var count = 0

        /// Answers 4, 0 when nobody can send any more, or -errno; -EAGAIN when nothing has come yet.
        mutating func receive(_ socket: borrowing Descriptor) -> Int {
            lego_receive_descriptors(
                socket.raw, &problem, 4, &descriptor, 1, &count, &sender, Int32(truncatingIfNeeded: MSG_DONTWAIT))
        }

        mutating func takeDescriptor() -> Descriptor? {
            if count != 1 { return nil }
            count = 0
            return Descriptor(taking: descriptor)
        }
    }

    /// What an agent says when it has started.
    private struct Greeting: ~Copyable {
        let agent: Agent
        private var userfault: Descriptor?
        init(agent: Agent, userfault: consuming Descriptor?) {
            self.agent = agent
            self.userfault = userfault
        }
        mutating func takeUserfault() -> Descriptor? { userfault.take() }
    }

    /// Gives the thread what it needs, and says which descriptors. nil at the program's own limit of descriptors.
    private func prepareHandover(
        _ notification: lego_notification, _ known: AddressSpace?, _ lent: inout [Int32]
    ) throws(Tracee.Failure) -> Handover? {
        func lend(_ descriptor: Int32) throws(KernelError) -> Int32 {
            let number = try add(notification, descriptor)
            lent.append(number)
            return number
        }
        do {
            // An address space whose agent was killed still has the memory mapped.
            let isMapped = isAgentMapped(notification.thread, known)
            let memory: MemoryFile
            if isMapped, let known, let former = known.agentMemory {
                // Whoever waits for the former agent's answer reads it there.
                awaitAhead(of: known)
                memory = former
            } else {
                memory = try MemoryFile(name: "lego-agent", bytes: Int(LEGO_AGENT_FILE_BYTES))
                known?.agentMemory = nil
            }
            var pair: (Int32, Int32) = (-1, -1)
            let made = withUnsafeMutableBytes(of: &pair) {
                socketpair(
                    AF_UNIX, Int32(SOCK_SEQPACKET.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0,
                    $0.assumingMemoryBound(to: Int32.self).baseAddress)
            }
            if made < 0 { throw KernelError("socketpair") }
            let socket = Descriptor(taking: pair.0)
            let agentSocket = Descriptor(taking: pair.1)
            _ = try checked("SO_PASSCRED", lego_socket_pass_credentials(socket.raw))
            memory.base.copyMemory(from: lego_agent_code(), byteCount: Int(lego_agent_code_bytes()))
            let page = (memory.base + Int(LEGO_AGENT_PAGE_OFFSET)).assumingMemoryBound(to: lego_agent_page.self)
            page.pointee = lego_agent_page()
            page.pointee.nonce = nonce
            let evictorPage = memory.base + Int(LEGO_AGENT_EVICTOR_PAGE_OFFSET)
            evictorPage.assumingMemoryBound(to: lego_agent_page.self).pointee = lego_agent_page()
            page.pointee.identity = known?.identity ?? 0
            page.pointee.is_new_image = known == nil ? 1 : 0
            let number = try lend(memory.descriptor)
            page.pointee.memory_file = number
            page.pointee.userfault_device = try lend(userfaultDevice.raw)
            page.pointee.socket = try lend(agentSocket.raw)
            let ends = try makePipe()
            let evictorEnds = try makePipe()
            page.pointee.pipes.0 = try lend(ends.writer.raw)
            page.pointee.pipes.1 = try lend(evictorEnds.writer.raw)
            // A number that is none is closed all the same, and to no effect.
            page.pointee.names = namesDirectory < 0 ? -1 : try lend(namesDirectory)
            return Handover(
                memory: memory, memoryNumber: number, socket: socket, pipe: ends.takeReader(),
                evictorPipe: evictorEnds.takeReader())
        } catch let error as KernelError {
            if error.number == ENOENT { throw .gone }
            if error.number == EMFILE { return nil }
            throw .failed("\(error)")
        } catch {
            throw .failed("\(error)")
        }
    }

    /// A pipe that holds a batch of pages. It is this process's and not the program's, whose limit of pipe pages may
    /// be small.
    private func makePipe() throws(KernelError) -> PipeEnds {
        var (reader, writer): (Int32, Int32) = (-1, -1)
        let made = lego_page_pipe(&reader, &writer, Int(LEGO_AGENT_BATCH) * Int(Page.bytes))
        if made < 0 { throw KernelError("pipe", -made) }
        return PipeEnds(reader: Descriptor(taking: reader), writer: Descriptor(taking: writer))
    }

    private func add(_ notification: lego_notification, _ descriptor: Int32) throws(KernelError) -> Int32 {
        try checked(
            "SECCOMP_IOCTL_NOTIF_ADDFD",
            lego_seccomp_add_descriptor(notification.listener, notification.id, descriptor))
    }

    private func isAgentMapped(_ thread: Int32, _ known: AddressSpace?) -> Bool {
        guard let known, known.agentMemory != nil, let words = readAgentPage(thread) else { return false }
        return words.nonce == nonce && words.identity == known.identity
    }

    /// Waits for the agent's greeting: the kernel attests its process number in this pid namespace. Nothing when there can
    /// be no agent, for a limit of processes (RLIMIT_NPROC) or of memory.
    private func receive(
        _ handover: inout Handover, _ tracee: inout Tracee, _ known: AddressSpace?, until deadline: Deadline,
        idle: () -> Void
    ) throws(Tracee.Failure) -> Greeting? {
        var letter = Letter()
        do throws(Tracee.Failure) {
            while true {
                let bytes = letter.receive(handover.socket)
                if bytes == 4 { break }
                if bytes == 0 {
                    // Nobody has the other end: the thread or the agent was killed, or none could be cloned.
                    try waitForBoot(handover, &tracee, until: deadline, idle: idle)
                    let page = handover.memory.base + Int(LEGO_AGENT_PAGE_OFFSET)
                    let cloned = page.assumingMemoryBound(to: lego_agent_page.self).pointee.clone_error == 0
                    if cloned { throw .agentKilled }
                    return nil
                }
                if bytes != -EAGAIN { throw .failed("greeting of the agent: \(KernelError.text(Int32(-bytes)))") }
                if deadline.hasPassed { throw .failed("the agent does not greet") }
                awaitLetter(handover.socket, known, idle: idle)
                try tracee.keepRunning()
            }
        } catch {
            refuseGreeting(handover)
            throw error
        }
        let userfault = letter.takeDescriptor()
        if [ENOMEM, EAGAIN, EMFILE].contains(-letter.problem) {
            // It has ended.
            try waitForBoot(handover, &tracee, until: deadline, idle: idle)
            return nil
        }
        if letter.problem != 0 { throw .failed("the agent cannot start: \(KernelError.text(abs(letter.problem)))") }
        do {
            guard let pipe = handover.pipe.take(), let evictorPipe = handover.evictorPipe.take() else {
                throw KernelError("a second greeting", EPROTO)
            }
            let agent = try Agent(
                memory: handover.memory, process: letter.sender.pid, pipe: pipe, evictorPipe: evictorPipe)
            return Greeting(agent: agent, userfault: userfault)
        } catch let error as KernelError where error.number == ESRCH || error.number == ENOENT {
            // The thread gives the descriptors back before it makes its call again.
            try waitForBoot(handover, &tracee, until: deadline, idle: idle)
            throw .agentKilled
        } catch {
            throw .failed("\(error)")
        }
    }

    /// Waits for a moment until something has come. What a known address space wants meanwhile is served; of a new image
    /// nothing can come but the greeting.
    private func awaitLetter(_ socket: borrowing Descriptor, _ known: AddressSpace?, idle: () -> Void) {
        if known != nil { return idle() }
        var watched = pollfd(fd: socket.raw, events: Int16(POLLIN), revents: 0)
        _ = poll(&watched, 1, 1)
    }

    /// Ends an agent that nobody waits for any more. One that has not greeted yet ends by itself, because it cannot.
    private func refuseGreeting(_ handover: borrowing Handover) {
        _ = shutdown(handover.socket.raw, Int32(SHUT_RD))
        var letter = Letter()
        if letter.receive(handover.socket) != 4 { return }
        _ = letter.takeDescriptor()
        let agent = lego_pidfd_open(letter.sender.pid)
        if agent < 0 { return }
        _ = lego_pidfd_send_signal(agent, SIGKILL)
        _ = Descriptor(taking: agent)
    }

    /// Waits until the thread has cloned the agent and knows of it.
    private func waitForBoot(
        _ handover: borrowing Handover, _ tracee: inout Tracee, until deadline: Deadline, idle: () -> Void
    ) throws(Tracee.Failure) {
        let page = handover.memory.base + Int(LEGO_AGENT_PAGE_OFFSET)
        let booted = page + MemoryLayout<lego_agent_page>.offset(of: \.booted).unsafelyUnwrapped
        let impatient = Deadline.after(Tracee.impatience)
        while lego_atomic_load_u32(booted.assumingMemoryBound(to: UInt32.self)) == 0 {
            if deadline.hasPassed { throw .failed("the agent's start does not end") }
            if impatient.hasPassed { idle() } else { sched_yield() }
            try tracee.keepRunning()
        }
    }

    /// Makes the address space known, with its agent.
    private func enter(
        _ greeting: consuming Greeting, _ known: AddressSpace?, _ handover: borrowing Handover
    ) throws(Tracee.Failure) -> AddressSpace {
        let agent = greeting.agent
        do {
            let space: AddressSpace
            if let known {
                space = known
            } else {
                guard let userfault = greeting.takeUserfault(), isUserfault(userfault.raw) else {
                    throw KernelError("the agent handed over no userfaultfd", EINVAL)
                }
                let features =
                    LEGO_UFFD_FEATURE_WRITE_PROTECT | LEGO_UFFD_FEATURE_EVENT_FORK
                    | LEGO_UFFD_FEATURE_EVENT_REMAP | LEGO_UFFD_FEATURE_THREAD_ID
                _ = try checked("UFFDIO_API", lego_uffd_api(userfault.raw, UInt64(features), nil))
                _ = try checked(
                    "UFFDIO_REGISTER", lego_uffd_register(userfault.raw, agentIdentityAddress, Page.bytes))
                space = try addSpace(userfault)
                markIdentity(space)
            }
            agent.calls.page.pointee.identity = space.identity
            agent.calls.page.pointee.nonce = nonce
            space.agent = agent
            space.agentMemory = handover.memory
            try epoll.add(
                agent.descriptor.raw, token: Token.agent(slot: space.slot, generation: space.generation).word)
            return space
        } catch {
            throw .failed("\(error)")
        }
    }

    /// What the program hands over is a userfaultfd and nothing else.
    private func isUserfault(_ descriptor: Int32) -> Bool {
        let name = withUnsafeTemporaryAllocation(of: CChar.self, capacity: 64) { buffer in
            let count = readlink("/proc/self/fd/\(descriptor)", buffer.baseAddress!, 63)
            if count < 0 { return "" }
            return String(decoding: buffer[..<count].map { UInt8(bitPattern: $0) }, as: UTF8.self)
        }
        return name == "anon_inode:[userfaultfd]"
    }
}
