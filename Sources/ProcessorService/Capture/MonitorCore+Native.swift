import CAgent
import CLinux
import Glibc
import Kernel

/// Memory that is left to the kernel: local, and bounded by nothing but this host.
///
/// Three kinds of users need that. A debugger reads and writes through ptrace(2) or /proc/PID/mem, where the kernel waits
/// for no fault, so what is not resident could not be seen; and while it traces a thread the monitor cannot inject. A
/// program that handles faults itself registers memory with a userfaultfd of its own, and the kernel allows one only. And
/// a process may have taken so many rights from itself that no agent can be started for it.
extension MonitorCore {
    /// Brings everything of `pages` that is not what the kernel would fill in, and gives up watching it.
    func release(_ space: AddressSpace, _ pages: Range<UInt64>) {
        awaitAhead(of: space)
        for part in space.regions.parts(in: pages) {
            if part.isMappedFile {
                disappeared(space, part.pages)
                continue
            }
            var first = part.pages.lowerBound
            while first < part.pages.upperBound && !hasFailed && !space.isDead {
                // Of what a program has merely reserved, terabytes as a rule, there is nothing to bring.
                let used = part.file != nil ? first : space.table.first(in: first..<part.pages.upperBound)
                let next = max(first, (used ?? part.pages.upperBound) & ~(Self.releasePages - 1))
                if next > first {
                    letGo(space, first..<next)
                    first = next
                    continue
                }
                let end = min(part.pages.upperBound, (first | (Self.releasePages - 1)) + 1)
                releasePiece(space, first..<end, isFile: part.file != nil)
                first = end
            }
        }
        noteResident()
    }
    /// Pages that are brought before they are let go: fewer than any program may hold.
    private static let releasePages: UInt64 = 16

    private func releasePiece(_ space: AddressSpace, _ pages: Range<UInt64>, isFile: Bool) {
        for page in pages {
            guard let entry = space.table.find(page) else {
                if isFile { bringNow(space, page) }
                continue
            }
            if entry.pointee.isRemote || isFile && entry.pointee.isUntouched { bringNow(space, page) }
        }
        letGo(space, pages)
    }

    private func letGo(_ space: AddressSpace, _ pages: Range<UInt64>) {
        let start = Page.address(pages.lowerBound)
        let bytes = UInt64(pages.count) * Page.bytes
        let deadline = Deadline.after(.seconds(2))
        while lego_uffd_unregister(space.userfault.raw, start, bytes) == -EAGAIN, !deadline.hasPassed {
            waitForEvents(space)
        }
        disappeared(space, pages)
    }

    /// Leaves a whole address space to the kernel, and what it maps and forks from now on.
    func releaseAll(_ space: AddressSpace, _ thread: Int32) {
        if space.isNative { return }
        logger.debug("a process is left to the kernel", metadata: ["program": "\(program)"])
        release(space, 0..<Page.count_max)
        // The stack may have grown since it was last seen.
        for area in (try? ProcessFiles.areas(thread)) ?? [] where area.name == "[stack]" {
            _ = lego_uffd_unregister(space.userfault.raw, area.start, area.bytes)
        }
        space.isNative = true
    }

    /// Leaves the process of a thread to the kernel.
    func makeNative(_ thread: Int32) {
        if let space = space(identity: readIdentity(thread)) {
            releaseAll(space, thread)
            attach(space, thread: thread)
            return
        }
        let process = ProcessFiles.process(ofThread: thread)
        leaveOthers(process, except: nil)
        natives = natives.filter { ProcessFiles.image(of: $0.key) == $0.value }
        natives[process] = ProcessFiles.image(of: process)
    }

    /// A process that cannot have an agent: its call is the kernel's.
    func proceedNatively(_ notification: lego_notification) {
        makeNative(notification.thread)
        leaveToKernel(notification)
    }

    /// Whether a thread may clone an agent that does as it is told: a filter of the program's own would be the agent's
    /// too, and the first process of a new pid namespace shall be the program's.
    func mayHaveAgent(_ thread: Int32) -> Bool {
        if let filters = ProcessFiles.statusField(thread, "Seccomp_filters").flatMap({ Int($0) }),
            filters > sandboxFilters
        {
            return false
        }
        return ProcessFiles.namespace(thread, "pid_for_children") == ProcessFiles.namespace(thread, "pid")
    }

    /// Whether a process without an agent was left to the kernel, in the image that it still runs.
    func isNative(_ thread: Int32) -> Bool {
        if spaces.contains(where: { $0?.isNative ?? false }), space(identity: readIdentity(thread))?.isNative ?? false {
            return true
        }
        if natives.isEmpty { return false }
        let process = ProcessFiles.process(ofThread: thread)
        guard let image = natives[process] else { return false }
        if image == ProcessFiles.image(of: process) { return true }
        natives[process] = nil
        return false
    }

    // MARK: Debuggers

    /// A process is about to be traced: from then on its memory is there to be read.
    func trace(_ space: AddressSpace, _ notification: lego_notification) -> Outcome {
        let a = notification.arguments
        if UInt32(truncatingIfNeeded: a.0) == TraceRequest.traceMe {
            releaseAll(space, notification.thread)
        } else if let target = ProcessFiles.find(Int32(truncatingIfNeeded: a.1), besides: notification.thread),
            let traced = self.space(identity: readIdentity(target))
        {
            releaseAll(traced, target)
        }
        return .proceed
    }

    // MARK: Programs that handle faults

    /// UFFDIO_REGISTER on a userfaultfd of the program's own.
    func registerFaults(_ space: AddressSpace, _ notification: lego_notification) -> Outcome {
        // struct uffdio_register: start, length, mode.
        var range: (start: UInt64, bytes: UInt64, mode: UInt64) = (0, 0, 0)
        let isRead = withUnsafeMutableBytes(of: &range) {
            readProgram(space, notification.arguments.2, into: $0)
        }
        if !isRead || touchesAgent(range.start, range.bytes) { return isRead ? .answer(-Int64(EINVAL)) : .proceed }
        let pages = Page.range(range.start, range.bytes)
        let parts = space.regions.parts(in: pages)
        // The kernel takes private mappings of files for write protection alone; here it would not know one.
        let isProtection = range.mode & ~Self.writeProtection == 0
        if !isProtection && parts.contains(where: { $0.file != nil }) { return .answer(-Int64(EINVAL)) }
        if !parts.isEmpty && (range.start | range.bytes) & 4095 == 0 { release(space, pages) }
        return .proceed
    }

    /// setns(2) to a time namespace is for whoever has its memory for itself: the agent ends, and the next trapped call
    /// starts another one.
    func joinNamespaces(_ space: AddressSpace, _ notification: lego_notification) {
        let kinds = notification.arguments.1
        guard kinds == 0 || kinds & Self.newTime != 0, let agent = space.agent else { return }
        awaitAhead(of: space)
        agent.kill()
        let deadline = Deadline.after(.seconds(2))
        while agent.isAlive && !deadline.hasPassed { waitForEvents(space) }
        dropAgent(of: space)
    }
    /// CLONE_NEWTIME.
    private static let newTime: UInt64 = 0x80

    /// UFFDIO_REGISTER_MODE_WP.
    private static let writeProtection: UInt64 = 2

    // MARK: Dying and locked processes

    /// process_mrelease(2): a process that is dying lets go of its memory only when nobody else has it. The agent must be
    /// dying too.
    func letGo(_ space: AddressSpace, _ notification: lego_notification) {
        guard let descriptor = descriptor(space, notification, Int32(truncatingIfNeeded: notification.arguments.0)),
            let process = ProcessFiles.process(behind: descriptor.raw),
            let index = spaces.firstIndex(where: { $0?.users.contains { $0.process == process } ?? false }),
            let dying = spaces[index], let agent = dying.agent, ProcessFiles.isDying(process)
        else { return }
        awaitAhead(of: dying)
        agent.kill()
    }

    /// mlockall(2) faults everything in, and nobody serves the faults of the pool that the agent moves pages to: it is
    /// made inaccessible until the program unlocks. Until then moves fail, as they do on locked memory.
    func lockAll(_ space: AddressSpace, isFuture: Bool) {
        awaitAhead(of: space)
        protectPool(space, UInt64(PROT_NONE))
        space.locksFuture = isFuture
    }

    func unlockAll(_ space: AddressSpace) {
        awaitAhead(of: space)
        protectPool(space, UInt64(PROT_READ | PROT_WRITE))
        space.locksFuture = false
    }

    private func protectPool(_ space: AddressSpace, _ protection: UInt64) {
        let pool = UInt64(LEGO_AGENT_BASE) + UInt64(LEGO_AGENT_POOL_OFFSET)
        _ = agentCall(space, SystemCall.mprotect, pool, UInt64(LEGO_AGENT_BATCH) * Page.bytes, protection)
    }
}

/// mlockall(2) flags.
enum LockFlag {
    static let future: UInt64 = 2
}
